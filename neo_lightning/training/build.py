"""From a recipe's `model` and `init` to a filled, possibly sharded model.

In: a preset, a folder or fields; where the first weights come from. Out: the same weights whatever the number of ranks:
each rank makes or reads one tensor after the other and keeps its own rows, so no rank ever holds a whole model.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from neo_lightning.checkpoint.load import load_config, load_state
from neo_lightning.checkpoint.qwen3 import qwen3_config, qwen3_state
from neo_lightning.checkpoint.shards import is_distributed, shard_rows
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.frozen import hold_in_bits, is_scale, scale_name
from neo_lightning.model.init import STD, InitRule, initial_state
from neo_lightning.model.layers import PackedRow, Row
from neo_lightning.model.lora import TRAINED, Lora, add_adapter, initial_terms, is_term, projections, use
from neo_lightning.model.neo import Neo
from neo_lightning.ops.coded import encode
from neo_lightning.ops.fp8 import why_not
from neo_lightning.training.parallel import ActivationCheckpointing, is_sharded, parallelise
from neo_lightning.training.stages import check_stages, groups_of, never_trained
from neo_lightning.types import Stage

PRESETS: dict[str, dict[str, Any]] = {
    "neo_ov_2b": {},
    "neo_ov_9b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 42,
        "extra_num_layers": 6,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}
"""The released sizes, shared by NEO and NEO-ov: fields that differ from `NeoConfig`'s defaults, which are the 2B's."""


@dataclass(frozen=True, kw_only=True)
class Init:
    """Where a run's first weights come from."""

    kind: Literal["scratch", "qwen3", "released"] = "scratch"
    """Random, a Qwen3 backbone with a fresh pre-buffer, or a NEO model folder."""
    folder: str | None = None
    """The Qwen3 or NEO folder."""
    rule: InitRule = "zero_k"
    """How a Qwen3 backbone's H and W projections start."""
    seed: int = 0
    """Of random weights."""
    std: float = STD
    """With `scratch`: deviation of the language model's matrices; a small one wants about 1/sqrt(hidden_size)."""
    closed_hw: bool = False
    """With `scratch`: the layers behind the pre-buffer start with H and W without effect, as in the rule `smooth`."""
    pre_buffer: str | None = None
    """Folder of a model of the same width whose patch embedding and pre-buffer are taken, behind everything above."""

    def __post_init__(self) -> None:
        if self.kind != "scratch" and not self.folder:
            raise ValueError(f"init: kind {self.kind!r} needs a folder")
        if self.kind == "scratch" and self.folder:
            raise ValueError(f"init: kind 'scratch' reads no folder, but folder is {self.folder!r}")


def read_config(model: str | Mapping[str, Any] | NeoConfig | None, init: Init | None = None) -> NeoConfig:
    """The network that a recipe's `model` names.

    Args:
        model: a name in `PRESETS`, a folder that holds a released `config.json` (or `hf://owner/name`), fields of
            `NeoConfig` (with an optional `preset` that they change), a `NeoConfig`, or None for what `init` gives.
        init: where the weights come from. With `qwen3`, fields without a preset change what its backbone gives, and
            `extra_num_layers` alone is the depth of the pre-buffer on top of it.

    Raises:
        ValueError: an unknown preset or field, with the nearest one.
    """
    if isinstance(model, NeoConfig):
        return model
    init = init or Init()
    if model is None and init.kind == "released":
        model = init.folder
    if isinstance(model, str) and model not in PRESETS:
        if "/" in model or Path(model).exists():
            return load_config(model)
        raise ValueError(f"model: {model!r} is no preset and no folder with a config.json. {_near(model, PRESETS)}")
    if model is None and init.kind == "scratch":
        model = "neo_ov_2b"
    given = {"preset": model} if isinstance(model, str) else dict(model or {})
    preset = given.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"model: there is no preset {preset!r}. {_near(preset, PRESETS)}")
    known = {f.name for f in fields(NeoConfig)}
    for name in given:
        if name not in known:
            raise ValueError(f"model: there is no field {name!r}. {_near(name, known)}")
    if preset is None and init.kind == "qwen3":
        assert init.folder is not None
        return qwen3_config(init.folder, **given)
    return NeoConfig(**{**PRESETS.get(preset or "", {}), **given})


