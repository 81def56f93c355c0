"""The sequence of rows: whoever reads it, wherever it was stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datamodule_helpers import assert_same, module, same, stage, stages, take

from neo_lightning.data.fingerprint import fingerprint, pack_parts, unpack_parts
from neo_lightning.data.plan import PlanError, Position, segments_of
from neo_lightning.types import CostRatio, PackedBatch


def test_a_step_is_a_list_of_rows_of_the_stages_shape(manifest: Path, tokenizer_folder: Path) -> None:
    data = module(manifest, tokenizer_folder)
    steps = take(data, 9)
    assert data.skipped.take() == []
    assert [len(rows) for rows in steps] == [2] * 3 + [4] * 3 + [3] * 3
    assert [rows[0].input_ids.numel() for rows in steps] == [128] * 3 + [256] * 3 + [512] * 3
    indices = [row.info.index for rows in steps for row in rows if row.info]
    assert indices == list(range(27))
    kinds = Counter(
        key.split("/")[0] for rows in steps[3:] for row in rows for key in (row.info.keys if row.info else ())
    )
    assert set(kinds) == {"text", "image", "pairs", "clips"}


def test_rows_show_their_own_samples_and_pixels(manifest: Path, tokenizer_folder: Path) -> None:
    data = module(manifest, tokenizer_folder)
    for rows in take(data, 9)[3:]:
        for row in rows:
            assert row.info is not None
            owner, document = {}, -1
            for i, start in enumerate(row.start.tolist()):
                document += start == i
                owner[i] = document
            for number, key in enumerate(row.info.keys):
                ids = [t for i, t in enumerate(row.input_ids.tolist()) if owner[i] == number]
                if key.startswith("image/i"):
                    assert f"number {key.removeprefix('image/i')}<" in data.tokenizer.decode(
                        ids, skip_special_tokens=False
                    )
            assert row.grids.long().prod(-1).sum() == row.patches.shape[0]
            assert row.patches.shape[0] >= 4 * row.visual_index.numel()
            assert torch.equal((row.input_ids == data.tokenizer.context_id).nonzero().squeeze(-1), row.visual_index)


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_resume_do_not_change_a_bit(manifest: Path, tokenizer_folder: Path, workers: int) -> None:
    whole = take(module(manifest, tokenizer_folder), 9)
    assert_same(take(module(manifest, tokenizer_folder, num_workers=workers), 9), whole)
    resumed = module(manifest, tokenizer_folder, num_workers=workers)
    saved = module(manifest, tokenizer_folder)
    saved.next_step = 5
    resumed.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    assert_same(take(resumed, 4), whole[5:])


def test_workers_outlive_the_signal_that_asks_the_job_to_stop(manifest: Path, tokenizer_folder: Path) -> None:
    """A scheduler sends it to every process; the steps until the save still need their rows."""
    rows = iter(module(manifest, tokenizer_folder, num_workers=1).train_dataloader())
    whole = take(module(manifest, tokenizer_folder), 9)
    first = next(rows)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(worker.pid, number)
    assert_same([first, *islice(rows, 8)], whole)


def test_the_position_is_that_of_steps_done_and_not_of_what_was_read_ahead(
    manifest: Path, tokenizer_folder: Path
) -> None:
    data = module(manifest, tokenizer_folder, lanes=2)
    take(data, 8)
    data.next_step = 4
    fresh = module(manifest, tokenizer_folder, lanes=2)
    fresh.next_step = 4
    assert data.state_dict() == fresh.state_dict()
    assert_same(take(data, 4), take(fresh, 4))


def test_the_state_stays_under_2_kb(manifest: Path, tokenizer_folder: Path) -> None:
    """128 lanes in 4 stages of 8 sources, in a run of a million steps."""
    data = module(manifest, tokenizer_folder)
    weights = {f"source_number_{i}": 0.5 + i for i in range(8)}
    many = {f"stage{i}": stage(steps=100_000 + i, context=16384, packs_per_step=128, mixture=weights) for i in range(4)}
    random = np.random.RandomState(0)
    counts = [[random.randint(700, 712, 128), random.randint(0, 520, 128), np.zeros(128, dtype=int)] for _ in many]
    lanes = np.stack([np.stack(numbers) for numbers in counts])
    digests, answers = (dict.fromkeys(weights, value) for value in ("0123456789abcdef" * 4, ("think", "tool_call")))
    parts = fingerprint(segments_of(many), digests, data.tokenizer.digest, answers, seed=1, lanes=128)
    state = {**data.state_dict(), "digest": pack_parts(parts), **Position(400_000, 51_200_000, lanes).to_state()}
    assert len(json.dumps(state)) < 2048
    assert np.array_equal(Position.from_state(state, 128).lanes, lanes)
    assert unpack_parts(state["digest"]) == parts


def test_packs_can_be_skipped_ahead_of_a_checkpoint_only(manifest: Path, tokenizer_folder: Path) -> None:
    whole = take(module(manifest, tokenizer_folder), 12)
    saved = module(manifest, tokenizer_folder)
    saved.next_step = 5  # 2, 2, 2, 4, 4 packs were done
    state = json.loads(json.dumps(saved.state_dict()))
    resumed = module(manifest, tokenizer_folder, skip=[[14, 16]])
    resumed.load_state_dict(state)
    rows = [row for step in take(resumed, 2) for row in step]
    assert [row.info.index for row in rows if row.info] == [16, 17, 18, 19, 20, 21, 22]
    assert_same([rows[:2]], [whole[5][2:]])
    resumed.next_step = 6
    again = module(manifest, tokenizer_folder)
    again.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
    assert again.skip == ((14, 16),)
    assert_same(take(again, 1), [rows[4:]])
    with pytest.raises(PlanError, match="pack 13 was trained on already"):
        module(manifest, tokenizer_folder, skip=[[13, 18]]).load_state_dict(state)
    with pytest.raises(PlanError, match="not a range"):
        module(manifest, tokenizer_folder, skip=[[5, 5]])


def test_ranks_share_a_step(manifest: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = take(module(manifest, tokenizer_folder), 9)
    shares = []
    for rank in range(2):
        data = module(manifest, tokenizer_folder)
        monkeypatch.setattr(data, "_rank_and_world", lambda rank=rank: (rank, 2))
        shares.append(take(data, 9))
    for step, rows in enumerate(whole):
        assert {len(share[step]) for share in shares} == {-(-len(rows) // 2)}, "as many on each rank"
        dealt = by_number([share[step] for share in shares])
        assert all(same(dealt.pop(row.info.index), row) for row in rows)  # type: ignore[union-attr]
        assert list(dealt) == [-1] * (len(rows) % 2)
        assert all(filler.weights.sum() == 0 for filler in dealt.values())


def test_rows_are_dealt_after_a_resume_as_without(manifest: Path, tokenizer_folder: Path) -> None:
    """By the costs of the model that is trained: others would give ranks other rows, and sums another last bit."""
    costs = {name: CostRatio(pair=0.5, supervised=3.0) for name in stages()}
    whole = module(manifest, tokenizer_folder)
    whole.costs = costs
    whole.next_step = 3
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = module(manifest, tokenizer_folder)
    resumed.costs = costs
    resumed.load_state_dict(state)
    assert [segment.ratio for segment in resumed.plan.segments] == list(costs.values())


def by_number(shares: list[list[PackedBatch]]) -> dict[int, PackedBatch]:
    """All ranks' rows of a step by their number in the run; which rank has which is free."""
    return {row.info.index: row for rows in shares for row in rows}  # type: ignore[union-attr]


