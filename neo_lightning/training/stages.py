"""The curriculum as a pure function of the optimiser step: which stage, which learning rate, which parameters.

In: the stages of a run (name -> `types.Stage`, in order), a step, a model's parameter names. Out: the stage, the rate,
the trained set. Nothing here has state, so a run that resumes at any step meets the same stage, rate and trained set.

    step      0 ........ 199 | 200 ......... 699 | 700 ... 799
    stage     pre_training   | mid_training      | sft
    rate      /‾‾‾\\___       | /‾‾‾‾\\____        | /‾\\_         (linear warm-up, cosine to min_lr_ratio)
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from neo_lightning.model.lora import is_term, weight_of
from neo_lightning.types import Stage

GROUPS: dict[str, str] = {
    "all": "every parameter",
    "patch_embedding": "what makes visual tokens: the two convolutions, or what `model.design` has in their place",
    "encoder": "the vision transformer of `model.design.encoder`",
    "visual": "weights of the visual tokens' own: `model.design.modality_weights` and `vision_lora`",
    "pre_buffer": "the layers in front of the language model, whole",
    "hw": "H/W projections and H/W norms of q and k in every layer",
    "backbone": "the rest: the language model without H/W, embeddings, final norm and head",
    "lora": "the low-rank terms of model.lora",
}
"""Named sets of parameters that a stage may train, and what they hold."""

_HW = ("q_proj_hw", "k_proj_hw", "q_norm_h", "q_norm_w", "k_norm_h", "k_norm_w")
_LAYERS = "language_model.model.layers."


def total_steps(stages: Mapping[str, Stage]) -> int:
    """Optimiser steps of the whole run."""
    return sum(stage.steps for stage in stages.values())


def stage_at(stages: Mapping[str, Stage], step: int) -> tuple[str, Stage, int]:
    """Name and fields of the stage that optimiser step `step` (from 0) belongs to, and the step within it.

    A step past the end belongs to the last stage.

    Raises:
        ValueError: there are no stages, or the step is negative.
    """
    if not stages or step < 0:
        raise ValueError(f"no stage for step {step}: the run has {len(stages)} stages")
    name, stage, within = "", None, step
    for name, stage in stages.items():
        if within < stage.steps:
            return name, stage, within
        within -= stage.steps
    assert stage is not None
    return name, stage, within + stage.steps


def stage_ends(stages: Mapping[str, Stage]) -> dict[int, str]:
    """Steps done at the end of each stage -> the stage's name."""
    ends, done = {}, 0
    for name, stage in stages.items():
        done += stage.steps
        ends[done] = name
    return ends


