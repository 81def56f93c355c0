"""Whether all of a model came out of its files: transformers prints what did not, and makes it up at random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


def check_loaded(info: Mapping[str, Any], source: object) -> None:
    """Refuse a model of which a tensor is missing, and another network.

    Args:
        info: transformers' loading info.
        source: where the model was loaded from, for the message.

    Raises:
        ValueError: names the tensors.
    """
    if foreign := sorted(name for name in info["unexpected_keys"] if "_mot_gen" in name):
        raise ValueError(f"{source}: this is a SenseNova-U1, another network; it has {len(foreign)} like {foreign[0]}")
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{source}: {len(missing)} tensors are missing, such as {missing[0]}; they would be random. Fetch the "
            "folder again, or export it again"
        )


def unreadable(source: object, error: SafetensorError) -> ValueError:
    """What to say of a file that safetensors cannot read, by its name where the model is a folder."""
    files = sorted(Path(str(source)).glob("*.safetensors"))
    name = next((str(file) for file in files if not _readable(file)), str(source))
    return ValueError(f"{name} is damaged or cut ({error}): fetch it again, or export the model again")


def _readable(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
