"""Tokens -> native (t, h, w) positions and interval bounds. Used by data (packing) and generation.

Each image or frame is one *unit*: a run of visual tokens that see each other in both directions. Text sees what came
before it. So a row of the mask is one interval [start, limit), and the mask is two integer arrays:

    token    a  b  <img> v  v  v  v  v  v  </img> c          M   a b < v v v v v v > c
    t        0  1   2    3  3  3  3  3  3    4    5          a   x
    h        0  0   0    0  0  0  1  1  1    0    0          b   x x
    w        0  0   0    0  1  2  0  1  2    0    0          <   x x x
    start    0  0   0    0  0  0  0  0  0    0    0          v   x x x x x x x x x
    limit    1  2   3    9  9  9  9  9  9   10   11          ... (six rows alike)
                                                             >   x x x x x x x x x x

Both bounds never decrease along the sequence (NEO paper, section on native RoPE and mixed attention).

That is NEO's `SequenceRule`. Other points of the design space have another, from which data (what is packed, what a
document costs) and generation take the same positions and bounds:

    positions    of text          of a visual token at row r, column c       the text behind it
    native       t, 0, 0          t, r, c                                    t + 1
    index        i, i, i          i, i, i: its place in the document         i + 1
    grid         t, t, t          t, t + r, t + c                            t + max(rows, columns)
    centred      t, t, t          t, t + r - rows // 2, t + c - columns // 2   t + 1

    mask         what a visual token sees beside what lies before it
    unit         its unit
    tags         its unit and the tokens in front of and behind it, which see as much
    causal       nothing

With row tokens each row of a unit has one more column: a token of the unit that is no patch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from neo_lightning.types import PIXELS_PER_TOKEN_SIDE

Positions = Literal["native", "index", "grid", "centred"]
Mask = Literal["unit", "tags", "causal"]
RowTokens = Literal["none", "id", "learned"]


@dataclass(frozen=True, kw_only=True)
class SequenceRule:
    """How pictures lie in a sequence; the default is NEO's. The table is in the head of this file."""

    side: int = PIXELS_PER_TOKEN_SIDE
    """Pixels of the side of the square that a visual token covers; even."""
    positions: Positions = "native"
    mask: Mask = "unit"
    row_tokens: RowTokens = "none"
    """What stands behind each row of a unit: nothing, a token of the vocabulary, or a vector of the model's own."""
    row_token: str = "\n"
    """With `id`: a text that is one token, or the name of a special token."""
    causal_part: float = 0.0
    """Part of the layers in which every token is causal, whatever the mask."""

    @property
    def patch(self) -> int:
        """Pixels of a patch's side; a visual token is 2 x 2 patches."""
        return self.side // 2

    @property
    def patch_values(self) -> int:
        """Values of a flattened RGB patch."""
        return 3 * self.patch**2

    @property
    def extra_columns(self) -> int:
        """Tokens of a unit's row that are no patches."""
        return int(self.row_tokens != "none")

    def pairs(self, causal: int, with_units: int) -> int:
        """Query-key pairs of a layer, on average over the layers, where a causal one has `causal`."""
        return round(with_units + self.causal_part * (causal - with_units))

    def unit_pairs(self, rows: Any, columns: Any) -> Any:
        """Pairs that a unit has beyond the causal ones, from its visual tokens (ints, or arrays of them)."""
        size = rows * (columns + self.extra_columns)
        seen = {"causal": 0 * size, "unit": size * (size - 1) // 2, "tags": (size + 2) * (size + 1) // 2}
        return seen[self.mask]


NEO = SequenceRule()
"""NEO's and NEO-ov's rule."""


@dataclass(frozen=True, eq=False)
class UnitPlaces:
    """Where the tokens of a document's units are: M of them, row tokens included."""

    place: Tensor
    """[M] int64, in the document."""
    unit: Tensor
    """[M] int64."""
    row: Tensor
    """[M] int64, on the unit's grid."""
    column: Tensor
    """[M] int64; a row token has the number of columns."""
    first: Tensor
    """[I] int64: each unit's first place."""
    size: Tensor
    """[I] int64: each unit's tokens."""


def unit_places(visual: Tensor, grids: Tensor, rule: SequenceRule = NEO) -> UnitPlaces:
    """Where units lie; arguments and errors of `positions_and_limits`."""
    grids = grids.long().reshape(-1, 2)
    place = visual.nonzero().squeeze(-1)
    tokens = grids.prod(-1)
    if int(tokens.sum()) != place.numel() or bool((tokens < 1).any()):
        raise ValueError(f"{place.numel()} visual tokens, but the image grids hold {int(tokens.sum())}")
    wide = grids[:, 1] + rule.extra_columns
    size = grids[:, 0] * wide
    first = place[tokens.cumsum(0) - tokens]
    unit = torch.repeat_interleave(torch.arange(size.numel()), size)
    within = torch.arange(unit.numel()) - (size.cumsum(0) - size)[unit]
    row, column = within // wide[unit], within % wide[unit]
    member = first[unit] + within
    if not torch.equal(place, member[column < grids[unit, 1]]) or bool((member >= visual.numel()).any()):
        raise ValueError("the visual tokens of an image do not lie together")
    return UnitPlaces(member, unit, row, column, first, size)


def row_places(visual: Tensor, grids: Tensor, rule: SequenceRule) -> Tensor:
    """[R] int64: places of the row tokens; none where the rule has none. Arguments as in `positions_and_limits`."""
    if not rule.extra_columns:
        return torch.empty(0, dtype=torch.long)
    units = unit_places(visual, grids, rule)
    return units.place[units.column == grids.long()[units.unit, 1]]


def positions_and_limits(visual: Tensor, grids: Tensor, rule: SequenceRule = NEO) -> tuple[Tensor, Tensor]:
    """Positions and mask limits of one document.

    Args:
        visual: [N] bool, which tokens are visual. The units' tokens lie in reading order; two units may touch.
        grids: [I, 2] rows and columns of each unit in visual tokens.
        rule: which positions and which mask.

    Returns:
        positions [N, 3] int32 (t, h, w) and limits [N] int32 (one past the last key that the token sees).

    Raises:
        ValueError: the grids do not account for exactly the visual tokens, or the mask wants tags that are not there.
    """
    n = visual.numel()
    units = unit_places(visual, grids, rule)
    limit = _limits(n, units, rule.mask)
    if rule.positions == "index":
        return torch.arange(n)[:, None].expand(n, 3).int(), limit.int()
    step = torch.ones(n, dtype=torch.long)
    step[units.place] = 0
    step[units.first] = 1
    offset = torch.stack([units.row, units.column], -1)
    if rule.positions == "grid":  # the token behind a unit is further on than all of it
        sides = grids.long().reshape(-1, 2) + torch.tensor([0, rule.extra_columns])
        behind = units.first + units.size
        inside = behind < n
        step.index_add_(0, behind[inside], sides.amax(-1)[inside] - 1)
    if rule.positions == "centred":
        offset = offset - (grids.long().reshape(-1, 2) // 2)[units.unit]
    t = step.cumsum(0) - 1
    hw = torch.zeros(n, 2, dtype=torch.long) if rule.positions == "native" else t[:, None].repeat(1, 2)
    hw[units.place] += offset
    return torch.cat([t[:, None], hw], 1).int(), limit.int()


def restarted(positions: Tensor, start: Tensor, rule: SequenceRule = NEO) -> Tensor:
    """Positions [T, 3] of a row taken for one document -> as if every document began anew at `start` [T]."""
    first = positions[start.long(), :1]
    moved = positions - first
    if rule.positions == "native":
        moved[:, 1:] = positions[:, 1:]  # h and w are counted per unit
    return moved


def next_position(visual: Tensor, grids: Tensor, rule: SequenceRule = NEO) -> Tensor:
    """[3] int32: position of a text token behind a document; each further one adds `advance`."""
    longer = torch.cat([visual, visual.new_zeros(1)])
    return positions_and_limits(longer, grids, replace(rule, mask="causal"))[0][-1]


def advance(rule: SequenceRule = NEO) -> tuple[int, int, int]:
    """What a token of text adds to (t, h, w)."""
    return (1, 0, 0) if rule.positions == "native" else (1, 1, 1)


def _limits(n: int, units: UnitPlaces, mask: Mask) -> Tensor:
    """[n] int64."""
    limit = torch.arange(1, n + 1)
    if mask == "causal" or not units.first.numel():
        return limit
    end = units.first + units.size
    if mask == "unit":
        limit[units.place] = end[units.unit]
        return limit
    if int(units.first[0]) == 0 or int(end[-1]) == n or bool((units.first[1:] < end[:-1] + 2).any()):
        raise ValueError("the mask `tags` takes a token in front of every image and one behind it, both its own")
    limit[units.place] = end[units.unit] + 1
    limit[units.first - 1] = limit[end] = end + 1
    return limit
