"""Held-out conversations: a manifest's source, or shards. Each one's last answer is the right one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...data.facts import SampleError, costs_one_sample
from ...data.index import Source, sample_ids
from ...types import Message
from .row import Row, Unread


class ConversationRows:
    """Usable samples of a source in its order, behind those that its index leaves out."""

    def __init__(self, source: Source) -> None:
        self._source, self.name, self.digest = source, source.name, source.digest

    def __len__(self) -> int:
        parts = range(self._source.shard_parts)
        return len(self._source.skipped) + sum(self._source.shard_part_size(part) for part in parts)

    def __iter__(self) -> Iterator[Row | Unread]:
        for key, reason in self._source.skipped:
            yield Unread(key=key, where=f"source {self.name}, {key}", reason=reason)
        for part, sample_index in sample_ids(self._source):
            facts = self._source.facts(part, sample_index)
            yield Row(
                key=facts.key,
                where=f"source {self.name}, {facts.key}",
                fields=dict(facts.meta),
                turns=facts.turns,
                messages=partial(self._read, part, sample_index),
            )

    def _read(self, part: int, sample_index: int) -> tuple[Message, ...]:
        with costs_one_sample(kind=SampleError):
            return self._source.read(part, sample_index).messages
