"""Held-out questions with one right answer each: exact match per type, the blanked control, and the export's answers.

Every batch is read once and answered up to three times: as it is, with every pixel black (a type that can be answered
without looking shows here), and by the model loaded again from the exported folder and asked as that folder says, whose
answers have to be the same.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.progress import track

from ..answering import Engine, Ranks
from ..answering.decoding import Decoding
from ..data.index import sample_ids
from ..data.manifest import expand_pattern
from ..model.attention_maps import attention_maps
from ..model.neo import Neo
from ..model.prompt import Prompt
from ..types import Sample
from .context import Evaluation, EvaluationContext
from .examples import EXAMPLES_RULE, Example, Gallery
from .metrics import EXACT_MATCH_LAYOUT, RULE, ExactMatch, Score, verdict, wilson_interval
from .questions import Question, batches, open_shards, question, question_type
from .words import label, listing, percent

CONTROL_MARGIN = 0.12
CONTROL_RULE = f"With every pixel black, exact match has to lie within {100 * CONTROL_MARGIN:.0f} points of chance."
MOST_UNITS, MOST_TOKENS = 8, 4096
"""Images and frames, and tokens, of an example up to which the report shows where heads look."""


class SceneEvaluation(Evaluation):
    """Exact match per question type on held-out shards.

    The `meta` of each sample names its question type (`task`), `chance` and optionally `guess`, as
    `neo-lightning data scenes` writes them; any other shards with such `meta` will do.

    Args:
        shards: held-out shards: a file name or a glob or brace pattern, or a list of them.
        name: key of the result in report.json.
        limit: at most this many questions of each type (None: all).
        blank_control: ask again with every pixel black.
        batch_size: questions answered together.
        max_new_tokens: longest answer, in tokens.
        goal: exact match (0-1) from which a type counts as learned.
        goals: goals of single types, in place of `goal`.
        pictures: number of examples with pictures in the report.
        every_n_steps: steps between two askings while training (without the control, the export and the report);
            0: none.
        at: `stage_end` asks at the end of each stage as well.
    """

    def __init__(
        self,
        shards: str | list[str],
        name: str = "scenes",
        limit: int | None = None,
        blank_control: bool = True,
        batch_size: int = 32,
        max_new_tokens: int = 24,
        goal: float = 0.9,
        goals: dict[str, float] | None = None,
        pictures: int = 24,
        every_n_steps: int = 0,
        at: Literal["end", "stage_end"] = "end",
    ) -> None:
        if every_n_steps < 0:
            raise ValueError(f"evaluation {name!r}: every_n_steps must be 0 or more, got {every_n_steps}")
        self.shards = [shards] if isinstance(shards, str) else list(shards)
        self.name = name
        self.limit = limit
        self.blank_control = blank_control
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.goal = goal
        self.goals = dict(goals or {})
        self.pictures = pictures
        self.every_n_steps, self.at = every_n_steps, at
        self._chosen: list[tuple[str, Callable[[], Sample]]] = []

    def check(self) -> None:
        """Refuse patterns that match no shard, and goals of types that none asks."""
        for pattern in self.shards:
            expand_pattern(Path(), pattern, f"evaluation {self.name!r}")
        if self.goals:
            self._choose()

    def size(self) -> int:
        """Questions of one asking."""
        return len(self._choose())

    def scores(self, engine: Engine, ranks: Ranks) -> dict[str, float]:
        """Exact match (0-1) over all questions, as `exact_match`, and of each type."""
        chosen = self._choose()
        metric = ExactMatch([kind for kind, _ in chosen]).to(ranks.device)
        asked: list[Question] = []

        def prompts() -> Iterator[Prompt]:
            for _, read in ranks.share(chosen):
                asked.append(question(read(), engine))
                yield asked[-1].prompt

        for number, said in self._answered(engine, prompts()):
            item = asked[number]
            metric.update([said], [item.truth], [item.kind])
        found = metric.compute()
        overall = Score(sum(score.correct for score in found.values()), sum(score.total for score in found.values()))
        return {"exact_match": overall.accuracy, **{kind: score.accuracy for kind, score in found.items()}}

    def run(self, context: EvaluationContext) -> dict[str, Any]:
        """Answer every question; see the head of this file. Returns rates per type, examples, goals and failures."""
        engine, exported = context.engine, None
        if context.export_dir is not None and context.load_export is not None:
            exported = context.load_export(context.export_dir)
        started = time.perf_counter()
        chosen = self._choose()
        tally = Tally([kind for kind, _ in chosen], Gallery(self.pictures))
        bar = track(batches(chosen, self.batch_size), "answering", total=math.ceil(len(chosen) / self.batch_size))
        for batch in bar:
            samples = [read() for _, read in batch]
            asked = [question(sample, engine) for sample in samples]
            said = self._answers(engine, asked)
            seen = [item for item in asked if self.blank_control and len(item.patches)]
            hidden = self._answers(engine, [item.blanked for item in seen])
            blanked = dict(zip((id(item) for item in seen), hidden, strict=True))
            again = None
            if exported:
                again = self._answers(exported, [question(sample, exported) for sample in samples])
            tally.add(asked, said, [blanked.get(id(item)) for item in asked], again)
        examples = _watched(context.model, tally.gallery.chosen())
        result = self._result(tally) | {"examples": examples, "seconds": round(time.perf_counter() - started, 2)}
        if exported and (other := engine.answering.differences(exported.answering)):
            result["failures"].append(f"the exported model is not asked as the trained one: {', '.join(other)}")
        return result

    def _choose(self) -> list[tuple[str, Callable[[], Sample]]]:
        """Type and reader of every question, `limit` of each type; looked up once."""
        if self._chosen:
            return self._chosen
        seen: Counter[str] = Counter()
        chosen: list[tuple[str, Callable[[], Sample]]] = []
        for source in open_shards(self.shards):
            for place in sample_ids(source):
                kind = question_type(source.read(*place))
                seen[kind] += 1
                if self.limit is None or seen[kind] <= self.limit:
                    chosen.append((kind, partial(source.read, *place)))
        if unknown := set(self.goals) - set(seen):
            raise ValueError(
                f"evaluation {self.name!r}: goals for {listing(sorted(unknown))}; the shards ask {listing(list(seen))}"
            )
        self._chosen = chosen
        return chosen

    def _answers(self, engine: Engine, asked: list[Question]) -> list[str]:
        """Greedy answers of one batch, up to the end of the turn."""
        found = dict(self._answered(engine, (item.prompt for item in asked)))
        return [found[number] for number in range(len(asked))]

    def _answered(self, engine: Engine, prompts: Iterable[Prompt]) -> Iterator[tuple[int, str]]:
        """Number and greedy answer of each prompt, as they end."""
        decoding: Decoding = {"max_new_tokens": self.max_new_tokens, "temperature": 0.0, "repetition_penalty": 1.0}
        for number, text in engine.answered(prompts, at_once=self.batch_size, **decoding):
            yield number, text.strip()

    def _result(self, tally: Tally) -> dict[str, Any]:
        scores = tally.scores.compute()
        blanked = tally.blanked.compute() if tally.blanked.update_called else {}
        types = {}
        for kind, score in scores.items():
            about = tally.about[kind]
            goal = self.goals.get(kind, self.goal)
            said = verdict(score, guess=about.guess, goal=goal)
            control = _rates(blanked[kind]) if kind in blanked and blanked[kind].total else None
            types[kind] = {
                "modality": about.modality,
                **_rates(score),
                "chance": about.chance,
                "guess": about.guess,
                "blanked": control,
                "control_met": abs(control["accuracy"] - about.chance) <= CONTROL_MARGIN if control else None,
                "goal": goal,
                "goal_met": score.accuracy >= goal,
                "verdict": said,
                "learned": said == "learned",
            }
        different = tally.different
        failures = []
        if different:
            failures = [f"the exported model answered {len(different)} of {tally.checked} questions differently"]
        export = {"checked": tally.checked, "same": tally.checked - len(different), "different": different[:20]}
        return {
            "layout": EXACT_MATCH_LAYOUT,
            "rule": RULE,
            "control_rule": CONTROL_RULE,
            "examples_rule": EXAMPLES_RULE,
            "types": types,
            "goals": _goals(types),
            "export": export if tally.checked else None,
            "failures": failures,
        }


class Tally:
    """What is counted while the answers stream by."""

    def __init__(self, kinds: list[str], gallery: Gallery) -> None:
        self.scores, self.blanked = ExactMatch(kinds), ExactMatch(kinds)
        self.gallery = gallery
        self.about: dict[str, Question] = {}
        """First question of each type: it carries the type's modality and chance."""
        self.checked = 0
        self.different: list[dict[str, str]] = []

    def add(self, asked: list[Question], said: list[str], hidden: list[str | None], again: list[str] | None) -> None:
        """Count one batch: answers, answers to black pixels (None: not asked), and the exported model's answers."""
        self.scores.update(said, [item.truth for item in asked], [item.kind for item in asked])
        for item, answer, blind in zip(asked, said, hidden, strict=True):
            self.about.setdefault(item.kind, item)
            if blind is not None:
                self.blanked.update([blind], [item.truth], [item.kind])
            self.gallery.add(Example(asked=item, answer=answer, blanked_answer=blind))
        if again is not None:
            self.checked += len(asked)
            for item, before, after in zip(asked, said, again, strict=True):
                if before != after:
                    self.different.append({"key": item.key, "before": before, "after": after})


