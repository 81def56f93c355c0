from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_helpers import clip, encoded, picture

from neo_lightning.data.importers import import_dataset
from neo_lightning.data.importers.record import RecordError
from neo_lightning.data.index import iterate_samples, open_source
from neo_lightning.types import Media, Sample

MEDIA = {
    "a.jpg": encoded(picture(40, 30, 1), "JPEG"),
    "sub/b.PNG": encoded(picture(30, 40, 2)),
    "sub/c.mp4": clip(6),
    "broken.png": b"\x89PNG\r\n\x1a\nxxxx",
    "note.tiff": b"II*\0",
}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    for name, data in MEDIA.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (tmp_path / "secret.jpg").write_bytes(MEDIA["a.jpg"])
    (folder / "way_out.jpg").symlink_to(tmp_path / "secret.jpg")
    return folder


def llava(question: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **more}


def lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def read(manifest: Path, source: str) -> list[Sample]:
    opened = open_source(manifest, source)
    assert opened.skipped == []
    return list(iterate_samples(opened))


def blobs(sample: Sample) -> list[bytes]:
    return [p.data for m in sample.messages for p in m.parts if isinstance(p, Media)]


@pytest.mark.parametrize("jsonl", [True, False])
def test_llava_records_become_shards_by_modality(tmp_path: Path, media: Path, jsonl: bool) -> None:
    records = [
        llava("<image>\nWhat?", id="x1", image="a.jpg", meta={"task": "t"}),
        llava("What?", image="sub/b.PNG"),
        llava("<image> and <image>?", image=["a.jpg", "sub/b.PNG"]),
        llava("<video>\nWhere?", video="sub/c.mp4"),
        llava("<video> or <image>?", video="sub/c.mp4", image="a.jpg"),
        llava("Only text?"),
    ]
    file = tmp_path / "f.json"
    if jsonl:
        lines(file, records)
    else:
        file.write_text(json.dumps(records))
    report = import_dataset("llava", file, media, tmp_path / "out", strict=True)
    assert report.samples == {"text": 1, "image": 2, "multi_image": 1, "video": 2}
    first, second = read(report.manifest, "image")
    assert first.meta == {"id": "x1", "task": "t"}
    assert blobs(first) == [MEDIA["a.jpg"]], "bytes are copied as they are"
    assert blobs(second) == [MEDIA["sub/b.PNG"]]
    (pair,) = read(report.manifest, "multi_image")
    assert blobs(pair) == [MEDIA["a.jpg"], MEDIA["sub/b.PNG"]]
    _, mixed = read(report.manifest, "video")
    assert blobs(mixed) == [MEDIA["sub/c.mp4"], MEDIA["a.jpg"]], "in the order of the text"
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_messages_with_parts_and_with_lists(tmp_path: Path, media: Path) -> None:
    def chat(content: Any, **more: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}], **more}

    text = {"type": "text", "text": "What?"}
    records = [
        chat([{"type": "image", "image": "a.jpg"}, text]),
        chat([{"type": "image_url", "image_url": {"url": f"file://{media}/a.jpg"}}, text]),
        chat("<image>What?", images=["a.jpg"]),
        chat([{"type": "image"}, text], images=["a.jpg"]),
        chat([{"type": "video", "video": "sub/c.mp4"}, text]),
    ]
    report = import_dataset("messages", lines(tmp_path / "f.jsonl", records), media, tmp_path / "out", strict=True)
    assert report.samples == {"image": 4, "video": 1}
    for sample in read(report.manifest, "image"):
        assert blobs(sample) == [MEDIA["a.jpg"]]
        assert sample.messages[0].parts[1] == "What?"


