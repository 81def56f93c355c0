"""A benchmark, or held-out conversations of one's own, as an evaluation of a recipe: while training, and at its end.

    evaluation:
      - class_path: neo_lightning.evaluation.BenchmarkEvaluation
        init_args: {data: my_data.yaml, source: held_out_image, metric: anls, every_n_steps: 200}

What `neo-lightning eval` does beside this (resumed question by question, pages with the wrong answers, judges) wants a
finished model folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..answering import Engine, Ranks
from ..data.facts import SampleError
from ..model.prompt import Prompt
from .benchmarks import LIKELIEST, find_benchmark, of_conversations
from .benchmarks.words import messages_of
from .context import Evaluation, EvaluationContext
from .item import Item
from .metrics import METRICS
from .metrics.grades import GradeMetric
from .readers import Rows, Unread, open_rows, open_source
from .running import Job, asked_as


class BenchmarkEvaluation(Evaluation):
    """Scores of a benchmark's metric.

    Args:
        data: file or folder of a benchmark, shards, or with `source` a manifest.
        benchmark: name of a built-in one, or `module.NAME` of one's own.
        source: of the manifest, in place of `benchmark`: its conversations are asked as they stand.
        metric: of a source; see `evaluation.metrics`.
        name: key of the result; by default the benchmark's or source's name.
        limit: only so many rows, from the first on.
        batch_size: most questions that a rank answers at the same time.
        max_new_tokens: longest answer; tokens are the likeliest ones, also where the benchmark draws them.
        every_n_steps: steps between two askings while training; 0: none.
        at: `stage_end` asks at the end of each stage as well.
    """

    def __init__(
        self,
        data: str,
        benchmark: str | None = None,
        source: str | None = None,
        metric: str = "exact",
        name: str | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        max_new_tokens: int = 512,
        every_n_steps: int = 0,
        at: Literal["end", "stage_end"] = "end",
    ) -> None:
        if benchmark and source:
            raise ValueError("evaluation: give a benchmark or a source, not both")
        if every_n_steps < 0 or batch_size < 1 or max_new_tokens < 1 or (limit is not None and limit < 1):
            raise ValueError("evaluation: need every_n_steps >= 0, and batch_size, max_new_tokens and limit >= 1")
        self.data, self.source, self.limit = Path(data), source, limit
        self.benchmark = find_benchmark(benchmark) if benchmark else of_conversations(source or self.data.stem, metric)
        if self.benchmark.metric == "judged":
            raise ValueError(
                f"evaluation: {self.benchmark.name} is graded by a judge, which no training waits for: score the "
                "export with `neo-lightning eval --judge-url URL`"
            )
        self.name = name or self.benchmark.name
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.every_n_steps, self.at = every_n_steps, at
        self._counted: tuple[int, int] | None = None

    def check(self) -> None:
        """Refuse data that are not there or hold no question."""
        self.size()

    def size(self) -> int:
        """Questions of one asking."""
        return self._count()[0]

    def scores(self, engine: Engine, ranks: Ranks) -> dict[str, float]:
        """The metric's headline and its other scores; behind them the headline of each category."""
        whole, parts = self._graded(engine, ranks)
        found = {name: float(score) for name, score in whole.compute().items()}
        return found | {name: float(part.compute()[part.headline]) for name, part in sorted(parts.items())}

    def run(self, context: EvaluationContext) -> dict[str, Any]:
        """The same of the finished model, with the 95% interval and how many rows could not be asked."""
        whole, parts = self._graded(context.engine, Ranks())
        scores = {name: float(score) for name, score in whole.compute().items()}
        low, high = whole.interval()
        questions, unread = self._count()
        asked = sum(len(part) for part in whole.grades)
        return {
            "metric": whole.headline,
            **scores,
            "95% interval": f"{low:.4f} to {high:.4f}",
            "questions": asked,
            "rows not asked": unread + questions - asked,
            **{
                f"{name}: {part.headline}": float(part.compute()[part.headline]) for name, part in sorted(parts.items())
            },
        }

    def _count(self) -> tuple[int, int]:
        """Questions, and rows that are none; counted once."""
        if self._counted is None:
            entries = unread = 0
            first = ""
            for entry in self._entries():
                entries += 1
                if not isinstance(entry, Item):
                    unread += 1
                    first = first or f"; the first: {entry.where}: {entry.reason}"
            if entries == unread:
                raise ValueError(f"evaluation {self.name!r}: {self.data} holds no question{first}")
            self._counted = entries - unread, unread
        return self._counted

    def _entries(self) -> Iterator[Item | Unread]:
        job = Job(benchmark=self.benchmark, rows=self._rows, folder=Path(), limit=self.limit)
        return job.entries()

    def _items(self) -> Iterator[Item]:
        """The questions, one after the other: an item of a table holds its row, pictures and all."""
        return (entry for entry in self._entries() if isinstance(entry, Item))

    @cached_property
    def _rows(self) -> Rows:
        """Opened once, which reads all of a file to find its rows."""
        if self.source:
            return open_source(self.data, self.source)
        return open_rows(self.data, self.benchmark.files)

    def _graded(self, engine: Engine, ranks: Ranks) -> tuple[GradeMetric, Mapping[str, GradeMetric]]:
        """All answers of all ranks, graded on each: as a whole, and by category where there are several."""
        answers = dict(ranks.gather(self._answers(engine, ranks)))
        whole = METRICS[self.benchmark.metric](sync_on_compute=False)
        parts: dict[str, GradeMetric] = {}
        for place, item in enumerate(self._items()):
            if place in answers:
                names = [name for name in item.categories if name not in parts]
                parts |= {name: METRICS[self.benchmark.metric](sync_on_compute=False) for name in names}
                for metric in (whole, *(parts[name] for name in item.categories)):
                    metric.update([answers[place]], [item])
        if not answers:
            raise ValueError(f"evaluation {self.name!r}: the media of no question can be read")
        return whole, parts if len(parts) > 1 else {}

    def _answers(self, engine: Engine, ranks: Ranks) -> list[tuple[int, str]]:
        """Place and answer of this rank's questions; of one whose media cannot be read there is none."""
        decoding = {**LIKELIEST, "max_new_tokens": self.max_new_tokens}
        asked = engine.asked(asked_as(engine.answering, self.benchmark, decoding))
        places: list[int] = []
        mine = set(ranks.share(range(self.size())))

        def prompts() -> Iterator[Prompt]:
            for place, item in enumerate(self._items()):
                if place in mine and (prompt := self._prompt(asked, item)) is not None:
                    places.append(place)
                    yield prompt

        return [(places[number], text) for number, text in asked.answered(prompts(), at_once=self.batch_size)]

    def _prompt(self, engine: Engine, item: Item) -> Prompt | None:
        try:
            return engine.prompt(messages_of(item, self.benchmark))
        except SampleError:
            return None
