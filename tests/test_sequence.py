"""Positions and interval bounds against a token-by-token definition (NEO paper) and the module's drawing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neo_lightning.sequence import positions_and_limits

documents = st.lists(st.one_of(st.just(None), st.tuples(st.integers(1, 4), st.integers(1, 4))), min_size=1, max_size=12)
"""None is a text token, (rows, columns) an image; two images may touch."""


def by_definition(document: list[tuple[int, int] | None]) -> tuple[list[tuple[int, int, int]], list[int]]:
    """(t, h, w) of every token and the unit it belongs to (0 for text), written as the paper says it."""
    positions, units, unit = [], [], 0
    for t, item in enumerate(document):
        if item is None:
            positions.append((t, 0, 0))
            units.append(0)
        else:
            unit += 1
            cells = [(t, h, w) for h in range(item[0]) for w in range(item[1])]
            positions += cells
            units += [unit] * len(cells)
    return positions, units


@given(documents)
def test_positions_and_limits_follow_the_definition(document: list[tuple[int, int] | None]) -> None:
    expected, units = by_definition(document)
    grids = torch.tensor([g for g in document if g], dtype=torch.int32).reshape(-1, 2)
    positions, limit = positions_and_limits(torch.tensor(units) > 0, grids)
    assert positions.tolist() == [list(p) for p in expected]
    n = len(units)
    for i in range(n):
        seen = [j for j in range(n) if j <= i or (units[i] == units[j] > 0)]
        assert seen == list(range(int(limit[i]))), "a row of the mask is one interval that begins at the document"
    assert bool((limit.diff() >= 0).all()), "limits never decrease: the kernels rely on it"


def test_the_drawing_in_the_docstring() -> None:
    visual = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0]).bool()
    positions, limit = positions_and_limits(visual, torch.tensor([[2, 3]]))
    assert positions.T.tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 4, 5],
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 2, 0, 1, 2, 0, 0],
    ]
    assert limit.tolist() == [1, 2, 3, 9, 9, 9, 9, 9, 9, 10, 11]


@pytest.mark.parametrize(
    ("visual", "grids", "message"),
    [
        ([0, 1, 1, 0], [[1, 3]], "2 visual tokens, but the image grids hold 3"),
        ([0, 1, 1, 0], [], "2 visual tokens, but the image grids hold 0"),
        ([1, 1, 0, 1, 1], [[2, 2]], "do not lie together"),
        ([0, 1], [[1, 1], [0, 4]], "hold 1"),
    ],
)
def test_grids_that_do_not_fit_are_refused(visual: list[int], grids: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positions_and_limits(torch.tensor(visual).bool(), torch.tensor(grids, dtype=torch.int32).reshape(-1, 2))
