"""Shards that other tools wrote, named in a manifest as they are: webdataset's writer, img2dataset, Energon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import webdataset
from importer_helpers import CLIP, DRAWING, PHOTO, blobs, read, text

from neo_lightning.data.facts import ShardError
from neo_lightning.data.index import open_source


def write(path: Path, samples: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as shard:
        for number, sample in enumerate(samples):
            shard.write({"__key__": f"{path.stem}_{number:05d}", **sample})
    return path


def manifest(folder: Path, modality: str, shards: str) -> Path:
    path = folder / "manifest.yaml"
    path.write_text(f"sources: {{own: {{modality: {modality}, shards: {shards}}}}}\n")
    return path


def test_pairs_of_webdataset_writer(tmp_path: Path) -> None:
    chat = {"conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "Yes."}]}
    samples: list[dict[str, Any]] = [
        {"jpg": PHOTO, "txt": "a caption"},
        {"png": DRAWING, "json": {"text": "in JSON"}},
        {"jpeg": PHOTO, "json": {"caption": "as caption"}},
        {"jpg": PHOTO, "json": chat},
    ]
    write(tmp_path / "a.tar", samples)
    found = read(manifest(tmp_path, "image", "a.tar"), "own")
    assert [text(s) for s in found] == [["#a caption"], ["#in JSON"], ["#as caption"], ["#?", "Yes."]]
    assert [blobs(s) for s in found] == [[PHOTO], [DRAWING], [PHOTO], [PHOTO]]


def test_several_images_and_clips(tmp_path: Path) -> None:
    write(tmp_path / "pairs.tar", [{"0.jpg": PHOTO, "1.png": DRAWING, "json": {"text": "<image> and <image>"}}])
    write(tmp_path / "clips.tar", [{"mp4": CLIP, "txt": "moving"}])
    (pair,) = read(manifest(tmp_path, "multi_image", "pairs.tar"), "own")
    assert text(pair) == ["# and #"]
    (video,) = read(manifest(tmp_path, "video", "clips.tar"), "own")
    assert blobs(video) == [CLIP]


def test_caption_and_details_as_img2dataset_writes_them(tmp_path: Path) -> None:
    """A .txt beside a .json with the same caption among other things: the .txt counts."""
    details = {"caption": "a cat", "url": "https://example.org/x.jpg", "key": "0", "status": "success", "width": 40}
    write(tmp_path / "00000.tar", [{"jpg": PHOTO, "txt": "a cat", "json": details}])
    (sample,) = read(manifest(tmp_path, "image", "00000.tar"), "own")
    assert text(sample) == ["#a cat"]


def test_a_folder_that_energon_has_prepared(tmp_path: Path) -> None:
    """Plain tars beside `.nv-meta`; the parts of a split are named, and Energon's own files are passed over."""
    for number in range(4):
        write(tmp_path / "set" / "shards" / f"shard_{number:03d}.tar", [{"jpg": PHOTO, "txt": f"number {number}"}])
        (tmp_path / "set" / "shards" / f"shard_{number:03d}.tar.idx").write_bytes(bytes(16))
    split = {"train": [f"shards/shard_{number:03d}.tar" for number in (0, 1, 3)], "val": ["shards/shard_002.tar"]}
    (tmp_path / "set" / ".nv-meta").mkdir()
    (tmp_path / "set" / ".nv-meta" / "split.yaml").write_text(json.dumps({"split_parts": split}))
    (tmp_path / "set" / ".nv-meta" / ".info.json").write_text("{}")
    (tmp_path / "set" / ".nv-meta" / "index.sqlite").write_bytes(b"SQLite format 3\0")
    parts = '["set/shards/shard_{000,001}.tar", set/shards/shard_003.tar]'
    found = read(manifest(tmp_path, "image", parts), "own")
    assert [text(s) for s in found] == [["#number 0"], ["#number 1"], ["#number 3"]]
    assert len(read(manifest(tmp_path, "image", "set/**/*.tar"), "own")) == 4


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"cls": 3}, "extension 'cls' is not read"),
        ({"detail.json": {"x": 1}}, "expected KEY.EXTENSION"),
        ({"pyd": [1]}, "extension 'pyd' is not read"),
        ({"left.jpg": PHOTO}, "expected KEY.EXTENSION"),
        ({"png": DRAWING}, "several media need numbers"),
    ],
)
def test_what_is_not_accepted_is_said(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    write(tmp_path / "a.tar", [{"jpg": PHOTO, "txt": "a caption", **extra}])
    with pytest.raises(ShardError, match=message):
        open_source(manifest(tmp_path, "image", "a.tar"), "own")
