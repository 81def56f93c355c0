"""Killed, parallel or neither: an import leaves the same bytes behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from importer_helpers import CLIP, DRAWING, PHOTO, digests, lines, llava, log, members

from neo_lightning.cli.main import main
from neo_lightning.importers import RecordError, import_dataset
from tests.owners import holder

RECORDS = 330


def kind(i: int) -> int:
    """Which of the kinds below record i is: no two shards are alike."""
    return (i * 3 + i // 7) % 5


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of all modalities, some of them bad, and their media: `f.jsonl` and `media/`."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "media").mkdir()
    for name, data in {"a.jpg": PHOTO, "b.png": DRAWING, "c.mp4": CLIP}.items():
        (root / "media" / name).write_bytes(data)
    kinds: list[dict[str, Any]] = [
        llava("<image>?", image="a.jpg"),
        llava("text only"),
        llava("<image> and <image>", images=["a.jpg", "b.png"]),
        llava("<image>?", image="missing.jpg"),
        llava("<video>?", video="c.mp4"),
    ]
    lines(root / "f.jsonl", [{**kinds[kind(i)], "id": i} for i in range(RECORDS)])
    return root


def command(root: Path, out: Path, *more: str) -> list[str]:
    paths = ["--input", str(root / "f.jsonl"), "--media", str(root / "media"), "--out", str(out)]
    return ["data", "import", "--format", "llava", *paths, "--samples-per-shard", "45", "--shard-size", "140KB", *more]


@pytest.fixture(scope="module")
def whole(mixed: Path) -> dict[str, str]:
    """Digests of an import that nobody disturbed, in one process."""
    assert main(command(mixed, mixed / "whole", "--workers", "1")) == 0
    found = digests(mixed / "whole")
    assert sum(name.endswith(".tar") for name in found) > 6
    return found


def test_workers_do_not_change_the_shards(mixed: Path, whole: dict[str, str], tmp_path: Path) -> None:
    assert main(command(mixed, tmp_path / "out", "--workers", "3")) == 0
    assert digests(tmp_path / "out") == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_and_continued(mixed: Path, whole: dict[str, str], tmp_path: Path, workers: str) -> None:
    """SIGKILL to a real command and none of its workers: they end by themselves, and the same command goes on."""
    out = tmp_path / "out"
    arguments = command(mixed, out, "--workers", workers)
    process = subprocess.Popen([sys.executable, "-m", "neo_lightning", *arguments], stdout=subprocess.PIPE)
    while process.poll() is None and len(list(out.glob("*.tar"))) < 3:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the import was over too soon, so nothing was tested"
    assert process.stdout is not None
    process.stdout.read()  # ends when no worker holds the other end any more
    assert not (out / "manifest.yaml").exists()
    named = {name: digest for name, digest in digests(out).items() if name.endswith(".tar")}
    assert named.items() <= whole.items(), "a shard with a name is complete"
    for _ in range(2):  # an import that is done is done
        assert main(arguments) == 0
        assert digests(out) == whole


def test_a_failure_between_any_two_writes_changes_nothing(
    mixed: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies around the moment at which a full shard gets its name: before, between and after."""
    out = tmp_path / "out"
    replace, calls = os.replace, 0

    def dying(source: Any, target: Any) -> None:
        nonlocal calls
        ours = Path(target).parent == out and Path(target).suffix in (".json", ".tar")
        calls += ours
        if ours and calls % 3 == 1:
            raise KeyboardInterrupt
        replace(source, target)
        if ours and calls % 3 == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dying)
    tries = 0
    while main(command(mixed, out, "--workers", "1")) == 130:
        tries += 1
    assert tries > 10
    assert digests(out) == whole


