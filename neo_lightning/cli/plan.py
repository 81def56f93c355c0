"""`neo-lightning plan RECIPE --device h100 --devices 8`: what a recipe will take, before anything is rented or built.

    RECIPE + overrides --NeoCLI--> stages, model, layout --training.outlook--> tables on the screen

The network is built on the meta device; no weights or tokenizer are opened, and no shards but those of evaluations that
are asked while training, whose questions are counted. Only the arithmetic of `training.memory`, `training.outlook` and
`model.flops` speaks here: this module prints.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import UserError, nearest, user_errors
from .options import Options
from .planned import Planned, read_recipe

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluation.context import Evaluation
    from ..training.devices import Device
    from ..training.memory import Layout
    from ..training.outlook import StageOutlook

DOES_NOT_FIT = 1
"""Exit status with --strict: some stage needs more memory than a device has."""
GIB = 2**30
MOST_DEVICES = 1024
"""Up to so many devices are offered."""


def main(argv: list[str]) -> int:
    """Print a recipe's outlook; returns the exit status."""
    args, overrides = _parser().parse_known_args(argv)
    with user_errors("neo-lightning plan"):
        device = _device(args)
        planned = read_recipe([args.recipe, *overrides], args.devices, gpu=args.device != "cpu")
        outlooks = {name: planned.outlook(name, device, network=args.network) for name in planned.stages}
        return DOES_NOT_FIT if show(planned, outlooks, device, args.device) and args.strict else 0


def _parser() -> argparse.ArgumentParser:
    from ..training.devices import DEVICES
    from ..training.traffic import NETWORK

    parser = Options(prog="neo-lightning plan", recipe=True, description=__doc__.split("\n")[0])
    parser.add_argument("recipe", help="a file or a shipped name; overrides follow it, as for `lightning run`")
    parser.add_argument("--device", default="h100", help=f"{', '.join(DEVICES)}; or any name with the next two")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of one device, in place of the table's")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="dense bf16 peak of one device, likewise")
    parser.add_argument("--mfu", type=float, metavar="PART", help="part of the peak to reckon with, likewise")
    parser.add_argument("--link", type=float, metavar="GB/S", help="of a device within its machine, likewise")
    parser.add_argument("--network", type=float, metavar="GB/S", default=NETWORK, help="of a device between machines")
    parser.add_argument("--devices", type=int, help="how many in all; default what the recipe's trainer says")
    parser.add_argument("--strict", action="store_true", help=f"exit status {DOES_NOT_FIT} where a stage does not fit")
    return parser


def _device(args: argparse.Namespace) -> Device:
    from ..training.devices import DEVICES, Device

    said = (("memory", args.memory), ("tflops", args.peak), ("mfu", args.mfu), ("link", args.link))
    given = {key: value for key, value in said if value is not None}
    if any(not value > 0 for value in (*given.values(), args.network)) or given.get("mfu", 1) > 1:
        raise UserError("--memory, --peak, --link and --network must be positive, --mfu between 0 and 1")
    if args.device in DEVICES:
        return replace(DEVICES[args.device], **given)
    if not {"memory", "tflops"} <= given.keys():
        raise UserError(f"--device {args.device!r} needs --memory and --peak. {nearest(args.device, DEVICES)}")
    return Device(name=args.device, **given)


PARTS = {
    "masters": "weights as kept",
    "moments": "optimiser's moments",
    "averages": "averages of the weights",
    "gradients": "gradients",
    "gathered": "weights as computed with",
    "gathered_layers": "gathered layers",
    "activations": "activations of a row",
    "layer": "a layer's backward",
    "loss": "loss",
    "root": "embeddings' gradients",
    "peak": "most at one time",
    "snapshot": "in host memory: a save's copy",
}
"""Field of StepMemory -> heading."""


