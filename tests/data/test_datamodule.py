from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import chat, clip, encoded, picture, write_tar

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.facts import reason_kind
from neo_lightning.data.fingerprint import fingerprint, pack_parts, unpack_parts
from neo_lightning.data.index import iterate_samples, open_source
from neo_lightning.data.manifest import ManifestError
from neo_lightning.data.plan import PlanError, Position
from neo_lightning.types import PackedBatch, PixelBudget, Stage, VideoBudget

SMALL = PixelBudget(min_pixels=32 * 32, max_pixels=64 * 64)
CLIP = VideoBudget(fps=None, max_frames=3, min_pixels=32 * 32, max_pixels=64 * 64)


def stage(**changes: Any) -> Stage:
    mixture = changes.pop("mixture", {"text": 1, "image": 2, "pairs": 1, "clips": 1})
    return Stage(
        **{"steps": 3, "context": 256, "packs_per_step": 4, "lr": 1e-3, "image": SMALL, "video": CLIP, **changes},
        mixture=mixture,
    )


def stages() -> dict[str, Stage]:
    return {
        "warm": stage(mixture={"text": 1}, context=128, packs_per_step=2),
        "mid": stage(),
        "end": stage(context=512, packs_per_step=3, loss_weighting="token"),
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    texts = {f"t{i}.json": json.dumps({"text": f"left {i} right " * (1 + i % 5)}).encode() for i in range(40)}
    write_tar(folder / "text.tar", texts)
    for part in range(2):
        members: dict[str, bytes] = {}
        for i in range(part * 20, part * 20 + 20):
            image = picture(40 + i, 64, i)
            members[f"i{i}.json"] = chat("What is it?" if i % 2 else "<image>\nWhat?", f"number {i}", meta={"n": i})
            members[f"i{i}.{'jpg' if i % 2 else 'png'}"] = encoded(image, "JPEG" if i % 2 else "PNG")
        write_tar(folder / f"image-{part}.tar", members)
    pairs: dict[str, bytes] = {}
    for i in range(10):
        pairs[f"p{i}.0.png"] = encoded(picture(64, 64, i))
        pairs[f"p{i}.1.jpg"] = encoded(picture(64, 32, i + 50), "JPEG")
        pairs[f"p{i}.json"] = chat("<image><image>same?", "no")
    write_tar(folder / "pairs.tar", pairs)
    movie = clip(6)
    write_tar(folder / "clips.tar", {f"c{i}.{e}": d for i in range(5) for e, d in (("mp4", movie), ("txt", b"grey"))})
    (folder / "m.yaml").write_text(
        "sources:\n"
        "  text: {modality: text, shards: text.tar}\n"
        "  image: {modality: image, shards: 'image-{0..1}.tar'}\n"
        "  pairs: {modality: multi_image, shards: pairs.tar}\n"
        "  clips: {modality: video, shards: clips.tar}\n"
    )
    return folder / "m.yaml"


def module(manifest: Path, tokenizer_folder: Path, **options: Any) -> NeoDataModule:
    return NeoDataModule(str(manifest), options.pop("stages", stages()), str(tokenizer_folder), **options)


def take(data: NeoDataModule, n: int) -> list[list[PackedBatch]]:
    return list(islice(iter(data.train_dataloader()), n))


def same(a: PackedBatch, b: PackedBatch) -> bool:
    tensors = [f.name for f in fields(a) if isinstance(getattr(a, f.name), torch.Tensor)]
    return a.info == b.info and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)


