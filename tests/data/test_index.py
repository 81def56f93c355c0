"""The index on disk: made once, made again where it has to be, read in columns."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from data_helpers import chat, clip, encoded, make_tokenizer, picture, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from neo_lightning.cli.main import main
from neo_lightning.data.facts import MediaFacts, RetryError, SampleFacts, ShardError, Turn
from neo_lightning.data.files import locked
from neo_lightning.data.index import ShardSource, iterate_samples, make, open_source, sample_ids, sidecar
from neo_lightning.data.index.make import Progress
from neo_lightning.data.index.scan import index_shard
from neo_lightning.data.index.table import FORMATS, FactsTable
from neo_lightning.data.index.tokens import Counting
from neo_lightning.data.text.serialize import make_outlines
from neo_lightning.data.text.tokenizer import Tokenizer


def members(first: int, count: int = 4) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for i in range(first, first + count):
        found[f"s{i}.json"] = chat("<image>What?", f"number {i}", meta={"n": i})
        found[f"s{i}.png"] = encoded(picture(32 + i, 32, i))
    return found


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for shard in range(3):
        write_tar(tmp_path / f"a-{shard}.tar", members(4 * shard))
    (tmp_path / "m.yaml").write_text("sources: {a: {modality: image, shards: 'a-*.tar'}}")
    return tmp_path / "m.yaml"


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.made, self.notes, self.waited = 0, [], 0

    def begin(self, shards: int, total: int) -> None:
        self.made = shards

    def waiting(self) -> None:
        self.waited += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def made(manifest: Path) -> int:
    """Shards that opening the source indexes."""
    told = Told()
    open_source(manifest, "a", progress=told)
    return told.made


def side(manifest: Path, shard: int) -> Path:
    return manifest.parent / ".neo_index" / f"a-{shard}.tar.image.parquet"


def test_only_what_is_new_or_changed_is_indexed(manifest: Path) -> None:
    assert [made(manifest), made(manifest)] == [3, 0]
    before = open_source(manifest, "a").digest
    stamps = [side(manifest, i).stat().st_mtime_ns for i in range(3)]
    write_tar(manifest.parent / "a-1.tar", members(40))
    assert made(manifest) == 1
    assert [side(manifest, i).stat().st_mtime_ns == stamp for i, stamp in enumerate(stamps)] == [True, False, True]
    assert open_source(manifest, "a").digest != before
    write_tar(manifest.parent / "a-3.tar", members(50))
    open_source(manifest, "a")
    assert [side(manifest, i).stat().st_mtime_ns == stamp for i, stamp in enumerate(stamps)] == [True, False, True]


def test_a_shard_with_another_date_and_the_same_bytes_keeps_its_sidecar(manifest: Path) -> None:
    before = open_source(manifest, "a").digest
    stamp = side(manifest, 1).stat().st_mtime_ns
    os.utime(manifest.parent / "a-1.tar", (1, 1))
    assert open_source(manifest, "a").digest == before
    assert side(manifest, 1).stat().st_mtime_ns == stamp
    assert made(manifest) == 0
    # the same size and another picture: dates differ, so the bytes are compared
    data = bytearray((manifest.parent / "a-1.tar").read_bytes())
    place = data.index(b"number 5")
    data[place : place + 8] = b"number 7"
    (manifest.parent / "a-1.tar").write_bytes(data)
    assert made(manifest) == 1
    assert open_source(manifest, "a").digest != before


def test_a_stopped_index_goes_on(manifest: Path) -> None:
    index_shard(manifest.parent / "a-0.tar", "image")
    stamp = side(manifest, 0).stat().st_mtime_ns
    open_source(manifest, "a")
    assert side(manifest, 0).stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"x" * 3000])
def test_a_damaged_sidecar_is_made_again_and_said(manifest: Path, damage: bytes) -> None:
    whole = list(iterate_samples(open_source(manifest, "a")))
    side(manifest, 1).write_bytes(damage)
    for root in (manifest.parent / ".neo_index").glob("root-*.json"):
        root.write_bytes(damage)
    told = Told()
    source = open_source(manifest, "a", progress=told)
    assert len(told.notes) == 1
    assert "a-1.tar.image.parquet" in told.notes[0]
    assert list(iterate_samples(source)) == whole
    side(manifest, 2).write_bytes(damage)  # after the start
    fresh = open_source(manifest, "a")
    with pytest.warns(UserWarning, match=r"a-2\.tar.*indexed again"):
        assert list(iterate_samples(fresh)) == whole
    fresh = open_source(manifest, "a")
    shutil.rmtree(manifest.parent / ".neo_index")
    with pytest.warns(UserWarning, match="indexed again"):
        assert fresh.shard_part_facts(1).key(0) == "s4"


def test_every_flipped_byte_of_a_column_is_noticed(manifest: Path) -> None:
    source = open_source(manifest, "a")
    whole, keys = side(manifest, 0).read_bytes(), [source.facts(0, row).key for row in range(4)]
    noticed = 0
    for place in range(4, len(whole) - 8, 97):
        side(manifest, 0).write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            table = sidecar.read_rows(side(manifest, 0), 0, ["key"], source._index.summaries[0].digest)
        except sidecar.IndexDamaged:
            noticed += 1
            continue
        assert table.column("key").to_pylist() == keys
    assert noticed > 5


def test_another_tokenizer_needs_no_new_pass_over_the_shards(
    manifest: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    other = make_tokenizer(tmp_path / "other")
    other.digest = "another"
    open_source(manifest, "a", tokenizer=tokenizer)
    stamps = [side(manifest, i).stat().st_mtime_ns for i in range(3)]
    source = open_source(manifest, "a", tokenizer=other)
    assert [side(manifest, i).stat().st_mtime_ns for i in range(3)] == stamps
    for unit in range(source.shard_parts):
        facts = [source.facts(unit, row) for row in range(source.shard_part_size(unit))]
        lengths = [int((outline.ids >= 0).sum()) for outline in make_outlines([f.turns for f in facts], tokenizer)]
        assert source.shard_part_facts(unit).text_tokens.tolist() == lengths
    (file,) = (manifest.parent / ".neo_index").glob(f"a-0.tar.image.tokens-{_digest_of(source, tokenizer)}.parquet")
    file.write_bytes(b"gone")
    with pytest.warns(UserWarning, match="counted again"):
        assert open_source(manifest, "a", tokenizer=tokenizer).shard_part_facts(0).turn_tokens is not None


def _digest_of(source: ShardSource, tokenizer: Tokenizer) -> str:
    counting = Counting(tokenizer=tokenizer).digest
    name = sidecar.tokens_of(Path("a.parquet"), counting, source._index.summaries[0].digest).name
    return re.findall("tokens-(.*).parquet", name)[0]


def test_where_nothing_can_be_written_the_cache_holds_the_index(
    manifest: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manifest.parent / ".neo_index").write_text("a file is in the way, as in a folder that cannot be written")
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NEO_CACHE", str(cache))
    assert [made(manifest), made(manifest)] == [3, 0]
    assert len(list(cache.glob("index/*/*.parquet"))) == 3


def test_large_shards_are_several_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar, "SHARD_PART_SAMPLES", 4)
    texts = {f"t{i:02d}.txt": f"text {i}".encode() for i in range(10)}
    texts["t05.txt"] = b"\xff"
    shard = write_tar(tmp_path / "a.tar", texts)
    source = ShardSource("a", "text", (shard,))
    assert [source.shard_part_size(unit) for unit in range(source.shard_parts)] == [3, 2, 4]
    assert [source.facts(*at).key for at in sample_ids(source)] == [f"t{i:02d}" for i in range(10) if i != 5]
    assert [key for key, _ in source.skipped] == ["t05"]


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that does not outlive the block."""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_one_process_indexes_and_the_others_wait_and_read(manifest: Path) -> None:
    """Two processes as two ranks: the first is held up at each sample until it is answered, so the second must wait."""
    script = (
        "from neo_lightning.data.index import make, open_source, scan\n"
        "inner = scan.sample_facts\n"
        "def held_up(*a): print('scans', flush=True); input(); return inner(*a)\n"
        "scan.sample_facts = held_up\n"
        "class Told(make.Progress):\n"
        "    def waiting(self): print('waits', flush=True)\n"
        f"print('units', open_source({str(manifest)!r}, 'a', progress=Told()).shard_parts)\n"
    )
    with started(script) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "scans\n"
        with started(script) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waits\n"
            assert first.communicate("\n" * 12)[0].split() == ["scans"] * 11 + ["units", "3"]
            assert second.communicate()[0].split() == ["units", "3"]


