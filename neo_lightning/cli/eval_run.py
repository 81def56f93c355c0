"""`neo-lightning eval`, done: open data and model, answer, grade, write scores.json and scores.html, say the scores."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .eval import BUDGETS

if TYPE_CHECKING:
    from ..answering import Engine
    from ..evaluation.benchmarks import Benchmark
    from ..evaluation.compare import Compared
    from ..evaluation.readers import Rows
    from ..evaluation.running import ChatServer, Job, Scored


@dataclass(frozen=True, kw_only=True)
class Model:
    """Who is asked."""

    name: str
    facts: Mapping[str, Any]
    """Into the settings of every score."""
    out: Path
    """Where scores go if nothing else is said."""
    engine: Engine | None = None
    server: ChatServer | None = None


class Scoring:
    """One command's evaluations, on one process or many."""

    def __init__(self, args: argparse.Namespace) -> None:
        from ..evaluation.compare import find_other
        from ..evaluation.running.ranks import rank_and_world

        self.args = args
        self.rank, self.world = rank_and_world()
        self.tasks = [self._prepared(benchmark) for benchmark in _benchmarks(args)]
        self.other = find_other(args.compare) if args.compare else None
        self.judge = _judge(args, [benchmark for benchmark, _ in self.tasks])
        self.model = _model(args)
        self.out: Path = args.out or self.model.out

    def _prepared(self, benchmark: Benchmark) -> tuple[Benchmark, Rows]:
        from ..evaluation.readers import open_rows, open_source

        args = self.args
        if args.source:
            return benchmark, open_source(args.data, args.source)
        return benchmark, open_rows(args.data, benchmark.files, args.media)

    def run(self) -> None:
        """Answer everything; the first rank then grades and writes."""
        from ..data.owner import owned
        from ..evaluation.compare import compare
        from ..evaluation.running import score
        from ..evaluation.running.ranks import leave, together

        first = self.rank == 0
        with ExitStack() as until_the_end:
            with together():
                if first:
                    lock = owned(self.out / "eval.lock", what=f"the evaluation {self.out}")
                    until_the_end.enter_context(lock)
                scores = self._scores_so_far() if first else {}
                jobs = [self._job(benchmark, rows) for benchmark, rows in self.tasks]
            with together():
                for job, settings in jobs:
                    self._answer(job, settings)
            leave()
            if not first:
                return
            for job, settings in jobs:
                scored = score(job, settings)
                self._keep_pictures(scored, job)
                scores["benchmarks"][job.benchmark.name] = scored.result
                self._write(scores, [])
            if compared := compare(scores, self.out, self.other) if self.other else []:
                self._write(scores, compared)
            self._tell(scores, compared)

    def _scores_so_far(self) -> dict[str, Any]:
        """What earlier evaluations of the same model have written here."""
        file = self.out / "scores.json"
        if not file.is_file():
            return {"name": self.model.name, "model": dict(self.model.facts), "benchmarks": {}}
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["model"] != self.model.facts:
            raise UserError(f"{file} holds scores of another model ({found['name']}); give another --out")
        return found

    def _job(self, benchmark: Benchmark, rows: Rows) -> tuple[Job, dict[str, Any]]:
        from ..evaluation.running import Job, asked_as, settings_of
        from ..evaluation.running.answers import claim

        args = self.args
        decoding = decoding_of(benchmark, args)
        asked = None
        if self.model.engine is not None:
            asked = asked_as(self.model.engine.answering, benchmark, decoding)
            asked = asked.changed(**{name: getattr(args, name) for name in BUDGETS})
            benchmark = replace(benchmark, image=asked.image, video=asked.video)
        settings = settings_of(
            benchmark,
            asked=asked,
            decoding=decoding,
            preset=args.preset or ("authors" if args.benchmark else "greedy"),
            seed=args.seed,
            rows=rows,
            model=self.model.facts,
        )
        if self.judge and benchmark.metric == "judged":
            settings["judge"] = {"model": self.judge.model}
        job = Job(
            benchmark=benchmark,
            rows=rows,
            folder=self.out / benchmark.name,
            limit=args.limit,
            batch_size=args.batch_size,
            rank=self.rank,
            world=self.world,
        )
        if self.rank == 0:
            claim(job.folder, settings)
        return job, settings

    def _answer(self, job: Job, settings: Mapping[str, Any]) -> None:
        from ..evaluation.running import EngineAnswerer, ServerAnswerer, answer_all, judge_all

        title, decoding = job.benchmark.title or job.benchmark.name, settings["decoding"]
        answerer: EngineAnswerer | ServerAnswerer
        if self.model.engine is not None:
            answerer = EngineAnswerer(self.model.engine, job.benchmark, decoding, self.args.seed)
        else:
            assert self.model.server is not None
            answerer = ServerAnswerer(self.model.server, job.benchmark, decoding, self.args.seed)
        with progress(f"{title}: answers", -(-len(job) // job.world), shown=self.rank == 0) as told:
            answer_all(job, answerer, told)
        if job.benchmark.metric == "judged" and self.rank == 0 and self.judge:
            with progress(f"{title}: judge", len(job), shown=True) as told:
                judge_all(job, self.judge, told)

    def _keep_pictures(self, scored: Scored, job: Job) -> None:
        from ..report.scores import save_pictures

        names = save_pictures([mistake.item for mistake in scored.mistakes], job.folder)
        for mistake, name in zip(scored.result["mistakes"], names, strict=True):
            mistake["picture"] = name

    def _write(self, scores: Mapping[str, Any], compared: list[Compared]) -> None:
        from ..data.files import replacing
        from ..report.scores import render_scores

        page = render_scores(scores, self.out, self.other, compared)
        for name, text in (
            ("scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n"),
            ("scores.html", page),
        ):
            with replacing(self.out / name) as copy:
                copy.write_text(text, encoding="utf-8", errors="replace")

    def _tell(self, scores: Mapping[str, Any], compared: list[Compared]) -> None:
        from rich.table import Table

        from ..console import table_console
        from ..evaluation.running.score import all_of
        from ..report.scores.page import percent

        ours = {name: scores["benchmarks"][name] for name in (benchmark.name for benchmark, _ in self.tasks)}
        beside = {entry.name: entry for entry in compared if entry.name in ours}
        table = Table("benchmark", "score", "95% interval", "questions", "metric", *self._other_columns())
        for name, result in ours.items():
            low, high = result["interval"]
            row = [percent(result["score"]), f"{percent(low)} to {percent(high)}", f"{result['questions']:,}"]
            if self.other:
                row += _beside(beside.get(name))
            table.add_row(result["title"], *row[:3], result["headline"], *row[3:])
        table_console().print(table)
        for entry in beside.values():
            for line in entry.differs:
                print(f"{ours[entry.name]['title']}, settings: {line}")
        for line in all_of(ours.values()):
            print(f"not whole: {line}", file=sys.stderr)
        print(f"{self.out / 'scores.html'}: open it in a browser")

    def _other_columns(self) -> list[str]:
        return [self.other.name, "difference", "paired, 95%"] if self.other else []


def _beside(entry: Any) -> list[str]:
    from ..report.scores.page import percent

    if entry is None:
        return ["–", "–", "–"]
    paired = "–"
    if entry.paired is not None:
        mean, low, high = entry.paired
        paired = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [percent(entry.theirs), f"{100 * entry.difference:+.1f}", paired]


def decoding_of(benchmark: Benchmark, args: argparse.Namespace) -> dict[str, float]:
    """How answers are chosen, by the preset and what the command says otherwise."""
    from ..evaluation.benchmarks import LIKELIEST

    found = dict(benchmark.decoding)
    if args.preset == "greedy":
        found = {**LIKELIEST, "max_new_tokens": min(found["max_new_tokens"], LIKELIEST["max_new_tokens"])}
    if args.max_new_tokens is not None:
        found["max_new_tokens"] = args.max_new_tokens
    return found


def _benchmarks(args: argparse.Namespace) -> list[Benchmark]:
    from ..evaluation.benchmarks import find_benchmark, of_conversations

    if args.benchmark:
        return [find_benchmark(name.strip()) for name in args.benchmark.split(",") if name.strip()]
    return [of_conversations(args.source or args.data.stem, args.metric or "exact")]


def _judge(args: argparse.Namespace, benchmarks: list[Benchmark]) -> ChatServer | None:
    from ..evaluation.running import ChatServer

    if needs := [benchmark.name for benchmark in benchmarks if benchmark.metric == "judged"]:
        if not args.judge_url:
            raise UserError(
                f"{needs[0]} is graded by a judge, another model: give --judge-url URL (OpenAI's chat completions) and "
                "--judge-model NAME"
            )
        return ChatServer(args.judge_url, args.judge_model)
    return None


def _model(args: argparse.Namespace) -> Model:
    from ..evaluation.running import ChatServer, model_facts

    if args.base_url:
        server = ChatServer(args.base_url, args.model)
        facts = {"name": args.model, "server": args.base_url}
        return Model(name=args.model, facts=facts, out=Path("scores") / _file_name(args.model), server=server)
    from ..answering import load
    from ..checkpoint.adapters import adapter_folder
    from ..checkpoint.read import model_folder

    source, out = args.model, Path("scores") / _file_name(args.model)
    run = Path(args.model)
    if run.is_dir() and not (run / "config.json").is_file():
        if not (run / "export" / "config.json").is_file():
            raise UserError(
                f"{run} is no model folder (config.json) and has no export; a run that is under way is exported with "
                f"`neo-lightning model export --run {run} --out FOLDER`"
            )
        source, out = str(run / "export"), run / "scores"
    device = args.device
    if device is None and "LOCAL_RANK" in os.environ:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    engine = load(source, device=device, adapter=args.adapter)
    if args.adapter is None:
        return Model(name=args.model, facts=model_facts(model_folder(source)), out=out, engine=engine)
    facts = model_facts(model_folder(source), adapter := adapter_folder(args.adapter))
    label = adapter.parent.name if adapter.name == "adapter" and adapter.parent.name else adapter.name
    out = out.with_name(f"{out.name}-{label}")
    return Model(name=f"{args.model} with {args.adapter}", facts=facts, out=out, engine=engine)


def _file_name(name: str) -> str:
    return Path(name.rstrip("/")).name or "model"


@contextmanager
def progress(title: str, total: int, *, shown: bool) -> Iterator[Any]:
    """A bar with the time left; gives a function that is told how many more are done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
