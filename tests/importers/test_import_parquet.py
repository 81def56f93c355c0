"""Parquet in the layouts of Hugging Face data sets."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importer_helpers import CLIP, DRAWING, PHOTO, blobs, log, members, read, text

from neo_lightning.importers import Reading, RecordError, import_dataset

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, rows: list[dict[str, Any]], row_group: int = 2, **types: pa.DataType) -> Path:
    columns = {name: pa.array([row.get(name) for row in rows], types.get(name)) for name in rows[0]}
    pq.write_table(pa.table(columns), path, row_group_size=row_group, use_dictionary=False, write_page_checksum=True)
    return path


def embedded(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": "somewhere/else.jpg"}


def test_images_and_texts_as_in_the_cauldron(tmp_path: Path) -> None:
    """Pairs of user and assistant, the pictures in front of the first question."""
    pair = [{"user": "What?", "assistant": "A cat.", "source": "s"}, {"user": "And?", "assistant": "No."}]
    placed = [{"user": "First <image>, then <image>?", "assistant": "Yes."}]
    rows: list[dict[str, Any]] = [
        {"images": [embedded(PHOTO)], "texts": pair},
        {"images": [embedded(PHOTO), embedded(DRAWING)], "texts": pair[:1]},
        {"images": [embedded(DRAWING), embedded(PHOTO)], "texts": placed},
        {"images": [], "texts": pair},
    ]
    file = write(tmp_path / "f.parquet", rows, images=pa.list_(IMAGE))
    report = import_dataset("parquet", [file], tmp_path / "out", strict=True)
    assert report.samples == {"text": 1, "image": 1, "multi_image": 2}
    (one,) = read(report.manifest, "image")
    assert text(one) == ["#\nWhat?", "A cat.", "And?", "No."]
    assert blobs(one) == [PHOTO]
    front, between = read(report.manifest, "multi_image")
    assert text(front) == ["##\nWhat?", "A cat."]
    assert blobs(front) == [PHOTO, DRAWING]
    assert text(between) == ["First #, then #?", "Yes."]
    assert blobs(between) == [DRAWING, PHOTO]


def test_messages_conversations_and_captions(tmp_path: Path, media: Path) -> None:
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    answer = [{"type": "text", "text": "Yes."}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Yes."}]
    files = [
        write(tmp_path / "a.parquet", [{"images": [embedded(PHOTO)], "messages": chat}], images=pa.list_(IMAGE)),
        write(tmp_path / "b.parquet", [{"id": 7, "image": embedded(PHOTO), "conversations": talk}], image=IMAGE),
        write(tmp_path / "c.parquet", [{"image": PHOTO, "conversations": json.dumps(talk)}]),
        write(tmp_path / "d.parquet", [{"image": {"bytes": None, "path": "a.jpg"}, "caption": "Yes."}], image=IMAGE),
        write(tmp_path / "e.parquet", [{"image": "a.jpg", "text": "Yes.", "width": 3}]),
        write(tmp_path / "f.parquet", [{"video": {"bytes": CLIP, "path": None}, "text": "Yes."}], video=IMAGE),
        write(tmp_path / "g.parquet", [{"text": "Yes."}]),
    ]
    report = import_dataset("parquet", files, tmp_path / "out", media=media, strict=True, workers=1)
    assert report.samples == {"text": 1, "image": 5, "video": 1}
    samples = read(report.manifest, "image")
    assert [text(s) for s in samples] == [["#What?", "Yes."]] + 2 * [["#\nWhat?", "Yes."]] + 2 * [["#Yes."]]
    assert all(blobs(s) == [PHOTO] for s in samples)
    assert samples[1].meta == {"id": 7}
    assert blobs(read(report.manifest, "video")[0]) == [CLIP]


def test_another_caption_column(tmp_path: Path) -> None:
    rows = [{"image": embedded(PHOTO), "text": "alt", "caption": "short", "recaption": "long"}]
    file = write(tmp_path / "f.parquet", rows, image=IMAGE)
    with pytest.raises(RecordError, match=r"both `text` and `caption`.*--columns text="):
        import_dataset("parquet", [file], tmp_path / "a", strict=True)
    report = import_dataset("parquet", [tmp_path], tmp_path / "b", reading=Reading(columns={"text": "recaption"}))
    assert text(read(report.manifest, "image")[0]) == ["#long"]
    with pytest.raises(RecordError, match=r"no text under 'title' .*found image, text, caption"):
        import_dataset("parquet", [file], tmp_path / "c", reading=Reading(columns={"text": "title"}), strict=True)


def test_bad_rows_are_listed_with_their_number(tmp_path: Path, media: Path) -> None:
    good = {"image": embedded(PHOTO), "caption": "ok"}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"image": embedded(b"\x89PNG\r\n\x1a\nxxxx"), "caption": "x"}, "embedded file: PNG with a damaged header"),
        ({"image": embedded(b""), "caption": "x"}, "zero bytes"),
        ({"image": {"bytes": None, "path": "../secret.jpg"}, "caption": "x"}, "outside the media folder"),
        ({"image": {"bytes": None, "path": "http://x/y.jpg"}, "caption": "x"}, "nothing is downloaded"),
        ({"image": embedded(PHOTO), "caption": "<image><image>"}, "2 places for images, the record names 1"),
        ({"image": embedded(PHOTO), "caption": None}, "`caption` is empty"),
        ({"image": {"bytes": None, "path": None}, "caption": "x"}, "must be a path"),
    ]
    rows = [good, *(row for row, _ in bad), good]
    file = write(tmp_path / "f.parquet", rows, row_group=4, image=IMAGE)
    report = import_dataset("parquet", [file], tmp_path / "out", media=media)
    assert report.samples == {"image": 2}
    found = log(tmp_path / "out")
    assert [where for where, _ in found] == [f"f.parquet, row {i}" for i in range(1, len(bad) + 1)]
    for (_, reason), (_, message) in zip(found, bad, strict=True):
        assert message in reason


def test_a_damaged_row_group_and_a_cut_file(tmp_path: Path) -> None:
    rows = [{"image": embedded(PHOTO + bytes([i])), "caption": "ok"} for i in range(6)]
    file = write(tmp_path / "f.parquet", rows, image=IMAGE)
    data = bytearray(file.read_bytes())
    group = pq.ParquetFile(file).metadata.row_group(1)
    column = next(group.column(i) for i in range(3) if group.column(i).path_in_schema == "image.bytes")
    last = column.data_page_offset + column.total_compressed_size - 1
    data[last] ^= 255  # one byte of a picture: only the page's checksum can tell
    file.write_bytes(data)
    report = import_dataset("parquet", [file], tmp_path / "out")
    assert report.samples == {"image": 4}
    assert [s["__key__"] for s in members(tmp_path / "out", "image")] == [f"{i:09d}" for i in (0, 1, 4, 5)]
    assert [where for where, _ in log(tmp_path / "out")] == ["f.parquet, row 2", "f.parquet, row 3"]
    assert all("row group 1 is damaged" in reason for _, reason in log(tmp_path / "out"))
    file.write_bytes(data[:-20])
    with pytest.raises(RecordError, match=r"f\.parquet"):
        import_dataset("parquet", [file], tmp_path / "cut")
    assert not (tmp_path / "cut").exists(), "refused before anything is written"


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_parquet_is_unpickled(tmp_path: Path) -> None:
    """Old versions of Arrow unpickled the metadata of a Python extension type."""
    trap = pickle.dumps(Trap(tmp_path / "executed"))
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": trap}
    field = pa.field("text", pa.string(), metadata=metadata)
    pq.write_table(pa.table([pa.array(["hello"])], schema=pa.schema([field])), tmp_path / "f.parquet")
    report = import_dataset("parquet", [tmp_path / "f.parquet"], tmp_path / "out")
    assert report.samples == {"text": 1}
    assert not (tmp_path / "executed").exists()
    pickle.loads(trap)
    assert (tmp_path / "executed").exists(), "the trap works"