def show(planned: Planned, outlooks: Mapping[str, StageOutlook], device: Device, name: str) -> bool:
    """Print the tables; True where a stage does not fit."""
    from ..console import table_console

    console = table_console()
    layout, precision = planned.layout, "bf16-mixed" if planned.layout.bf16 else "32-true"
    console.print(
        f"{sum(planned.sizes.values()):,} parameters on {planned.devices} x {name}: "
        f"{device.usable:.1f} GiB for tensors, {device.tflops:g} TFLOP/s each; shard size {layout.shard_size}"
        f"{f', sequence size {layout.sequence_size}' if layout.sequence_size > 1 else ''}, "
        f"{precision}, activation checkpointing {layout.checkpointing}"
        f"{f', full in {layout.recomputed_layers} layers' if layout.recomputed_layers else ''}\n"
    )
    console.print(_work(planned, outlooks, device))
    console.print(_memory(outlooks))
    if planned.devices > 1:
        console.print(_traffic(outlooks, layout))
        console.print(_waiting(planned))
        if layout.shard_size > 1:
            console.print(_gathered(planned, device))
    if layout.sequence_size > 1:
        amounts = ", ".join(f"{outlook.exchange / 1e6:,.0f} ({name})" for name, outlook in outlooks.items())
        console.print(
            f"{layout.sequence_size} devices that share a row exchange q, k, v and attention's output, MB of a "
            f"device in a layer's forward pass {amounts}; as much backward, and again where the layer is recomputed.\n",
            markup=False,
        )
    if layout.sharded or planned.devices > 1:
        console.print(_asking(planned, outlooks, device) + "\n")
    if planned.evaluations:
        console.print(_askings(planned))
    console.print(
        "Assumed: documents as training.outlook says (text of 600 tokens, images of up to 1.5 MP, clips of up to 32 "
        "frames, lengths log-normal about that; `data plan` knows the real ones), the efficiency above, no wait for "
        "data. Memory is of the fullest row that one modality makes. It was compared with a CPU; "
        "no GPU has been measured.\n"
    )
    if not planned.config.design.computes_as_neo:
        console.print(
            "model.design has layers or a patch embedding other than NEO-ov's: operations, weights, moments and "
            "gradients above are its own, activations are counted as NEO-ov's and may differ.\n"
        )
    if planned.layout.optimizer == "muon":
        console.print(
            "model.optimizer is muon: what it computes and exchanges once a step, for one row or many, is not in the "
            "times above (docs/running.md).\n"
        )
    full = False
    for stage, outlook in outlooks.items():
        if outlook.needed > device.usable * GIB:
            full = True
            ways = "; or ".join(ways_to_fit(planned, stage, device)) or "none of the ways known here alone is enough"
            console.print(
                f"[bold red]does not fit:[/] stage {stage} needs {outlook.needed / GIB:.1f} GiB a device, "
                f"{device.usable:.1f} are there. What would: {ways}",
                soft_wrap=True,
            )
    return full


def _work(planned: Planned, outlooks: Mapping[str, StageOutlook], device: Device) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Work", title_justify="left")
    rate = f"tokens/s at {device.mfu:.0%} MFU"
    heads = ("stage", "trained", "GFLOP/token", "repeated", "pairs/token", rate, "tokens", "days")
    for head in heads:
        table.add_column(head, justify="left" if head == "stage" else "right")
    for name, outlook in outlooks.items():
        table.add_row(
            escape(name),
            f"{outlook.trained / 1e6:,.1f} M",
            f"{outlook.flops_per_token / 1e9:,.3g}",
            f"+{outlook.repeated:.1%}",
            f"{outlook.row.pairs / outlook.row.tokens:,.0f}",
            f"{outlook.tokens_per_second:,.0f}",
            f"{outlook.tokens / 1e9:,.3g} G",
            f"{outlook.days:,.3g}",
        )
    tokens, days = (sum(values) for values in zip(*((o.tokens, o.days) for o in outlooks.values()), strict=True))
    table.add_section()
    table.add_row("all", "", "", "", "", "", f"{tokens / 1e9:,.3g} G", f"{days:,.3g}")
    return table


def _asking(planned: Planned, outlooks: Mapping[str, StageOutlook], device: Device) -> str:
    """What samples and evaluations while training take of a device, in the stage that leaves the least."""
    from ..training.asking import ROOM, cache_bytes

    weights = planned.layout.gathered(planned.sizes)
    kept = max(o.memory.masters + o.memory.moments + o.memory.averages for o in outlooks.values())
    cache = cache_bytes(planned.config, max(stage.context for stage in planned.stages.values()), planned.layout.width)
    free = device.usable * GIB - kept
    once = "gathered once" if weights <= ROOM * free else "too much of that, so gathered again for every token"
    return (
        f"Asked while it trains (samples, evaluations): the whole weights, {weights / GIB:.1f} GiB on each device of "
        f"which {max(0.0, free) / GIB:.1f} GiB are free then, are {once}; keys and values of a context's tokens take "
        f"{cache / GIB:.1f} GiB."
    )


