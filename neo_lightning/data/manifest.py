"""A mixture's manifest: one YAML file -> named sources with their modality and shard files.

    sources:
      captions:
        modality: image
        shards: shards/captions-{000000..000007}.tar        # glob, brace pattern, or a list of either
      clips:
        modality: video
        shards: ${oc.env:CLIPS}/*.tar                       # OmegaConf interpolations are resolved
      mine:
        class_path: my_package.MySource                     # anything that follows `data.index.Source`
        init_args: {folder: /somewhere}

Relative patterns start at the manifest's own folder, so that a manifest and its shards move together. Weights live in
the stages of a recipe, not here: one manifest serves every stage.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braceexpand import braceexpand
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from neo_lightning.types import MODALITIES


class ManifestError(ValueError):
    """The manifest cannot be used; the message says where and what would work."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source of a manifest: either shards of one modality, or the user's own class."""

    name: str
    modality: str = ""
    """One of MODALITIES; empty for the user's own class, which says it itself."""
    shards: tuple[Path, ...] = ()
    """Tar files, sorted within each pattern, in the order of the patterns."""
    class_path: str = ""
    init_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The sources of a mixture by name."""

    path: Path
    sources: Mapping[str, SourceSpec]

    def source(self, name: str) -> SourceSpec:
        """The source called `name`.

        Raises:
            ManifestError: there is none; names the nearest one.
        """
        if name not in self.sources:
            raise ManifestError(f"{self.path}: no source {name!r}{nearest(name, self.sources)}")
        return self.sources[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """Tail of an error message: the nearest of the known names, and all of them."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(names) or 'none'})"


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest and find its shards.

    Raises:
        ManifestError: no such file, not YAML, unknown key or modality, or a pattern that matches no file.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"manifest {path}: no such file")
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest {path}: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("sources"), dict) or not tree["sources"]:
        raise ManifestError(f"manifest {path}: expected a mapping `sources:` of source names")
    _known_keys(tree, ("sources",), f"manifest {path}")
    sources = {str(name): _source(path, str(name), node) for name, node in tree["sources"].items()}
    return Manifest(path=path, sources=sources)


def _source(path: Path, name: str, node: Any) -> SourceSpec:
    where = f"manifest {path}, source {name!r}"
    if not isinstance(node, dict):
        raise ManifestError(f"{where}: expected a mapping with `modality` and `shards`")
    if "class_path" in node:
        _known_keys(node, ("class_path", "init_args"), where)
        return SourceSpec(name=name, class_path=str(node["class_path"]), init_args=node.get("init_args") or {})
    _known_keys(node, ("modality", "shards", "class_path", "init_args"), where)
    modality = str(node.get("modality"))
    if modality not in MODALITIES:
        raise ManifestError(f"{where}: unknown modality {modality!r}{nearest(modality, MODALITIES)}")
    patterns = node.get("shards")
    if isinstance(patterns, str):
        patterns = [patterns]
    if not patterns or not all(isinstance(p, str) for p in patterns):
        raise ManifestError(f"{where}: `shards` must be a file name, a pattern, or a list of them")
    shards = [shard for pattern in patterns for shard in expand_pattern(path.parent, pattern, where)]
    if repeated := [shard for shard, count in Counter(shards).items() if count > 1]:
        raise ManifestError(f"{where}: shard {repeated[0]} is named twice")
    return SourceSpec(name=name, modality=modality, shards=tuple(shards))


def expand_pattern(folder: Path, pattern: str, where: str) -> list[Path]:
    """Files that a brace and glob pattern stands for. Every brace alternative has to match something."""
    try:
        alternatives = list(braceexpand(os.path.expanduser(pattern)))
    except ValueError as error:
        raise ManifestError(f"{where}: pattern {pattern!r}: {error}") from error
    found: list[Path] = []
    for alternative in alternatives:
        files = sorted(glob.glob(str(folder / alternative), recursive=True))
        if not files:
            raise ManifestError(f"{where}: {alternative!r} matches no file (looked in {folder.resolve()})")
        found += [Path(file) for file in files]
    return found


def _known_keys(node: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in node:
        if key not in known:
            raise ManifestError(f"{where}: unknown key {key!r}{nearest(key, known)}")
