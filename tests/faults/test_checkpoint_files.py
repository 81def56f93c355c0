"""Files of a checkpoint: damage is found and named, wherever it lies, and what came from outside does nothing."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neo_lightning.checkpoint import commit
from neo_lightning.checkpoint.meta import read_meta, write_meta
from neo_lightning.checkpoint.rank_file import DamagedError, NotFiniteError, write_file
from neo_lightning.checkpoint.shards import ShardReader, check_checkpoint, local_part, write_part
from neo_lightning.checkpoint.snapshot import Snapshot
from tests.faults.saving import WHOLE, flip, two_ranks

FIRST, SECOND = (f"rank-0000{rank}-of-00002.safetensors" for rank in range(2))


def test_point_06_a_flipped_bit_is_found_wherever_it_lies(tmp_path: Path) -> None:
    folder = two_ranks(tmp_path / "step-00000007")
    check_checkpoint(folder)
    for name, stride in ((FIRST, 3), (SECOND, 5), ("meta.pt", 31)):
        size = (folder / name).stat().st_size
        for place in range(0, size, stride):
            flip(folder / name, place)
            with pytest.raises(ValueError, match=name.partition(".")[0]):
                check_checkpoint(folder)
            flip(folder / name, place)
    check_checkpoint(folder)


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
@pytest.mark.parametrize("name", [FIRST, "meta.pt"])
def test_point_06_a_file_that_is_cut_short_is_found(tmp_path: Path, name: str, cut: int) -> None:
    folder = two_ranks(tmp_path / "step-00000007")
    os.truncate(folder / name, (folder / name).stat().st_size - 1 if cut < 0 else cut)
    with pytest.raises(DamagedError, match=name.partition(".")[0]):
        check_checkpoint(folder)


def test_point_06_a_rank_that_wants_other_rows_finds_it_too(tmp_path: Path) -> None:
    """In the last row of a piece, while only its first one is wanted; and two processes that share the reading."""
    folder = two_ranks(tmp_path / "step-00000007")
    assert torch.equal(ShardReader(folder).read("weights/a", 2, 3), WHOLE[2:])
    with safe_open(folder / FIRST, framework="pt") as handle:
        assert torch.equal(handle.get_tensor("weights/a"), WHOLE[:3]), "any reader of safetensors reads it"
    flip(folder / SECOND, -1 - 2)  # behind weights/a there are two bytes of this rank's own
    reader = ShardReader(folder)
    assert torch.equal(reader.read("weights/a", 0, 3), WHOLE[:3]), "nothing of the other file is wanted"
    with pytest.raises(DamagedError, match=rf"{SECOND}: weights/a is not what was written"):
        reader.read("weights/a", 3, 1)
    found = []
    for part in range(3):
        try:
            check_checkpoint(folder, part, 3)
        except DamagedError as error:
            found.append(str(error))
    assert len(found) == 1, "one of three processes reads it"
    assert "weights/a" in found[0]


def test_point_06_a_checkpoint_of_an_earlier_version_has_no_checksums_and_loads(tmp_path: Path) -> None:
    save_file({"weights/a": WHOLE}, tmp_path / "rank-00000-of-00001.safetensors", metadata={"layout": "{}"})
    torch.save({"neo_lightning": {}}, tmp_path / "meta.pt")
    reader = ShardReader(tmp_path)
    assert not reader.has_checksums
    assert torch.equal(reader.read("weights/a"), WHOLE)
    check_checkpoint(tmp_path)
    assert ShardReader(two_ranks(tmp_path / "new")).has_checksums


def test_every_dtype_comes_back_and_odd_shapes(tmp_path: Path) -> None:
    kinds = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.bool,
    )
    tensors = {str(kind): torch.tensor([[0, 1, 1]]).to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(4.0), "none": torch.empty(0, 3), "eight": torch.ones(5).to(torch.float8_e4m3fn)}
    write_part(tmp_path, 0, 1, local_part(0, tensors, {}), {})
    reader = ShardReader(tmp_path)
    reader.check()
    for name, tensor in tensors.items():
        found = reader.read(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (found, tensor))), name


def _odd_layout(layout: Any) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        words = layout if isinstance(layout, str) else json.dumps(layout)
        save_file({"weights/a": WHOLE[:3].contiguous()}, file, metadata={"layout": words})

    return make


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _link(file: Path) -> None:
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


ODD = {
    "pipe": _pipe,
    "link": _link,
    "folder": _folder,
    "empty": lambda file: file.write_bytes(b""),
    "huge header": lambda file: file.write_bytes((1 << 62).to_bytes(8, "little") + b"{}"),
    "no mapping": lambda file: file.write_bytes((2).to_bytes(8, "little") + b"[]"),
    "nested": lambda file: file.write_bytes((90_000).to_bytes(8, "little") + b"[" * 90_000),
    "layout: no JSON": _odd_layout("nonsense"),
    "layout: a list": _odd_layout([1, 2]),
    "layout: a number": _odd_layout({"weights/a": 3}),
    "layout: words": _odd_layout({"weights/a": [["x", "y"], "z"]}),
    "layout: too early": _odd_layout({"weights/a": [[5, 2], -1]}),
    "layout: too late": _odd_layout({"weights/a": [[5, 2], 4]}),
    "layout: other columns": _odd_layout({"weights/a": [[5, 3], 0]}),
    "layout: other axes": _odd_layout({"weights/a": [[5], 0]}),
    "layout: another whole": _odd_layout({"weights/a": [[6, 2], 0]}),
}


@pytest.mark.parametrize("kind", ODD)
def test_point_16_odd_files_are_refused_and_named(tmp_path: Path, kind: str) -> None:
    folder = two_ranks(tmp_path / "step-00000007")
    ODD[kind](folder / FIRST)
    with pytest.raises(DamagedError, match="rank-0000"):
        ShardReader(folder)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_point_16_the_same_of_lightnings_part(tmp_path: Path, kind: str) -> None:
    folder = two_ranks(tmp_path / "step-00000007")
    ODD[kind](folder / "meta.pt")
    with pytest.raises(DamagedError, match=r"meta\.pt .*plain files alone"):
        read_meta(folder)


def test_point_16_a_link_is_no_checkpoint(tmp_path: Path) -> None:
    two_ranks(tmp_path / "step-00000007")
    (tmp_path / "step-00000009").symlink_to(tmp_path / "step-00000007")
    assert commit.latest(tmp_path) == tmp_path / "step-00000007"


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_fault_39_a_malicious_checkpoint_with_right_checksums_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = two_ranks(tmp_path / "step-00000007")
    for evil in (pickle.dumps(_Evil()), pickle.dumps({"neo_lightning": _Evil()}, protocol=2)):
        checksum = write_meta(folder, evil)
        part = local_part(0, {"weights/b": WHOLE}, {})
        write_part(folder, 0, 2, part, checksum)
        with pytest.raises(ValueError, match=r"meta\.pt: holds more than plain values"):
            read_meta(folder)
    torch.save(_Evil(), folder / "meta.pt")
    write_part(folder, 0, 2, part, {"meta_crc32": f"{zlib.crc32((folder / 'meta.pt').read_bytes()):08x}"})
    with pytest.raises(ValueError, match=r"meta\.pt: holds more than plain values"):
        read_meta(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_point_12_what_is_not_finite_is_not_written(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(9_000_000 if dtype == torch.float32 else 90, dtype=dtype)  # three pieces
    tensor[-2] = value
    with pytest.raises(NotFiniteError, match="weights/x holds numbers that are not finite"):
        write_part(tmp_path, 0, 1, local_part(0, {"weights/x": tensor}, {}), {})


def test_point_12_large_numbers_are_no_infinities_and_random_states_may_be_anything(tmp_path: Path) -> None:
    large = torch.full((100,), 3e38)  # their sum overflows
    own = {"random/0/python_rest": torch.tensor([3.0, torch.nan], dtype=torch.float64)}
    write_part(tmp_path, 0, 1, local_part(0, {"weights/x": large}, own), {})
    assert torch.equal(ShardReader(tmp_path).read("weights/x"), large)


def test_point_18_a_rank_flushes_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, real = [], os.fsync

    def fsync(handle: int) -> None:
        flushed.append((os.readlink(f"/proc/self/fd/{handle}"), os.fstat(handle).st_size))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    two_ranks(tmp_path / "step-00000007")
    wanted = [(str(tmp_path / "step-00000007" / name)) for name in ("meta.pt", FIRST, SECOND)]
    assert flushed == [(name, Path(name).stat().st_size) for name in wanted], "whole, and before a rank says so"


def test_a_file_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_file(tmp_path / "file", {"a": WHOLE}, {}, ())


def test_a_snapshot_is_a_copy_in_buffers_that_stay() -> None:
    snapshot, weight, moment = Snapshot(), torch.ones(4), torch.zeros(3)
    first = snapshot.take({"w": weight, "step": torch.tensor(1.0)})
    weight.add_(1)
    assert first["w"].tolist() == [1] * 4, "an optimiser writes in place"
    place = first["w"].data_ptr()
    second = snapshot.take({"w": weight, "m": moment})
    assert second["w"].data_ptr() == place
    assert second["w"].tolist() == [2] * 4
    assert set(second) == {"w", "m"}


def test_point_05_what_is_set_aside_is_neither_loaded_nor_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3, 3):
        two_ranks(commit.fresh_name(tmp_path, step))
    gone = [commit.set_aside(commit.latest(tmp_path)) for _ in range(2)]  # type: ignore[arg-type]
    two_ranks(tmp_path / "step-00000003")
    gone.append(commit.set_aside(tmp_path / "step-00000003"))
    assert [path.name for path in gone] == [
        "damaged-step-00000003.1",
        "damaged-step-00000003",
        "damaged-step-00000003-1",
    ]
    commit.sweep(tmp_path)
    assert [path.name for path in commit.prune(tmp_path, keep=1)] == ["step-00000001"]
    assert all(path.is_dir() for path in gone)
    assert commit.latest(tmp_path) == tmp_path / "step-00000002"
