from __future__ import annotations

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from data_helpers import write_tar

from neo_lightning.data.facts import RetryError, ShardError
from neo_lightning.data.index.scan import samples_of
from neo_lightning.data.index.tar import TarSample, split_key
from neo_lightning.data.index.tar_write import tar_member
from neo_lightning.data.store import Store, StoreOptions


def scan(path: Path) -> list[TarSample]:
    store = Store(StoreOptions(deadline=0))
    return list(samples_of(str(path), store, store.stat(str(path))))


GOOD = {f"{i:03d}.{ext}": bytes([i]) * (700 + i) for i in range(4) for ext in ("json", "jpg")}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/cat.jpg", ("a/cat", None, "jpg")),
        ("a/v1.2/cat.JPG", ("a/v1.2/cat", None, "jpg")),
        ("cat.3.png", ("cat", 3, "png")),
        ("../../x.jpg", ("../../x", None, "jpg")),
    ],
)
def test_key_ends_at_the_first_dot_of_the_base_name(name: str, key: tuple[str, int | None, str]) -> None:
    assert split_key(name) == key


@pytest.mark.parametrize("name", ["noext", ".hidden", "a/.jpg", "img.v2.jpg", "img.1.2.jpg", "img."])
def test_names_without_a_clear_key_are_refused(name: str) -> None:
    with pytest.raises(ShardError, match="KEY"):
        split_key(name)


def test_samples_come_in_file_order_with_their_content_and_its_place(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", GOOD)
    samples = scan(path)
    assert [s.key for s in samples] == ["000", "001", "002", "003"]
    assert {m.name: m.data for s in samples for m in s.members} == GOOD
    whole = path.read_bytes()
    assert all(whole[m.offset : m.offset + m.size] == m.data for s in samples for m in s.members)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_tar_dialects(tmp_path: Path, format: int) -> None:
    name = "ordner/" * 30 + "bild.jpg"
    with tarfile.open(tmp_path / "a.tar", "w", format=format) as tar:
        short = name if format != tarfile.USTAR_FORMAT else "ordner/bild.jpg"
        info = tarfile.TarInfo(short)
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    (sample,) = scan(tmp_path / "a.tar")
    assert (sample.members[0].name, sample.members[0].data) == (short, b"hello")


def test_empty_tar_has_no_samples(tmp_path: Path) -> None:
    assert scan(write_tar(tmp_path / "a.tar", {})) == []


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", GOOD).read_bytes()
    end = len(whole) - len(whole.rstrip(b"\0"))
    content_end = len(whole) - end
    cut = tmp_path / "cut.tar"
    # member boundaries, inside headers, inside data, and just before the end mark
    for size in [*range(512, content_end, 512), 700, 1300, content_end - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=r"cut\.tar: cut at byte"):
            scan(cut)


def test_every_damaged_header_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", GOOD)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for offset in headers:
        for damage in (b"\0" * 512, b"\xff" * 512):
            path.write_bytes(whole[:offset] + damage + whole[offset + 512 :])
            with pytest.raises(ShardError, match=r"a\.tar"):
                scan(path)


@pytest.mark.parametrize("content", [b"x" * 100, b"x" * 5000, gzip.compress(b"x" * 2000, mtime=0)])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match=r"a\.tar"):
        scan(tmp_path / "a.tar")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"<html>" * 400])
def test_what_a_store_gives_while_it_is_not_ready_is_worth_another_try(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(RetryError, match=r"a\.tar"):
        scan(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "a.json", "b.json", "a.txt"], "apart"),
        (["a.json", "a.json"], "more than one"),
        (["a.json", "a.0.json"], "more than one"),
        (["a.jpg", "a.png"], "numbers"),
        (["a.jpg", "a.0.png"], "numbered"),
        (["img.0001.jpg", "img.0002.jpg"], "numbered"),
        (["a.0.jpg", "a.2.jpg"], "numbered"),
        (["a.0.jpg", "a.0.png"], "numbered"),
        (["a.json", "a.pkl"], "pkl"),
        (["a.pyd"], "pyd"),
        (["a.pth"], "pth"),
        (["a.xyz"], "xyz"),
    ],
)
def test_ambiguous_or_dangerous_members_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ShardError, match=message):
        scan(tmp_path / "a.tar")


def test_numbered_media_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["a.10.jpg", *(f"a.{i}.png" for i in range(10)), "a.json"]
    (ref,) = scan(write_tar(tmp_path / "a.tar", dict.fromkeys(names, b"x")))
    assert [m.number for m in ref.members] == [None, *range(11)]


def test_a_member_is_written_as_tarfile_writes_it() -> None:
    for name, size in (("a.json", 0), ("ä-000001.0.jpg", 511), ("n" * 100, 512), ("b.png", 70_000)):
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o444
        data = b"x" * size
        written = b"".join(tar_member(name, data))
        assert written == info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-size % 512)
    with pytest.raises(ValueError, match="names of 100"):
        list(tar_member("n" * 101, b""))


APPLE_DOUBLE = bytes.fromhex("00051607 00020000") + bytes(16)


def test_a_macs_attributes_are_passed_over_and_counted(tmp_path: Path) -> None:
    """Told by name and content: `tar` on a Mac puts `._a.jpg` in front of `a.jpg`."""
    members = {name: data for key, value in GOOD.items() for name, data in ((f"._{key}", APPLE_DOUBLE), (key, value))}
    path = write_tar(tmp_path / "a.tar", {"._.": APPLE_DOUBLE, "in/._b.txt": APPLE_DOUBLE} | members)
    assert {m.name: m.data for s in scan(path) for m in s.members} == GOOD
    store, counts = Store(StoreOptions(deadline=0)), Counter[str]()
    list(samples_of(str(path), store, store.stat(str(path)), unused=counts))
    assert counts == {"members ._* (AppleDouble)": len(GOOD) + 2}
    for name, data in (("._a.jpg", b"\xff\xd8\xff\xe0"), ("a.jpg", APPLE_DOUBLE)):
        other = write_tar(tmp_path / "b.tar", {name: data})
        if name == "a.jpg":
            assert [s.key for s in scan(other)] == ["a"], "content alone says nothing"
        else:
            with pytest.raises(ShardError, match="KEY"):
                scan(other)
