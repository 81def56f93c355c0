"""The rooms import in one direction: docs/architecture.md's table, asserted on the syntax tree of every module."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "neo_lightning"

ROOMS: dict[str, set[str]] = {
    "types": set(),
    "sequence": {"types"},
    "console": set(),
    "exits": set(),
    "stopping": {"exits"},
    "ops": set(),
    "hub": set(),
    "model": {"ops", "sequence", "types"},
    "data": {"exits", "hub", "sequence", "stopping", "types"},
    "importers": {"data"},
    "scenes": {"data"},
    "checkpoint": {"hub", "model"},
    "hf": set(),
    "answering": {"data", "model", "checkpoint"},
    "training": {"console", "exits", "data", "model", "checkpoint", "answering"},
    "evaluation": {"data", "model", "answering"},
    "sweep": {"data"},
    "report": {"data", "evaluation", "sweep"},
    "serving": {"stopping", "answering"},
    "harness": {"hf"},
    "cli": {
        "console",
        "exits",
        "importers",
        "scenes",
        "checkpoint",
        "answering",
        "training",
        "evaluation",
        "report",
        "serving",
        "harness",
    },
    "__main__": {"cli"},
}
"""Room -> rooms it may import, beside itself. What a room may import, it may reach through as well (see `allowed`)."""

PURE_TORCH = ("model", "ops")
"""Rooms that somebody can lift out: nothing but torch (`ops`: Triton and flash-attn too) and the standard library."""

OF_TRANSFORMERS = {"torch", "torchvision", "transformers", "tokenizers", "huggingface_hub", "av", "numpy", "PIL"}
OF_TRANSFORMERS |= {"safetensors"}
"""What `hf`, which exports carry away, may need: transformers with what it requires and brings for images, and PyAV."""


def allowed(room: str) -> set[str]:
    """Rooms that a room may import: its own entry and what lies behind those rooms."""
    found: set[str] = set()
    queue = [room]
    while queue:
        for other in ROOMS[queue.pop()]:
            if other not in found:
                found.add(other)
                queue.append(other)
    return found | {room}


def imports(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Absolute names of the modules that a module's source imports, inside functions and type-checking blocks too."""
    package = module if is_package else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            # `from neo_lightning import data` names the room in the alias
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "neo_lightning" else {base}
    return found


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports and must not."""
    room = module.split(".")[1] if "." in module else ""
    wrong = []
    for name in imports(source, module, is_package=is_package):
        parts = name.split(".")
        if parts[0] == "neo_lightning" and room and len(parts) > 1:
            if parts[1] in ROOMS and parts[1] not in allowed(room):
                wrong.append(f"{module} imports {name}")
        elif room in PURE_TORCH and parts[0] not in {
            "torch",
            "triton",
            "flash_attn",  # optional, behind one attention backend
            "__future__",
            "neo_lightning",
            *sys.stdlib_module_names,
        }:
            wrong.append(f"{module} imports {name}: {room}/ takes only torch and the standard library")
        elif room == "hf" and parts[0] not in OF_TRANSFORMERS | {
            "__future__",
            "neo_lightning",
            *sys.stdlib_module_names,
        }:
            wrong.append(f"{module} imports {name}: hf/ takes only {', '.join(sorted(OF_TRANSFORMERS))}")
        elif room == "data" and parts[0] in ("lightning", "pytorch_lightning") and not module.endswith(".datamodule"):
            wrong.append(f"{module} imports {name}: only data/datamodule.py knows Lightning")
    return wrong


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def test_every_module_imports_only_what_stands_before_it() -> None:
    checked = modules()
    rooms = {name.split(".")[1] for name, _ in checked if "." in name}
    assert rooms <= set(ROOMS), f"a room that the table does not know: {rooms - set(ROOMS)}"
    assert rooms == set(ROOMS), f"rooms without a module, so nothing was checked: {set(ROOMS) - rooms}"
    wrong = [
        line
        for name, path in checked
        for line in violations(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_of_the_document_is_this_one() -> None:
    document = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|.*\| ([^|]+) \|$", document, re.MULTILINE)
    table = {room: set(ROOMS if may == "all" else re.split(r"\W+", may)) & set(ROOMS) - {room} for room, may in rows}
    assert table.pop("cli") == set(ROOMS) - {"cli"}
    assert table == {room: may for room, may in ROOMS.items() if room not in ("cli", "__main__")}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("neo_lightning.types", "from neo_lightning.sequence import positions_and_limits"),
        ("neo_lightning.ops.rms_norm.reference", "from ...types import Stage"),
        ("neo_lightning.model.neo", "import lightning"),
        ("neo_lightning.model.neo", "def f():\n    from neo_lightning.data.rows.collate import collate"),
        ("neo_lightning.model.load", "from ..checkpoint import names"),
        ("neo_lightning.data.plan", "from neo_lightning import model"),
        ("neo_lightning.data.rows.dataset", "from lightning.pytorch import LightningDataModule"),
        ("neo_lightning.report.run", "from neo_lightning.training import stages"),
        ("neo_lightning.hf.modeling_neo_chat", "from neo_lightning.sequence import positions_and_limits"),
        ("neo_lightning.hf.modeling_neo_chat", "import yaml"),
        ("neo_lightning.training.module", "from neo_lightning.cli import main"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "neo_lightning.model.neo",
            "import torch\nfrom ..ops.rms_norm import rms_norm\nfrom ..types import PackedBatch",
        ),
        ("neo_lightning.data.datamodule", "from lightning.pytorch import LightningDataModule"),
        ("neo_lightning.training.module", "from neo_lightning.types import Stage"),
        ("neo_lightning.cli.run", "from ..training import module\nfrom ..ops import rms_norm"),
    ],
)
def test_a_right_import_is_not_found(module: str, source: str) -> None:
    assert not violations(source, module)
