"""`neo-lightning data inspect`: packs of a recipe as a page, to look at before and while training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import UserError, nearest


def add_commands(commands: Any) -> None:
    """Add it to the data commands' parser."""
    inspect = commands.add_parser(
        "inspect", recipe=True, help="a page of packs as the model sees them: pictures, tokens, masks"
    )
    inspect.add_argument("recipe", help="a file or a shipped name; overrides follow it, as for `lightning run`")
    inspect.add_argument("--packs", type=int, default=8, help="to show; 8")
    inspect.add_argument("--out", type=Path, default=Path("inspect.html"), help="the page; inspect.html")
    inspect.add_argument("--first-pack", type=int, default=0, metavar="N", help="the run's pack to begin with; 0")
    inspect.add_argument(
        "--stage",
        metavar="NAME",
        help="plan this stage alone, without those before it (packs are counted from its start, and samples may come "
        "together otherwise than in the run)",
    )
    inspect.set_defaults(function=_inspect)


def _inspect(args: argparse.Namespace) -> None:
    from neo_lightning.report.inspect import collect, render

    from .data_plan import data_of

    data = data_of([args.recipe, *args.overrides])
    title = Path(args.recipe).stem
    if args.stage is not None:
        if args.stage not in data.stages:
            raise UserError(f"--stage: the recipe has no stage {args.stage!r}. {nearest(args.stage, data.stages)}")
        data.stages, data.skip = {args.stage: data.stages[args.stage]}, ()
        title += f", stage {args.stage} alone"
    page = render(collect(data, packs=args.packs, first_pack=args.first_pack), title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding="utf-8")
    print(f"{args.out}: {len(page.encode()) / 1e6:.1f} MB, open it in a browser")
