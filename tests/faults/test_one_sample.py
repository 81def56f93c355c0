"""One sample never ends the rest: whatever a reader raises costs it, and its reason is for its owner to read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageFile, PngImagePlugin

from neo_lightning.data.facts import MediaError, MediaFacts, SampleError, costs_one_sample
from neo_lightning.data.index import scan
from neo_lightning.data.index.check import check_source
from neo_lightning.data.media import image as images
from neo_lightning.data.media.formats import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from neo_lightning.data.media.image import decode_image, image_facts
from neo_lightning.data.media.video import video_facts
from neo_lightning.data.store import Store
from neo_lightning.importers import import_dataset
from tests.data.data_helpers import chat, encoded, picture, write_tar
from tests.faults.readers import MP4, mpo


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("error", [IndexError("tuple.index(x): x not in tuple"), KeyError("new"), AttributeError("x")])
def test_an_error_of_any_type_while_decoding_is_the_samples_and_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(40, 24))
    facts = image_facts(data)

    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail, raising=False)
    with pytest.raises(MediaError, match=f"damaged image: {type(error).__name__}"):
        decode_image(data, facts)


def test_reasons_hold_no_paths_or_numbers_of_libraries() -> None:
    data = encoded(picture(640, 480), "JPEG", quality=95)
    with pytest.raises(MediaError) as told:
        decode_image(data[: len(data) // 2], image_facts(data))
    # older torchvision does not name its function
    assert str(told.value).replace("decode_jpeg ", "") == "damaged image: Image is incomplete or truncated"
    with pytest.raises(MediaError) as told:
        video_facts(b"\0\0\0\x18ftypisom" + b"\0" * 99)
    assert "Errno" not in str(told.value)
    assert "none" not in str(told.value)
    with pytest.raises(SampleError, match=r"^this: OSError$"), costs_one_sample("this"):
        raise OSError
    with pytest.raises(SampleError, match=r"^this: Is a directory$"), costs_one_sample("this"):
        raise IsADirectoryError(21, "Is a directory")


BROKEN = {
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not decoded"),
    "cut": (encoded(picture(), "JPEG")[:40], "damaged"),
    "empty": (b"", "zero bytes"),
    "pdf": (b"%PDF-1.4\n", "PDF, not an image"),
    "clip": (MP4, "MP4, not an image"),
}


def members(good: Callable[[], bytes]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, (data, _) in BROKEN.items():
        found |= {f"{name}.json": chat("<image>", "x"), f"{name}.jpg": data}
        found |= {f"after_{name}.json": chat("<image>", "x"), f"after_{name}.jpg": good()}
    return found


def test_check_names_shard_member_and_reason_and_goes_on(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", members(mpo))
    report = check_source([str(shard)], "image", Store(), decode=True)
    assert report.samples == len(BROKEN)
    assert not report.refused
    found = dict(report.left_out)
    assert set(found) == set(BROKEN)
    for name, (_, reason) in BROKEN.items():
        assert reason in found[name]
        assert found[name].startswith(f"'{name}.jpg'")
        assert found[name].endswith("[a.tar]")


def test_check_by_decoding_names_shard_and_member(tmp_path: Path) -> None:
    data = encoded(picture(200, 200), "JPEG", quality=95)
    good = {"a.json": chat("<image>", "x"), "a.jpg": data, "c.json": chat("<image>", "x"), "c.jpg": data}
    cut = {"b.json": chat("<image>", "x"), "b.jpg": data[: len(data) // 2]}
    shard = write_tar(tmp_path / "s.tar", {**good, **cut})
    report = check_source([str(shard)], "image", Store(), decode=True)
    assert report.samples == 2
    assert [(key, reason[:7], reason[-7:]) for key, reason in report.left_out] == [("b", "'b.jpg'", "[s.tar]")]


def test_a_shard_that_is_replaced_while_it_is_checked_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(), "JPEG")
    shards = [
        str(write_tar(tmp_path / f"{n}.tar", {f"{n}.json": chat("<image>", "x"), f"{n}.jpg": data})) for n in "ab"
    ]
    check_source(shards, "image", Store())
    whole = Path(shards[0]).read_bytes()
    at, stamp = whole.index(data), Path(shards[0]).stat()
    Path(shards[0]).write_bytes(whole[:at] + data[:-4] + b"????" + whole[at + len(data) :])
    os.utime(shards[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    report = check_source(shards, "image", Store(), decode=True, workers=0)
    assert list(report.refused) == [shards[0]]
    assert "CRC32" in report.refused[shards[0]]


def test_an_error_that_nobody_foresaw_costs_the_index_one_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = encoded(picture(48, 48), "JPEG")

    def reader(data: bytes) -> MediaFacts:
        if data == strange:
            raise IndexError("tuple.index(x): x not in tuple")
        return image_facts(data)

    monkeypatch.setattr(scan, "image_facts", reader)
    good = encoded(picture(64, 64), "JPEG")
    files = {f"{i}.{e}": chat("<image>", "x") if e == "json" else good for i in range(3) for e in ("json", "jpg")}
    shard = write_tar(tmp_path / "a.tar", files | {"1.jpg": strange})
    report = check_source([str(shard)], "image", Store())
    assert report.samples == 2
    assert report.left_out == [
        ("1", "cannot be read: IndexError: tuple.index(x): x not in tuple [a.tar]"),
    ]


def test_an_import_names_the_users_own_file_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, (data, _) in BROKEN.items():
        (tmp_path / "in" / f"{name}.jpg").write_bytes(data)
    (tmp_path / "in" / "good.jpg").write_bytes(mpo())
    names = [*BROKEN, "good"]
    records = [json.dumps({"image": f"{name}.jpg", **json.loads(chat("<image>", "x"))}) for name in names]
    (tmp_path / "all.jsonl").write_text("\n".join(records))
    report = import_dataset("llava", [tmp_path / "all.jsonl"], tmp_path / "out", media=tmp_path / "in")
    assert report.samples == {"image": 1}
    log = [json.loads(line) for line in (tmp_path / "out" / "import.log").read_text().splitlines()]
    assert len(log) == len(BROKEN)
    for entry, (name, (_, reason)) in zip(log, BROKEN.items(), strict=True):
        assert "all.jsonl" in entry["record"]
        assert entry["reason"].startswith(f"'{name}.jpg': ")
        assert reason in entry["reason"]


def test_known_formats_have_an_extension_and_a_place_in_shards(tmp_path: Path) -> None:
    """A format that is not decoded leaves out its sample; its extension must not refuse the shard."""
    assert set(IMAGE_EXTENSIONS).isdisjoint(VIDEO_EXTENSIONS)
    files = {}
    for extension in ("heic", "avif", "tiff", "jxl", "jpg"):
        data = encoded(picture(), "TIFF" if extension == "tiff" else "JPEG") if extension in ("tiff", "jpg") else b"?"
        files |= {f"{extension}.json": chat("<image>", "x"), f"{extension}.{extension}": data}
    report = check_source([str(write_tar(tmp_path / "a.tar", files))], "image", Store())
    assert report.samples == 2
    assert len(report.left_out) == 3
    assert images.BLANK == 128