def test_who_waits_says_so(manifest: Path) -> None:
    open_source(manifest, "a")
    (root,) = (manifest.parent / ".neo_index").glob("root-*.json")
    root.unlink()
    told, ready = Told(), threading.Event()
    told.waiting = ready.set  # type: ignore[method-assign]
    with locked(root.with_suffix(".lock")):
        thread = threading.Thread(target=lambda: open_source(manifest, "a", progress=told))
        thread.start()
        assert ready.wait(20)
    thread.join(20)
    assert root.exists()


def test_writers_leave_an_index(tmp_path: Path) -> None:
    from neo_lightning.scenes import write_scenes

    paths = write_scenes(tmp_path, seed=0, train={"text": 5}, held_out_per_task=1, workers=0, progress=False)
    for path in paths:
        assert list((path.parent / ".neo_index").glob(f"{path.name}.*.parquet"))


def test_facts_of_a_clip_come_back_as_they_were_read(tmp_path: Path) -> None:
    ticks = [0, 100, 130, 400, 700]
    shard = write_tar(tmp_path / "a.tar", {"c.mp4": clip(5, ticks=ticks), "c.txt": b"grey"})
    source = ShardSource("a", "video", (shard,))
    (medium,) = source.facts(0, 0).media
    assert medium.ticks is not None
    seconds = (medium.ticks - medium.ticks[0]) * medium.time_base[0] / medium.time_base[1]
    assert np.allclose(seconds, np.array(ticks) / 600, atol=1e-3)
    assert source.read(0, 0).messages[0].parts[1] == "grey"


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
images = st.builds(
    lambda w, h, f, o, p: MediaFacts(kind="image", width=w, height=h, format=f, orientation=o, plain=p),
    st.integers(1, 50000),
    st.integers(1, 50000),
    st.sampled_from(FORMATS),
    st.integers(1, 8),
    st.booleans(),
)
clips = st.builds(
    lambda t, d, b: MediaFacts(
        kind="video", width=64, height=32, ticks=np.unique(t).astype(np.int64), time_base=(1, b), duration=d
    ),
    st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9),
    st.floats(0.01, 1e5),
    st.integers(1, 10**6),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(texts, min_size=1, max_size=3), st.lists(images | clips, max_size=3)), max_size=6))
