"""A folder of pictures with captions, as pairs and as Hugging Face's imagefolder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from importer_helpers import CLIP, DRAWING, PHOTO, blobs, lines, log, members, read, text

from neo_lightning.importers import RecordError, import_dataset
from tests.data.data_helpers import clip


def folder(path: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_pairs(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "b.jpg": PHOTO,
        "b.txt": "\ufeffthe second\n",
        "a/x.v2.png": DRAWING,
        "a/x.v2.txt": "a dot in its name",
        "a/clip.mp4": CLIP,
        "a/clip.txt": "moving",
        "README.md": "about",
        ".hidden.jpg": PHOTO,
        ".git/c.jpg": PHOTO,
    }
    report = import_dataset("folder", [folder(tmp_path / "in", files)], tmp_path / "out", strict=True)
    assert report.samples == {"image": 2, "video": 1}
    samples = read(report.manifest, "image")
    assert [(text(s), blobs(s)) for s in samples] == [
        (["#the second"], [PHOTO]),
        (["#a dot in its name"], [DRAWING]),
    ]
    assert text(read(report.manifest, "video")[0]) == ["#moving"]


@pytest.mark.parametrize(("container", "codec"), [("mpegts", "libx264"), ("mkv", "libx264")])
def test_clips_in_other_containers(tmp_path: Path, container: str, codec: str) -> None:
    """The folder's list of extensions, the check of the content and the decoder agree on what is a clip."""
    extension = {"mpegts": "ts"}.get(container, container)
    data = clip(6, format={"mkv": "matroska"}.get(container, container), codec=codec)
    root = folder(tmp_path / "in", {f"a.{extension}": data, "a.txt": "moving", f"b/x.{extension}": data})
    lines(root / "b" / "metadata.jsonl", [{"file_name": f"x.{extension}", "text": "named"}])
    report = import_dataset("folder", [root], tmp_path / "out", strict=True)
    assert [text(s) for s in read(report.manifest, "video")] == [["#moving"], ["#named"]]
    assert members(tmp_path / "out", "video")[0][extension] == data


def test_what_does_not_match_is_listed(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "alone.jpg": PHOTO,
        "lost.txt": "no picture",
        "two.jpg": PHOTO,
        "two.png": DRAWING,
        "two.txt": "which?",
        "latin.jpg": PHOTO,
        "latin.txt": b"caf\xe9",
        "cut.jpg": PHOTO[:20],
        "cut.txt": "cut",
        "out.jpg": PHOTO,
        "ok.jpg": PHOTO,
        "ok.txt": "ok",
    }
    root = folder(tmp_path / "in", files)
    (tmp_path / "secret.txt").write_text("secret")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "linked").symlink_to(tmp_path)
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "line\nfeed.jpg").write_bytes(PHOTO)
    report = import_dataset("folder", [root], tmp_path / "out")
    assert report.samples == {"image": 1}
    found = dict(log(tmp_path / "out"))
    expected = {"alone": "no .txt", "lost": "no picture", "two": "'two.jpg', 'two.png'", "latin": "not UTF-8 at byte 3"}
    expected |= {
        "cut": "damaged header",
        "out": "a link that leads outside",
        "linked": "a link to a folder",
        "loop": "no .txt",
        r"'line\nfeed'": "no .txt",
    }
    assert set(found) == set(expected)
    assert all(message in found[where] for where, message in expected.items())


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "captions.json"])
def test_metadata_as_in_an_imagefolder(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path / "in", {"train/a.jpg": PHOTO, "train/deep/b.png": DRAWING, "train/c.mp4": CLIP})
    folder(root, {"other/d.jpg": PHOTO, "other/d.txt": "a pair beside", "other/e.jpg": PHOTO})
    rows = [("a.jpg", 'one, "two"\nlines'), ("deep/b.png", "deep"), ("c.mp4", "moving"), ("../other/d.jpg", "up")]
    rows += [("../../secret.jpg", "out"), ("gone.jpg", "gone")]
    (tmp_path / "secret.jpg").write_bytes(PHOTO)
    records = [{"file_name": file, "text": caption} for file, caption in rows]
    if name.endswith(".csv"):
        quoted = [f'{file},"{caption.replace(chr(34), chr(34) * 2)}"' for file, caption in rows]
        (root / "train" / name).write_text("file_name,text\n" + "\n".join(quoted))
    elif name.endswith(".jsonl"):
        lines(root / "train" / name, records)
    else:
        (root / "train" / name).write_text(json.dumps(records, indent=1))
    report = import_dataset("folder", [root], tmp_path / "out")
    assert report.samples == {"image": 4, "video": 1}
    found = [(text(s), blobs(s)[0]) for s in read(report.manifest, "image")]
    assert sorted(found) == sorted(
        [
            (["#a pair beside"], PHOTO),
            (['#one, "two"\nlines'], PHOTO),
            (["#deep"], DRAWING),
            (["#up"], PHOTO),
        ]
    )
    reasons = dict(log(tmp_path / "out"))
    assert "no .txt" in reasons.pop("other/e")
    (out, gone) = sorted(reasons.items())
    assert out[0].startswith(name)
    assert "line" in out[0]
    assert "outside the media folder" in out[1]
    assert "No such file" in gone[1]


def test_metadata_with_conversations_and_several_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", {"a.jpg": PHOTO, "b.png": DRAWING})
    chat = [{"role": "user", "content": "<image> or <image>?"}, {"role": "assistant", "content": "Yes."}]
    lines(root / "metadata.jsonl", [{"file_names": ["a.jpg", "b.png"], "messages": chat}])
    report = import_dataset("folder", [root], tmp_path / "out", strict=True)
    (pair,) = read(report.manifest, "multi_image")
    assert text(pair) == ["# or #?", "Yes."]
    assert blobs(pair) == [PHOTO, DRAWING]


def test_a_metadata_file_that_leads_out_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", {"a.jpg": PHOTO})
    (root / "metadata.jsonl").symlink_to(lines(tmp_path / "m.jsonl", [{"file_name": "a.jpg", "text": "x"}]))
    with pytest.raises(RecordError, match="leads out of the folder"):
        import_dataset("folder", [root], tmp_path / "out")
    with pytest.raises(RecordError, match="expected one folder"):
        import_dataset("folder", [root / "a.jpg"], tmp_path / "out")
