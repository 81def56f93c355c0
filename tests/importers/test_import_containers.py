"""The same records in any container, and the small inputs that were misread once (tests/cases/records)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importer_helpers import CLIP, PHOTO, blobs, lines, llava, log, members, read, text

from neo_lightning.cli.main import main
from neo_lightning.importers import RecordError, import_dataset

CASES = Path(__file__).parents[1] / "cases" / "records"
RECORDS = [llava("One?", id=1), llava("Two?", id=2), llava("Three?", id=3)]
TEXTS = [json.dumps(record) for record in RECORDS]
PRETTY = [json.dumps(record, indent=2) for record in RECORDS]
BOM = "\ufeff"

CONTAINERS = {
    "JSON Lines": "\n".join(TEXTS),
    "JSON Lines, CRLF and BOM": BOM + "\r\n".join(TEXTS) + "\r\n",
    "JSON Lines, empty lines": "\n\n" + "\n\n".join(TEXTS),
    "JSON array": f"[{','.join(TEXTS)}]",
    "JSON array, BOM": BOM + json.dumps(RECORDS, indent=1),
    "JSON objects": "\n".join(PRETTY),
    "JSON objects, CRLF and BOM": BOM + "\r\n".join(PRETTY).replace("\n", "\r\n"),
    "JSON objects, commas": ",\n".join(PRETTY),
    "JSON array below `data`": json.dumps({"version": "1", "data": RECORDS}),
    "JSON array below `data`, pretty": json.dumps({"version": "1", "data": RECORDS, "info": {"by": "us"}}, indent=2),
    "JSON array below `mine`": json.dumps({"mine": RECORDS}, indent=2),
}


def imported(folder: Path, name: str, data: bytes, **more: Any) -> Any:
    (folder / name).write_bytes(data)
    return import_dataset("auto", [folder / name], folder / "out", workers=1, **more)


def questions(out: Path) -> list[str]:
    return [json.loads(sample["json"])["messages"][0]["content"] for sample in members(out, "text")]


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_of_json(tmp_path: Path, name: str, compressed: bool) -> None:
    data = CONTAINERS[name].encode()
    report = imported(tmp_path, "f.json" + ".gz" * compressed, gzip.compress(data) if compressed else data, strict=True)
    assert questions(tmp_path / "out") == ["One?", "Two?", "Three?"]
    assert [layout.split(",")[0] for layout in report.found] == [name.split(",")[0]]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_containers_across_the_window(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from neo_lightning.importers import json_records, window

    monkeypatch.setattr(window, "CHUNK", chunk)
    for name in ("JSON objects", "JSON array below `data`, pretty"):
        (tmp_path / "f.json").write_text(CONTAINERS[name])
        found = [json.loads(str(one)) for batch, *_ in json_records.batches(tmp_path / "f.json") for _, one in batch]
        assert found == RECORDS


def test_tables(tmp_path: Path) -> None:
    """Quoted line ends and delimiters, long fields, bad lines in the middle; a semicolon or a tab between fields."""
    long = "x" * 200_000
    rows = ["instruction,output", '"a, or\nb?",yes', f"long?,{long}", 'broken?,"a"b', "one,two,three", "c?,no"]
    data = "\r\n".join(rows).encode() + b"\r\nd\xff?,no\r\n"
    report = imported(tmp_path, "f.csv", data)
    assert questions(tmp_path / "out") == ["a, or\nb?", "long?", "c?"]
    assert [where for where, _ in log(tmp_path / "out")] == ["f.csv, line 5", "f.csv, line 6", "f.csv, line 8"]
    assert list(report.found) == ["CSV, `instruction` and `output`"]
    for name, delimiter in (("s.csv", ";"), ("t.tsv", "\t")):
        (tmp_path / name).write_text(f"query{delimiter}response\nOne?{delimiter}yes\n", encoding="utf-8-sig")
        import_dataset("auto", [tmp_path / name], tmp_path / f"{name}.out", strict=True)
        assert questions(tmp_path / f"{name}.out") == ["One?"]


def test_a_conversation_in_a_table_is_json(tmp_path: Path) -> None:
    turns = json.dumps(RECORDS[0]["conversations"])
    pq.write_table(pa.table({"conversations": [turns], "extra": [1.5], "nothing": [None]}), tmp_path / "f.parquet")
    report = import_dataset("auto", [tmp_path / "f.parquet"], tmp_path / "out")
    assert questions(tmp_path / "out") == ["One?"]
    assert report.unused == {"extra": 1}
    assert list(report.found) == ["Parquet, `conversations` of from, value"]


def test_plain_text_is_a_document_a_line(tmp_path: Path) -> None:
    imported(tmp_path, "f.txt", b"\xef\xbb\xbfFirst.\r\n\r\nSecond.\r\n", strict=True)
    found = [json.loads(sample["json"])["text"] for sample in members(tmp_path / "out", "text")]
    assert found == ["First.", "Second."]


def test_files_that_differ_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(RECORDS))
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"instruction": "Ask", "output": "Say"}) for _ in range(2)))
    (folder / "c.json").write_text(json.dumps(RECORDS))
    (folder / "dataset_info.json").write_text("{}")
    pq.write_table(pa.table({"text": ["Words."]}), folder / "d.parquet")
    report = str(import_dataset("auto", [folder], tmp_path / "out", strict=True))
    assert "found JSON array, `conversations` of from, value; 6 records in 2 files from a.json to c.json" in report
    assert "found JSON Lines, `instruction` and `output`; 2 records in b.jsonl" in report
    assert "found Parquet, `text`, a document or caption; 1 records in d.parquet: `text` (1)" in report
    keys = [sample["__key__"] for sample in members(tmp_path / "out", "text")]
    assert keys == [f"{number:09d}" for number in range(9)]


def test_a_folder_of_pictures_is_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jpg").write_bytes(PHOTO)
    (tmp_path / "in" / "x.txt").write_text("a cat")
    report = import_dataset("auto", [tmp_path / "in"], tmp_path / "out", strict=True)
    assert text(read(report.manifest, "image")[0]) == ["#a cat"]
    assert "media with a .txt" in str(report)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("f.tar", b"", "--format webdataset"),
        ("f.zip", b"PK\x03\x04....", "ZIP archive"),
        ("f.arrow", b"ARROW1\0\0", "save it as Parquet"),
        ("f.json", "[1]".encode("utf-16"), "UTF-16"),
        ("f.json", b'{"data": [{"text": "x"}], "b": [{"text": "y"}]}', "both `data` and `b` hold records"),
        ("f.json", b'{"data": [{"text": "x"}, {"text": ]}', r"f\.json\.data\[1\], line 1"),
        ("f.json", b'{\n"text": "x"\n}\n{\n"text" "y"\n}', r"f\.json\[1\], line 4"),
        ("f.csv", b"a,a\n1,2\n", "names a column twice"),
        ("f.json.gz", gzip.compress(b'{"text": "x"}', mtime=0)[:-9], "f.json.gz"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        imported(tmp_path, name, data)


def test_a_folder_of_shards_is_no_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(b"")
    with pytest.raises(RecordError, match="--format webdataset"):
        import_dataset("auto", [tmp_path / "in"], tmp_path / "out")


def test_a_map_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's command: auto, a map of columns and roles, keys to keep."""
    monkeypatch.chdir(tmp_path)
    turns = [{"speaker": "customer", "said": "Ask"}, {"speaker": "agent", "said": "Say"}]
    lines(tmp_path / "calls.jsonl", [{"dialog": turns, "mood": "fine"}] * 2)
    line = ["data", "import", "--input", "calls.jsonl", "--out", "out", "--strict"]
    columns = ["--columns", "messages=dialog,role=speaker,content=said"]
    assert main([*line, *columns, "--roles", "user=customer,assistant=agent"]) == 2
    assert "mood is neither learned nor kept; --keep KEY" in capsys.readouterr().err
    line = [*line[:5], "kept", "--strict", *columns, "--keep", "mood"]
    assert main([*line, "--roles", "user=customer"]) == 2
    assert "--roles ROLE=agent says which it is" in capsys.readouterr().err
    line[5] = "right"
    assert main([*line, "--roles", "user=customer,assistant=agent"]) == 0
    assert (
        "found JSON Lines, `dialog` of speaker, said; 2 records in calls.jsonl: `dialog` (2)" in capsys.readouterr().out
    )
    assert questions(tmp_path / "right") == ["Ask", "Ask"]
    for wrong in ("messages", "mesages=x"):
        assert main([*line[:5], "wrong", "--columns", wrong]) == 2
        assert "mess" in capsys.readouterr().err


