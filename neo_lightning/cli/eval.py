"""`neo-lightning eval`: score a model on the papers' benchmarks, or on held-out conversations.

A benchmark is asked in its own words, at its own pixel budgets, with its own decoding (--preset authors), or with the
likeliest token (--preset greedy). Data lie where they are: VLMEvalKit's TSV, JSON Lines, Parquet, shards; or any source
of a manifest. Answers are kept question by question, so the same command goes on after a kill; under `torchrun` the
questions are split. OUT gets scores.json and scores.html.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import UserError, user_errors
from .options import Options

BUDGETS = ("min_pixels", "max_pixels", "fps", "max_frames")


def main(argv: list[str]) -> int:
    """Answer, grade, and write the page."""
    args = _parser().parse_args(argv)
    with user_errors("neo-lightning eval"):
        if args.list:
            _list()
            return 0
        if args.harness:
            from .eval_harness import start

            start(args)
            return 0
        _check(args)
        from ..evaluation.running.ranks import together
        from .eval_run import Scoring

        with together():
            scoring = Scoring(args)
        scoring.run()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Options(prog="neo-lightning eval", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--model", help="model folder, run folder or hf://owner/name; with --base-url its name there")
    parser.add_argument("--adapter", help="folder of a LoRA adapter for the model, such as RUN/adapter")
    parser.add_argument("--benchmark", help="NAME[,NAME]: built in (--list), or module.NAME of your own")
    parser.add_argument(
        "--data", type=Path, help="file or folder of the benchmark's data, or a manifest (with --source)"
    )
    parser.add_argument("--source", help="a manifest's source: its last answers are the right ones")
    parser.add_argument("--metric", help="of --source: exact (default), anls, choice, relaxed, ...")
    parser.add_argument("--media", type=Path, help="folder that names of pictures and clips start at; the data's own")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument("--preset", choices=("authors", "greedy"), help="authors (default of benchmarks) or greedy")
    parser.add_argument("--out", type=Path, help="folder of the scores; RUN/scores, or scores/MODEL")
    parser.add_argument("--compare", metavar="OTHER", help="scores.json of another model, or neo-ov-2b, neo-ov-9b, ...")
    parser.add_argument("--list", action="store_true", help="the benchmarks that are built in")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="questions answered together; 8")
    parser.add_argument("--seed", type=int, default=0, help="of drawn answers; each question has its own draws")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer, in place of the preset's")
    parser.add_argument("--device", help="default cuda where there is one, else cpu")
    budgets = parser.add_argument_group("what is shown, in place of the benchmark's")
    budgets.add_argument("--min-pixels", type=int, help="smallest image")
    budgets.add_argument("--max-pixels", type=int, help="largest image")
    budgets.add_argument("--max-frames", type=int, help="frames of a clip, at most")
    budgets.add_argument("--fps", type=float, help="frames a second; 0: always --max-frames, spread evenly")
    servers = parser.add_argument_group("servers with OpenAI's chat completions ($OPENAI_API_KEY, where there is one)")
    servers.add_argument("--base-url", metavar="URL", help="ask the model there, such as http://localhost:8000/v1")
    servers.add_argument("--judge-url", metavar="URL", help="of a judge, for benchmarks that need one (mmvet)")
    servers.add_argument("--judge-model", metavar="NAME", help="its name there")
    others = parser.add_argument_group("other programs, in whose environment this runs")
    others.add_argument(
        "--harness",
        choices=("vlmevalkit",),
        help="start it with this model: --benchmark has its names of data sets, --data the folder of their TSV files",
    )
    others.add_argument("further", nargs="*", metavar="-- ...", help="more of its own arguments, behind `--`")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot go together, before anything is loaded."""
    if args.further:
        raise UserError(f"neo-lightning eval: unexpected {' '.join(args.further)} (they go with --harness)")
    for name in ("model", "data"):
        if getattr(args, name) is None:
            raise UserError(f"neo-lightning eval: --{name} is missing (neo-lightning eval --help)")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, found {args.limit}")
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, found {args.batch_size}")
    if args.source and args.benchmark:
        raise UserError("--benchmark and --source do not go together: a source is asked as its conversations stand")
    if args.metric and args.benchmark:
        raise UserError("--metric goes with --source; a benchmark has its own")
    if not args.benchmark and not args.source and args.data.suffix != ".tar":
        raise UserError("name a --benchmark NAME (--list shows them), or a manifest's --source NAME")
    if args.base_url and any(getattr(args, name) is not None for name in BUDGETS):
        raise UserError("with --base-url the server has its own pixel and frame budgets; set them there")
    if args.base_url and args.adapter:
        raise UserError("with --base-url the server has its own adapters: name one as --model")
    if bool(args.judge_url) != bool(args.judge_model):
        raise UserError("--judge-url and --judge-model go together")


def _list() -> None:
    from rich.table import Table

    from ..console import table_console
    from ..evaluation.benchmarks import BENCHMARKS, GROUPS

    table = Table("name", "title", "group", "metric", "data files")
    for benchmark in BENCHMARKS.values():
        files = ", ".join(benchmark.files) or "any"
        table.add_row(benchmark.name, benchmark.title, GROUPS[benchmark.group], benchmark.metric, files)
    table_console().print(table)