def assert_same(a: list[list[PackedBatch]], b: list[list[PackedBatch]]) -> None:
    assert [len(step) for step in a] == [len(step) for step in b]
    assert a
    assert all(same(x, y) for s, t in zip(a, b, strict=True) for x, y in zip(s, t, strict=True))


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
    lanes = np.stack([np.stack([random.randint(700, 712, 128), random.randint(0, 520, 128)]) for _ in many])
    digests, answers = (dict.fromkeys(weights, value) for value in ("0123456789abcdef" * 4, ("think", "tool_call")))
    parts = fingerprint(many, digests, data.tokenizer.digest, answers, seed=1, lanes=128)
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
        dealt = [shares[i % 2][step][i // 2] for i in range(len(rows) + len(rows) % 2)]
        assert all(same(a, b) for a, b in zip(dealt, rows, strict=False))
        for filler in dealt[len(rows) :]:
            assert filler.weights.sum() == 0
            assert filler.info is not None
            assert filler.info.index == -1


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
            assert all(same(shares[i % world][at][i // world], row) for i, row in enumerate(rows))
        data.next_step = done + 3
        state = data.state_dict()


def test_seed_changes_the_order(manifest: Path, tokenizer_folder: Path) -> None:
    a, b = (take(module(manifest, tokenizer_folder, seed=s), 1)[0][0].info for s in (0, 1))
    assert a is not None
    assert b is not None
    assert a.keys != b.keys


def test_another_plan_is_refused_with_the_difference(manifest: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    state = module(manifest, tokenizer_folder).state_dict()
    assert json.loads(json.dumps(state)) == state, "primitive values only"
    changed = stages()
    changed["mid"] = replace(changed["mid"], context=300, lr=5.0)
    with pytest.raises(PlanError, match="stage 1 mid: context was 256, is 300") as error:
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


def test_validation_is_one_pass(manifest: Path, tokenizer_folder: Path) -> None:
    data = module(manifest, tokenizer_folder, validation=["image", "pairs"])
    for _ in range(2):
        keys = Counter(k for rows in data.val_dataloader() for row in rows for k in (row.info.keys if row.info else ()))
        assert len(keys) == 50
        assert set(keys.values()) == {1}
    assert len(module(manifest, tokenizer_folder).val_dataloader()) == 0
    assert len(data.test_dataloader()) == len(data.predict_dataloader()) == len(data.val_dataloader())
    with pytest.raises(PlanError, match=r"data\.validation names the source 'image' twice"):
        module(manifest, tokenizer_folder, validation=["image", "pairs", "image"])
    with pytest.raises(PlanError, match=r"data\.validation"):
        module(manifest, tokenizer_folder).test_dataloader()


def test_validation_lists_what_it_leaves_out_and_is_no_part_of_the_plan(manifest: Path, tokenizer_folder: Path) -> None:
    short = {"only": stage(mixture={"text": 1}, context=40)}
    data = module(manifest, tokenizer_folder, stages=short, validation=["image"])
    data.setup()
    shown = {k for rows in data.val_dataloader() for row in rows for k in (row.info.keys if row.info else ())}
    left_out = {
        key for key, reason in data.skipped.take() if key.startswith("image/") and reason.startswith("validation: ")
    }
    assert len(shown | left_out) == 40
    assert not shown & left_out
    data.load_state_dict(module(manifest, tokenizer_folder, stages=short).state_dict())


def test_bad_samples_are_listed_and_never_replaced(tmp_path: Path, tokenizer_folder: Path) -> None:
    png, jpg = encoded(picture()), encoded(picture(), "JPEG")
    good = chat("<image>\nWhat?", "fine")
    members = {
        "good.json": good,
        "good.jpg": png,  # a PNG by content
        "empty.json": good,
        "empty.jpg": b"",
        "cut.json": good,
        "cut.png": png[: len(png) // 2],
        "cutjpg.json": good,
        "cutjpg.jpg": jpg[:-40],
        "noimage.json": good,
        "twice.json": chat("<image><image>", "a"),
        "twice.png": png,
        "lonely.png": png,
        "latin.json": good.replace(b"What", b"Wh\xe4t"),
        "latin.png": png,
        "broken.json": good[:-5],
        "broken.png": png,
        "aspect.json": good,
        "aspect.png": encoded(picture(900, 3)),
        "long.json": chat("<image>\n" + "many words " * 300, "a"),
        "long.png": png,
    }
    write_tar(tmp_path / "a.tar", members)
    (tmp_path / "m.yaml").write_text("sources: {a: {modality: image, shards: a.tar}}")
    data = module(tmp_path / "m.yaml", tokenizer_folder, stages={"only": stage(mixture={"a": 1}, context=128)})
    rows = [row for step in take(data, 2) for row in step]
    reasons = dict(data.skipped.take())
    expected = {
        "empty": "zero bytes",
        "noimage": "places for 1 image, the sample holds no media",
        "twice": "places for 2 images",
        "lonely": "no .txt",
        "latin": "not UTF-8",
        "broken": "not JSON",
        "aspect": "aspect ratio",
        "long": "more than the context of 128",
    }
    assert set(reasons) == {f"a/{key}" for key in expected}
    for key, reason in expected.items():
        assert reason in reasons[f"a/{key}"]
    # a cut can only be seen by decoding: same row, no weight, listed
    seen = Counter(key for row in rows for key in (row.info.keys if row.info else ()))
    assert set(seen) == {"a/good", "a/cut", "a/cutjpg"}
    dead = {key for row in rows for key, _ in (row.info.tombstones if row.info else ())}
    assert dead == {"a/cut", "a/cutjpg"}
    assert sum(float(row.weights.sum()) for row in rows) > 0
    assert reason_kind("12 tokens are more than the context of 8") == reason_kind(
        "9 tokens are more than the context of 7"
    )


def test_too_long_samples_can_be_rescaled(tmp_path: Path, tokenizer_folder: Path) -> None:
    write_tar(tmp_path / "a.tar", {"big.json": chat("<image>\nWhat?", "a"), "big.png": encoded(picture(640, 640))})
    (tmp_path / "m.yaml").write_text("sources: {a: {modality: image, shards: a.tar}}")
    large = PixelBudget(min_pixels=32 * 32, max_pixels=640 * 640)
    only = stage(mixture={"a": 1}, context=96, image=large)
    with pytest.raises(PlanError, match="none of the 1 samples"):
        take(module(tmp_path / "m.yaml", tokenizer_folder, stages={"only": only}), 1)
    data = module(tmp_path / "m.yaml", tokenizer_folder, stages={"only": replace(only, too_long="rescale")})
    row = take(data, 1)[0][0]
    assert row.info is not None
    assert row.info.keys == ("a/big",)
    assert 16 <= row.visual_index.numel() < 96
    assert "halved" in dict(data.skipped.take())["a/big"]


def test_unreachable_context_is_refused_with_numbers(manifest: Path, tokenizer_folder: Path) -> None:
    large = PixelBudget(min_pixels=1280 * 1024, max_pixels=4096 * 1024)
    with pytest.raises(PlanError, match=r"'mid'.*min_pixels 1310720.*1282 tokens.*context of 256"):
        module(manifest, tokenizer_folder, stages={"mid": stage(image=large)}).setup()


def test_unknown_sources_name_the_nearest(manifest: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(PlanError, match=r"'warm'.*did you mean 'text'"):
        module(manifest, tokenizer_folder, stages={"warm": stage(mixture={"texts": 1})}).setup()
    with pytest.raises(ManifestError, match="did you mean 'clips'"):
        module(manifest, tokenizer_folder, validation=["clip"]).setup()


def test_samples_of_a_source_keep_their_meta(manifest: Path) -> None:
    samples = list(iterate_samples(open_source(manifest, "image")))
    assert [s.meta["n"] for s in samples] == list(range(40))
    assert samples[0].messages[0].parts[1] == "\nWhat?"


def test_a_source_of_the_users_own(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "m.yaml").write_text("sources: {mine: {class_path: my_source.Squares, init_args: {count: 7}}}")
    data = module(tmp_path / "m.yaml", tokenizer_folder, stages={"only": stage(mixture={"mine": 1})}, num_workers=1)
    keys = {key for rows in take(data, 3) for row in rows for key in (row.info.keys if row.info else ())}
    assert keys == {f"mine/square-{i}" for i in range(7)}
    for wrong, message in (
        ("my_source.Nothing", "Nothing"),
        ("no_such.Thing", "no_such"),
        ("json.JSONDecoder", "facts"),
    ):
        (tmp_path / "m.yaml").write_text(f"sources: {{mine: {{class_path: {wrong}}}}}")
        with pytest.raises(ManifestError, match=message):
            open_source(tmp_path / "m.yaml", "mine")
