"""`--format webdataset`: shards as webdataset, img2dataset and Energon's users write them, by a map or a function."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from importer_helpers import CLIP, DRAWING, PHOTO, blobs, digests, log, members, read, text

from neo_lightning.cli.main import main
from neo_lightning.importers import RecordError, import_dataset


def write(path: Path, samples: list[dict[str, Any]], start: int = 0) -> Path:
    """Shards as webdataset's own writer makes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as shard:
        for number, sample in enumerate(samples, start=start):
            shard.write({"__key__": f"s{number:06d}", **sample})
    return path


def tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_imagenet_by_the_command_of_the_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "a.tar", [{"jpg": PHOTO, "cls": 1}, {"png": DRAWING, "cls": 0}])
    write(tmp_path / "in" / "b.tar", [{"jpg": PHOTO, "cls": 7}])
    (tmp_path / "names.txt").write_text("cat\ntabby, tabby cat\n")
    fields = ["--fields", "image=jpg;jpeg;png", "answer=cls", "question=What is this?"]
    arguments = ["data", "import", "--format", "webdataset", "--input", str(tmp_path / "in")]
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out), *fields, "--classes", str(tmp_path / "names.txt")]) == 0
    found = read(out / "manifest.yaml", "image")
    assert [(text(s), blobs(s)) for s in found] == [
        (["#\nWhat is this?", "tabby, tabby cat"], [PHOTO]),
        (["#\nWhat is this?", "cat"], [DRAWING]),
    ]
    assert [s.meta["id"] for s in found] == ["s000000", "s000001"]
    assert log(out) == [("b.tar, s000000", "member cls holds '7', the classes are 0 to 1")]
    assert main([*arguments, "--out", str(tmp_path / "numbers"), *fields]) == 0
    assert [text(s)[1] for s in read(tmp_path / "numbers" / "manifest.yaml", "image")] == ["1", "0", "7"]
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "none")]) == 2
    assert "the first sample has cls, jpg" in capsys.readouterr().err


def test_img2dataset(tmp_path: Path) -> None:
    """A picture, its caption, and a JSON of which only the caption is wanted: the rest of it is counted by name."""
    details = {"caption": "a cat", "url": "https://example.org/x.jpg", "sha256": "0", "width": 40}
    samples = [{"jpg": PHOTO, "txt": "a cat", "json": {**details, "caption": f"cat {i}"}} for i in range(3)]
    shard = write(tmp_path / "00000.tar", samples)
    fields = ["image=jpg", "text=json.caption"]
    report = import_dataset("webdataset", [shard], tmp_path / "out", fields=fields)
    assert [text(s) for s in read(report.manifest, "image")] == [["#cat 0"], ["#cat 1"], ["#cat 2"]]
    assert report.unused == {f"member {name}": 3 for name in ("json.sha256", "json.url", "json.width", "txt")}
    assert "3 x member json.url" in str(report)
    with pytest.raises(RecordError, match=r"00000\.tar, s000000: member .*json\.url"):
        import_dataset("webdataset", [shard], tmp_path / "strict", fields=fields, strict=True)
    kept = ["image=jpg", "text=txt", "meta=json"]
    report = import_dataset("webdataset", [shard], tmp_path / "kept", fields=kept, strict=True)
    assert read(report.manifest, "image")[0].meta == {"id": "s000000", "json": {**details, "caption": "cat 0"}}
    ignored = [*fields, "ignore=json.*;txt"]
    assert import_dataset("webdataset", [shard], tmp_path / "ignored", fields=ignored, strict=True).unused == {}


def test_energon_with_a_list_in_json(tmp_path: Path) -> None:
    turns = [{"value": "What is shown?"}, {"value": "Red."}, {"value": "And here?"}, {"value": "Blue."}]
    shard = write(tmp_path / "a.tar", [{"jpg": PHOTO, "json": turns}, {"jpg": PHOTO, "json": turns[:2]}])
    fields = ["image=jpg", "system=Be brief.", *(f"{'qa'[i % 2]}=json[{i}].value" for i in range(4))]
    fields = [field.replace("q=", "question=").replace("a=j", "answer=j") for field in fields]
    report = import_dataset("webdataset", [shard], tmp_path / "out", fields=fields)
    (sample,) = read(report.manifest, "image")
    assert text(sample) == ["Be brief.", "#\nWhat is shown?", "Red.", "And here?", "Blue."]
    assert "no member json.2.value for question" in log(tmp_path / "out")[0][1]
    short = ["image=jpg", "question=json.0.value", "answer=json.1.value"]
    assert import_dataset("webdataset", [shard], tmp_path / "short", fields=short).unused == {"member json[]": 1}