def _near(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}"


def network(config: NeoConfig, lora: Lora | None = None, *, attention: str = "auto", fp8: bool = False) -> Neo:
    """What a recipe trains, on the meta device: the network, and the terms of `model.lora` in use.

    Raises:
        ValueError: options that do not fit the network.
    """
    with torch.device("meta"):
        model = Neo(config, attention=attention, fp8=fp8)
    if lora is not None:
        modules = lora.modules(config)
        add_adapter(model, TRAINED, modules, rank=lora.rank, scale=lora.scale, dropout=lora.dropout)
        use(model, TRAINED)
    return model


def build_model(
    config: NeoConfig,
    init: Init,
    *,
    stages: Mapping[str, Stage],
    device: torch.device,
    lora: Lora | None = None,
    mesh: DeviceMesh | None = None,
    bf16: bool = False,
    activation_checkpointing: ActivationCheckpointing = "none",
    recomputed_layers: int = 0,
    compile_blocks: bool = False,
    attention: str = "auto",
    fp8: bool = False,
    fill: bool = True,
    share: Callable[[PackedRow], Row] | None = None,
) -> Neo:
    """A model on `device`, sharded over `mesh`, with its first weights.

    Args:
        config: the network.
        init: where the weights come from.
        stages: checked against the parameter names before anything is allocated.
        device: of this rank.
        lora: low-rank terms beside the weights; see `freeze`.
        mesh: [shard] or [replica, shard], see `training.parallel`; None for a whole model.
        bf16: compute in bfloat16; parameters that are trained are float32 in any case.
        activation_checkpointing: see `training.parallel`.
        recomputed_layers: see `training.parallel`.
        compile_blocks: see `training.parallel`.
        attention: backend of `ops.interval_attention`.
        fp8: multiply with the layers' projections in 8-bit floats (`ops.fp8`).
        fill: False leaves the weights undefined, for a checkpoint that brings them.
        share: how ranks share rows (`training.sequence.sharing`); None where each has its own.

    Raises:
        ValueError: stages, options or first weights that do not fit the model or the device.
    """
    if fp8 and (reason := why_not(device)):
        raise ValueError(f"fp8: {reason}")
    if compile_blocks and config.design.splits:
        raise ValueError(
            "compile_blocks: layers with weights of the visual tokens' own (model.design) take as many tokens of each "
            "kind as a row happens to have, and would be compiled for each number"
        )
    model = network(config, lora, attention=attention, fp8=fp8)
    model.share = share
    check_stages(model, stages, config.extra_num_layers)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    if lora is not None:
        freeze(model, stages, lora, bf16=bf16)
    parallelise(
        model,
        model.layers,
        mesh=mesh,
        bf16=bf16,
        activation_checkpointing=activation_checkpointing,
        recomputed_layers=recomputed_layers,
        compile_blocks=compile_blocks,
    )
    sharded = is_sharded(model)
    if sharded:
        model.to_empty(device=device)
    else:  # the same, which torch imports sympy for
        empty = {name: torch.empty(x.shape, dtype=x.dtype, device=device) for name, x in model.state_dict().items()}
        model.load_state_dict(empty, assign=True)
    if fill:
        fill_parameters(model, first_weights(config, init, shapes), lora)
    return model


def freeze(model: Neo, stages: Mapping[str, Stage], lora: Lora, *, bf16: bool) -> None:
    """Keep what no stage trains as small as `lora` wants it.

    That is bfloat16 where that is computed in: nothing that is computed changes, and half of the weights' memory is
    free. With `base_bits` the layers' projections among them lie in few; patch embedding, norms, embeddings and head
    stay. FSDP2 wants one data type among those parameters of a group that are trained, so these are frozen from the
    start.
    """
    frozen = never_trained((n for n, _ in model.named_parameters()), stages, model.config.extra_num_layers)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False).data = parameter.data.to(torch.bfloat16 if bf16 else torch.float32)
    if lora.base_bits:
        hold_in_bits(model, (name for name in projections(model.config) if name in frozen), lora.base_bits)


