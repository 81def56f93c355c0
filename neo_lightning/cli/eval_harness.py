"""`neo-lightning eval --harness vlmevalkit`: another program's evaluation, with our model registered in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import UserError

WITHOUT = (
    ("adapter", "source", "metric", "media", "limit", "compare", "base_url", "judge_url", "judge_model", "fps"),
    "VLMEvalKit has its own way; its arguments go behind `--`, such as `-- --judge exact_matching`",
)


def start(args: argparse.Namespace) -> None:
    """Start it in this process.

    Raises:
        UserError: an option that it does not take, or it is not installed here.
    """
    from ..harness.vlmevalkit import launch

    names, why = WITHOUT
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} does not go with --harness: {why}")
    if not args.model or not args.benchmark:
        raise UserError(
            "--harness needs --model and --benchmark (VLMEvalKit's names of data sets, separated by commas)"
        )
    changes: dict[str, dict[str, Any]] = {
        "images": {name: getattr(args, name) for name in ("min_pixels", "max_pixels")},
        "videos": {"max_frames": args.max_frames},
        "decoding": {"max_new_tokens": args.max_new_tokens},
    }
    launch(
        _folder(args.model),
        [name.strip() for name in args.benchmark.split(",")],
        data=args.data,
        out=args.out or Path("scores") / "vlmevalkit",
        further=args.further,
        device=args.device,
        preset=args.preset or "greedy",
        changes={name: {k: v for k, v in part.items() if v is not None} for name, part in changes.items()},
    )


def _folder(model: str) -> str:
    """A run's export, a folder, or an id of the hub."""
    run = Path(model)
    return str(run / "export") if (run / "export" / "config.json").is_file() else model.removeprefix("hf://")