def test_restarts_on_1_3_and_2_ranks_read_the_same_rows(
    manifest: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"text": 1, "image": 2, "pairs": 1}
    two = {"warm": stage(steps=4, mixture=weights, packs_per_step=2), "mid": stage(mixture=weights, context=512)}
    whole = take(module(manifest, tokenizer_folder, stages=two, lanes=2), 9)
    state: dict[str, Any] = {}
    for done, world, workers in ((0, 1, 0), (3, 3, 1), (6, 2, 2)):
        shares = []
        for rank in range(world):
            data = module(manifest, tokenizer_folder, stages=two, lanes=2, num_workers=workers)
            monkeypatch.setattr(data, "_rank_and_world", lambda rank=rank, world=world: (rank, world))
            if state:
                data.load_state_dict(json.loads(json.dumps(state)))
            shares.append(take(data, 3))
        for at, rows in enumerate(whole[done : done + 3]):
            dealt = by_number([share[at] for share in shares])
            assert all(same(dealt[row.info.index], row) for row in rows)  # type: ignore[union-attr]
        data.next_step = done + 3
        state = data.state_dict()


def test_seed_changes_the_order(manifest: Path, tokenizer_folder: Path) -> None:
    a, b = (take(module(manifest, tokenizer_folder, seed=s), 1)[0][0].info for s in (0, 1))
    assert a is not None
    assert b is not None
    assert a.keys != b.keys


def test_another_plan_is_refused_with_the_difference(manifest: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    saved = module(manifest, tokenizer_folder)
    saved.next_step = 4
    state = saved.state_dict()
    assert json.loads(json.dumps(state)) == state, "primitive values only"
    changed = stages()
    changed["mid"] = replace(changed["mid"], context=300, lr=5.0)
    with pytest.raises(PlanError, match="stage 'mid': context was 256, is 300") as error:
        module(manifest, tokenizer_folder, stages=changed).load_state_dict(state)
    assert "lr" not in str(error.value)
    with pytest.raises(PlanError, match="seed"):
        module(manifest, tokenizer_folder, seed=3).load_state_dict(state)
    other = tmp_path / "m.yaml"
    other.write_text(manifest.read_text().replace("'image-{0..1}.tar'", "image-0.tar"))
    for shard in manifest.parent.glob("*.tar"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(PlanError, match="source image: was"):
        module(other, tokenizer_folder).load_state_dict(state)
    other.write_text(manifest.read_text().replace("'image-{0..1}.tar'", "'image-{0..1}.tar', answer_tokens: [box]"))
    with pytest.raises(PlanError, match="answer_tokens: image was think tool_call, is box") as error:
        module(other, tokenizer_folder).load_state_dict(state)
    assert "source image" not in str(error.value), "the shards are the same"
    with pytest.raises(PlanError, match="version"):
        module(manifest, tokenizer_folder).load_state_dict({**state, "version": 0})


def test_a_copy_of_the_shards_elsewhere_is_the_same_plan(
    manifest: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(manifest.parent, tmp_path, dirs_exist_ok=True)
    here, copy = module(manifest, tokenizer_folder), module(tmp_path / "m.yaml", tokenizer_folder)
    here.next_step = 3
    copy.load_state_dict(here.state_dict())
    assert copy.next_step == 3
    assert copy.digest() == here.digest()
