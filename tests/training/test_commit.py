"""Checkpoint folders are whole or absent, and their tensors can be read by any number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neo_lightning.checkpoint import commit
from neo_lightning.checkpoint.shards import ShardReader, local_part, write_part


def _save(final: Path, text: str = "x") -> None:
    (commit.begin(final) / "data").write_text(text)
    commit.commit(final)


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    final = tmp_path / "step-00000003"
    (commit.begin(final) / "data").write_text("half")
    assert commit.committed(tmp_path) == []
    assert commit.latest(tmp_path) is None
    (commit.begin(final) / "other").write_text("again")  # after a kill: the leftovers of the first try are gone
    commit.commit(final)
    assert [p.name for p in final.iterdir()] == ["other"]
    assert commit.latest(tmp_path) == final


def test_latest_counts_steps_not_letters(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        _save(commit.fresh_name(tmp_path, step))
    (tmp_path / "step-00000999").write_text("a file is no checkpoint")
    (tmp_path / "step-00000998-copy").mkdir()
    assert [commit.step_of(p) for p in commit.committed(tmp_path)] == [9, 20, 100]
    again = commit.fresh_name(tmp_path, 100)
    assert again.name == "step-00000100.1"
    _save(again)
    assert commit.latest(tmp_path) == again


def test_replacing_keeps_one_of_the_two(tmp_path: Path) -> None:
    _save(tmp_path / "last", "old")
    _save(tmp_path / "last", "new")
    assert (tmp_path / "last" / "data").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_prune_keeps_the_newest_and_the_chosen(tmp_path: Path) -> None:
    for step in range(1, 7):
        _save(commit.fresh_name(tmp_path, step))
    gone = commit.prune(tmp_path, keep=2, always=frozenset({3}))
    assert [commit.step_of(p) for p in gone] == [1, 2, 4]
    assert [commit.step_of(p) for p in commit.committed(tmp_path)] == [3, 5, 6]
    assert commit.prune(tmp_path, keep=0) == []


def test_sweep_removes_only_leftovers(tmp_path: Path) -> None:
    _save(tmp_path / "step-00000001")
    commit.begin(tmp_path / "step-00000002")
    commit.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def _two_files(folder: Path) -> torch.Tensor:
    """Rows 0..3 and 3..5 of a tensor in two ranks' files, as FSDP2 splits five rows."""
    whole = torch.arange(10.0).reshape(5, 2)
    for rank, (first, last) in enumerate([(0, 3), (3, 5)]):
        layout = f'{{"a": [[5, 2], {first}]}}'
        file = folder / f"rank-{rank:05d}-of-00002.safetensors"
        save_file({"a": whole[first:last].contiguous()}, file, metadata={"layout": layout})
    return whole


@pytest.mark.parametrize(("first", "rows"), [(0, 5), (0, 2), (2, 2), (3, 2), (4, 1), (5, 0), (1, 3)])
def test_any_rows_of_a_sharded_tensor(tmp_path: Path, first: int, rows: int) -> None:
    whole = _two_files(tmp_path)
    assert torch.equal(ShardReader(tmp_path).read("a", first, rows), whole[first : first + rows])


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    _two_files(tmp_path)
    second = tmp_path / "rank-00001-of-00002.safetensors"
    data = second.read_bytes()
    second.write_bytes(data[:20])
    with pytest.raises(ValueError, match="rank-00001-of-00002"):
        ShardReader(tmp_path)
    second.unlink()
    with pytest.raises(ValueError, match=r"expected the files of 2 ranks, found those of \[0\]"):
        ShardReader(tmp_path)


def test_whole_tensors_and_own_ones(tmp_path: Path) -> None:
    shared = {"w": torch.ones(2, 3), "step": torch.tensor(4.0)}
    for rank in range(2):
        write_part(tmp_path, rank, 2, local_part(rank, shared, {f"random/{rank}": torch.tensor([rank])}), {})
    reader = ShardReader(tmp_path)
    assert reader.shapes == {"w": (2, 3), "step": (), "random/0": (1,), "random/1": (1,)}
    assert reader.read("step") == 4
    assert reader.read("random/1").tolist() == [1]
    with pytest.raises(KeyError, match="no tensor v"):
        reader.read("v")