def bytes_at_rest(model: Neo, sizes: Mapping[str, int]) -> dict[str, float]:
    """Bytes of a number of each parameter that `freeze` has made smaller, by name; scales count as their weight's.

    Args:
        model: behind `freeze`.
        sizes: elements of each parameter before it.
    """
    nbytes = {name: p.nbytes for name, p in model.named_parameters()}
    found = {name: (nbytes[name] + nbytes.get(scale_name(name), 0)) / size for name, size in sizes.items()}
    return {name: each for name, each in found.items() if each != torch.float32.itemsize}


def first_weights(config: NeoConfig, init: Init, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """Name and whole float32 value of each parameter, one at a time.

    Raises:
        ValueError: a folder that does not fit the model; says what differs.
    """
    terms = {name: shape for name, shape in shapes.items() if is_term(name)}
    base = {name: shape for name, shape in shapes.items() if name not in terms}
    taken = trained_pre_buffer(config, init.pre_buffer, base) if init.pre_buffer else {}
    for name, value in _first_base(config, init, base):
        yield name, taken.get(name, value)
    yield from initial_terms(terms, init.seed)


def trained_pre_buffer(config: NeoConfig, folder: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Patch embedding and pre-buffer of another model (the papers' re-used pre-buffer), by name."""
    theirs = load_config(folder)
    differing = [
        f"{name}: {getattr(theirs, name)} there, {getattr(config, name)} here"
        for name in ("hidden_size", "extra_num_layers", "design")
        if getattr(theirs, name) != getattr(config, name)
    ]
    if differing:
        raise ValueError(f"init.pre_buffer: {folder} has another pre-buffer; " + "; ".join(differing))

    def wanted(name: str) -> bool:
        return bool({"patch_embedding", "encoder", "pre_buffer"}.intersection(groups_of(name, config.extra_num_layers)))

    found = {name: value for name, value in load_state(folder).items() if wanted(name)}
    if wrong := [name for name, value in found.items() if shapes[name] != value.shape]:
        raise ValueError(f"init.pre_buffer: {folder} does not fit this model: {wrong[0]} and {len(wrong) - 1} more")
    return found


def _first_base(config: NeoConfig, init: Init, shapes: Mapping[str, torch.Size]) -> Iterable[tuple[str, Tensor]]:
    if init.kind == "scratch":
        return initial_state(shapes, config, init.seed, std=init.std, closed_hw=init.closed_hw)

    assert init.folder is not None
    if init.kind == "qwen3":
        return qwen3_state(shapes, config, init.folder, init.rule, init.seed)
    return load_state(init.folder).items()


def fill_parameters(model: nn.Module, values: Iterable[tuple[str, Tensor]], lora: Lora | None = None) -> None:
    """Copy whole values into the parameters, each rank its own rows; encoded where `freeze` has made it so.

    Raises:
        ValueError: a value is missing, has no parameter, or has another shape; lists them.
    """
    parameters = dict(model.named_parameters())
    problems, open_names = [], {name for name in parameters if not is_scale(name)}
    for name, value in values:
        parts = {name: value}
        if lora is not None and lora.base_bits and (scale := scale_name(name)) in parameters:
            parts = dict(zip((name, scale), encode(value, lora.base_bits), strict=True))
        if name not in parameters:
            problems.append(f"not in this model: {name}")
        elif differing := [part for part, whole in parts.items() if parameters[part].shape != whole.shape]:
            found, wanted = list(parts[differing[0]].shape), list(parameters[differing[0]].shape)
            problems.append(f"{differing[0]}: shape {found}, the model has {wanted}")
        else:
            for part, whole in parts.items():
                _copy_own_rows(parameters[part], whole)
        open_names.discard(name)
    problems += [f"missing: {name}" for name in sorted(open_names)]
    if problems:
        shown = "\n  ".join(problems[:20])
        raise ValueError(f"the weights do not fit this model ({len(problems)} differences):\n  {shown}")


def _copy_own_rows(parameter: Tensor, value: Tensor) -> None:
    local, first = shard_rows(parameter.detach())
    if is_distributed(parameter):
        value = value[first : first + local.shape[0]]
    if local.numel():
        local.copy_(value)
