"""`neo-lightning data plan | stats`: what a recipe will train on, and what a manifest holds; nothing is decoded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..data.datamodule import NeoDataModule
    from ..data.index import Source
    from ..data.index.table import FactsTable
    from ..data.plan.report import StageReport

PACKS = 2048
"""Looked at in each stage."""

SHARD_PARTS = 64
"""Looked at in each source."""

_BAR = 40


def add_commands(commands: Any) -> None:
    """Add both to the data commands' parser."""
    plan = commands.add_parser(
        "plan", recipe=True, help="what each stage of a recipe will show: fill, mixture, epochs, balance"
    )
    plan.add_argument("recipe", help="a file or a shipped name; overrides follow it, as for `lightning run`")
    plan.add_argument("--ranks", type=int, default=1, help="share each step's packs among so many")
    plan.add_argument("--packs", type=int, default=PACKS, help=f"to look at in each stage; {PACKS}")
    plan.set_defaults(function=_plan)

    stats = commands.add_parser("stats", help="lengths, turns, image sizes and clips of a manifest's samples")
    stats.add_argument("manifest")
    stats.add_argument("--tokenizer", help="count tokens instead of characters: a folder, or hf://owner/name")
    stats.set_defaults(function=_stats)


def _plan(args: argparse.Namespace) -> None:
    from neo_lightning.data.text.lengths import ShardPartLengths

    from ..console import table_console
    from ..data.plan import Balance, Plan
    from ..data.plan.report import look_at_stage, share_of_work
    from ..types import CostRatio, Stage
    from .errors import UserError

    if args.ranks < 1:
        raise UserError(f"--ranks must be at least 1, got {args.ranks}")
    data = data_of([args.recipe, *args.overrides])
    groups = max(1, args.ranks // data.parts)
    sources = data.sources(validation=False)
    ratios = {id(stage): data.costs.get(name, CostRatio()) for name, stage in data.stages.items()}
    lengths = ShardPartLengths(sources, data.tokenizer, lambda *_: None, lambda stage: ratios[id(stage)])
    console = table_console()
    for name, stage in data.stages.items():

        def plan(balance: Balance, name: str = name, stage: Stage = stage) -> Plan:
            one = {name: stage}
            return Plan(one, sources, lengths, data.seed, lanes=data.lanes, costs_of=lengths.costs, balance=balance)

        found = look_at_stage(plan(data.balance), stage, lengths.measures, most_packs=args.packs)
        console.print(_stage_table(name, found, {s: sources[s].modality for s in stage.mixture}, stage.mixture_unit))
        million = found.tokens / 1e6
        looked = "" if found.planned == found.packs else f" (looked at {found.planned:,})"
        work = ""
        if groups > 1:
            ways: tuple[Balance, Balance] = (data.balance, "none")
            dealt, as_they_come = (
                share_of_work(plan(way), stage, ranks=groups, lockstep=data.lockstep, most_packs=args.packs)
                for way in ways
            )
            work = f", {args.ranks} ranks work {dealt:.1%} of their time (rows as they come: {as_they_come:.1%})"
        console.print(
            f"{stage.steps:,} steps, {found.packs:,} packs of {stage.row_tokens:,}{looked}: fill {found.fill:.2%}, "
            f"{million:,.1f} M tokens, {found.supervised:.1%} supervised{work}\n",
            highlight=False,
        )
        if (idle := data.parts * (groups - stage.packs_per_step)) > 0:
            console.print(
                f"{idle} of {args.ranks} ranks have no row in any step of stage {name}: "
                f"stages.{name}.packs_per_step is {stage.packs_per_step}\n",
                markup=False,
            )


def data_of(argv: list[str]) -> NeoDataModule:
    """A recipe's data module, built without its model and trainer; it knows what documents cost the model."""
    from ..data.datamodule import NeoDataModule
    from ..model.lora import Lora
    from ..training.build import Init, read_config
    from ..training.costs import document_costs
    from ..training.module import NeoModule
    from .arguments import parse
    from .errors import UserError
    from .parser import NeoCLI, build_stage
    from .planned import strategy_sizes

    class DataOnly(NeoCLI):
        def instantiate_classes(self) -> None:
            """Build the data module alone."""
            stages = {name: build_stage(name, stage.as_dict()) for name, stage in self.config["stages"].items()}
            settings = {k: v for k, v in self.config["data"].as_dict().items() if k != "stages"}
            if self._datamodule_class is not NeoDataModule:
                raise UserError("data.class_path: only NeoDataModule has a plan")
            self.datamodule = NeoDataModule(stages=stages, **settings)
            shard_size, parts = strategy_sizes(self.config["trainer"].as_dict())
            self.datamodule.lockstep = shard_size and shard_size // parts
            self.datamodule.parts = parts

    cli = DataOnly(parse(argv))
    if isinstance(cli._model_class, type) and issubclass(cli._model_class, NeoModule):
        model = cli.config["model"].as_dict()
        try:
            config = read_config(model.get("model"), Init(**(model.get("init") or {})))
        except (ValueError, OSError) as error:
            print(
                f"documents cost what they cost the 2B, as the recipe's model cannot be read: {error}", file=sys.stderr
            )
        else:
            lora = Lora(**model["lora"]) if model.get("lora") else None
            cli.datamodule.costs = document_costs(config, cli.datamodule.stages, lora)
            cli.datamodule.rule = config.rule
    return cli.datamodule


def _stage_table(name: str, found: StageReport, modalities: Mapping[str, str], unit: str) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Stage {escape(name)}", title_justify="left")
    columns = ("source", "modality", f"asked ({unit})", "samples", "tokens", "supervised", "epochs", "left out")
    for column in columns:
        table.add_column(column, justify="left" if column in ("source", "modality") else "right")
    for source, report in found.sources.items():
        table.add_row(
            escape(source),
            modalities[source],
            *(f"{share:.1%}" for share in (report.asked, report.samples, report.tokens, report.supervised)),
            f"{report.epochs:.2f}",
            f"{report.left_out:,} of {report.looked_at:,}",
        )
    return table


def _stats(args: argparse.Namespace) -> None:
    from neo_lightning.data.text.tokenizer import Tokenizer

    from ..console import table_console
    from ..data.index import open_source
    from ..data.index.progress import ProgressBar
    from ..data.manifest import load_manifest

    manifest = load_manifest(args.manifest)
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else None
    console = table_console()
    for name in manifest.sources:
        with ProgressBar(name) as progress:
            source = open_source(manifest, name, tokenizer=tokenizer, progress=progress)
        total = sum(map(source.shard_part_size, range(source.shard_parts)))
        console.print(f"\n{name} ({source.modality}): {total:,} samples", style="bold", markup=False, highlight=False)
        for title, values in facts_of(source, "tokens" if tokenizer else "characters").items():
            for line in histogram(title, values):
                console.print(line, markup=False, highlight=False)


def facts_of(source: Source, text: str) -> dict[str, np.ndarray]:
    """Title -> a number for each sample, image or clip, from up to 64 shard parts spread evenly over a source."""
    tables = [
        source.shard_part_facts(shard_part)
        for shard_part in range(0, source.shard_parts, max(1, -(-source.shard_parts // SHARD_PARTS)))
    ]
    found = {f"{text} of text": _joined(_text(table, text) for table in tables)}
    found["turns"] = _joined(np.diff(table.turn_splits) for table in tables)
    media = _joined(table.media_counts for table in tables)
    clips = _joined(table.media_kind for table in tables) == 1
    sides = [
        _joined(getattr(table, f"media_{side}") for table in tables).astype(np.float64) for side in ("width", "height")
    ]
    if len(clips):
        found["images and clips a sample"] = media
        found["image: megapixels"] = (sides[0] * sides[1] / 1e6)[~clips]
        found["image: width / height"] = (sides[0] / sides[1])[~clips]
        found["clip: seconds"] = _joined(table.media_duration for table in tables)[clips]
        found["clip: frames"] = _joined(np.diff(table.tick_splits) for table in tables)[clips]
        found["clip: height"] = sides[1][clips]
    return {title: values for title, values in found.items() if len(values)}


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _text(table: FactsTable, unit: str) -> np.ndarray:
    if unit == "tokens":
        return table.text_tokens
    total = np.concatenate([[0], np.cumsum(table.turn_characters, dtype=np.int64)])
    return np.diff(total[table.turn_splits])


def histogram(title: str, values: np.ndarray) -> Iterator[str]:
    """Lines of a histogram with bins that double."""
    middle, high = np.percentile(values, [50, 99])
    yield f"  {title}: mean {values.mean():.4g}, median {middle:.4g}, 99% {high:.4g}, most {values.max():.4g}"
    exponents = np.floor(np.log2(np.maximum(values, 2.0**-10))).astype(int)
    counts = np.bincount(exponents - exponents.min())
    if len(counts) == 1:
        return
    for i, count in enumerate(counts.tolist()):
        low = 2.0 ** (exponents.min() + i)
        bar = "█" * round(_BAR * count / counts.max()) or "▏" * (count > 0)
        yield f"    {low:>8.4g} - {2 * low:<8.4g} {bar} {count:,}"
