"""LoRA adapters as folders in PEFT's format: written for it and for us, read from it and from us.

    adapter_config.json          {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": [...], ...}
    adapter_model.safetensors    base_model.model.<module>.lora_A.weight    [r, E]      (convolutions: [r, C, h, w],
                                 base_model.model.<module>.lora_B.weight    [F, r]       [F, r, 1, 1])
                                 base_model.model.<parameter>               of what was trained whole beside it

Module names are those of the released layout, which the Hugging Face class has as well. Which weights are adapted is
read from the tensors. The weights' file says in its metadata what the adapted weights were (`base_digest`): beside
other ones the terms may be worth nothing, which is said. Both files come from outside: nothing is unpickled, and an
option that would compute something else than alpha / r (or alpha / sqrt(r)) times B A is refused, known or not.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from neo_lightning.checkpoint.commit import sync
from neo_lightning.checkpoint.export import beside
from neo_lightning.checkpoint.names import EMBEDDINGS, HEAD, expected_shapes
from neo_lightning.checkpoint.read import check_tensors, read_file, read_json, read_metadata
from neo_lightning.hub import resolve_folder
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.lora import add_adapter, merge, scale_of, targetable
from neo_lightning.model.neo import Neo

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "base_model_name_or_path")
_ANYTHING = (
    *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "target_modules", "exclude_modules"),
    *("modules_to_save", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"),
)
"""Options that say what the tensors say, or nothing that is computed."""
_NEUTRAL = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
"""Options whose neutral values are not empty ones."""
_MOST_ALPHA = 1e6
_DIGEST = "base_digest"
_LOOKED_AT = 8, 1024
"""Adapted weights, and values of each, that a base is known by."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Low-rank terms for a model, and what was trained whole beside them."""

    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0
    """While it was trained."""
    base: str | None = None
    """Folder or id of the model that it was trained on."""
    digest: str | None = None
    """Of that model, see `base_digest`; None where nobody has said."""
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """Module -> A and B."""
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameter -> its value."""

    @property
    def scale(self) -> float:
        """Of every term."""
        return scale_of(self.rank, self.alpha, rslora=self.rslora)


def base_digest(weight: Callable[[str], Tensor], modules: Sequence[str]) -> str:
    """What a base is known by: some values of some of the weights that have terms, as bfloat16 has them.

    Args:
        weight: name -> value of a parameter, in any floating-point type but float16.
        modules: of the adapter, in the model's order.
    """
    most, values = _LOOKED_AT
    digest = hashlib.blake2b(digest_size=16)
    for name in modules[:: -(-len(modules) // most)]:
        first = weight(f"{name}.weight").detach().flatten()[:values].to("cpu", torch.bfloat16)
        digest.update(name.encode() + first.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder says that it holds an adapter."""
    return (Path(folder) / CONFIG).is_file()


def write_adapter(
    adapter: Adapter, config: NeoConfig, folder: str | Path, *, files: Mapping[str, str] | None = None
) -> Path:
    """Write an adapter's folder.

    Args:
        adapter: for a model of this config.
        config: of the model.
        folder: made if it is not there; an older adapter in it is replaced.
        files: name -> text of more files.

    Raises:
        ValueError: tensors that do not fit the config, or that PEFT's format cannot hold.
        OSError: the folder cannot be written.
    """
    _check(adapter, config, f"adapter to {folder}")
    options = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "target_modules": list(adapter.pairs),
        "modules_to_save": sorted({name.rpartition(".")[0] for name in adapter.whole}) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    tensors = {f"{_PREFIX}{name}": value for name, value in adapter.whole.items()}
    for name, pair in adapter.pairs.items():
        tensors |= {f"{_PREFIX}{name}{end}": value for end, value in zip((_A, _B), pair, strict=True)}
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with beside(target) as written:
        try:
            known = {} if adapter.digest is None else {_DIGEST: adapter.digest}
            save_file(stored, written / WEIGHTS, metadata={"format": "pt", **known})
        except SafetensorError as error:
            raise OSError(f"cannot write {written / WEIGHTS}: {error}") from error
        for name, text in {**(files or {}), CONFIG: json.dumps(options, indent=2) + "\n"}.items():
            (written / name).write_text(text, encoding="utf-8")
        for file in written.iterdir():
            sync(file)
        (target / CONFIG).unlink(missing_ok=True)
        # its config comes last: where it is, the rest is there, whenever this was ended
        for file in sorted(written.iterdir(), key=lambda path: (path.name == CONFIG, path.name)):
            os.replace(file, target / file.name)
        sync(target)
    return target


