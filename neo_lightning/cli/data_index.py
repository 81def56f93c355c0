"""`neo-lightning data index | check`: make the index of a manifest's shards, and say what is left out and why."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any


def add_commands(commands: Any) -> None:
    """Add both to the data commands' parser."""
    index = commands.add_parser("index", help="index a manifest's shards: what is new or changed")
    index.add_argument("manifest")
    index.add_argument("--tokenizer", help="count the tokens of the text, too: a folder, or hf://owner/name")
    index.add_argument("--workers", type=int, default=None, help="processes; default one a core")
    index.set_defaults(function=_index)

    check = commands.add_parser(
        "check", help="what of a manifest's shards is left out and why; status 1 if anything is"
    )
    check.add_argument("manifest")
    check.add_argument("--decode", action="store_true", help="decode every image and frame, too")
    check.add_argument("--json", action="store_true", help="for machines: every key with its reason")
    check.add_argument("--workers", type=int, default=None, help="processes; default one a core")
    check.set_defaults(function=_check)


def _index(args: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from neo_lightning.data.text.tokenizer import Tokenizer

    from ..console import table_console
    from ..data.index.make import ensure_index
    from ..data.index.progress import ProgressBar
    from ..data.index.source import counted, counting_of
    from ..data.manifest import load_manifest
    from ..data.store import Store

    manifest = load_manifest(args.manifest)
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else None
    store, started = Store(manifest.store), time.perf_counter()
    table = Table(title=escape(f"Index of {args.manifest}"), title_justify="left")
    for column in ("source", "shards", "GB", "samples", "left out", "by modality"):
        table.add_column(column, justify="left" if column in ("source", "by modality") else "right")
    for spec in manifest.sources.values():
        if spec.class_path:
            own = f"your own class {spec.class_path}: nothing to index"
            table.add_row(escape(spec.name), "-", "-", "-", "-", escape(own))
            continue
        with ProgressBar(spec.name) as progress:
            counting = counting_of(manifest, spec.name, tokenizer) if tokenizer else None
            index = ensure_index(
                spec.shards, spec.modality, store, counting, progress, args.workers, ignore=spec.ignore
            )
            if index.unused:
                progress.note(f"source {spec.name!r}: what samples say without effect: {counted(index.unused)}")
        table.add_row(
            escape(spec.name),
            f"{len(index.shards):,}",
            f"{sum(s.size for s in index.summaries) / 1e9:.2f}",
            f"{index.samples:,}",
            f"{sum(s.left_out for s in index.summaries):,}",
            ", ".join(f"{count:,} {modality}" for modality, count in index.modalities.items()),
        )
    console = table_console()
    console.print(table)
    console.print(f"{time.perf_counter() - started:.1f} s", highlight=False)


def _check(args: argparse.Namespace) -> int:
    from ..data.index.adapted import build_source
    from ..data.index.check import check_class_source, check_source
    from ..data.index.progress import ProgressBar
    from ..data.manifest import load_manifest
    from ..data.store import Store

    manifest = load_manifest(args.manifest)
    reports = {}
    for spec in manifest.sources.values():
        if spec.class_path:
            reports[spec.name] = check_class_source(build_source(spec), decode=args.decode)
            continue
        store = Store(manifest.store)
        with ProgressBar(spec.name) as progress:
            reports[spec.name] = check_source(
                *(spec.shards, spec.modality, store, progress),
                decode=args.decode,
                workers=args.workers,
                ignore=spec.ignore,
            )
    if args.json:
        print(json.dumps({name: report.to_dict() for name, report in reports.items()}, indent=1))
    else:
        _print(reports)
    return int(any(report.refused or report.left_out for report in reports.values()))


def _print(reports: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..console import table_console
    from ..data.facts import reason_kind
    from ..data.index.source import counted

    table = Table(title="What is left out", title_justify="left")
    for column in ("source", "why", "samples", "for example"):
        table.add_column(column, justify="right" if column == "samples" else "left", overflow="fold")
    for name, report in reports.items():
        for shard, reason in report.refused.items():
            table.add_row(escape(name), escape(reason), "all", escape(shard))
        counts = Counter(reason_kind(reason) for _, reason in report.left_out)
        examples = {reason_kind(reason): (key, reason) for key, reason in reversed(report.left_out)}
        for kind, count in counts.most_common():
            key, reason = examples[kind]
            table.add_row(escape(name), escape(kind), f"{count:,}", f"{escape(key)}: {escape(reason)}")
    console = table_console()
    if table.row_count:
        console.print(table)
    kept, lost = (sum(n) for n in ([r.samples for r in reports.values()], [len(r.left_out) for r in reports.values()]))
    refused = sum(len(report.refused) for report in reports.values())
    for name, report in reports.items():
        if report.unused:
            said = f"{name}: what samples say without effect: {counted(report.unused)}"
            console.print(said, markup=False, highlight=False, soft_wrap=True)
        if report.read is not None:
            found = ", ".join(f"{count:,} {modality}" for modality, count in report.modalities.items()) or "no"
            console.print(f"{escape(name)}, your own class: {found} samples, {report.read:,} of them read")
    console.print(f"{kept:,} samples can be used, {lost:,} are left out; {refused} shards are refused", highlight=False)