def test_a_worker_that_is_killed_ends_nothing(mixed: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """As by a machine out of memory: no hang, and what it had been at is done again."""
    killed = []

    def kill_one() -> None:
        # not before both are at work: ProcessPoolExecutor may overlook the death of a process that it is still starting
        while len(list((tmp_path / "out").glob("**/task-*.at"))) < 2:
            time.sleep(0.001)
        for child in multiprocessing.active_children():
            child.kill()
            killed.append(child)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    assert main(command(mixed, tmp_path / "out", "--workers", "2")) == 0
    assert killed
    assert digests(tmp_path / "out") == whole


def test_what_was_not_stored_is_cut_off(
    mixed: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may leave more, or rubbish, behind the last stored position."""
    out = tmp_path / "out"
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        if len(list(out.glob("*.tar"))) == 3:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        assert main(command(mixed, out, "--workers", "1")) == 130
    state = json.loads((out / "import.json").read_text())
    assert not state["done"]
    for path in [*(out / "partial").glob("*.tar"), out / "import.log"]:
        with path.open("ab") as file:
            file.write(b"rubbish" * 1000)
    (out / "partial" / "task-left-over").write_bytes(b"x")
    assert main(command(mixed, out, "--workers", "1")) == 0
    assert digests(out) == whole


def test_only_the_same_import_goes_on(mixed: Path, tmp_path: Path) -> None:
    file = lines(tmp_path / "f.jsonl", [llava("a"), llava("b")])
    out = tmp_path / "out"
    import_dataset("llava", [file], out)
    before = digests(out)
    with pytest.raises(RecordError, match="samples per shard was 4096, is 7"):
        import_dataset("llava", [file], out, samples_per_shard=7)
    lines(file, [llava("a"), llava("c"), llava("d")])
    with pytest.raises(RecordError, match="input digest was"):
        import_dataset("llava", [file], out)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x.tar").write_bytes(b"")
    with pytest.raises(RecordError, match="holds shards already"):
        import_dataset("llava", [file], tmp_path / "foreign")
    for content in ("[]", "{", '{"arguments": 3}', '{"surprise": 1}'):
        (out / "import.json").write_text(content)
        with pytest.raises(RecordError, match=r"import\.json"):
            import_dataset("llava", [file], out)
    assert {n: d for n, d in digests(out).items() if n != "import.json"}.items() <= before.items()


def test_a_folder_that_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.jpg").write_bytes(PHOTO)
        (tmp_path / "in" / f"{name}.txt").write_text(name)
    import_dataset("folder", [tmp_path / "in"], tmp_path / "out")
    (tmp_path / "in" / "0.txt").write_text("earlier in the order")
    with pytest.raises(RecordError, match="input digest was"):
        import_dataset("folder", [tmp_path / "in"], tmp_path / "out")


def test_one_import_a_folder(tmp_path: Path) -> None:
    file = lines(tmp_path / "f.jsonl", [llava("a")])
    with holder(tmp_path / "out" / "import.lock") as other:
        with pytest.raises(RecordError, match=rf"the import to .*out is in use by .*pid {other.pid}"):
            import_dataset("llava", [file], tmp_path / "out")
        other.kill()  # leaves its file behind
    assert import_dataset("llava", [file], tmp_path / "out").samples == {"text": 1}


def test_shards_end_at_their_size_and_are_named_when_complete(tmp_path: Path) -> None:
    records = [llava(f"question {i}") for i in range(7)]
    out = tmp_path / "out"
    import_dataset("llava", [lines(tmp_path / "f.jsonl", records)], out, samples_per_shard=3)
    assert sorted(p.name for p in out.glob("*.tar")) == [f"text-{i:06d}.tar" for i in range(3)]
    assert [s["__key__"] for s in members(out, "text")] == [f"{i:09d}" for i in range(7)]
    import_dataset("llava", [tmp_path / "f.jsonl"], tmp_path / "small", bytes_per_shard=2000)
    assert len(list((tmp_path / "small").glob("*.tar"))) == 4, "two members of 1024 bytes a shard"
    records[5] = llava("<image>")
    lines(tmp_path / "g.jsonl", records)
    strict = tmp_path / "strict"
    with pytest.raises(RecordError, match="line 6"):
        import_dataset("llava", [tmp_path / "g.jsonl"], strict, samples_per_shard=3, strict=True)
    assert sorted(p.name for p in strict.glob("*.tar")) == ["text-000000.tar"]
    assert not (strict / "manifest.yaml").exists()


def test_the_log_is_that_of_one_undisturbed_import(mixed: Path, whole: dict[str, str]) -> None:
    bad = [i for i in range(RECORDS) if kind(i) == 3]
    assert len(bad) > 20
    expected = [
        (f"f.jsonl, line {i + 1}", f"'missing.jpg': No such file or directory in {mixed / 'media'}") for i in bad
    ]
    assert log(mixed / "whole") == expected
