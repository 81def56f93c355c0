"""neo_lightning: train NEO-ov, a native (encoder-free) vision-language model, with Lightning.

model = neo_lightning.load("runs/demo-0/export")                        # or hf://owner/name
model.answer("What is this?", images=["photo.png"])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answering import Engine

__version__ = "0.1.0"
__all__ = ["load"]


def load(source: str | Path, **options: Any) -> Engine:
    """A model that answers: `.answer(...)`, `.stream(...)`, `.score(...)`. See `neo_lightning.answering.load`."""
    from .answering import load as load_engine  # torch takes seconds to import, and not everybody asks a model

    return load_engine(source, **options)
