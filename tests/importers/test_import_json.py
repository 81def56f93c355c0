from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from importer_helpers import CLIP, DRAWING, PHOTO, blobs, lines, llava, log, members, read, text

from neo_lightning.importers import RecordError, import_dataset


@pytest.mark.parametrize("layout", ["lines", "array", "indented array"])
def test_llava_records_become_shards_by_modality(tmp_path: Path, media: Path, layout: str) -> None:
    records = [
        llava("<image>\nWhat?", id="x1", image="a.jpg", meta={"task": "t"}),
        llava("What?", image="sub/b.PNG"),
        llava("<image> and <image>?", image=["a.jpg", "sub/b.PNG"]),
        llava("<video>\nWhere?", video="sub/c.mp4"),
        llava("<video> or <image>?", video="sub/c.mp4", image="way_in.jpg"),
        llava("Only text?"),
    ]
    file = tmp_path / "f.json"
    if layout == "lines":
        lines(file, records)
    else:
        file.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(records, indent=4 if "indented" in layout else None).encode())
    report = import_dataset("llava", [file], tmp_path / "out", media=media, strict=True)
    assert report.samples == {"text": 1, "image": 2, "multi_image": 1, "video": 2}
    first, second = read(report.manifest, "image")
    assert first.meta == {"id": "x1", "task": "t"}
    assert blobs(first) == [PHOTO], "bytes are copied as they are"
    assert blobs(second) == [DRAWING]
    (pair,) = read(report.manifest, "multi_image")
    assert blobs(pair) == [PHOTO, DRAWING]
    _, mixed = read(report.manifest, "video")
    assert blobs(mixed) == [CLIP, PHOTO], "in the order of the text"
    left = {p.name for p in (tmp_path / "out").iterdir() if p.suffix != ".tar"}
    assert left == {"import.log", "import.media", "import.json", "manifest.yaml", ".neo_index"}
    assert len(list((tmp_path / "out" / ".neo_index").glob("*.tar.*.parquet"))) == 4, "indexed already"


def test_messages_with_parts_and_with_lists(tmp_path: Path, media: Path) -> None:
    def chat(content: Any, **more: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}], **more}

    ask = {"type": "text", "text": "What?"}
    inline = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()
    records = [
        chat([{"type": "image", "image": "a.jpg"}, ask]),
        chat([{"type": "image_url", "image_url": {"url": f"file://{media}/a.jpg"}}, ask]),
        chat([{"type": "image_url", "image_url": {"url": inline}}, ask]),
        chat("<image>What?", images=["a.jpg"]),
        chat("<image>What?", images=[{"path": "a.jpg"}]),
        chat([{"type": "image"}, ask], images=["a.jpg"]),
        chat("<video>What?<image>", videos=["sub/c.mp4"], images=["a.jpg"]),
        chat([{"type": "video", "video": "sub/c.mp4"}, ask]),
    ]
    report = import_dataset(
        "messages", [lines(tmp_path / "f.jsonl", records)], tmp_path / "out", media=media, strict=True
    )
    assert report.samples == {"image": 6, "video": 2}
    for sample in read(report.manifest, "image"):
        assert blobs(sample) == [PHOTO]
        assert sample.messages[0].parts[1] == "What?"
    assert text(read(report.manifest, "video")[0]) == ["#What?#", "yes"]


