"""Shards in a real HTTP server and a real S3 client's store, both on loopback: slow, failing, short, replaced."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from data_helpers import chat, encoded, picture, write_tar
from shard_server import ShardServer

from neo_lightning.data.facts import RetryError, ShardError
from neo_lightning.data.index import ShardSource, iterate_samples, open_source
from neo_lightning.data.manifest import ManifestError, load_manifest
from neo_lightning.data.store import Store, StoreOptions


def members(first: int, count: int = 4) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for i in range(first, first + count):
        found[f"s{i}.json"] = chat("<image>What?", f"number {i}")
        found[f"s{i}.png"] = encoded(picture(32 + i, 32, i))
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    folder = tmp_path / "remote"
    folder.mkdir()
    for shard in range(2):
        write_tar(folder / f"a-{shard}.tar", members(4 * shard))
    with ShardServer(folder) as server:
        yield server


def manifest(tmp_path: Path, shards: str, **store: object) -> Path:
    options = json.dumps({"cache": str(tmp_path / "cache"), "deadline": 5, **store})
    path = tmp_path / "m.yaml"
    path.write_text(f"sources: {{a: {{modality: image, shards: '{shards}'}}}}\nstore: {options}\n")
    return path


def test_local_and_remote_shards_are_the_same_source(server: ShardServer, tmp_path: Path) -> None:
    local = ShardSource("a", "image", tuple(sorted(server.folder.glob("*.tar"))))
    whole = [s.messages for s in iterate_samples(local)]
    for gigabytes in (1, 0):
        path = manifest(tmp_path, f"{server.url}/a-{{0..1}}.tar", cache_gb=gigabytes)
        source = open_source(path, "a")
        assert source.digest == local.digest
        assert [s.key for s in iterate_samples(source)] == [f"s{i}" for i in range(8)]
        assert [
            [p if isinstance(p, str) else p.data for m in s.messages for p in m.parts] for s in iterate_samples(source)
        ] == [[p if isinstance(p, str) else p.data for m in messages for p in m.parts] for messages in whole]


def test_a_shard_is_fetched_once_and_a_second_start_fetches_nothing(server: ShardServer, tmp_path: Path) -> None:
    path = manifest(tmp_path, f"{server.url}/a-{{0..1}}.tar")
    source = open_source(path, "a")
    list(iterate_samples(source))
    assert len(server.requests) == 2
    list(iterate_samples(pickle.loads(pickle.dumps(open_source(path, "a")))))
    assert len(server.requests) == 2


def test_failures_and_short_answers_are_asked_again(server: ShardServer, tmp_path: Path) -> None:
    server.fail, server.short = 2, 1
    path = manifest(tmp_path, f"{server.url}/a-0.tar")
    assert len(list(iterate_samples(open_source(path, "a")))) == 4
    assert len(server.requests) == 4
    ranged = open_source(manifest(tmp_path, f"{server.url}/a-0.tar", cache_gb=0), "a")
    server.fail, server.short = 1, 2
    assert len(list(iterate_samples(ranged))) == 4


def test_a_store_that_does_not_come_back_ends_in_try_again(server: ShardServer, tmp_path: Path) -> None:
    server.fail = 10**6
    with pytest.raises(RetryError, match=r"a-0\.tar.*given up after 0\.3 s"):
        open_source(manifest(tmp_path, f"{server.url}/a-0.tar", deadline=0.3), "a")
    assert len(server.requests) > 1
    assert not list((tmp_path / "cache" / "shards").glob("*.tar")), "half a shard is never kept"


def test_a_slow_store_is_waited_for(server: ShardServer, tmp_path: Path) -> None:
    server.seconds = 0.2
    assert open_source(manifest(tmp_path, f"{server.url}/a-0.tar"), "a").shard_part_size(0) == 4
    server.seconds = 3.0
    with pytest.raises(RetryError):
        open_source(manifest(tmp_path, f"{server.url}/a-1.tar", deadline=1), "a")


def test_a_server_without_ranges_is_said(server: ShardServer, tmp_path: Path) -> None:
    server.ranged = False
    with pytest.raises(ShardError, match="whole files where a range"):
        list(iterate_samples(open_source(manifest(tmp_path, f"{server.url}/a-0.tar", cache_gb=0), "a")))


def test_a_replaced_remote_shard_stops_the_run(server: ShardServer, tmp_path: Path) -> None:
    for gigabytes in (1, 0):
        write_tar(server.folder / "a-0.tar", members(0))
        path = manifest(tmp_path, f"{server.url}/a-0.tar", cache_gb=gigabytes)
        source = open_source(path, "a")
        for file in (tmp_path / "cache").glob("shards/*.tar"):
            file.unlink()
        write_tar(server.folder / "a-0.tar", members(0) | {"s1.png": encoded(picture(33, 32, 77))})
        fresh = pickle.loads(pickle.dumps(source))
        with pytest.raises(ShardError, match="replaced"):
            list(iterate_samples(fresh))


def test_a_damaged_copy_in_the_cache_is_fetched_again(server: ShardServer, tmp_path: Path) -> None:
    path = manifest(tmp_path, f"{server.url}/a-0.tar")
    open_source(path, "a")
    (copy,) = (tmp_path / "cache" / "shards").glob("*.tar")
    data = bytearray(copy.read_bytes())
    data[2100:2200] = bytes(100)
    copy.write_bytes(data)
    assert len(list(iterate_samples(open_source(path, "a")))) == 4
    assert len(server.requests) == 2


def test_the_cache_stays_within_its_bound_and_drops_what_was_used_longest_ago(
    server: ShardServer, tmp_path: Path
) -> None:
    for shard in range(2, 5):
        write_tar(server.folder / f"a-{shard}.tar", members(4 * shard))
    size = (server.folder / "a-0.tar").stat().st_size
    path = manifest(tmp_path, f"{server.url}/a-{{0..4}}.tar", cache_gb=2.5 * size / 1e9)
    source = open_source(path, "a")
    kept = list((tmp_path / "cache" / "shards").glob("*.tar"))
    assert len(kept) == 2
    before = len(server.requests)
    assert len(list(iterate_samples(source))) == 20
    assert len(server.requests) - before <= 5
    assert sum(file.stat().st_size for file in (tmp_path / "cache" / "shards").glob("*.tar")) <= 2.5 * size


def test_two_readers_fetch_a_shard_once(server: ShardServer, tmp_path: Path) -> None:
    server.seconds = 0.05
    url = f"{server.url}/a-0.tar"
    stores = [Store(StoreOptions(cache=str(tmp_path / "cache"), deadline=5)) for _ in range(4)]
    stamp = stores[0].stat(url)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda s=s: found.append(s.read(url, 0, 512, stamp))) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    assert len(server.requests) == 1


def test_missing_shards_and_unknown_addresses_are_refused_at_once(server: ShardServer, tmp_path: Path) -> None:
    for shards, message in (
        (f"{server.url}/a-{{0..7}}.tar", r"a-2\.tar' matches no file"),
        ("pipe:curl -s http://x/a.tar", "commands and chained"),
        ("simplecache::http://x/a.tar", "commands and chained"),
        ("s4://bucket/a.tar", "did you mean 's3'"),
    ):
        with pytest.raises(ManifestError, match=message):
            load_manifest(manifest(tmp_path, shards))


def test_shards_in_s3(server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    path = manifest(tmp_path, "s3://bucket/a-*.tar")
    assert load_manifest(path).source("a").shards == ("s3://bucket/a-0.tar", "s3://bucket/a-1.tar")
    server.fail, server.short = 1, 1
    source = open_source(path, "a")
    assert [s.key for s in iterate_samples(source)] == [f"s{i}" for i in range(8)]
    for file in (tmp_path / "cache").glob("shards/*.tar"):
        file.unlink()
    write_tar(server.folder / "a-0.tar", members(0) | {"s1.png": encoded(picture(33, 32, 77))})
    with pytest.raises(ShardError, match="replaced"):
        list(iterate_samples(pickle.loads(pickle.dumps(source))))
    with pytest.raises(ManifestError, match="matches no file"):
        load_manifest(manifest(tmp_path, "s3://bucket/b-*.tar"))


def test_a_name_with_brackets_is_found_where_the_pattern_finds_nothing() -> None:
    fsspec.filesystem("memory").pipe({"/photos [2024]/a.tar": b"a", "/photos 2/b.tar": b"b"})
    assert Store().find("memory://photos [2024]/a.tar") == ["memory://photos [2024]/a.tar"]
    assert Store().find("memory://photos [0-9]/*.tar") == ["memory:///photos 2/b.tar"]
    assert Store().find("memory://photos [2024]/c.tar") == []