def unwritable(config: NeoConfig, whole: Iterable[str]) -> str | None:
    """Why PEFT's format cannot hold what was trained whole, by name; None where it can."""
    ends = sorted({EMBEDDINGS, HEAD}.intersection(whole))
    if not config.tie_word_embeddings or not ends:
        return None
    return (
        f"{ends[0]} was trained whole, and this model's head is tied to its embeddings: PEFT's format would change one "
        "of the two. Merge it into the model (`neo-lightning model export --merge`) instead"
    )


def read_adapter(source: str | Path, config: NeoConfig) -> Adapter:
    """The adapter of a folder (or `hf://owner/name`).

    Raises:
        ValueError: no adapter there, another kind of adapter, or tensors that are missing, unknown, of another shape,
            no floats or not finite; names file and key.
    """
    folder = adapter_folder(source)
    options = _options(read_json(folder / CONFIG), folder / CONFIG)
    tensors = read_file(folder / WEIGHTS)
    names = {name: name.removeprefix(_PREFIX) for name in tensors if name.startswith(_PREFIX)}
    if foreign := sorted(set(tensors) - set(names)):
        raise ValueError(f"{folder / WEIGHTS}: expected names that begin with {_PREFIX}, found {foreign[0]}")
    found = {short: tensors[name] for name, short in names.items()}
    modules = {name.removesuffix(end) for name in found for end in (_A, _B) if name.endswith(end)}
    if half := sorted(name for name in modules if name + _A not in found or name + _B not in found):
        raise ValueError(f"{folder / WEIGHTS}: {half[0]} has only one of lora_A and lora_B")
    adapter = Adapter(
        **options,
        digest=read_metadata(folder / WEIGHTS).get(_DIGEST),
        pairs={name: (found[name + _A], found[name + _B]) for name in targetable(config) if name in modules},
        whole={name: value for name, value in found.items() if not name.endswith((_A, _B))},
    )
    if foreign := sorted(modules - set(adapter.pairs)):
        raise ValueError(
            f"{folder / WEIGHTS}: {foreign[0]} is no weight of this model that an adapter may change ({len(foreign)} "
            "such): projections of its layers and the convolutions of its patch embedding are"
        )
    _check(adapter, config, str(folder / WEIGHTS))
    return adapter


def load_adapter(model: Neo, source: str | Path, name: str) -> None:
    """Put the adapter of a folder (or `hf://owner/name`) into a model, beside others; `model.lora.use` chooses it.

    Raises:
        ValueError: see `read_adapter`; the name is taken; or the adapter holds weights that were trained whole, which
            cannot lie beside those of the base.
    """
    adapter = read_adapter(source, model.config)
    if adapter.whole:
        raise ValueError(
            f"{source} holds {len(adapter.whole)} weights that were trained whole, such as {min(adapter.whole)}: they "
            "would replace the base's. Merge it (`neo-lightning model merge BASE ADAPTER OUT`) and load that"
        )
    _put(model, adapter, name)


def merge_adapter(model: Neo, adapter: Adapter) -> None:
    """Make an adapter's weights the model's own; each sum is rounded once, to the model's data type.

    Raises:
        ValueError: a sum is not finite; the model is spoilt then.
    """
    _put(model, adapter, name := "merged", torch.float32)
    merge(model, name)
    parameters = dict(model.named_parameters())
    for path in adapter.pairs:
        if not torch.isfinite(parameters[f"{path}.weight"]).all():
            raise ValueError(f"{path}: the sum of its weight and the adapter's term is not finite")
    with torch.no_grad():
        for path, value in adapter.whole.items():
            parameters[path].copy_(value)


