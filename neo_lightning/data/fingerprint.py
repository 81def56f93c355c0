"""What a plan depends on, part by part: stored with a checkpoint, compared when it is resumed.

Kept small, since a checkpoint's data state is to stay under 2 KB: twelve hexadecimal digits of a digest, and all parts
in one compressed string, from which the difference of a single setting can still be told.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from neo_lightning.data.plan import PlanError, Segment
from neo_lightning.data.plan.segments import PLANNED
from neo_lightning.types import VIDEO_WORDS, CostRatio, PixelBudget, Stage, VideoBudget

PLANNER = 2
"""Version of everything between lengths and packs: another one makes other packs of the same data."""

_DIGITS = 12
_MOST_BYTES = 1 << 20


def fingerprint(
    segments: Sequence[Segment],
    sources: Mapping[str, str],
    tokenizer: str,
    answer_tokens: Mapping[str, Sequence[str]],
    *,
    by_cost: bool = False,
    **more: int,
) -> dict[str, Any]:
    """Parts by name, as JSON has them.

    Args: digests of the sources by name, and of the tokenizer; what answers of each source may use; whether costs
        decide what is packed together; other settings.
    """
    parts: dict[str, Any] = {"planner": PLANNER, **more, "tokenizer": tokenizer[:_DIGITS]}
    if by_cost:
        parts["balance"] = "steps"
    parts["answer_tokens"] = {name: " ".join(groups) or "none" for name, groups in sorted(answer_tokens.items())}
    parts |= {f"source {name}": digest[:_DIGITS] for name, digest in sorted(sources.items())}
    start = 0
    for number, segment in enumerate(segments):
        fields = asdict(segment.stage)
        for word in VIDEO_WORDS:  # the usual ones take room, and earlier checkpoints lack them
            if fields["video"][word] == getattr(VideoBudget(), word):
                del fields["video"][word]
        part = {f: fields[f] for f in PLANNED} | {"mixture": dict(segment.stage.mixture)}
        if segment.stage.row is None:  # likewise
            del part["row"]
        if by_cost:
            part["ratio"] = asdict(segment.ratio)
        if segment.end != start + segment.stage.steps:
            part["until"] = segment.end
        parts[f"stage {number} {segment.name}"], start = part, segment.end
    return parts


def pack_parts(parts: Mapping[str, Any]) -> str:
    """Parts as one string."""
    text = json.dumps(parts, separators=(",", ":"))
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def unpack_parts(text: Any) -> dict[str, Any]:
    """Inverse of `pack_parts`; no parts where it is not such a string."""
    try:
        parts = json.loads(zlib.decompressobj().decompress(base64.b85decode(text), _MOST_BYTES))
    except (ValueError, TypeError, RecursionError, zlib.error):
        return {}
    return parts if isinstance(parts, dict) else {}


def segments_from(
    parts: Mapping[str, Any], stages: Mapping[str, Stage], begun: int, costs: Mapping[str, CostRatio]
) -> list[Segment]:
    """The first segments of a fingerprint; what of a stage is not planned is that of now, its costs among it.

    Raises:
        PlanError: there is no such stage now, or the parts are not what `fingerprint` makes.
    """
    found: list[Segment] = []
    for part in [part for part in parts if part.startswith("stage ")][:begun]:
        name, fields = part.split(" ", 2)[2], parts[part]
        if name not in stages:
            raise PlanError(f"stage {name!r} was trained, and there is none of that name now: {', '.join(stages)}")
        try:
            planned = {key: fields[key] for key in PLANNED if key != "row"} | {"row": fields.get("row")}
            planned |= {"image": PixelBudget(**fields["image"]), "video": VideoBudget(**fields["video"])}
            end = (found[-1].end if found else 0) + int(fields["steps"])
            ratio = CostRatio(**fields["ratio"]) if "ratio" in fields else costs.get(name, CostRatio())
            found.append(Segment(name, replace(stages[name], **planned), int(fields.get("until", end)), ratio))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"the data's state in the checkpoint is damaged: {part}: {error}") from error
    if len(found) < begun:
        raise PlanError(f"the data's state in the checkpoint is damaged: {len(found)} of {begun} stages are named")
    return found


def of_sources(parts: Mapping[str, Any], sources: Sequence[str]) -> dict[str, Any]:
    """The parts that packs of these sources depend on, whatever the stages."""
    kept = {
        part: value
        for part, value in parts.items()
        if part.partition(" ")[0] not in ("stage", "source") or part.removeprefix("source ") in sources
    }
    answers = dict(kept.get("answer_tokens") or {})
    return kept | {"answer_tokens": {name: groups for name, groups in answers.items() if name in sources}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each thing that was different; empty where nothing was."""
    lines = []
    for part in dict.fromkeys([*old, *new]):
        if part not in new or part not in old:
            lines.append(f"{part}: only in {'the checkpoint' if part in old else 'this run'}")
            continue
        was, now = old[part], new[part]
        if isinstance(was, dict) and isinstance(now, dict):
            names = dict.fromkeys([*was, *now])
            lines += [f"{part}: {n} was {was.get(n)}, is {now.get(n)}" for n in names if was.get(n) != now.get(n)]
        elif was != now:
            lines.append(f"{part}: was {was}, is {now}")
    return lines
