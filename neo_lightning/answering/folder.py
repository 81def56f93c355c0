"""A model folder -> an engine, and back: weights, tokenizer, and how the model is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint.adapters import Adapter, adapter_folder, load_adapter, merge_adapter, read_adapter, write_adapter
from ..checkpoint.export import export_model
from ..checkpoint.load import load_config, load_model
from ..checkpoint.read import model_folder
from ..data.text.tokenizer import Tokenizer
from ..model.config import NeoConfig
from ..model.neo import Neo
from .engine import Engine
from .settings import PROCESSOR, TEMPLATE, Answering


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    adapter: str | Path | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
) -> Engine:
    """A model that answers, from its folder.

    Args:
        source: a folder in the released layout, such as a run's `export`, or `hf://owner/name`.
        device: None takes the GPU where there is one.
        adapter: folder (or id) of a LoRA adapter, whose weights are merged into the model's in memory; the model is
            asked as the adapter was trained, where its folder says how.
        dtype: None takes bfloat16 on a GPU and float32 on a CPU.
        min_pixels, max_pixels: of an image, in place of the folder's; see `Answering.changed`.
        fps, max_frames: of a clip, likewise.

    Raises:
        ValueError: no such folder, a damaged one, or one without a tokenizer; says what and where. Or an argument that
            cannot be used.
    """
    if not isinstance(source, str | Path):
        raise ValueError(f"a model is named by its folder or hf://owner/name, found {type(source).__name__}")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be one of torch's, such as torch.bfloat16, found {dtype!r}")
    folder = model_folder(source)
    device = _device(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    tokenizer = Tokenizer.load(folder, load_config(folder).rule)
    model = load_model(folder, dtype=dtype, device=device).eval()
    asked_as = folder
    if adapter is not None:
        asked_as = adapter_folder(adapter)
        merge_adapter(model, read_adapter(asked_as, model.config))
        asked_as = asked_as if (asked_as / PROCESSOR).is_file() else folder
    model.lay_together()
    answering = Answering.read(asked_as, model.config)
    changed = answering.changed(min_pixels=min_pixels, max_pixels=max_pixels, fps=fps, max_frames=max_frames)
    return Engine(model, tokenizer, changed)


def put_adapter(engine: Engine, source: str | Path, name: str) -> Answering:
    """Put the adapter of a folder (or `hf://owner/name`) beside an engine's weights; see `checkpoint.adapters`.

    Returns:
        How the model is asked with it: as the adapter was trained, where its folder says how, else as the engine.

    Raises:
        ValueError: see `load_adapter`.
    """
    load_adapter(engine.model, source, name)
    folder = adapter_folder(source)
    return Answering.read(folder, engine.model.config) if (folder / PROCESSOR).is_file() else engine.answering


def _device(name: torch.device | str | None) -> torch.device:
    """Raises ValueError: there is no such device here."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def write_folder(
    model: Neo, folder: str | Path, tokenizer: str | Path, answering: Answering, *, own_template: bool = True
) -> Path:
    """Write a model folder that answers as `answering` says.

    Args:
        model: with the ids of the tokenizer in its config.
        folder: made if it is not there; an older export in it is replaced.
        tokenizer: its folder, or `hf://owner/name`.
        answering: how the model was asked while it learned.
        own_template: write the chat template that this package trains with; False keeps the one beside the tokenizer.

    Raises:
        ValueError: tensors that do not fit the config, or no tokenizer.
    """
    config = replace(model.config, min_pixels=answering.image.min_pixels, max_pixels=answering.image.max_pixels)
    files = answering.files(Tokenizer.load(tokenizer))
    if not own_template:
        del files[TEMPLATE]
    return export_model(model, config, folder, tokenizer, files=files)


def write_adapter_folder(
    adapter: Adapter, config: NeoConfig, folder: str | Path, tokenizer: str | Path, answering: Answering
) -> Path:
    """Write an adapter's folder that says how the model is asked with it; see `write_folder`.

    Raises:
        ValueError: tensors that do not fit the config, or that an adapter's file cannot hold.
    """
    files = answering.files(Tokenizer.load(tokenizer))
    del files[TEMPLATE]
    return write_adapter(adapter, config, folder, files=files)
