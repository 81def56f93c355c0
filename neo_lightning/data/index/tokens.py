"""The text of indexed samples -> how many tokens each turn has, by one tokenizer.

Kept apart from the facts, so that another tokenizer, or other tokens that answers may use, need no new pass over the
shards. Counted by the same code that makes a sample's outline: a turn's tokens are those in front of and behind it, its
role line and its text, without its media.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from neo_lightning.data.facts import Turn
from neo_lightning.data.index import sidecar
from neo_lightning.data.index.sidecar import Summary
from neo_lightning.data.index.table import FACTS, FactsTable, parse_content, usable
from neo_lightning.data.text.answers import DEFAULT_ANSWER_TOKENS, mark_answers
from neo_lightning.data.text.serialize import make_outlines
from neo_lightning.data.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How tokens are counted."""

    tokenizer: Tokenizer
    answer_tokens: tuple[str, ...] = DEFAULT_ANSWER_TOKENS
    """Groups of `answers.ANSWER_TOKENS` that an answer's text may use."""

    @property
    def digest(self) -> str:
        """Of both."""
        return hashlib.sha256("\0".join([self.tokenizer.digest, *sorted(self.answer_tokens)]).encode()).hexdigest()

    def count(self, samples: Sequence[Sequence[Turn]]) -> list[np.ndarray]:
        """Tokens of each turn of each sample, int32."""
        return count_tokens([mark_answers(turns, self.answer_tokens) for turns in samples], self.tokenizer)


def count_tokens(samples: Sequence[Sequence[Turn]], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Tokens of each turn of each sample, int32."""
    counts = []
    for outline in make_outlines(samples, tokenizer):
        starts = np.flatnonzero(outline.ids == tokenizer.im_start_id)  # plain text cannot spell this token
        counts.append(np.add.reduceat(outline.ids >= 0, starts, dtype=np.int32))
    return counts


def write_tokens(file: Path, summary: Summary, counting: Counting) -> Path:
    """Count the tokens of an indexed shard and write them beside its sidecar; returns the file.

    Raises:
        FileNotFoundError, IndexDamaged: the sidecar cannot be read.
    """
    tokens: list[np.ndarray] = []
    for shard_part in range(len(summary.shard_parts)):
        table = usable(sidecar.read_rows(file, shard_part, [*FACTS, "content"], summary.digest))
        try:
            media = FactsTable.from_arrow(table).media_counts.tolist()
            contents = table.column("content").to_pylist()
            turns = [parse_content(text, count)[0] for text, count in zip(contents, media, strict=True)]
        except (ValueError, TypeError, RecursionError) as error:
            raise sidecar.IndexDamaged(f"{file}: {error}") from error
        tokens += counting.count(turns)
    target = sidecar.tokens_of(file, counting.digest, summary.digest)
    column = pa.array(tokens, pa.list_(pa.int32()))
    metadata = json.dumps({"counting": counting.digest, "index": summary.digest})
    sidecar.write_table(target, pa.table({"tokens": column}), summary.shard_parts, metadata)
    return target