def _watched(model: Neo, examples: list[Example]) -> list[Example]:
    """The examples, the first of each type with where the model's heads look."""
    seen: set[str] = set()
    found = []
    for example in examples:
        prompt = example.asked.prompt
        if example.asked.kind not in seen and 0 < len(prompt.grids) <= MOST_UNITS and len(prompt) <= MOST_TOKENS:
            seen.add(example.asked.kind)
            example = replace(example, attention=attention_maps(model, prompt))
        found.append(example)
    return found


def _rates(score: Score) -> dict[str, Any]:
    return {
        "correct": score.correct,
        "total": score.total,
        "accuracy": score.accuracy,
        "interval": list(wilson_interval(*score)),
    }


def _goals(types: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the run set out to reach, and whether it did."""
    goals = []
    for kind, entry in types.items():
        value = {"value": entry["accuracy"], "met": entry["goal_met"]}
        goals.append({"name": f"{label(kind)}: exact match", "goal": f">= {percent(entry['goal'])}", **value})
    for kind, entry in types.items():
        if entry["blanked"]:
            value = {"value": entry["blanked"]["accuracy"], "met": entry["control_met"]}
            goal = f"within {100 * CONTROL_MARGIN:.0f} points of {percent(entry['chance'])}"
            goals.append({"name": f"{label(kind)}: pixels blanked", "goal": goal, **value})
    return goals