def _put(model: Neo, adapter: Adapter, name: str, dtype: torch.dtype | None = None) -> None:
    here = base_digest(model.get_parameter, list(adapter.pairs)) if adapter.digest is not None else None
    if here != adapter.digest and model.head_weight.dtype != torch.float16:
        warnings.warn(
            f"this adapter was trained beside other weights than this model's ({adapter.base or 'of another model'}): "
            "its answers may be worth nothing",
            stacklevel=3,
        )
    how: dict[str, Any] = {"rank": adapter.rank, "scale": adapter.scale, "dropout": adapter.dropout, "dtype": dtype}
    with torch.no_grad():
        for path, term in add_adapter(model, name, adapter.pairs, **how).items():
            for parameter, value in zip((term.A, term.B), adapter.pairs[path], strict=True):
                parameter.requires_grad_(False).copy_(value)


def adapter_folder(source: str | Path) -> Path:
    """The folder of an adapter: a local one, or `hf://owner/name`.

    Raises:
        ValueError: there is none.
    """
    folder = resolve_folder(
        source, f"an adapter is a folder with {CONFIG} and {WEIGHTS}; a run with model.lora leaves one, RUN/adapter"
    )
    if not (folder / CONFIG).is_file():
        if (folder / "adapter" / CONFIG).is_file():
            raise ValueError(f"{folder} is a run's folder; its adapter is {folder / 'adapter'}")
        raise ValueError(f"{folder}: no adapter there (expected {CONFIG})")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder / WEIGHTS} is missing; pickled weights (adapter_model.bin) are never read")
    return folder


def _options(tree: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Fields of an `Adapter`, from PEFT's options."""
    if tree.get("peft_type") != "LORA":
        raise ValueError(f"{file}: expected peft_type 'LORA', found {tree.get('peft_type')!r}")
    for name, value in tree.items():
        neutral = value in _NEUTRAL[name] if name in _NEUTRAL else value in (None, False, 0) or value in ({}, [])
        if name not in _READ and name not in _ANYTHING and not neutral:
            raise ValueError(f"{file}: {name} is {value!r}; an adapter that needs it is not supported")
    rank, alpha, dropout = tree.get("r"), tree.get("lora_alpha"), tree.get("lora_dropout", 0.0)
    rslora, base = tree.get("use_rslora", False), tree.get("base_model_name_or_path")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{file}: r must be a positive whole number, found {rank!r}")
    for name, value, end in (("lora_alpha", alpha, _MOST_ALPHA), ("lora_dropout", dropout, 1.0)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < end:
            raise ValueError(f"{file}: {name} must be a number from 0 to below {end:g}, found {value!r}")
    if not isinstance(rslora, bool):
        raise ValueError(f"{file}: use_rslora must be true or false, found {rslora!r}")
    return {"rank": rank, "alpha": alpha, "rslora": rslora, "dropout": dropout, "base": base and str(base)}


def _check(adapter: Adapter, config: NeoConfig, where: str) -> None:
    """Refuse what does not fit the model.

    Raises:
        ValueError: lists what is missing, unexpected or of another shape; or names what is no float, or not finite.
    """
    shapes = expected_shapes(config)
    if reason := unwritable(config, adapter.whole):
        raise ValueError(f"{where}: {reason}")
    if not adapter.pairs:
        raise ValueError(f"{where}: no low-rank terms there")
    if both := sorted(name for name in adapter.pairs if f"{name}.weight" in adapter.whole):
        raise ValueError(f"{where}: {both[0]} has a low-rank term and is there whole as well: which one counts?")
    expected = {name: shapes.get(name, torch.Size()) for name in adapter.whole if name in shapes}
    tensors = dict(adapter.whole)
    for name, (a, b) in adapter.pairs.items():
        shape = shapes[f"{name}.weight"]
        expected[name + _A] = torch.Size((adapter.rank, *shape[1:]))
        expected[name + _B] = torch.Size((shape[0], adapter.rank, *(1 for _ in shape[2:])))
        tensors |= {name + _A: a, name + _B: b}
    check_tensors(tensors, expected, f"{where}: the tensors do not fit the model")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{where}: expected floating-point weights, {name} is {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: {name} holds NaN or infinity")
