from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.data.manifest import ManifestError, load_manifest


def write(folder: Path, text: str) -> Path:
    (folder / "m.yaml").write_text(text)
    for i in range(3):
        (folder / f"s-{i}.tar").touch()
    return folder / "m.yaml"


@pytest.mark.parametrize(
    "shards", ["s-*.tar", "s-{0..2}.tar", "[s-0.tar, 's-{1,2}.tar']", "${oc.env:NEO_TEST_SHARDS}/s-?.tar"]
)
def test_patterns(tmp_path: Path, shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO_TEST_SHARDS", str(tmp_path))
    manifest = load_manifest(write(tmp_path, f"sources:\n  a:\n    modality: image\n    shards: {shards}\n"))
    assert [Path(p).name for p in manifest.source("a").shards] == ["s-0.tar", "s-1.tar", "s-2.tar"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected a mapping `sources:`"),
        ("sources: {a: {modality: image, shard: x}}", "did you mean 'shards'"),
        ("source: {}\nsources: {a: {modality: text, shards: 's-*.tar'}}", "did you mean 'sources'"),
        ("sources: {a: {modality: images, shards: 's-*.tar'}}", "did you mean 'image'"),
        ("sources: {a: {modality: image}}", "`shards`"),
        ("sources: {a: {modality: image, shards: 't-*.tar'}}", "matches no file"),
        ("sources: {a: {modality: image, shards: 's-{0..3}.tar'}}", r"s-3\.tar"),
        ("sources: {a: {modality: image, shards: ['s-*.tar', 's-1.tar']}}", "named twice"),
        ("sources: {a: {modality: image, shards: '${oc.env:NEO_NOT_SET}'}}", "NEO_NOT_SET"),
        ("sources: [", "m.yaml"),
    ],
)
def test_errors_say_what_would_work(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        load_manifest(write(tmp_path, text))


def test_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, "sources: {scenes: {modality: image, shards: 's-*.tar'}}"))
    with pytest.raises(ManifestError, match="did you mean 'scenes'"):
        manifest.source("scene")


ODD = ("photos [2024]", "a{b,c}", "why?", "star*", "[!x]", "{1..3}", "per%20cent", "back\\slash")
"""Names of folders that would be patterns."""


def found(manifest: Path) -> list[str]:
    return [str(Path(shard)) for shard in load_manifest(manifest).source("a").shards]


@pytest.mark.parametrize("name", ODD)
def test_only_what_the_user_wrote_is_a_pattern(tmp_path: Path, name: str) -> None:
    """Case r10: folders whose names look like patterns, as the manifest's own, inside a pattern, and in a URL."""
    folder = tmp_path / name
    folder.mkdir()
    wanted = [str(folder / f"s-{i}.tar") for i in range(3)]
    inner = write(folder, "sources: {a: {modality: text, shards: 's-*.tar'}}")
    assert found(inner) == wanted
    assert found(write(folder, "sources: {a: {modality: text, shards: 's-{0..2}.tar'}}")) == wanted
    outer = tmp_path / "m.yaml"
    quoted = name.replace("'", "''")
    for pattern in (f"{quoted}/s-*.tar", f"{quoted}/s-{{0,1,2}}.tar", f"{tmp_path}/{quoted}/s-?.tar"):
        outer.write_text(f"sources: {{a: {{modality: text, shards: '{pattern}'}}}}")
        assert found(outer) == wanted
    for url in (f"{folder.as_uri()}/s-*.tar", f"file://localhost{folder.as_uri()[7:]}/s-{{0..2}}.tar"):
        outer.write_text(f"sources: {{a: {{modality: text, shards: '{url}'}}}}")
        assert found(outer) == wanted


@pytest.mark.parametrize("name", ODD)
def test_a_file_is_found_by_its_own_name(tmp_path: Path, name: str) -> None:
    shard = tmp_path / f"{name}.tar"
    shard.touch()
    outer = tmp_path / "m.yaml"
    for pattern in (f"{name}.tar", str(shard), shard.as_uri()):
        outer.write_text(f"sources: {{a: {{modality: text, shards: '{pattern}'}}}}")
        assert found(outer) == [str(shard)]


def test_names_and_patterns_of_braces_together(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / f"{part} [2024]").mkdir()
        (tmp_path / f"{part} [2024]" / "a b.tar").touch()
    outer = tmp_path / "m.yaml"
    outer.write_text("sources: {a: {modality: text, shards: '{train,val} [2024]/*.tar'}}")
    assert len(found(outer)) == 2
    outer.write_text(f"sources: {{a: {{modality: text, shards: 'file://{tmp_path}/train%20%5B2024%5D/a%20b.tar'}}}}")
    assert found(outer) == [str(tmp_path / "train [2024]" / "a b.tar")]
    outer.write_text("sources: {a: {modality: text, shards: 'train [2024]'}}")
    with pytest.raises(ManifestError, match=r"is a folder; name its shards, as in train \[2024\]/\*\.tar"):
        load_manifest(outer)


def test_what_a_url_escapes_is_no_pattern(tmp_path: Path) -> None:
    outer = write(tmp_path, f"sources: {{a: {{modality: text, shards: 'file://{tmp_path}/s-%2A.tar'}}}}")
    with pytest.raises(ManifestError, match="matches no file"):
        load_manifest(outer)
