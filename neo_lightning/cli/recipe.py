"""From what the user names to one composed recipe: find the file, lay further files and overrides over it.

    RECIPE, --config MORE.yaml ..., --stages.NAME.KEY=VALUE ...  ->  one mapping, interpolations still unresolved

Files are composed here and not by jsonargparse, which would replace the whole of `stages` when a second file changes
one number in it. Mappings merge key by key; lists, `mixture` and objects of another `class_path` are replaced whole;
`null` takes a stage away. Other overrides stay with jsonargparse, which knows their types.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, nearest

REPLACED = ("mixture",)
"""Mappings that a later file replaces instead of merging: a source could not be taken out otherwise."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The recipe's `run` block: what the run is called and where everything it writes goes."""

    name: str
    """Name of the run, shown in logs and in the report."""
    dir: str
    """Folder of the run. A run resumes from its folder's last committed checkpoint."""
    begins_from: str | None = None
    """Checkpoint of another run that this one branches off, as `--from` says it; null begins anew."""


def shipped(kind: str) -> dict[str, Path]:
    """Name -> file of the recipes or manifests that come with the package.

    Args:
        kind: recipes, recipes/design (to be laid over one of those), recipes/design/real, recipes/ablations (for
            `lightning sweep`) or data_manifests.
    """
    package = Path(__file__).resolve().parents[1]
    folder = package / kind  # in a wheel
    if not folder.is_dir():
        folder = package.parent / kind  # in a clone
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str, kind: str = "recipes") -> Path:
    """The file that a path, or the name of a shipped recipe or manifest, stands for.

    Raises:
        UserError: neither exists.
    """
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return path
    known = shipped(kind)
    if kind == "recipes":
        known |= {
            f"{below}/{n}": p
            for below in ("design", "design/real", "ablations/common")
            for n, p in shipped(f"{kind}/{below}").items()
        }
    if name in known:
        return known[name]
    raise UserError(
        f"{name!r} is neither a file nor a shipped name ({kind}). {nearest(name.removesuffix('.yaml'), known)}"
    )


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """A recipe file's text and content, with `${...}` unresolved.

    Raises:
        UserError: not UTF-8, not YAML, a key given twice, or not a mapping.
    """
    from omegaconf import OmegaConf

    try:
        text = path.read_text(encoding="utf-8")
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is not a valid YAML recipe: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, got a {type(content).__name__}")
    return text, {str(key): value for key, value in content.items()}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, by the rule at the head of this file."""
    if "class_path" in over and over["class_path"] != base.get("class_path"):
        return dict(over)
    if "class_path" in base and over and not {"class_path", "init_args"} & over.keys():
        over = {"init_args": over}  # arguments of the object that an earlier file chose
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and key not in REPLACED:
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def override(recipe: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """Set one dotted key (below `stages`) to a value written in YAML."""
    from omegaconf import OmegaConf

    parsed = OmegaConf.to_container(OmegaConf.create(f"value: {value}"), resolve=False)
    node = recipe
    *parents, last = key.split(".")
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            child = node[parent] = {}
        node = child
    assert isinstance(parsed, dict)
    node[last] = parsed["value"]
    return recipe


def finish(recipe: dict[str, Any]) -> dict[str, Any]:
    """Drop the stages set to null."""
    stages = recipe.get("stages")
    if isinstance(stages, dict):
        recipe["stages"] = {name: stage for name, stage in stages.items() if stage is not None}
        if not recipe["stages"]:
            raise UserError("the recipe has no stage left to run")
    return recipe


def purpose(text: str) -> str:
    """First paragraph of a recipe's opening comment."""
    lines = []
    for line in text.splitlines():
        words = line.removeprefix("#").strip()
        if not line.startswith("#") or not words:
            break
        lines.append(words)
    return " ".join(lines)