def learning_rate(stages: Mapping[str, Stage], step: int) -> float:
    """Learning rate of optimiser step `step` (from 0): linear warm-up, then a cosine, anew in every stage.

    A parameter's own rate is this times its `lr_scales`.

    With W warm-up steps of N, step s < W has peak * (s + 1) / W; step W has the peak and step N - 1 has
    peak * min_lr_ratio (schedule of the NEO paper's training recipe).
    """
    _, stage, within = stage_at(stages, step)
    warmup = math.ceil(stage.warmup_ratio * stage.steps)
    if within < warmup:
        return stage.lr * (within + 1) / warmup
    progress = min(1.0, (within - warmup) / max(1, stage.steps - 1 - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return stage.lr * (stage.min_lr_ratio + (1 - stage.min_lr_ratio) * cosine)


def groups_of(name: str, pre_buffer_layers: int) -> tuple[str, ...]:
    """The names of the `GROUPS` that a parameter of the released layout belongs to."""
    if is_term(name):
        return ("all", "lora")
    if name.startswith("vision_model.embeddings.encoder."):
        return ("all", "encoder")
    if name.startswith("vision_model."):
        return ("all", "patch_embedding")
    found = ["all"]
    if name.startswith(_LAYERS):
        if int(name.removeprefix(_LAYERS).split(".")[0]) < pre_buffer_layers:
            found.append("pre_buffer")
        if ".visual." in name or ".vision_lora." in name:
            found.append("visual")
        if name.split(".")[-2] in _HW:
            found.append("hw")
    return tuple(found) if len(found) > 1 else ("all", "backbone")


def trained_names(names: Iterable[str], trains: Iterable[str], pre_buffer_layers: int) -> set[str]:
    """Those of the parameter names that a stage trains.

    Args:
        names: parameter names in the released layout.
        trains: names of `GROUPS`, or glob patterns of parameter names; with a `-` in front, what is taken out again.
        pre_buffer_layers: depth of the pre-buffer.

    Raises:
        ValueError: an entry of `trains` is no group and matches no parameter.
    """
    members = {name: groups_of(name, pre_buffer_layers) for name in names}
    entries = list(trains)
    found = {name for entry in entries if not entry.startswith("-") for name in _matched(members, entry, "trains")}
    return found - {
        name for entry in entries if entry.startswith("-") for name in _matched(members, entry[1:], "trains")
    }


def _matched(members: Mapping[str, tuple[str, ...]], entry: str, key: str) -> set[str]:
    """Parameters of a group (which may hold none: a pre-buffer of depth 0) or of a glob pattern."""
    if entry in GROUPS:
        return {name for name, groups in members.items() if entry in groups}
    if found := {name for name in members if fnmatchcase(name, entry)}:
        return found
    near = difflib.get_close_matches(entry, [*GROUPS, *members], n=3, cutoff=0.4)
    raise ValueError(
        f"{key}: {entry!r} is no group of parameters ({', '.join(GROUPS)}) and as a pattern matches no "
        f"parameter. Nearest: {', '.join(near) or 'nothing similar'}"
    )


def lr_scales(names: Iterable[str], stage: Stage, pre_buffer_layers: int) -> dict[str, float]:
    """Parameter name -> factor of the learning rate in a stage; of several entries that hold it, the last counts.

    Raises:
        ValueError: an entry of `lr_scale` is no group and matches no parameter, or only frozen ones.
    """
    scales = dict.fromkeys(names, 1.0)
    trained = trained_names(scales, stage.trains, pre_buffer_layers)
    members = {name: groups_of(name, pre_buffer_layers) for name in scales}
    for entry, scale in stage.lr_scale.items():
        matched = _matched(members, entry, "lr_scale")
        if matched and not matched & trained:
            raise ValueError(
                f"lr_scale: {entry!r} holds no parameter that this stage trains ({', '.join(stage.trains)})"
            )
        scales |= dict.fromkeys(matched, scale)
    return scales


def check_stages(model: nn.Module, stages: Mapping[str, Stage], pre_buffer_layers: int) -> None:
    """Refuse a stage that trains nothing, or names parameters that do not exist.

    Raises:
        ValueError: naming the stage.
    """
    names = [name for name, _ in model.named_parameters()]
    terms = {weight_of(name) for name in names if is_term(name)}
    for stage_name, stage in stages.items():
        try:
            if not (trained := trained_names(names, stage.trains, pre_buffer_layers)):
                raise ValueError(f"trains: {list(stage.trains)} holds no parameter of this model")
            if terms:
                _check_terms(trained, terms, stage)
            lr_scales(names, stage, pre_buffer_layers)
        except ValueError as error:
            raise ValueError(f"stage {stage_name!r}: {error}") from None
    if terms and not any(
        is_term(name) for stage in stages.values() for name in trained_names(names, stage.trains, pre_buffer_layers)
    ):
        raise ValueError("model.lora is given, and no stage trains it: say `trains: [lora]`")


def _check_terms(trained: set[str], terms: set[str], stage: Stage) -> None:
    """Refuse to train what a term stands for: the two would do the same, and an adapter cannot hold both.

    Raises:
        ValueError: a stage trains such a weight whole.
    """
    if both := sorted(trained & terms):
        raise ValueError(
            f"trains: {list(stage.trains)} holds {both[0]}, which model.lora adapts ({len(both)} such weights): say "
            "`trains: [lora]`, with what else is to be trained whole, or take them out of model.lora.targets"
        )


def never_trained(names: Iterable[str], stages: Mapping[str, Stage], pre_buffer_layers: int) -> set[str]:
    """Those of the parameter names that no stage trains."""
    names = list(names)
    return set(names).difference(*(trained_names(names, s.trains, pre_buffer_layers) for s in stages.values()))


def apply_stage(model: nn.Module, stage: Stage, pre_buffer_layers: int) -> None:
    """Set `requires_grad` of every parameter as the stage says."""
    parameters = dict(model.named_parameters())
    trained = trained_names(parameters, stage.trains, pre_buffer_layers)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trained)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Trained part of one disjoint share of the parameters in one stage."""

    stage: str
    part: str
    """patch_embedding, pre_buffer, hw (of the layers behind the pre-buffer), backbone; lora where there are terms."""
    trained: int
    """Parameters trained."""
    total: int
    """Parameters there are."""
    lr_scales: tuple[float, ...] = ()
    """Different factors of the learning rate among the trained ones, ascending."""


def parameter_table(model: nn.Module, stages: Mapping[str, Stage], pre_buffer_layers: int) -> list[TableRow]:
    """What each stage trains, in disjoint parts, so that the rows of a stage add up to the whole model."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    parts = {name: groups_of(name, pre_buffer_layers)[1] for name in sizes}
    rows = []
    for stage_name, stage in stages.items():
        trained = trained_names(sizes, stage.trains, pre_buffer_layers)
        scales = lr_scales(sizes, stage, pre_buffer_layers)
        for part in ("patch_embedding", "pre_buffer", "hw", "backbone", "lora"):
            inside = {name for name in sizes if parts[name] == part}
            if part == "lora" and not inside:
                continue
            rows.append(
                TableRow(
                    stage=stage_name,
                    part=part,
                    trained=sum(sizes[name] for name in inside & trained),
                    total=sum(sizes[name] for name in inside),
                    lr_scales=tuple(sorted({scales[name] for name in inside & trained})),
                )
            )
    return rows
