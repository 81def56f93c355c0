"""Positions and interval bounds against a token-by-token definition (NEO paper) and the module's drawing."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neo_lightning.model.prompt import Prompt
from neo_lightning.sequence import (
    Mask,
    Positions,
    SequenceRule,
    next_position,
    positions_and_limits,
    restarted,
    row_places,
)

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


RULES = [
    SequenceRule(positions=positions, mask=mask, row_tokens=row_tokens)
    for positions in get_args(Positions)
    for mask in get_args(Mask)
    for row_tokens in ("none", "id")
]


def by_rule(document: list[tuple[int, int] | None], rule: SequenceRule) -> tuple[list, list[int], list[bool], int]:
    """Positions, units (0: text; a tag is its image's, negative) and which are patches; the t behind it all."""
    positions: list[tuple[int, int, int]] = []
    units, patches, t, unit = [], [], 0, 0
    for item in document:
        if item is None:
            positions.append((t, 0, 0) if rule.positions == "native" else (t, t, t))
            units.append(0)
            patches.append(False)
            t += 1
            continue
        unit += 1
        rows, columns = item[0], item[1] + rule.extra_columns
        for r in range(rows):
            for c in range(columns):
                positions.append(
                    {
                        "native": (t, r, c),
                        "index": (t + r * columns + c,) * 3,
                        "grid": (t, t + r, t + c),
                        "centred": (t, t + r - item[0] // 2, t + c - item[1] // 2),
                    }[rule.positions]
                )
                units.append(unit)
                patches.append(c < item[1])
        t += {"index": rows * columns, "grid": max(rows, columns)}.get(rule.positions, 1)
    return positions, units, patches, t


@given(documents, st.sampled_from(RULES))
def test_every_rule_follows_its_line_of_the_table(document: list[tuple[int, int] | None], rule: SequenceRule) -> None:
    if rule.mask == "tags":
        document = [piece for item in document for piece in ([item] if item is None else [None, item, None])]
    wanted, units, patches, t = by_rule(document, rule)
    grids = torch.tensor([g for g in document if g], dtype=torch.int32).reshape(-1, 2)
    visual = torch.tensor(patches)
    positions, limit = positions_and_limits(visual, grids, rule)
    assert positions.tolist() == [list(p) for p in wanted]
    n = len(units)
    if rule.mask == "tags":
        tagged = list(units)
        for i in range(n):
            beside = {units[j] for j in (i - 1, i + 1) if 0 <= j < n and units[i] == 0} - {0}
            tagged[i] = min(beside) if len(beside) == 1 else units[i]
        units = tagged
    bidirectional = rule.mask != "causal"
    for i in range(n):
        seen = [j for j in range(n) if j <= i or (bidirectional and units[i] == units[j] > 0)]
        assert seen == list(range(int(limit[i])))
    assert sum(limit.tolist()) == n * (n + 1) // 2 + sum(rule.unit_pairs(*g) for g in document if g)
    assert next_position(visual, grids, rule).tolist() == ([t, 0, 0] if rule.positions == "native" else [t] * 3)
    rows = [i for i in range(n) if by_rule(document, rule)[1][i] and not patches[i]]
    assert row_places(visual, grids, rule).tolist() == rows


@given(documents, documents, st.sampled_from(RULES))
def test_a_second_document_begins_anew(first: list, second: list, rule: SequenceRule) -> None:
    first, second = [None, *first, None], [None, *second, None]
    if rule.mask == "tags":
        first, second = ([p for i in d for p in ([None, i, None] if i else [i])] for d in (first, second))
    both = by_rule(first + second, rule)
    visual, lengths = torch.tensor(both[2]), [len(by_rule(d, rule)[1]) for d in (first, second)]
    grids = torch.tensor([g for g in first + second if g], dtype=torch.int32).reshape(-1, 2)
    start = torch.tensor([0] * lengths[0] + [lengths[0]] * lengths[1])
    positions = restarted(positions_and_limits(visual, grids, rule)[0], start, rule)
    assert positions.tolist() == [list(p) for d in (first, second) for p in by_rule(d, rule)[0]]


def test_tags_are_needed_where_the_mask_has_them() -> None:
    rule = SequenceRule(mask="tags")
    for visual in ([1, 0], [0, 1], [0, 1, 0, 1, 0]):
        grids = torch.ones(sum(visual), 2, dtype=torch.int32)
        with pytest.raises(ValueError, match="takes a token in front of every image and one behind it"):
            positions_and_limits(torch.tensor(visual).bool(), grids, rule)


def test_the_average_layer_has_the_average_pairs() -> None:
    assert SequenceRule(causal_part=0.25).pairs(causal=100, with_units=180) == 160


@pytest.mark.parametrize("positions", ["native", "index", "grid", "centred"])
@pytest.mark.parametrize("behind", [0, 2])
def test_a_prompt_knows_the_time_behind_it(positions: Positions, behind: int) -> None:
    """Also where it ends with an image, behind which a grid's text is further on."""
    visual = torch.tensor([False] * 2 + [True] * 6 + [False] * behind)
    rule = SequenceRule(positions=positions)
    none = torch.empty(0, 768, dtype=torch.uint8)
    prompt = Prompt(
        input_ids=torch.zeros(len(visual)).long(), visual=visual, grids=torch.tensor([[2, 3]]), patches=none, rule=rule
    )
    assert prompt.time == next_position(visual, prompt.grids, rule)[0]
