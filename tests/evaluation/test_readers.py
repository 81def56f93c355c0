"""Benchmarks' data as the field has them: what is read, and what is told instead."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neo_lightning.data.facts import SampleError
from neo_lightning.data.manifest import ManifestError
from neo_lightning.evaluation.benchmarks import Benchmark
from neo_lightning.evaluation.item import Item
from neo_lightning.evaluation.readers import Row, Unread, open_rows, open_source
from neo_lightning.evaluation.readers import row as row_module
from neo_lightning.evaluation.readers.media import read_media
from neo_lightning.types import Media

from .data import base64_jpeg, choices, jpeg, write_tsv

CHOICE = Benchmark(name="mine", metric="choice")


def items(rows: Any, benchmark: Benchmark = CHOICE) -> list[Item]:
    return [benchmark.item(row, number) for number, row in enumerate(rows) if isinstance(row, Row)]


def unread(rows: Any) -> dict[str, str]:
    return {row.where.rpartition("/")[2]: row.reason for row in rows if isinstance(row, Unread)}


def test_a_table_with_pictures_in_base64(tmp_path: Path) -> None:
    rows = open_rows(write_tsv(tmp_path / "a.tsv", choices(5)))
    found = items(rows)
    assert len(rows) == len(found) == 5
    first = found[1]
    assert (first.key, first.question, first.answers) == ("1", 'Which colour\nis "number" 1?', ("B",))
    assert (dict(first.options), first.categories) == ({"A": "red", "B": "blue"}, ("kind 1",))
    assert first.where == f"{tmp_path / 'a.tsv'}, row 2"
    assert [medium.data for medium in first.media()] == [jpeg(1)]
    assert "image" not in first.fields or len(first.fields["image"]) <= 4096
    again = open_rows(write_tsv(tmp_path / "b.tsv", choices(5)))
    assert again.digest == rows.digest
    assert open_rows(write_tsv(tmp_path / "c.tsv", choices(6))).digest != rows.digest


def test_pictures_of_other_rows_lists_and_files(tmp_path: Path) -> None:
    (tmp_path / "images" / "mm").mkdir(parents=True)
    (tmp_path / "images" / "mm" / "x.jpg").write_bytes(jpeg(3))
    both = str([base64_jpeg(0), base64_jpeg(1)])
    rows = [
        {"index": 5, "question": "q", "answer": "a", "image": base64_jpeg(2), "image_path": ""},
        {"index": 1000005, "question": "q", "answer": "a", "image": "5", "image_path": ""},
        {"index": 7, "question": "q", "answer": "a", "image": both, "image_path": "['never.jpg', 'read.jpg']"},
        {"index": 8, "question": "q", "answer": "a", "image": "", "image_path": "x.jpg"},
    ]
    found = items(open_rows(write_tsv(tmp_path / "mm.tsv", rows)))
    assert [[medium.data for medium in item.media()] for item in found] == [
        [jpeg(2)],
        [jpeg(2)],
        [jpeg(0), jpeg(1)],
        [jpeg(3)],
    ]


@pytest.mark.parametrize("name", ["../secret.jpg", "link.jpg", "/etc/hostname", "missing.jpg"])
def test_nothing_outside_the_data_s_folder_is_read(name: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg(0))
    (inside / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    row = {"index": 0, "question": "q", "answer": "a", "image_path": name}
    (item,) = items(open_rows(write_tsv(inside / "a.tsv", [row])))
    with pytest.raises(SampleError, match="no such file" if name == "missing.jpg" else "outside"):
        item.media()


def test_hostile_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.tsv"
    text = b"index\tquestion\tanswer\n0\tfine\ta\n1\ttoo few\n2\ttoo\tmany\tfields\n\n3\tbad \xff\ta\n3\tagain\ta\n"
    file.write_bytes(b"\xef\xbb\xbf" + text)
    rows = open_rows(file)
    assert len(rows) == 5
    assert unread(rows) == {
        "a.tsv, row 2": "2 fields where the head names 3",
        "a.tsv, row 3": "4 fields where the head names 3",
        "a.tsv, row 4": "is not UTF-8",
    }
    assert [(item.question, item.fields["index"]) for item in items(rows)] == [("fine", "0"), ("again", "3")]
    monkeypatch.setattr("neo_lightning.evaluation.readers.tables.MOST_BYTES", 1000)
    file.write_text('index\tquestion\tanswer\n0\tq\ta\n1\t"never closed\ta\n' + "2\tq\ta\n" * 500)
    with pytest.raises(ValueError, match=r"row 2: begins at byte 28 and does not end.*quote"):
        open_rows(file)
    file.write_text("only\n0\n")
    with pytest.raises(ValueError, match="the first line must name"):
        open_rows(file)


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        json.dumps(
            {"id": "p1", "question": "q", "answers": ["a", "b"], "images": [f"data:image/jpeg;base64,{base64_jpeg(1)}"]}
        ),
        "{broken",
        "[1]",
        "",
        json.dumps({"question": "q", "answer": 3.0, "image": {"bytes": None, "path": "x.jpg"}}),
    ]
    (tmp_path / "x.jpg").write_bytes(jpeg(2))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = open_rows(tmp_path / "a.jsonl")
    assert len(rows) == 4
    assert {where: reason.partition(":")[0] for where, reason in unread(rows).items()} == {
        "a.jsonl, line 2": "not JSON",
        "a.jsonl, line 3": "expected an object, found list",
    }
    first, last = items(rows, Benchmark(name="mine"))
    assert (first.key, first.answers, last.key, last.answers) == ("p1", ("a", "b"), "3", ("3",))
    assert [item.media()[0].data for item in (first, last)] == [jpeg(1), jpeg(2)]


def test_a_line_that_is_too_long_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neo_lightning.evaluation.readers.records.MOST_BYTES", 100)
    fine = json.dumps({"question": "q", "answer": "a"})
    (tmp_path / "a.jsonl").write_text(f"{fine}\n{'x' * 350}\n{fine}\n")
    rows = open_rows(tmp_path / "a.jsonl")
    assert (len(rows), len(items(rows)), list(unread(rows))) == (3, 2, ["a.jsonl, line 2"])
    assert row_module.MOST_BYTES == 256 << 20


def test_parquet_with_pictures_inside(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": i,
            "question": "q",
            "options": ["red", "blue"],
            "answer": i % 2,
            "image_1": {"bytes": jpeg(i), "path": ""},
        }
        for i in range(40)
    ]
    for part in range(2):
        pq.write_table(
            pa.Table.from_pylist(rows[part * 20 : part * 20 + 20]), tmp_path / f"test-0000{part}-of-00002.parquet"
        )
    opened = open_rows(tmp_path)
    found = items(opened)
    assert [item.key for item in found] == [str(i) for i in range(40)]
    assert [item.answers for item in found[:2]] == [("A",), ("B",)], "a number counts options from 0"
    assert [medium.data for medium in found[25].media()] == [jpeg(25)]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"broken\.parquet"):
        open_rows(tmp_path / "broken.parquet")


def test_files_of_a_folder_are_found_by_name(tmp_path: Path) -> None:
    for name in ("MMStar", "SiteBenchImage", "SiteBenchVideo", "other"):
        write_tsv(tmp_path / f"{name}.tsv", choices(2))
    assert len(open_rows(tmp_path, ("nowhere", "MMStar"))) == 2
    assert len(open_rows(tmp_path, ("SiteBenchImage+SiteBenchVideo",))) == 4
    with pytest.raises(ValueError, match=r"no POPE .*there: MMStar\.tsv, SiteBenchImage\.tsv"):
        open_rows(tmp_path, ("POPE",))
    (tmp_path / "SiteBenchVideo.tsv").unlink()
    with pytest.raises(ValueError, match="no SiteBenchVideo, which belongs to it"):
        open_rows(tmp_path, ("SiteBenchImage+SiteBenchVideo",))
    with pytest.raises(ValueError, match="no such file or folder"):
        open_rows(tmp_path / "gone")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match="unknown format"):
        open_rows(tmp_path / "x.txt")


def test_held_out_conversations_of_shards_and_of_a_manifest(shards: Path, tmp_path: Path) -> None:
    (file,) = shards.glob("position-*.tar")
    rows = open_rows(file)
    found = items(rows)
    assert len(rows) == len(found) == 3
    messages = found[0].messages
    assert messages is not None
    (asked,) = messages()
    assert asked.role == "user"
    assert any(isinstance(part, Media) for part in asked.parts)
    assert found[0].question
    assert found[0].answers[0] not in ("", found[0].question)
    assert found[0].categories == ("position",)
    (tmp_path / "m.yaml").write_text(f"sources: {{held: {{modality: image, shards: '{file}'}}}}")
    again = open_source(tmp_path / "m.yaml", "held")
    assert [item.key for item in items(again)] == [item.key for item in found]
    with pytest.raises(ManifestError, match="did you mean 'held'"):
        open_source(tmp_path / "m.yaml", "heldd")


def test_conversations_that_ask_nothing_or_cannot_be_read_are_told(tmp_path: Path) -> None:
    caption = {"text": "A caption."}
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, tree in (("a.json", caption), ("b.json", {"messages": turns}), ("c.json", {"messages": []})):
            (tmp_path / name).write_text(json.dumps(tree))
            tar.add(tmp_path / name, name)
    rows = open_rows(tmp_path / "t.tar")
    assert len(rows) == 3
    assert [row.key for row in rows if isinstance(row, Unread)] == ["c"]
    readable = [row for row in rows if isinstance(row, Row)]
    with pytest.raises(SampleError, match="a user's turn"):
        CHOICE.item(readable[0], 0)
    assert CHOICE.item(readable[1], 1).answers == ("4",)


@pytest.mark.parametrize(
    ("fields", "answers", "options"),
    [
        ({"A": "red", "B": 3.0, "C": "", "answer": "B"}, ("B",), {"A": "red", "B": "3"}),
        ({"candidates": "['red', 'blue']", "answer": "blue"}, ("B",), {"A": "red", "B": "blue"}),
        ({"options": ["A. red", "B. blue"], "answer": "B. blue"}, ("B",), {"A": "red", "B": "blue"}),
        ({"choices": "A. red\nB. blue\n", "answer": "(B)"}, ("B",), {"A": "red", "B": "blue"}),
        ({"answer": "['one', 'two']"}, ("one", "two"), {}),
        ({"answer": 7.0}, ("7",), {}),
    ],
)
def test_options_and_answers(fields: dict[str, Any], answers: tuple[str, ...], options: dict[str, str]) -> None:
    item = CHOICE.item(Row(key="0", where="", fields={"question": "q", **fields}), 0)
    assert (item.answers, dict(item.options)) == (answers, options)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"answer": "A"}, "no question: looked for question; there are answer"),
        ({"question": "q"}, "no answer: looked for answer, answers"),
        ({"question": "q", "A": "x", "B": "y", "answer": "green"}, "'green' is none of the options A, B"),
        ({"question": "q", "options": "red or blue", "answer": "A"}, "neither a list nor lines"),
        ({"question": "q", "options": [str(i) for i in range(30)], "answer": "A"}, "30 options"),
        ({"question": "q", "answer": "[]"}, "list of right answers is empty"),
    ],
)
def test_rows_that_ask_nothing(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        CHOICE.item(Row(key="0", where="", fields=fields), 0)


@pytest.mark.parametrize(
    ("fields", "section"),
    [
        ({"bound": "True", "start": "1.5", "end": 4}, (1.5, 4.0)),
        ({"bound": "False", "start": "1.5", "end": "4"}, None),
        ({"start": "", "end": None}, None),
        ({}, None),
    ],
)
def test_a_row_may_ask_about_a_section_of_a_clip(tmp_path: Path, fields: dict[str, Any], section: Any) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.mp4").write_bytes(b"clip")
    (medium,) = read_media({"prefix": "tasks", "video": "a", **fields}, tmp_path, "MVBench")
    assert (medium.kind, medium.data, medium.section) == ("video", b"clip", section)


@pytest.mark.parametrize("end", ["", "the end"])
def test_half_a_section_is_told(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"clip")
    with pytest.raises(SampleError, match=f"must be seconds of the clip, found '1' and '{end}'"):
        read_media({"video": "a.mp4", "start": "1", "end": end}, tmp_path, "x")
