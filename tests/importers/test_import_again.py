"""An import repeated: held-out parts stay where they are, and media that changed meanwhile are said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from importer_helpers import DRAWING, PHOTO, blobs, digests, lines, llava, log, members, read

from neo_lightning.cli.main import main
from neo_lightning.importers import RecordError, import_dataset


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [llava(f"question {i}", id=f"r{i}") for i in range(start, start + count)]


def ids(out: Path, source: str) -> set[str]:
    return {json.loads(sample["json"])["meta"]["id"] for sample in members(out, source)}


def test_a_sample_stays_on_its_side(tmp_path: Path) -> None:
    """Whatever is added, in which order records stand, and how many processes read them."""
    first = lines(tmp_path / "f.jsonl", numbered(400))
    arguments = ["data", "import", "--format", "llava", "--out"]
    assert main([*arguments, str(tmp_path / "a"), "--input", str(first), "--hold-out", "5%", "--workers", "2"]) == 0
    held = ids(tmp_path / "a", "held_out_text")
    assert 8 <= len(held) <= 35, "5% of 400"
    assert ids(tmp_path / "a", "text") | held == {f"r{i}" for i in range(400)}
    assert not ids(tmp_path / "a", "text") & held
    lines(tmp_path / "g.jsonl", [*numbered(300, 400), *reversed(numbered(400))])
    import_dataset("llava", [tmp_path / "g.jsonl"], tmp_path / "b", hold_out=0.05, workers=0)
    more = ids(tmp_path / "b", "held_out_text")
    assert {name for name in more if int(name[1:]) < 400} == held
    assert len(more) > len(held)
    import_dataset("llava", [first], tmp_path / "c", hold_out=0.05, workers=0)
    assert {**digests(tmp_path / "c"), "import.json": ""} == {**digests(tmp_path / "a"), "import.json": ""}


def test_a_record_without_id_goes_by_its_media_and_text(tmp_path: Path, media: Path) -> None:
    """The same picture is never on both sides."""
    for i in range(40):
        shutil.copy(media / "a.jpg", media / f"p{i}.jpg")
    records = [llava(f"<image>{k}", image=f"p{i}.jpg") for k in range(3) for i in range(40)]
    records += [llava(f"words {i}") for i in range(40)]
    file = lines(tmp_path / "f.jsonl", records)
    report = import_dataset("llava", [file], tmp_path / "out", media=media, hold_out=0.3)
    assert report.samples["image"] + report.samples["held_out_image"] == 120
    assert report.samples["held_out_image"] % 3 == 0
    assert report.samples["text"] + report.samples["held_out_text"] == 40
    assert min(report.samples.values()) > 0
    assert "validation: [held_out_text, held_out_image]" in str(report)
    assert len(read(report.manifest, "held_out_image")) == report.samples["held_out_image"]


def test_how_much_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lines(tmp_path / "f.jsonl", numbered(400))
    arguments = ["data", "import", "--format", "llava", "--input", str(file), "--out"]
    for text in ("20%", "0.2", ".2", "80"):
        assert main([*arguments, str(tmp_path / text), "--hold-out", text]) == 0
        assert ids(tmp_path / text, "held_out_text") == ids(tmp_path / "20%", "held_out_text")
    assert 50 < len(ids(tmp_path / "80", "held_out_text")) < 110
    for text in ("0", "100%", "1.5", "-5%", "many", "0%"):
        assert main([*arguments, str(tmp_path / "x"), f"--hold-out={text}"]) == 2
        assert "expected a share" in capsys.readouterr().err


def test_another_share_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    file = lines(tmp_path / "f.jsonl", numbered(50))
    import_dataset("llava", [file], tmp_path / "out", hold_out=0.1)
    before = digests(tmp_path / "out")
    for share in (0.0, 0.2):
        with pytest.raises(RecordError, match=r"hold out was 0\.1, .*another folder, or say --again"):
            import_dataset("llava", [file], tmp_path / "out", hold_out=share)
    assert digests(tmp_path / "out") == before
    report = import_dataset("llava", [file], tmp_path / "out", again=True)
    assert report.samples == {"text": 50}
    assert not list((tmp_path / "out").glob("held_out*"))
    assert "held_out" not in report.manifest.read_text()


def imported(tmp_path: Path, **more: Any) -> Any:
    return import_dataset("llava", [tmp_path / "f.jsonl"], tmp_path / "out", media=tmp_path / "media", **more)


@pytest.fixture
def pictures(tmp_path: Path, media: Path) -> Path:
    """Three records: one of a sound picture, one of a missing one, one of a broken one."""
    lines(tmp_path / "f.jsonl", [llava("<image>?", image=name) for name in ("a.jpg", "gone.jpg", "broken.png")])
    assert imported(tmp_path).samples == {"image": 1}
    return media


def test_media_that_were_missing_or_broken_and_are_there_now(tmp_path: Path, pictures: Path) -> None:
    before = digests(tmp_path / "out")
    assert imported(tmp_path).left_out == 2, "nothing has changed"
    (pictures / "gone.jpg").write_bytes(DRAWING)
    with pytest.raises(RecordError, match=r"1 could not be read and can be now \('gone\.jpg'\).*--again") as refused:
        imported(tmp_path)
    (pictures / "broken.png").write_bytes(DRAWING)
    with pytest.raises(RecordError, match=r"1 another size \('broken\.png'\)") as refused:
        imported(tmp_path)
    assert "another --out" in str(refused.value)
    assert digests(tmp_path / "out") == before
    assert imported(tmp_path, again=True).samples == {"image": 3}
    assert log(tmp_path / "out") == []
    assert imported(tmp_path).samples == {"image": 3}


def test_media_that_were_replaced(tmp_path: Path, pictures: Path) -> None:
    """By size, and by content where only the time differs; a touched or copied file is the same."""
    os.utime(pictures / "a.jpg", ns=(1, 1))
    assert imported(tmp_path).samples == {"image": 1}
    changed = bytearray(PHOTO)
    changed[-3] ^= 1
    (pictures / "a.jpg").write_bytes(changed)
    with pytest.raises(RecordError, match=r"1 other content \('a\.jpg'\)"):
        imported(tmp_path)
    imported(tmp_path, again=True)
    assert [blobs(sample) for sample in read(tmp_path / "out" / "manifest.yaml", "image")] == [[bytes(changed)]]
    (pictures / "a.jpg").unlink()
    report = imported(tmp_path)
    assert report.samples == {"image": 1}, "the shards hold what is gone"
    assert "1 media files are gone" in str(report)


def test_a_caption_beside_a_picture_counts_as_a_medium(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(PHOTO)
    (tmp_path / "in" / "a.txt").write_text("a cat")
    import_dataset("folder", [tmp_path / "in"], tmp_path / "out")
    (tmp_path / "in" / "a.txt").write_text("a dog")
    with pytest.raises(RecordError, match=r"other content \('a\.txt'\)"):
        import_dataset("folder", [tmp_path / "in"], tmp_path / "out")


def test_half_an_import_does_not_go_on_with_other_media(
    tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines(tmp_path / "f.jsonl", [llava("<image>?", image=name) for name in ("gone.jpg", "a.jpg", "sub/b.PNG", "a.jpg")])
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).suffix == ".tar":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            imported(tmp_path, samples_per_shard=1)
    (media / "gone.jpg").write_bytes(PHOTO)
    with pytest.raises(RecordError, match="can be now"):
        imported(tmp_path, samples_per_shard=1)
    assert imported(tmp_path, samples_per_shard=2, again=True).samples == {"image": 4}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["image-000000.tar", "image-000001.tar"]


def test_again_that_dies_at_once_leaves_no_old_shard(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the old import was declared void, the same command without `--again` goes on with the new one."""
    (pictures / "gone.jpg").write_bytes(DRAWING)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            imported(tmp_path, again=True)
    assert imported(tmp_path).samples == {"image": 2}