def test_columns_hold_any_facts(drawn: list[tuple[list[str], list[MediaFacts]]]) -> None:
    samples = [
        SampleFacts(
            key=f"k{i}",
            modality="video",
            turns=(Turn(role="user", parts=(*range(len(media)), *words)), Turn(role="assistant", parts=("a",))),
            media=tuple(media),
        )
        for i, (words, media) in enumerate(drawn)
    ]
    table = FactsTable.from_samples(samples)
    assert len(table) == len(samples)
    for row, facts in enumerate(samples):
        assert repr(table.media(row)) == repr(facts.media)
        assert table.key(row) == facts.key
    assert table.media_counts.tolist() == [len(s.media) for s in samples]


def test_the_index_and_check_commands(
    manifest: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "index", str(manifest), "--tokenizer", str(tokenizer_folder)]) == 0
    assert "12" in capsys.readouterr().out
    assert main(["data", "check", str(manifest), "--decode"]) == 0
    png = encoded(picture(64, 64))
    bad = {"cut.json": chat("<image>", "a"), "cut.png": png[: len(png) // 2], "lonely.png": png}
    write_tar(manifest.parent / "a-3.tar", members(20) | bad)
    capsys.readouterr()
    assert main(["data", "check", str(manifest), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)["a"]
    assert (report["samples"], [entry["key"] for entry in report["left_out"]]) == (17, ["lonely"])
    assert main(["data", "check", str(manifest), "--json", "--decode", "--workers", "2"]) == 1
    report = json.loads(capsys.readouterr().out)["a"]
    assert (report["samples"], {entry["key"] for entry in report["left_out"]}) == (16, {"lonely", "cut"})
    (manifest.parent / "a-0.tar").write_bytes((manifest.parent / "a-0.tar").read_bytes()[:3000])
    assert main(["data", "check", str(manifest)]) == 1
    assert "1 shards are refused" in capsys.readouterr().out
    assert main(["data", "check", str(manifest), "--json"]) == 1
    assert "cut at byte" in "".join(json.loads(capsys.readouterr().out)["a"]["refused"].values())
    assert main(["data", "index", str(manifest)]) == 2


def test_check_names_what_is_unused_and_counts_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees = [chat("?", "a", objects={"bbox": [1]}), chat("?", "a", objects={"bbox": [2]}), chat("?", "a")]
    write_tar(tmp_path / "s.tar", {f"{i}.json": tree for i, tree in enumerate(trees)} | {"0.cls": b"1"})
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "sources:\n  s: {modality: text, shards: s.tar, ignore: [cls]}\n"
        "  mine: {class_path: my_source.Squares, init_args: {count: 7}}\n"
    )
    assert main(["data", "check", str(manifest)]) == 0
    printed = capsys.readouterr().out
    assert "s: what samples say without effect: objects (2 samples)" in printed
    assert "10 samples can be used" in printed
    assert main(["data", "check", str(manifest), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert (reports["s"]["unused"], reports["mine"]["samples"]) == ({"objects": 2}, 7)


def test_all_bad_shards_are_named_at_once(manifest: Path) -> None:
    for shard in (0, 2):
        (manifest.parent / f"a-{shard}.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ShardError, match=r"(?s)a-0\.tar.*a-2\.tar"):
        open_source(manifest, "a")
    assert side(manifest, 1).exists()


def test_the_same_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", {"x.txt": b"hello"})
    (tmp_path / "m.yaml").write_text("sources: {t: {modality: text, shards: '*.tar'}}")
    with pytest.raises(ShardError, match="lies in both"):
        open_source(tmp_path / "m.yaml", "t")
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(RetryError, match="zero bytes"):
        open_source(tmp_path / "m.yaml", "t")


def test_links_are_never_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        body = chat("<image>", "a")
        info = tarfile.TarInfo("x.json")
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
        link = tarfile.TarInfo("x.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / "m.yaml").write_text("sources: {a: {modality: image, shards: a.tar}}")
    source = open_source(tmp_path / "m.yaml", "a")
    assert source.shard_parts == 0
    assert "link" in source.skipped[0][1]


def test_many_shards_are_indexed_by_processes_with_the_same_result(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = open_source(manifest, "a")
    shutil.rmtree(manifest.parent / ".neo_index")
    monkeypatch.setattr(make, "PARALLEL_FROM_BYTES", 0)
    together = open_source(manifest, "a")
    assert together.digest == alone.digest
    assert [s.key for s in iterate_samples(together)] == [f"s{i}" for i in range(12)]