BAD = [
    (llava("<image>", image="../secret.jpg"), "outside the media folder"),
    (llava("<image>", image="/etc/passwd"), "outside the media folder"),
    (llava("<image>", image="file:///etc/passwd"), "outside the media folder"),
    (llava("<image>", image="way_out.jpg"), "outside the media folder"),
    (llava("<image>", image="ways_out/s.jpg"), "outside the media folder"),
    (llava("<image>", image="loop.jpg"), "oop"),
    (llava("<image>", image="pipe.jpg"), "no plain file"),
    (llava("<image>", image="sub"), "no plain file"),
    (llava("<image>", image="https://example.org/a.jpg"), "nothing is downloaded"),
    (llava("<image>", image="pipe:cat /etc/passwd"), "No such file"),
    (llava("<image>", image="data:image/png;base64,####"), "must hold base64"),
    (llava("<image>", image="missing.jpg"), "'missing.jpg': No such file"),
    (llava("<image>", image="a\0b.jpg"), "null"),
    (llava("<image>", image="n" * 5000), "too long"),
    (llava("<image>", image="broken.png"), "damaged header"),
    (llava("<image>", image="empty.jpg"), "zero bytes"),
    (llava("<image>", image="script.eps"), "not an image"),
    (llava("<video>", video="list.mp4"), "playlist, not a clip"),
    (llava("<image>", image="note.tiff"), "TIFF with a damaged header"),
    (llava("<image>", image="sub/c.mp4"), "not an image"),
    (llava("<image><image>", image="a.jpg"), "2 places for images, the record names 1"),
    (llava("no place", image=["a.jpg", "a.jpg"]), "0 places for images, the record names 2"),
    (llava("<image>"), "1 places for images, the record names 0"),
    (llava("<image>", image="a.jpg", images=["a.jpg"]), "both `image` and `images`"),
    (llava("<image>", image=7), "must be a path"),
    ({"messages": []}, "--format auto"),
    ({"conversations": [{"from": "human", "value": "alone"}]}, "no assistant"),
    (llava("\ud800"), "surrogate"),
    (llava("a\0b"), "NUL"),
    ([1], "expected a JSON object"),
]


def test_bad_records_are_listed_with_their_line(tmp_path: Path, media: Path) -> None:
    good = llava("<image>", image="a.jpg")
    file = lines(tmp_path / "f.jsonl", [good, *(record for record, _ in BAD)])
    with file.open("ab") as stream:
        stream.write(b"\n{not json}\n" + json.dumps(good).encode().replace(b"human", b"hum\xff") + b"\n")
        stream.write(b'{"conversations": ' + b"[" * 100000 + b"\n")
    report = import_dataset("llava", [file], tmp_path / "out", media=media)
    assert report.samples == {"image": 1}
    found = dict(log(tmp_path / "out"))
    for number, (_, message) in enumerate(BAD, start=2):
        assert message in found[f"f.jsonl, line {number}"].replace("embedded null", "null")
    for number in range(len(BAD) + 3, len(BAD) + 6):
        assert "not JSON in UTF-8" in found[f"f.jsonl, line {number}"]
    assert report.left_out == len(found) == len(BAD) + 3
    assert sum(report.reasons.values()) == report.left_out
    assert f"{report.left_out} records left out" in str(report)
    with pytest.raises(RecordError, match=r"f\.jsonl, line 2: '../secret.jpg' lies outside"):
        import_dataset("llava", [file], tmp_path / "strict", media=media, strict=True)


def test_format_is_decided_by_content(tmp_path: Path, media: Path) -> None:
    file = lines(tmp_path / "f.jsonl", [llava("<image>", image="drawing_named.jpg")])
    import_dataset("llava", [file], tmp_path / "out", media=media, strict=True)
    (sample,) = members(tmp_path / "out", "image")
    assert sample["png"] == DRAWING


def test_without_a_media_folder_only_text_and_embedded_files(tmp_path: Path) -> None:
    inline = "data:image/png;base64," + base64.b64encode(DRAWING).decode()
    records = [llava("hello"), llava("<image>", image=inline), llava("<image>", image="/etc/hosts")]
    report = import_dataset("llava", [lines(tmp_path / "f.jsonl", records)], tmp_path / "out")
    assert report.samples == {"text": 1, "image": 1}
    assert "--media" in log(tmp_path / "out")[0][1]


