"""A real server, two ranks: each shard is asked about once a start, many at a time, and what is replaced is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neo_lightning.data.answers import Answers, Stamp
from neo_lightning.data.index import open_source
from neo_lightning.data.manifest import load_manifest
from neo_lightning.data.store import Store, StoreOptions
from tests.data.data_helpers import write_tar
from tests.data.shard_server import ShardServer
from tests.forks import Server, clean_environment

SHARDS = 12
TEXT_ONLY = "--stages.two.mixture={text: 1}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    folder = tmp_path / "remote"
    folder.mkdir()
    for shard in range(SHARDS):
        texts = {f"t{shard}-{i}.json": json.dumps({"text": f"left {i} right " * 9}).encode() for i in range(6)}
        write_tar(folder / f"t-{shard}.tar", texts)
    with ShardServer(folder) as server:
        yield server


@pytest.fixture
def manifest(server: ShardServer, tmp_path: Path) -> Path:
    path, cache = tmp_path / "m.yaml", tmp_path / "cache"
    shards = f"{server.url}/t-{{0..{SHARDS - 1}}}.tar"
    store = json.dumps({"cache": str(cache), "deadline": 60})
    path.write_text(f"sources: {{text: {{modality: text, shards: '{shards}'}}}}\nstore: {store}\n")
    return path


def test_a_start_asks_about_each_shard_once_and_many_at_a_time(server: ShardServer, manifest: Path) -> None:
    digest = open_source(manifest, "text").digest
    server.asked.clear()
    server.at_once, server.seconds = 0, 0.3
    assert open_source(manifest, "text").digest == digest
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == SHARDS
    assert server.at_once > 1


def test_what_another_has_asked_is_not_asked_again_and_is_the_same(server: ShardServer, manifest: Path) -> None:
    first = load_manifest(manifest)
    digest = open_source(first, "text").digest
    server.asked.clear()
    told = load_manifest(manifest, Answers.from_text(first.answers.to_text()))
    assert told == first
    assert open_source(told, "text").digest == digest
    assert not server.asked
    write_tar(server.folder / "t-3.tar", {"new.json": json.dumps({"text": "another"}).encode()})
    assert open_source(manifest, "text").digest != digest, "the next start asks anew"


def test_a_stamp_is_the_stores_own_word(server: ShardServer) -> None:
    store = Store(StoreOptions(deadline=60))
    (shard,), (again,) = store.find_all([f"{server.url}/t-0.tar"]), [Store(StoreOptions(deadline=60))]
    assert store.stamps(shard) == [again.stat(shard[0])]
    assert store.stamps([str(server.folder / "t-1.tar")]) == [again.stat(str(server.folder / "t-1.tar"))]
    assert str(server.folder / "t-1.tar") not in store.answers.stamps, "every machine may have its own"
    store.answers.stamps[shard[0]] = Stamp(1, "x")
    assert store.stat(shard[0]) == again.stat(shard[0]), "what is read is checked against the store itself"


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["by a launcher", "by Lightning"])
def test_of_two_ranks_one_asks(forks: Server, server: ShardServer, manifest: Path, micro: Path, launched: str) -> None:
    line = ["run", str(micro), f"--data.manifest={manifest}", "--evaluation=[]", "--export=false", TEXT_ONLY]
    for steps in (2, 3):
        server.asked.clear()
        server.at_once, server.seconds = 0, 0.2 if steps == 3 else 0.0
        two = [*line, "--trainer.devices=2", f"--trainer.max_steps={steps}"]
        if launched == "by a launcher":
            status, output = forks.run("neo_lightning.cli.main:main", two, ranks=2)
        else:
            command = [sys.executable, "-m", "neo_lightning", *two]
            done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
            status, output = done.returncode, done.stdout + done.stderr
        assert status == 0, output
    assert {name for name, count in server.asked.items() if count != 1} == set(), server.asked
    assert len(server.asked) == SHARDS
    assert server.at_once > 1
