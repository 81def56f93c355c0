"""Questions dealt to ranks. What ranks that share a model say is asserted in tests/training/run_tiny.py."""

from __future__ import annotations

import pytest

from neo_lightning.answering import Ranks


@pytest.mark.parametrize("questions", [0, 1, 2, 5, 13])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_question_is_one_rank_s(questions: int, count: int) -> None:
    shares = [Ranks(rank=rank, count=count).share(range(questions)) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == [*range(questions)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
