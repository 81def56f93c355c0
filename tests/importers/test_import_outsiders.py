"""What people's records hold that our lists did not know: read, or named, and never lost without a word."""

from __future__ import annotations

import base64
import datetime
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importer_helpers import DRAWING, PHOTO, lines, log

from neo_lightning.data.facts import reason_kind
from neo_lightning.importers import Reading, RecordError, import_dataset

ASK, SAY = {"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Say"}
TALK = [ASK, SAY]
GOOD = {"id": "good", "messages": TALK}
IN_BASE64 = base64.b64encode(PHOTO).decode()


def imported(folder: Path, *records: Any, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The samples' JSON but for that of a good record behind these, which always arrives; and the reasons."""
    (folder / "x.jpg").write_bytes(PHOTO)
    (folder / "[1].jpg").write_bytes(DRAWING)
    return samples(folder, lines(folder / "f.jsonl", [*records, GOOD]), **options)


def samples(folder: Path, file: Path, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    import_dataset("auto", [file], folder / "out", workers=0, **options)
    trees = []
    for shard in sorted((folder / "out").glob("*.tar")):
        with tarfile.open(shard) as tar:
            found = [tar.extractfile(member) for member in tar if member.name.endswith(".json")]
            trees += [json.loads(file.read()) for file in found if file is not None]
    assert [tree for tree in trees if tree["meta"].get("id") == "good"]
    return [tree for tree in trees if tree["meta"].get("id") != "good"], [reason for _, reason in log(folder / "out")]


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "a part of a weight": ({"messages": [ASK, {**SAY, "loss_scale": 0.5}]}, "`messages[1]`: `loss_scale` is 0.5"),
    "a weight of text": ({"messages": [ASK, {**SAY, "weight": "much"}]}, "`messages[1]`: `weight` is 'much'"),
    "two weights": ({"messages": [ASK, {**SAY, "weight": 1, "loss": False}, *TALK]}, "`weight` contradicts"),
    "KTO as a number of text": ({"messages": TALK, "kto_tag": "0"}, "`kto_tag` is false"),
    "KTO as a word": ({"messages": TALK, "kto_tag": "undesirable"}, "`kto_tag` is 'undesirable', which is neither"),
    "the user's key and turn": (
        {"system": "Be kind", "conversations": [{"from": "human", "value": "Ask"}, {"from": "gpt", "value": ""}]},
        "`conversations[1]`: the answer is empty",
    ),
    "the turn of a history": ({"query": "A", "response": "B", "history": [["C", ""]]}, "`history[0]`: the answer is"),
    "lists in a list": ({"conversations": [TALK]}, "`conversations[0]`: expected an object with a role"),
    "a text of another name": ({"messages": [{"role": "user", "said": "Ask"}, SAY]}, "`messages[0]`: a turn without"),
    "nothing in it": ({"conversations": []}, "`conversations` is empty"),
    "tools without a name": ({"messages": TALK, "tools": {"f": {"name": "f"}}}, "each of `tools` must be a function"),
    "a box of no numbers": (
        {"messages": [{**ASK, "content": "<image>"}, {**SAY, "content": "<bbox>"}], "images": ["x.jpg"],
         "objects": {"bbox": [[float("inf"), 1, 2, 3]]}},
        "`objects.bbox` must be a list",
    ),
    "a key that nothing reads": ({"messages": [{**ASK, "content": "<image>"}, SAY], "Image": "x.jpg"}, "`Image`"),
    "a long name": ({"image": "n/" * 3000, "text": "Words"}, f"{'n/' * 100!r}: "),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_named_as_the_user_has_it(tmp_path: Path, name: str) -> None:
    record, reason = LEFT_OUT[name]
    assert imported(tmp_path, record)[0] == []
    (found,) = [reason for _, reason in log(tmp_path / "out")]
    assert reason in found
    assert len(found) < 400


READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a weight of 0 as text": (
        {"messages": [ASK, {**SAY, "weight": "0"}, *TALK]},
        {"messages": [ASK, {**SAY, "loss": False}, *TALK]},
    ),
    "a weight of 1 as text": ({"messages": [ASK, {**SAY, "weight": "1.0"}]}, {"messages": TALK}),
    "a picture in base64": ({"image": IN_BASE64, "text": "Words"}, {"text": "Words"}),
    "bytes in base64": ({"image": {"bytes": IN_BASE64, "path": None}, "text": "Words"}, {"text": "Words"}),
    "a name in brackets": ({"image": "[1].jpg", "text": "Words"}, {"text": "Words"}),
    "a picture beside a turn's text": (
        {"messages": [{**ASK, "images": ["x.jpg"]}, SAY]},
        {"messages": [{**ASK, "content": [{"type": "image"}, {"type": "text", "text": "Ask"}]}, SAY]},
    ),
    "a picture beside its place": (
        {"messages": [{**ASK, "content": "<image>Ask", "image": "x.jpg"}, SAY]},
        {"messages": [{**ASK, "content": "<image>Ask"}, SAY]},
    ),
    "a system of parts": (
        {"system": [{"type": "text", "text": "Be kind"}], "messages": TALK},
        {"messages": [{"role": "system", "content": "Be kind"}, *TALK]},
    ),
    "objects as text": (
        {"messages": [{**ASK, "content": "<image>"}, {**SAY, "content": "<bbox>"}], "images": ["x.jpg"],
         "objects": json.dumps({"bbox": [[0, 0, 0.5, 1]], "bbox_type": "norm1"})},
        {"messages": [{**ASK, "content": "<image>"}, {**SAY, "content": "<box>[[0, 0, 500, 1000]]</box>"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_others_write_is_read(tmp_path: Path, name: str) -> None:
    record, tree = READ[name]
    assert imported(tmp_path, record) == ([{**tree, "meta": {}}], [])


@pytest.mark.parametrize("form", ["file://localhost{}", "FILE://{}", "file:{}"])
def test_addresses_of_files(tmp_path: Path, form: str) -> None:
    found, reasons = imported(tmp_path, {"image": form.format(tmp_path / "x.jpg"), "text": "Words"})
    assert (found, reasons) == ([{"text": "Words", "meta": {}}], [])


def test_a_key_that_stands_twice_loses_nothing_without_a_word(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    same = '{"id": 1, "id": 1, "text": "Words"}'
    file.write_text(f'{{"text": "One", "text": "Two"}}\n{same}\n{json.dumps(GOOD)}\n')
    assert samples(tmp_path, file) == (
        [{"text": "Words", "meta": {"id": 1}}],
        ["not JSON in UTF-8: the key 'text' stands twice in one object, with different values"],
    )


ONE, TWO = json.dumps({"text": "One"}), json.dumps(GOOD)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.jsonl", f"{ONE},\n{TWO},\n"),
        ("f.jsonl", f"{ONE}\r{TWO}\r"),
        ("f.json", f"[{ONE}, {TWO}, ]"),
        ("f.csv", "id| text\n|One\ngood|Two\n"),
        ("f.csv", "id\ttext\n\tOne\ngood\tTwo\n"),
    ],
)
def test_containers_that_are_nearly_right(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert samples(tmp_path, tmp_path / name) == ([{"text": "One", "meta": {}}], [])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("f.csv", b"text\rOne\rTwo\r", "f.csv: its lines end in a carriage return alone"),
        ("f.txt", b"One\rTwo\r", "f.txt: its lines end in a carriage return alone"),
        ("f.csv", b"text,text\n1,2\n", "f.csv: the first line names a column twice"),
        ("f.jsonl", b"BZh91AY&SY", "f.jsonl: compressed with bzip2"),
        ("f.jsonl", ONE.encode("utf-16-le"), "f.jsonl: text in UTF-16"),
        ("f.csv", b'text\n"One\nTwo\n', "starts on line …, and a quote"),
    ],
)
def test_files_that_are_refused_by_name(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=reason):
        import_dataset("auto", [tmp_path / name], tmp_path / "out", workers=0)


def test_a_value_of_parquet_costs_its_row_alone(tmp_path: Path) -> None:
    words = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
    )
    times = pa.array([1, 2, 3], pa.timestamp("ns"))  # which Python's own type cannot hold
    days = [datetime.date(2020, 1, day) for day in (1, 2, 3)]
    table = pa.table({"id": [None, None, "good"], "text": words, "seen": times, "day": days})
    pq.write_table(table, tmp_path / "t.parquet")
    found, reasons = samples(tmp_path, tmp_path / "t.parquet")
    assert found == [{"text": "a", "meta": {}}]
    assert [reason.partition(":")[0] for reason in reasons] == ["column `text` cannot be read"]


def test_a_date_can_be_kept(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": ["a", "b"], "id": [None, "good"], "day": [datetime.date(2020, 1, 2)] * 2}),
        tmp_path / "t.parquet",
    )
    found, _ = samples(tmp_path, tmp_path / "t.parquet", reading=Reading(keep=("day",)))
    assert found == [{"text": "a", "meta": {"day": "2020-01-02"}}]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "t.parquet"
    )
    with pytest.raises(RecordError, match=r"t\.parquet: two columns are called 'text'"):
        import_dataset("auto", [tmp_path / "t.parquet"], tmp_path / "out", workers=0)


def test_media_are_looked_up_beside_the_records(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(PHOTO)
    one = lines(tmp_path / "a" / "f.jsonl", [{"image": "x.jpg", "text": "Words"}, {"image": "y.jpg", "text": "Words"}])
    assert import_dataset("auto", [one], tmp_path / "out", workers=0).samples == {"image": 1}
    assert log(tmp_path / "out") == [("f.jsonl, line 2", f"'y.jpg': No such file or directory in {tmp_path / 'a'}")]
    two = lines(tmp_path / "b" / "f.jsonl", [{"text": "Words"}])
    report = import_dataset("auto", [one, two], tmp_path / "both", workers=0)
    assert report.samples == {"text": 1}
    assert "say with --media" in log(tmp_path / "both")[0][1]


def test_a_report_is_safe_to_print(tmp_path: Path) -> None:
    file = lines(tmp_path / "f.jsonl", [{"messages": TALK, "key\x1b[31m\u202e": 1}, {"\x1b]0;bad\x07": 1}])
    report = import_dataset("auto", [file], tmp_path / "out", workers=0)
    assert all(line.isprintable() for line in str(report).split("\n"))
    with pytest.raises(RecordError) as refused:
        import_dataset("auto", [file], tmp_path / "strict", workers=0, strict=True)
    assert str(refused.value).isprintable()


def test_more_held_out_than_there_is(tmp_path: Path) -> None:
    file = lines(tmp_path / "f.jsonl", [GOOD, GOOD])
    with pytest.raises(RecordError, match="--hold-out 2: the input has 2 records"):
        import_dataset("auto", [file], tmp_path / "out", workers=0, hold_out=2)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("'a.jpg': JPEG 2000 is not decoded", "…: JPEG 2000 is not decoded"),
        ("not UTF-8 at byte 7; MP4 (H.264), 3GP", "not UTF-8 at byte …; MP4 (H.264), 3GP"),
        ("a user's file 'x' of 64x48 pixels", "a user's file … of … pixels"),
    ],
)
def test_reasons_are_counted_by_kind_and_formats_keep_their_names(reason: str, kind: str) -> None:
    assert reason_kind(reason) == kind