def test_a_hugging_face_snapshot(tmp_path: Path) -> None:
    """Its files are links into `blobs`: followed below the folder that is named, else refused as links."""
    repository = tmp_path / "hub" / "datasets--a--b"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "images").mkdir(parents=True)
    record = llava("<image>?", image="images/1.jpg")
    below = {**record, "image": "snapshots/0123abcd/images/1.jpg"}
    for blob, data in {"f00": PHOTO, "f01": json.dumps(record).encode(), "f02": b"a cat"}.items():
        (repository / "blobs" / blob).write_bytes(data)
    (snapshot / "images" / "1.jpg").symlink_to("../../../blobs/f00")
    (snapshot / "images" / "1.txt").symlink_to("../../../blobs/f02")
    (snapshot / "train.jsonl").symlink_to("../../blobs/f01")
    file = lines(tmp_path / "below.jsonl", [below])
    assert import_dataset("llava", [file], tmp_path / "a", media=repository, strict=True).samples == {"image": 1}
    assert import_dataset("folder", [repository], tmp_path / "b", strict=True).samples == {"image": 1}
    for format, named, folder in (("llava", snapshot, snapshot), ("folder", snapshot, None)):
        with pytest.raises(RecordError, match=r"is a link that leads outside .*cp -rL"):
            import_dataset(format, [named], tmp_path / f"c-{format}", media=folder, strict=True)
    shutil.copytree(snapshot, tmp_path / "copy")  # which follows links
    out = tmp_path / "d"
    assert import_dataset("llava", [tmp_path / "copy"], out, media=tmp_path / "copy", strict=True).samples == {
        "image": 1
    }


def test_a_link_to_a_folder_is_named(tmp_path: Path) -> None:
    """It is not walked, as its files would count twice or lie outside; so they must not vanish without a word."""
    (tmp_path / "in" / "v1").mkdir(parents=True)
    (tmp_path / "in" / "v1" / "a.jpg").write_bytes(PHOTO)
    (tmp_path / "in" / "v1" / "a.txt").write_text("a cat")
    (tmp_path / "in" / "latest").symlink_to("v1")
    report = import_dataset("folder", [tmp_path / "in"], tmp_path / "out")
    assert report.samples == {"image": 1}
    ((where, reason),) = log(tmp_path / "out")
    assert where == "latest"
    assert "a link to a folder" in reason
