"""Questions dealt to ranks. What ranks that share a model say is asserted in tests/training/run_tiny.py."""

from __future__ import annotations

import pytest

from neo_lightning.answering import Ranks


@pytest.mark.parametrize("questions", [1, 2, 5, 12, 13])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 3])
def test_each_question_counts_once_and_every_rank_takes_as_many_steps(questions: int, count: int, size: int) -> None:
    dealt = [list(Ranks(rank=rank, count=count).deal(range(questions), size)) for rank in range(count)]
    assert sorted(item for batches in dealt for batch, counts in batches if counts for item in batch) == [
        *range(questions)
    ]
    assert len({len(batches) for batches in dealt}) == 1
    assert all(0 < len(batch) <= size for batches in dealt for batch, _ in batches)
