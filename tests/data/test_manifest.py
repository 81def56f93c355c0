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