def test_conversations_in_json(tmp_path: Path) -> None:
    chat = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "Yes."}]
    samples: list[dict[str, Any]] = [{"jpg": PHOTO, "json": chat}, {"jpg": PHOTO, "json": {"conversations": chat}}]
    shard = write(tmp_path / "a.tar", samples)
    fields = ["image=jpg", "conversations=json.conversations;json"]
    report = import_dataset("webdataset", [shard], tmp_path / "out", fields=fields, strict=True)
    assert [text(s) for s in read(report.manifest, "image")] == [["#?", "Yes."]] * 2


def test_several_images(tmp_path: Path) -> None:
    files = {f"{i}.jpg": PHOTO for i in (0, 2, 10)} | {"1.png": DRAWING, "txt": "all of them"}
    left = {"left.jpg": PHOTO, "right.jpg": DRAWING, "txt": "<image> is left of <image>"}
    shard = write(tmp_path / "a.tar", [files, left])
    report = import_dataset("webdataset", [shard], tmp_path / "all", fields=["image=*.jpg;*.png", "text=txt"])
    first, second = read(report.manifest, "multi_image")
    assert text(first) == ["####all of them"]
    assert blobs(first) == [PHOTO, DRAWING, PHOTO, PHOTO]
    named = import_dataset(
        "webdataset", [shard], tmp_path / "named", fields=["image=right.jpg", "image=left.jpg", "text=txt"]
    )
    (sample,) = read(named.manifest, "multi_image")
    assert blobs(sample) == [DRAWING, PHOTO]
    assert (text(sample), text(second)) == (["# is left of #"], ["# is left of #"])


def test_video_and_plain_text(tmp_path: Path) -> None:
    clips = write(tmp_path / "clips.tar", [{"mp4": CLIP, "txt": "moving"}])
    report = import_dataset("webdataset", [clips], tmp_path / "v", fields=["video=mp4;avi,text=txt"], strict=True)
    assert [(text(s), blobs(s)) for s in read(report.manifest, "video")] == [(["#moving"], [CLIP])]
    words = write(tmp_path / "words.tar", [{"txt": "a document"}, {"txt": b"caf\xe9"}])
    report = import_dataset("webdataset", [words], tmp_path / "t", fields=["text=txt"])
    assert [text(s) for s in read(report.manifest, "text")] == [["a document"]]
    assert log(tmp_path / "t") == [("words.tar, s000001", "member txt: not UTF-8 at byte 3")]


def test_pictures_beside_the_shards(tmp_path: Path, media: Path) -> None:
    """A JSON may name files of the media folder; nothing outside it is read."""
    names = ["a.jpg", "../secret.jpg", "way_out.jpg", "https://example.org/x.jpg"]
    shard = write(tmp_path / "a.tar", [{"json": {"path": name, "text": "x"}} for name in names])
    fields = ["image=json.path", "text=json.text"]
    report = import_dataset("webdataset", [shard], tmp_path / "out", fields=fields, media=media)
    assert report.samples == {"image": 1}
    reasons = [reason for _, reason in log(tmp_path / "out")]
    for reason, expected in zip(reasons, ("lies outside", "is a link that leads outside", "downloaded"), strict=True):
        assert expected in reason


def test_a_users_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_map.py").write_text((Path(__file__).parent / "my_map.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    write(tmp_path / "a.tar", [{"jpg": PHOTO, "cls": 3, "json": {"page": 7}}, {"png": DRAWING, "cls": 3}])
    arguments = ["data", "import", "--format", "webdataset", "--input", "a.tar", "--out", "out"]
    assert main([*arguments, "--function", "own_map.to_record"]) == 0
    (sample,) = read(tmp_path / "out" / "manifest.yaml", "image")
    assert text(sample) == ["#\nWhat do you see?", "3"]
    assert sample.meta == {"id": "s000000", "page": 7}
    assert log(tmp_path / "out") == [("a.tar, s000001", "left out by own_map.to_record")]
    (tmp_path / "own_map.py").write_text((tmp_path / "own_map.py").read_text() + "# changed\n")
    with pytest.raises(RecordError, match="fields was"):
        import_dataset("webdataset", ["a.tar"], "out", function="own_map.to_record")
    for name, message in {"own_map.nothing": "no attribute", "no_such_module.f": "No module", "f": "Empty"}.items():
        with pytest.raises(RecordError, match=message):
            import_dataset("webdataset", ["a.tar"], "other", function=name)


