"""A small record, and its planned and real length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neo_lightning.data.facts import SampleFacts, Turn
from neo_lightning.data.index.table import FactsTable
from neo_lightning.data.index.tokens import Counting
from neo_lightning.data.text.lengths import Labels, ShardPartShapes, measure
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import Stage

STAGE = Stage(steps=1, context=1 << 16, packs_per_step=1, mixture={"a": 1.0}, lr=1.0)


def answered(answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer, **more}]}


def planned(turns: Sequence[Turn], tokenizer: Tokenizer, groups: tuple[str, ...]) -> tuple[int, int]:
    """Tokens and supervised tokens that the plan reckons with."""
    facts, labels = SampleFacts(key="a", modality="text", turns=tuple(turns)), Labels(tokenizer)
    table = FactsTable.from_samples([facts], Counting(tokenizer=tokenizer, answer_tokens=groups).count([turns]))
    measures = measure(ShardPartShapes.of(table, labels), labels, STAGE)
    return int(measures.length[0]), int(measures.supervised[0])
