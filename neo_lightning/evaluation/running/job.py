"""All questions of a benchmark, answered once each.

Questions are split into batches by their number in the data, and batches go round the ranks: so a batch holds the same
questions for any number of processes, and after a kill as well. Whoever has an answer on disk is not asked again; a
question that could not be put is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ...data.facts import SampleError
from ...types import Message
from ..benchmarks import LIKELIEST, Benchmark
from ..item import Item
from ..metrics.judged import grade_of, judge_question
from ..questions import batches
from ..readers import Row, Rows, Unread
from .answers import GRADES, Log, answers_file, read_answers, read_log
from .ask import Answerer
from .server import ChatServer

Told = Callable[[int], None]
"""Is told how many more questions are done."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A benchmark on its data."""

    benchmark: Benchmark
    rows: Rows
    folder: Path
    """For answers and grades."""
    limit: int | None = None
    """Only so many rows, from the first on."""
    batch_size: int = 8
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        """Rows that are looked at."""
        return len(self.rows) if self.limit is None else min(self.limit, len(self.rows))

    def entries(self) -> Iterator[Item | Unread]:
        """The benchmark's rows as questions, or why one is none. A key that stands twice gets the row's number."""
        seen: set[str] = set()
        for number, row in enumerate(islice(self.rows, self.limit)):
            if isinstance(row, Row) and not self.benchmark.has(row):
                continue
            try:
                entry = row if isinstance(row, Unread) else self.benchmark.item(row, number)
            except SampleError as error:
                entry = Unread(key=row.key, where=row.where, reason=str(error))
            if entry.key in seen:
                entry = replace(entry, key=f"{entry.key}#{number}")
            seen.add(entry.key)
            yield entry


def answer_all(job: Job, answerer: Answerer, told: Told = lambda _: None) -> None:
    """Ask this rank's share of what has no answer yet.

    Raises:
        RetryError: a store or server did not deliver; the same call goes on from there.
        ValueError: a file of answers is damaged, or a server is not what it should be.
    """
    done = {key for key, record in read_answers(job.folder).items() if "answer" in record}
    log = Log(job.folder / answers_file(job.rank))
    try:
        for number, batch in enumerate(batches(job.entries(), job.batch_size)):
            if number % job.world != job.rank:
                continue
            left = [entry for entry in batch if isinstance(entry, Item) and entry.key not in done]
            if left:
                replies = zip(left, answerer.answer(left), strict=True)
                log.append(
                    {"key": item.key, "reason": reply.reason}
                    if reply.reason
                    else {"key": item.key, "answer": reply.answer}
                    for item, reply in replies
                )
            told(len(batch))
    finally:
        log.close()


def judge_all(job: Job, judge: ChatServer, told: Told = lambda _: None) -> None:
    """Have every answer graded that no judge has graded yet; a reply without a grade is kept as it is."""
    answers, log = read_answers(job.folder), Log(job.folder / GRADES)
    done = read_log([job.folder / GRADES])

    def graded(item: Item) -> dict[str, str | float | None]:
        asked = judge_question(item.question, " <OR> ".join(item.answers), str(answers[item.key]["answer"]))
        words = (Message(role="user", parts=(asked,)),)
        reply = judge.answer(words, {**LIKELIEST, "max_new_tokens": 16})
        return {"key": item.key, "grade": grade_of(reply), "reply": reply[:200]}

    try:
        with ThreadPoolExecutor(job.batch_size) as threads:
            for batch in batches(job.entries(), job.batch_size):
                left = [
                    e for e in batch if isinstance(e, Item) and "answer" in answers.get(e.key, ()) and e.key not in done
                ]
                log.append(threads.map(graded, left))
                told(len(batch))
    finally:
        log.close()