def test_nothing_that_a_sample_does_to_its_process_ends_the_rest(tmp_path: Path) -> None:
    """SIGKILL, as by a crash in C or a machine out of memory; `sys.exit`; an exception; something that is no record."""
    kinds = ["first", "kill", "exit", "good", "raise", "number", "kill", "last"]
    shard = write(tmp_path / "a.tar", [{"txt": kind} for kind in kinds])
    report = import_dataset("webdataset", [shard], tmp_path / "out", function=f"{__package__ or ''}my_map.hostile")
    assert [text(s) for s in read(report.manifest, "text")] == [["first"], ["good"], ["last"]]
    reasons = dict(log(tmp_path / "out"))
    assert list(reasons) == [f"a.tar, s{i:06d}" for i in (1, 2, 4, 5, 6)]
    expected = ["ends the process", "SystemExit: 3", "ZeroDivisionError: nobody expects", "not int", "ends the process"]
    assert all(one in reason for one, reason in zip(expected, reasons.values(), strict=True))


def test_a_death_among_many_tasks_changes_no_other_sample(tmp_path: Path) -> None:
    kinds = ["kill" if i == 200 else f"number {i}" for i in range(450)]
    shard = write(tmp_path / "a.tar", [{"txt": kind} for kind in kinds])
    for workers in (1, 3):
        out = tmp_path / f"out-{workers}"
        report = import_dataset("webdataset", [shard], out, function="my_map.hostile", workers=workers)
        assert report.samples == {"text": 449}
        assert [where for where, _ in log(out)] == ["a.tar, s000200"]
    assert digests(tmp_path / "out-1") == digests(tmp_path / "out-3")


def test_the_same_bytes_whatever_the_workers_and_the_packing(tmp_path: Path) -> None:
    samples = [{"jpg": PHOTO, "cls": i} for i in range(200)]
    write(tmp_path / "in" / "a.tar", samples)
    write(tmp_path / "in" / "b.tar", samples[:150], start=200)
    fields = ["image=jpg", "text=cls"]
    for workers in (0, 2):
        import_dataset("webdataset", [tmp_path / "in"], tmp_path / f"out-{workers}", fields=fields, workers=workers)
    assert digests(tmp_path / "out-0") == digests(tmp_path / "out-2")
    shard = tmp_path / "in" / "a.tar"
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(shard.read_bytes()))
    import_dataset("webdataset", [packed, tmp_path / "in" / "b.tar"], tmp_path / "packed", fields=fields, workers=2)
    assert [(s["__key__"], s["jpg"], s["json"]) for s in members(tmp_path / "packed", "image")] == [
        (s["__key__"], s["jpg"], s["json"]) for s in members(tmp_path / "out-0", "image")
    ]