def case(tmp_path: Path, name: str, modality: str, **more: Any) -> list[dict[str, Any]]:
    """The shards' JSON of a case."""
    import_dataset("auto", [CASES / name], tmp_path / "out", media=CASES, workers=1, **{"strict": True, **more})
    return [json.loads(sample["json"]) for sample in members(tmp_path / "out", modality)]


@pytest.mark.parametrize("name", ["r01_a.json", "r01_b.jsonl"])
def test_r01_top_level_system(tmp_path: Path, name: str) -> None:
    (tree,) = case(tmp_path, name, "text")
    assert tree["messages"][0] == {"role": "system", "content": "You are a pirate."}
    assert "tools" not in tree


def test_r03_grounding_objects(tmp_path: Path) -> None:
    (tree,) = case(tmp_path, "r03_a.jsonl", "image")
    assert [turn["content"] for turn in tree["messages"]] == [
        "<image>Find the <ref>ball</ref>",
        "<box>[[83, 125, 500, 875]]</box>",
    ]


def test_an_import_of_boxes_says_how_they_become_tokens(tmp_path: Path) -> None:
    said = {
        name: str(import_dataset("auto", [CASES / name], tmp_path / name, media=CASES, workers=1))
        for name in ("r03_a.jsonl", "r07_pretty.jsonl")
    }
    assert "answer_tokens: [think, tool_call, ref, box]" in said["r03_a.jsonl"]
    assert "answer_tokens" not in said["r07_pretty.jsonl"]