def _askings(planned: Planned) -> Table:
    """Answers that evaluations want while training; the run says after each how many seconds it took."""
    from rich.markup import escape
    from rich.table import Table

    from ..training.callbacks.evaluating import times_asked
    from ..training.stages import stage_ends

    table = Table(title="Evaluations while training, answered by all devices", title_justify="left")
    for head in ("evaluation", "times", "questions", "answers", "answers a device"):
        table.add_column(head, justify="left" if head == "evaluation" else "right")
    for evaluation in planned.evaluations:
        times, size = times_asked(evaluation, stage_ends(planned.stages)), _size(evaluation)
        answers = 0 if size is None else times * size
        counts = [f"{n:,}" if size else "?" for n in (size or 0, answers, -(-answers // planned.devices))]
        table.add_row(escape(evaluation.name), f"{times:,}", *counts)
    return table


def _size(evaluation: Evaluation) -> int | None:
    """Questions of one asking; None where its data is not here yet."""
    try:
        return evaluation.size()
    except (ValueError, OSError):
        return None


def _memory(outlooks: Mapping[str, StageOutlook]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="GiB a device; the parts do not all fall together", title_justify="left")
    table.add_column("part")
    for name in outlooks:
        table.add_column(escape(name), justify="right")
    for part, heading in PARTS.items():
        if part == "peak":
            table.add_section()
        if part == "averages" and not any(outlook.memory.averages for outlook in outlooks.values()):
            continue
        table.add_row(heading, *(f"{getattr(outlook.memory, part) / GIB:,.2f}" for outlook in outlooks.values()))
    return table


def _traffic(outlooks: Mapping[str, StageOutlook], layout: Layout) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Messages of a device in a step; waits: what no computing hides", title_justify="left")
    for head in (
        "stage",
        f"GB among {layout.shard_size}",
        "GB between copies",
        "GB of shared rows",
        "s computing",
        "s waiting",
        "waits",
    ):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for name, outlook in outlooks.items():
        found = outlook.traffic
        amounts = (found.shared / 1e9, found.copied / 1e9, found.exchanged / 1e9, found.computing, found.waiting)
        table.add_row(escape(name), *(f"{amount:,.3g}" for amount in amounts), f"{found.waits:.1%}")
    return table


def _waiting(planned: Planned) -> Table:
    """What ranks wait for the one with the dearest row."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Time that is work", title_justify="left")
    columns = {"rows as they come": planned.work_shares("none")}
    if planned.balance != "none":
        columns[f"data.balance: {planned.balance}"] = planned.work_shares(planned.balance)
    for head in ("stage", *columns):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for name in planned.stages:
        table.add_row(escape(name), *(f"{shares[name]:.1%}" for shares in columns.values()))
    return table


def _gathered(planned: Planned, device: Device) -> Table:
    """Layers gathered twice a micro-batch, or kept gathered in between, where memory allows it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="keep_gathered", title_justify="left")
    heads = ("stage", "false: GiB", "true: GiB", "false: waits", "true: waits", "best")
    for head in heads:
        table.add_column(head, justify="left" if head == "stage" else "right")
    for name in planned.stages:
        again, kept = (
            planned.outlook(name, device, layout=replace(planned.layout, keep_gathered=keep)) for keep in (False, True)
        )
        fits = kept.memory.peak <= device.usable * GIB
        amounts = (f"{o.memory.peak / GIB:,.1f}" for o in (again, kept))
        waits = (f"{o.traffic.waits:.1%}" for o in (again, kept))
        table.add_row(
            escape(name), *amounts, *waits, "true" if fits and kept.traffic.waits < again.traffic.waits else "false"
        )
    return table


def ways_to_fit(planned: Planned, name: str, device: Device) -> Iterator[str]:
    """Single changes of a recipe with which a stage fits."""
    stage, layout, room = planned.stages[name], planned.layout_of(name), device.usable * GIB

    def fits(**changes: Any) -> bool:
        return planned.outlook(name, device, **changes).needed <= room

    if layout.checkpointing != "full":
        most = planned.config.num_hidden_layers
        selective = [replace(layout, checkpointing="selective", recomputed_layers=n) for n in range(most + 1)]
        n = bisect_left(selective, True, key=lambda changed: fits(layout=changed))
        if n <= most:
            yield f"--model.activation_checkpointing=selective --model.recomputed_layers={n}"
    if layout.shard_size < planned.devices and fits(layout=replace(layout, shard_size=planned.devices)):
        yield f"shard_size {planned.devices} in the strategy"
    more = 2 * planned.devices
    while more <= MOST_DEVICES:
        if fits(devices=more, layout=replace(layout, shard_size=more)):
            yield f"--devices {more}"
            break
        more *= 2
    context = stage.context // 2
    while context >= 1024:
        if fits(stage=replace(stage, context=context)):
            yield f"--stages.{name}.context={context}"
            break
        context //= 2