def test_several_files_and_folders_of_files(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    lines(tmp_path / "in" / "deep" / "b.jsonl", [llava("b")])
    (tmp_path / "in" / "a.json").write_text(json.dumps([llava("a"), 7]))
    last = lines(tmp_path / "z.jsonl", [llava("c")])
    import_dataset("llava", [tmp_path / "in", last], tmp_path / "out")
    found = [json.loads(s["json"])["messages"][0]["content"] for s in members(tmp_path / "out", "text")]
    assert found == ["a", "b", "c"]
    assert [s["__key__"] for s in members(tmp_path / "out", "text")] == ["000000000", "000000002", "000000003"]
    assert log(tmp_path / "out") == [("a.json[1], line 1", "expected a JSON object, got int")]


GOOD = json.dumps(llava("ok"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", r"f\.json\[0\], line 1: .*cannot be read past"),
        (f"[{GOOD},\n\n{GOOD} {GOOD}]", r"f\.json\[2\], line 3: expected ','"),
        (f"[{GOOD},\n{GOOD}", r"f\.json\[1\], line 2: .*ends too early"),
        (f"[{GOOD},\n{GOOD}\n", r"f\.json\[2\], line 3: .*ends too early"),
        (f"[{GOOD},\n{GOOD[:-9]}", r"f\.json\[1\], line 2"),
        (f"[{GOOD},,]", r"f\.json\[1\], line 1"),
        (f"[{GOOD}] {GOOD}", "more text behind the end"),
        ("[" * 100000, r"f\.json\[0\]"),
        ("[1" + "0" * 5000 + "]", r"f\.json\[0\]"),
        (b"[" + GOOD.encode().replace(b"ok", b"\xff") + b"]", "f.json: .*utf-8"),
        (b"[" + GOOD.encode() + b",\xe2\x82", "f.json: .*utf-8"),
        ("[]", "no record"),
        ("", "no record"),
        ("[1, 2]", "no record"),
    ],
)
def test_what_is_no_array_of_records_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "f.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordError, match=message):
        import_dataset("llava", [tmp_path / "f.json"], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.yaml").exists()


def test_array_elements_across_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cut of the file by the window gives the same elements, multi-byte characters and numbers included."""
    from neo_lightning.importers import json_records, window

    items = [12, 3.5e3, 'a,]\\"', llava("é漢😀\n" * 3), {"deep": [[{"x": None}]]}, True, -1]
    (tmp_path / "f.json").write_text(json.dumps(items, ensure_ascii=False, indent=1), encoding="utf-8")
    for chunk in range(1, 40):
        monkeypatch.setattr(window, "CHUNK", chunk)
        found = [text for batch, *_ in json_records.batches(tmp_path / "f.json") for text in batch]
        assert [json.loads(str(text)) for _, text in found] == items
        starts = [where for where, _ in found]
        assert starts[:4] == ["f.json[0], line 2", "f.json[1], line 3", "f.json[2], line 4", "f.json[3], line 5"]


def test_a_record_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neo_lightning.importers import json_records, window

    for module in (json_records, window):
        monkeypatch.setattr(module, "MAX_RECORD", 1000)
        monkeypatch.setattr(module, "CHUNK", 100)
    long = json.dumps(llava("x" * 2000))
    (tmp_path / "f.jsonl").write_text(f"{GOOD}\n{long}\n{GOOD}\n")
    report = import_dataset("llava", [tmp_path / "f.jsonl"], tmp_path / "lines")
    assert report.samples == {"text": 2}
    assert [where for where, _ in log(tmp_path / "lines")] == ["f.jsonl, line 2"]
    (tmp_path / "f.json").write_text(f"[{GOOD},{long}]")
    with pytest.raises(RecordError, match=r"f\.json\[1\], line 1: broken, or more than"):
        import_dataset("llava", [tmp_path / "f.json"], tmp_path / "array")


def test_wrong_arguments(tmp_path: Path, media: Path) -> None:
    with pytest.raises(RecordError, match="known: auto, llava, messages, parquet, folder"):
        import_dataset("lava", [tmp_path / "f.json"], tmp_path / "out")
    with pytest.raises(RecordError, match="No such file"):
        import_dataset("llava", [tmp_path / "f.json"], tmp_path / "out")
    lines(tmp_path / "f.json", [])
    with pytest.raises(RecordError, match="no such folder"):
        import_dataset("llava", [tmp_path / "f.json"], tmp_path / "out", media=tmp_path / "nowhere")
    with pytest.raises(RecordError, match=r"no \*\.json or \*\.jsonl .* in this folder"):
        import_dataset("llava", [media], tmp_path / "out")
    with pytest.raises(RecordError, match="at least one sample"):
        import_dataset("llava", [tmp_path / "f.json"], tmp_path / "out", samples_per_shard=0)
    assert not (tmp_path / "out").exists()