def test_r04_tool_calls(tmp_path: Path) -> None:
    (tree,) = case(tmp_path, "r04_a.jsonl", "text")
    (call,) = tree["messages"][1]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}


def test_r05_video_with_image_placeholder(tmp_path: Path) -> None:
    (tree,) = case(tmp_path, "r05_a.json", "video")
    assert tree["messages"][0]["content"] == "<video>\nWhat moves?"


@pytest.mark.parametrize(
    ("name", "count"),
    [("r07_one_object.json", 1), ("r07_pretty.jsonl", 3), ("r07_wrapped.json", 3), ("r07_wrapped_one_line.json", 3)],
)
def test_r07_pretty_json(tmp_path: Path, name: str, count: int) -> None:
    assert [tree["meta"]["id"] for tree in case(tmp_path, name, "image")] == list(range(count))


@pytest.mark.parametrize("name", ["input_image", "notype", "path", "qwen_path", "url"])
def test_r13_part_keys(tmp_path: Path, name: str) -> None:
    (tree,) = case(tmp_path, f"r13_{name}.jsonl", "image")
    assert tree["messages"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]


def test_r19_text_jsonl(tmp_path: Path) -> None:
    assert [tree["text"] for tree in case(tmp_path, "r19_a.jsonl", "text")] == ["Once upon a time.", "The end."]
    (tree,) = case(tmp_path / "alpaca", "r19_alpaca.jsonl", "text")
    assert [turn["content"] for turn in tree["messages"]] == ["Say hi", "hi"]


def test_a_clip_with_a_still_keeps_both_places(tmp_path: Path) -> None:
    """A place is renamed only where the record has no medium of that name."""
    (tmp_path / "x.jpg").write_bytes(PHOTO)
    (tmp_path / "x.mp4").write_bytes(CLIP)
    record = llava("<image> then <video>?", image="x.jpg", video="x.mp4")
    report = imported(tmp_path, "f.json", json.dumps([record]).encode(), media=tmp_path)
    assert blobs(read(report.manifest, "video")[0]) == [PHOTO, CLIP]
    wrong = lines(tmp_path / "wrong.json", [llava("<image> then <image>?", image="x.jpg", video="x.mp4")])
    with pytest.raises(RecordError, match="2 places for images, the record names 1"):
        import_dataset("auto", [wrong], tmp_path / "wrong", media=tmp_path, strict=True)
