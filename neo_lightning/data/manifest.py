"""A mixture's manifest: one YAML file -> named sources with their modality and shard files.

    sources:
      captions:
        modality: image
        shards: shards/captions-{000000..000007}.tar        # glob, brace pattern, or a list of either
        ignore: [cls, detail.json]                          # optional: endings of members that are passed over
        answer_tokens: [think, tool_call, box]              # optional: tokens that answers may use, see text.answers
      clips:
        modality: video
        shards: ${oc.env:CLIPS}/*.tar                       # OmegaConf interpolations are resolved
      far:
        modality: image
        shards: s3://bucket/set-{000..127}.tar              # any URL that fsspec knows
      mine:
        class_path: my_package.MySource                     # anything that follows `data.index.adapted.UserSource`
        init_args: {folder: /somewhere}
    store: {cache: /disk, cache_gb: 500, deadline: 600}     # optional, see data.store.StoreOptions

Relative patterns start at the manifest's own folder, so that a manifest and its shards move together. Only what is
written here is a pattern, and of that only what is no name: `photos [2024]/*.tar` finds the folder that is called so.
Weights live in the stages of a recipe, not here: one manifest serves every stage.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from braceexpand import braceexpand
from fsspec import available_protocols
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from neo_lightning.data.answers import Answers
from neo_lightning.data.store import Store, StoreOptions, is_remote
from neo_lightning.data.text.answers import ANSWER_TOKENS
from neo_lightning.types import MODALITIES


class ManifestError(ValueError):
    """The manifest cannot be used; the message says where and what would work."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source of a manifest: either shards of one modality, or the user's own class."""

    name: str
    modality: str = ""
    """One of MODALITIES; empty for the user's own class, which says it itself."""
    shards: tuple[str, ...] = ()
    """Paths and URLs of tar files, sorted within each pattern, in the order of the patterns."""
    ignore: tuple[str, ...] = ()
    """Endings of members that are passed over: what stands behind the first dot of their base names."""
    answer_tokens: tuple[str, ...] | None = None
    """Groups of `text.answers.ANSWER_TOKENS` that answers may use; None for the default of those the tokenizer has."""
    class_path: str = ""
    init_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The sources of a mixture by name."""

    path: Path
    sources: Mapping[str, SourceSpec]
    store: StoreOptions = field(default_factory=StoreOptions)
    """How shards are read."""
    answers: Answers = field(default_factory=Answers, compare=False, repr=False)
    """What the store has said about the shards."""

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


def load_manifest(path: str | Path, answers: Answers | None = None) -> Manifest:
    """Read a manifest and find its shards.

    Args:
        path: of the file.
        answers: what the store has said about them already; the rest is asked, and added.

    Raises:
        ManifestError: no such file, not YAML, unknown key or modality, or a pattern that matches no file.
        RetryError: a store did not answer.
    """
    path = Path(path)
    if path.is_dir():
        inside = [file for file in sorted(path.glob("*.yaml")) if "sources:" in file.read_text(errors="replace")]
        there = f"its manifest is {inside[0]}" if inside else "it has none; `neo-lightning data import` writes one"
        raise ManifestError(f"manifest {path}: that is a folder; {there}")
    if not path.is_file():
        raise ManifestError(f"manifest {path}: no such file; a manifest is a YAML file that names shards (`sources:`)")
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest {path}: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("sources"), dict) or not tree["sources"]:
        raise ManifestError(f"manifest {path}: expected a mapping `sources:` of source names")
    _known_keys(tree, ("sources", "store"), f"manifest {path}")
    options = _store(path, tree.get("store") or {})
    answers = answers or Answers()
    store = Store(options, answers)
    sources = {str(name): _source(path, str(name), node, store) for name, node in tree["sources"].items()}
    return Manifest(path=path, sources=sources, store=options, answers=answers)


def _store(path: Path, node: Any) -> StoreOptions:
    where = f"manifest {path}, `store`"
    if not isinstance(node, dict):
        raise ManifestError(f"{where}: expected a mapping")
    _known_keys(node, tuple(option.name for option in fields(StoreOptions)), where)
    try:
        numbers = {key: float(node[key]) for key in ("cache_gb", "deadline") if key in node}
        return StoreOptions(cache=str(node.get("cache", "")), **numbers)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {error}") from error


def _source(path: Path, name: str, node: Any, store: Store) -> SourceSpec:
    where = f"manifest {path}, source {name!r}"
    if not isinstance(node, dict):
        raise ManifestError(f"{where}: expected a mapping with `modality` and `shards`")
    if "class_path" in node:
        _known_keys(node, ("class_path", "init_args", "answer_tokens"), where)
        return SourceSpec(
            name=name,
            class_path=str(node["class_path"]),
            init_args=node.get("init_args") or {},
            answer_tokens=_answer_tokens(node, where),
        )
    _known_keys(node, ("modality", "shards", "ignore", "answer_tokens", "class_path", "init_args"), where)
    modality = str(node.get("modality"))
    if modality not in MODALITIES:
        raise ManifestError(f"{where}: unknown modality {modality!r}{nearest(modality, MODALITIES)}")
    patterns = node.get("shards")
    if isinstance(patterns, str):
        patterns = [patterns]
    if not patterns or not all(isinstance(p, str) for p in patterns):
        raise ManifestError(f"{where}: `shards` must be a file name, a pattern, or a list of them")
    shards = [shard for pattern in patterns for shard in expand_pattern(path.parent, pattern, where, store)]
    if repeated := [shard for shard, count in Counter(shards).items() if count > 1]:
        raise ManifestError(f"{where}: shard {repeated[0]} is named twice")
    return SourceSpec(
        name=name,
        modality=modality,
        shards=tuple(shards),
        ignore=_names(node, "ignore", where) or (),
        answer_tokens=_answer_tokens(node, where),
    )


def _answer_tokens(node: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    groups = _names(node, "answer_tokens", where)
    for group in groups or ():
        if group not in ANSWER_TOKENS:
            raise ManifestError(f"{where}: answer_tokens: unknown {group!r}{nearest(group, ANSWER_TOKENS)}")
    return groups


def _names(node: Mapping[str, Any], key: str, where: str) -> tuple[str, ...] | None:
    """A list of different names; None where the key is not there."""
    names = node.get(key)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ManifestError(f"{where}: `{key}` must be a list of names, got {names!r}")
    return tuple(dict.fromkeys(names))


def expand_pattern(folder: Path, pattern: str, where: str, store: Store | None = None) -> list[str]:
    """Shards that a brace and glob pattern stands for. Every brace alternative has to match something.

    Raises:
        ManifestError: nothing matches, or the pattern is no file name and no URL of a known kind.
        RetryError: the store did not answer.
    """
    pattern = os.path.expanduser(pattern)
    local = _local(pattern)
    base, rest = (folder, pattern) if local is None else _literal(folder, local)
    try:
        alternatives = list(braceexpand(rest)) if rest else [""]
    except ValueError as error:
        raise ManifestError(f"{where}: pattern {pattern!r}: {error}") from error
    found: list[str] = []
    remote = None if local is not None else _remote(alternatives, where, store or Store())
    for number, alternative in enumerate(alternatives):
        if remote is not None:
            shards, looked = remote[number], ""
        else:
            shards, looked = _glob(base, alternative), f" (looked in {base.resolve()})"
        if not shards:
            raise ManifestError(f"{where}: {alternative!r} matches no file{looked}")
        if local is not None and (folders := [name for name in shards if os.path.isdir(name)]):
            raise ManifestError(
                f"{where}: {folders[0]} is a folder; name its shards, as in {pattern.rstrip('/')}/*.tar"
            )
        found += shards
    return found


def _local(pattern: str) -> str | None:
    """The pattern as a path; None for another address. What a `file://` URL has escaped is no pattern."""
    if pattern.startswith("file://"):
        pieces = re.split(r"((?:%[0-9a-fA-F]{2})+)", pattern.removeprefix("file://").removeprefix("localhost"))
        return "".join(_escaped(unquote(piece)) if i % 2 else piece for i, piece in enumerate(pieces))
    return None if is_remote(pattern) or pattern.startswith("pipe:") else pattern


def _escaped(text: str) -> str:
    """Text that stands for itself in a brace and glob pattern."""
    return "".join(
        f"[{letter}]" if letter in "*?[" else f"\\{letter}" if letter in "{},\\" else letter for letter in text
    )


def _literal(folder: Path, pattern: str) -> tuple[Path, str]:
    """The folders that the pattern begins with by their own names, and the rest of it."""
    if os.path.isabs(pattern):
        folder, pattern = Path(pattern[0]), pattern.lstrip("/")
    names = pattern.split("/")
    while names and os.path.exists(folder / names[0]):
        folder /= names.pop(0)
    return folder, "/".join(names)


def _glob(folder: Path, pattern: str) -> list[str]:
    """Files that a pattern stands for below a folder that is no pattern."""
    folder, pattern = _literal(folder, pattern)
    if not pattern:
        return [str(folder)]
    return sorted(str(folder / name) for name in glob.glob(pattern, root_dir=folder, recursive=True))


def _remote(urls: Sequence[str], where: str, store: Store) -> list[list[str]]:
    """Shards that URLs stand for; only plain addresses in a store, never one inside another, never a command."""
    for url in urls:
        scheme = url.partition("://")[0]
        if url.startswith("pipe:") or "::" in url:
            raise ManifestError(
                f"{where}: {url!r}: commands and chained addresses are never run; name the shard's own URL"
            )
        if scheme not in available_protocols():
            known = nearest(scheme, ("s3", "gs", "http", "https"))
            raise ManifestError(f"{where}: {url!r}: unknown kind of address{known}")
    try:
        return store.find_all(urls)
    except ImportError as error:
        raise ManifestError(f"{where}: {urls[0]!r}: {error}") from error


def _known_keys(node: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in node:
        if key not in known:
            raise ManifestError(f"{where}: unknown key {key!r}{nearest(key, known)}")
