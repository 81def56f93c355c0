"""What a data module takes from its sources and what it leaves out, for training and validation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from data_helpers import chat, encoded, picture, write_tar
from datamodule_helpers import module, stage, take

from neo_lightning.data.facts import reason_kind
from neo_lightning.data.index import iterate_samples, open_source
from neo_lightning.data.manifest import ManifestError
from neo_lightning.data.plan import PlanError
from neo_lightning.types import PixelBudget


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