@pytest.mark.parametrize("cut", [512, 700, 3 * 512, -1024, -1])
def test_a_cut_shard_is_refused_with_all_others_of_its_kind(tmp_path: Path, cut: int) -> None:
    """webdataset's reader would give what is left, without a word."""
    data = write(tmp_path / "whole.tar", [{"txt": f"number {i}"} for i in range(9)]).read_bytes()
    for name in ("b.tar", "c.tar"):
        (tmp_path / name).write_bytes(data[: len(data) + cut] if cut < 0 else data[:cut])
    if cut == -1:
        (tmp_path / "b.tar").write_bytes(data[:2048] + b"\xff" * 100 + data[2148:])
        (tmp_path / "c.tar").write_bytes(b"<html>Not found</html>" * 100)
    elif cut == -1024:  # a tar's end is longer than the two blocks that it needs
        end = len(data.rstrip(b"\0")) // 512 * 512 + 512
        (tmp_path / "b.tar").write_bytes(data[:end])
        (tmp_path / "c.tar").write_bytes(data[: end + 512])
    with pytest.raises(RecordError, match=r"2 of 3 shards cannot be read") as refused:
        import_dataset("webdataset", sorted(tmp_path.glob("*.tar")), tmp_path / "out", fields=["text=txt"])
    assert all(f"{tmp_path / name}" in str(refused.value) for name in ("b.tar", "c.tar"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(data)[:-9])
    with pytest.raises(RecordError, match="1 of 1 shards"):
        import_dataset("webdataset", [tmp_path / "cut.tar.gz"], tmp_path / "out", fields=["text=txt"])


def test_keys_apart_and_twice_are_refused_and_strays_are_named(tmp_path: Path) -> None:
    apart = tar(tmp_path / "apart.tar", [("a.txt", b"x"), ("b.txt", b"y"), ("a.jpg", PHOTO)])
    with pytest.raises(RecordError, match=r"members of 'a' lie apart.*--sort=name"):
        import_dataset("webdataset", [apart], tmp_path / "out", fields=["text=txt"])
    twice = tar(tmp_path / "twice.tar", [("a.txt", b"x"), ("a.TXT", b"y")])
    with pytest.raises(RecordError, match=r"two members 'a.TXT'"):
        import_dataset("webdataset", [twice], tmp_path / "out", fields=["text=txt"])
    names = ["./._a.txt", "a.txt", "./._a.json", "a.json", "README", "__notes__/x.txt", "v1.2/b.0001.txt", "c.txt"]
    stray = tar(tmp_path / "stray.tar", [(name, b"{}" if "json" in name else name.encode()) for name in names])
    with tarfile.open(stray, "a") as archive:
        link = tarfile.TarInfo("d.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    report = import_dataset("webdataset", [stray], tmp_path / "out", fields=["text=txt"])
    assert [text(s) for s in read(report.manifest, "text")] == [["a.txt"], ["c.txt"]]
    assert report.unused == {"member json": 1}
    found = dict(log(tmp_path / "out"))
    expected = {"./._a.txt": "no sample", "./._a.json": "no sample", "README": "no sample", "__notes__/x.txt": "notes"}
    expected |= {"v1.2/b": "found 0001.txt; a key ends at the first dot", "d": "a link or a device"}
    assert {where.removeprefix("stray.tar, ") for where in found} == set(expected)
    assert all(reason in found[f"stray.tar, {where}"] for where, reason in expected.items())


def test_nothing_is_unpickled_and_no_command_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR."
    kinds = dict.fromkeys(("pyd", "pkl", "pth", "pickle", "npy", "npz", "ten"), bomb)
    shard = write(tmp_path / "a.tar", [{"txt": "words", **kinds}])
    report = import_dataset("webdataset", [shard], tmp_path / "out", fields=["text=txt", "ignore=pyd"])
    assert report.unused == {f"member {name}": 1 for name in sorted(kinds) if name != "pyd"}
    monkeypatch.chdir(tmp_path)
    for name in (f"pipe:touch {tmp_path / 'run'}", "file:a.tar", "https://example.org/a.tar"):
        with pytest.raises(RecordError, match="No such file"):
            import_dataset("webdataset", [name], tmp_path / "other", fields=["text=txt"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["image=jpg"], "says what is learned"),
        (["image=jpg", "answer=cls"], "each answer a question"),
        (["picture=jpg", "text=txt"], "NAME one of image, video"),
        (["image=a picture", "text=txt"], "image takes members"),
        (["text=txt", "answer=cls", "question=a b"], "says what is learned"),
        (["text=txt", "system=Be brief."], "none in front of a plain text"),
        (["text="], "expected NAME=MEMBER"),
    ],
)
def test_a_map_that_makes_no_sample_is_refused(tmp_path: Path, fields: list[str], message: str) -> None:
    shard = write(tmp_path / "a.tar", [{"jpg": PHOTO, "txt": "x", "cls": 1}])
    with pytest.raises(RecordError, match=message):
        import_dataset("webdataset", [shard], tmp_path / "out", fields=fields)


def test_one_word_as_text_needs_quotes_and_is_told_so(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.tar", [{"jpg": PHOTO, "cls": "Cat", "json": {"n": 3, "deep": {"x": [1]}}}])

    def reason(*fields: str) -> str:
        with pytest.raises(RecordError, match="no record could be imported"):
            import_dataset("webdataset", [shard], tmp_path / "bad", fields=["image=jpg", *fields], again=True)
        return log(tmp_path / "bad")[0][1]

    assert "question='\"Describe\"'" in reason("question=Describe", "answer=cls")
    assert "text=json.deep: a dict" in reason("text=json.deep")
    assert "expected a list of turns" in reason("messages=json.deep")
    fields = ["image=jpg", 'question="Describe"', "answer=json.n", "ignore=cls;json.deep"]
    report = import_dataset("webdataset", [shard], tmp_path / "out", fields=fields, strict=True)
    assert [text(s) for s in read(report.manifest, "image")] == [["#\nDescribe", "3"]]


def test_json_that_is_none_leaves_out_one(tmp_path: Path) -> None:
    good = json.dumps({"t": "\ufeffgood"}).encode()
    shard = write(tmp_path / "a.tar", [{"json": data} for data in (b"{", good, b"\xff", b"[" * 100_000)])
    report = import_dataset("webdataset", [shard], tmp_path / "out", fields=["text=json.t"])
    assert report.samples == {"text": 1}
    assert all("member json: not JSON in UTF-8" in reason for _, reason in log(tmp_path / "out"))