BAD = [
    (llava("<image>", image="../secret.jpg"), "outside the media folder"),
    (llava("<image>", image="/etc/passwd"), "outside the media folder"),
    (llava("<image>", image="way_out.jpg"), "outside the media folder"),
    (llava("<image>", image="https://example.org/a.jpg"), "nothing is downloaded"),
    (llava("<image>", image="missing.jpg"), "No such file"),
    (llava("<image>", image="a\0b.jpg"), "null"),
    (llava("<image>", image="broken.png"), "damaged header"),
    (llava("<image>", image="note.tiff"), "tiff"),
    (llava("<image>", image="sub/c.mp4"), "'mp4' is no image"),
    (llava("<image><image>", image="a.jpg"), "2 places for images, the record names 1"),
    (llava("no place", image=["a.jpg", "a.jpg"]), "0 places for images, the record names 2"),
    (llava("<image>"), "1 places for images, the record names 0"),
    (llava("<image>", image="a.jpg", images=["a.jpg"]), "both `image` and `images`"),
    (llava("<image>", image=7), "must be a path"),
    ({"messages": []}, "--format messages"),
    ({"conversations": [{"from": "human", "value": "alone"}]}, "no assistant"),
    (llava("\ud800"), "surrogate"),
    ([1], "expected a JSON object"),
]


def test_bad_records_are_listed_with_their_line(tmp_path: Path, media: Path) -> None:
    good = llava("<image>", image="a.jpg")
    file = lines(tmp_path / "f.jsonl", [good, *(record for record, _ in BAD)])
    with file.open("ab") as stream:
        stream.write(b"\n{not json}\n" + json.dumps(good).encode().replace(b"human", b"hum\xff") + b"\n")
    report = import_dataset("llava", file, media, tmp_path / "out")
    assert report.samples == {"image": 1}
    found = dict(report.left_out)
    for number, (_, message) in enumerate(BAD, start=2):
        assert message in found[f"line {number}"].replace("embedded null", "null")
    assert "UTF-8" in found[f"line {len(BAD) + 3}"]
    assert "UTF-8" in found[f"line {len(BAD) + 4}"]
    log = [json.loads(line) for line in (tmp_path / "out" / "import.log").read_text().splitlines()]
    assert [(entry["record"], entry["reason"]) for entry in log] == report.left_out
    assert "records left out" in str(report)
    with pytest.raises(RecordError, match=r"f\.jsonl, line 2"):
        import_dataset("llava", file, media, tmp_path / "strict", strict=True)


def test_shards_end_at_their_size_and_are_named_when_complete(
    tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [llava(f"question {i}") for i in range(7)]
    out = tmp_path / "out"
    import_dataset("llava", lines(tmp_path / "f.jsonl", records), media, out, samples_per_shard=3)
    assert sorted(p.name for p in out.glob("*.tar")) == [f"text-{i:06d}.tar" for i in range(3)]
    assert len(read(out / "manifest.yaml", "text")) == 7
    with pytest.raises(RecordError, match="holds shards already"):
        import_dataset("llava", tmp_path / "f.jsonl", media, out)
    records[5] = llava("<image>")
    lines(tmp_path / "g.jsonl", records)
    with pytest.raises(RecordError, match="line 6"):
        import_dataset("llava", tmp_path / "g.jsonl", media, tmp_path / "b", samples_per_shard=3, strict=True)
    assert sorted(p.name for p in (tmp_path / "b").glob("*.tar")) == ["text-000000.tar"]
    assert not (tmp_path / "b" / "manifest.yaml").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(b"[{]", "f.json"), (b"[\xff]", "f.json"), (b"[]", "no record"), (b"", "no record")]
)
def test_unreadable_files(tmp_path: Path, media: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(RecordError, match=message):
        import_dataset("llava", tmp_path / "f.json", media, tmp_path / "out")


def test_wrong_arguments(tmp_path: Path, media: Path) -> None:
    with pytest.raises(RecordError, match="known: llava, messages"):
        import_dataset("lava", tmp_path / "f.json", media, tmp_path / "out")
    with pytest.raises(RecordError, match="No such file"):
        import_dataset("llava", tmp_path / "f.json", media, tmp_path / "out")
    with pytest.raises(RecordError, match="no such folder"):
        import_dataset("llava", tmp_path / "f.json", tmp_path / "nowhere", tmp_path / "out")
