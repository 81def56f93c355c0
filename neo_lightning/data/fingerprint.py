"""What a plan depends on, part by part: stored with a checkpoint, compared when it is resumed.

Kept small, since a checkpoint's data state is to stay under 2 KB: twelve hexadecimal digits of a digest, and all parts
in one compressed string, from which the difference of a single setting can still be told.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from neo_lightning.types import VIDEO_WORDS, Stage, VideoBudget

PLANNER = 2
"""Version of everything between lengths and packs: another one makes other packs of the same data."""

_DATA_FIELDS = (
    "steps",
    "context",
    "packs_per_step",
    "mixture",
    "mixture_unit",
    "image",
    "video",
    "loss_weighting",
    "too_long",
)
_DIGITS = 12
_MOST_BYTES = 1 << 20


def fingerprint(
    stages: Mapping[str, Stage],
    sources: Mapping[str, str],
    tokenizer: str,
    answer_tokens: Mapping[str, Sequence[str]],
    **more: int,
) -> dict[str, Any]:
    """Parts by name, as JSON has them.

    Args: digests of the sources by name, and of the tokenizer; what answers of each source may use; other settings.
    """
    parts: dict[str, Any] = {"planner": PLANNER, **more, "tokenizer": tokenizer[:_DIGITS]}
    parts["answer_tokens"] = {name: " ".join(groups) or "none" for name, groups in sorted(answer_tokens.items())}
    parts |= {f"source {name}": digest[:_DIGITS] for name, digest in sorted(sources.items())}
    for number, (name, stage) in enumerate(stages.items()):
        fields = asdict(stage)
        for word in VIDEO_WORDS:  # the usual ones take room, and earlier checkpoints lack them
            if fields["video"][word] == getattr(VideoBudget(), word):
                del fields["video"][word]
        parts[f"stage {number} {name}"] = {f: fields[f] for f in _DATA_FIELDS} | {"mixture": dict(stage.mixture)}
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
