"""What a patch embedding knows of a patch's place on its picture: a module x [P, C], places -> [P, C] each.

    rotary       2D rotary embedding, by column and row (NEO)
    learned      a table of rows x columns vectors, stretched over the picture, added
    factorised   one table for rows and one for columns, likewise
    none         nothing: only RoPE tells places apart

Tables are stretched: a picture of R rows has row r at (r + 1/2) table / R - 1/2, between two of the table's, weighted
linearly. So pictures of any size use the whole table, as in InternVL's and ViT's interpolation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neo_lightning.model.patch_embed import rotate_2d


class Rotary(nn.Module):
    """Turns by the place."""

    def __init__(self, width: int, table: int, theta: float) -> None:
        super().__init__()
        self.theta = theta

    def forward(self, x: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
        """x [P, C], places [P, 2] (row, column) and sizes [P, 2] (rows, columns) of its picture -> [P, C]."""
        return rotate_2d(x, places, self.theta)


class Learned(nn.Module):
    """Adds a vector of a table of places."""

    def __init__(self, width: int, table: int, theta: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(table, table, width))

    def forward(self, x: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
        """See `Rotary`."""
        return x + stretched(self.table, places, sizes).to(x.dtype)


class Factorised(nn.Module):
    """Adds a vector of the row and one of the column."""

    def __init__(self, width: int, table: int, theta: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(table, width))
        self.columns = nn.Parameter(torch.empty(table, width))

    def forward(self, x: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
        """See `Rotary`."""
        for axis, table in enumerate((self.rows, self.columns)):
            low, high, part = between(places[:, axis], sizes[:, axis], table.shape[0])
            x = x + torch.lerp(table[low], table[high], part[:, None].to(table.dtype)).to(x.dtype)
        return x


class NoPosition(nn.Module):
    """Leaves x as it is."""

    def __init__(self, width: int, table: int, theta: float) -> None:
        super().__init__()

    def forward(self, x: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
        """See `Rotary`."""
        return x


POSITIONS: dict[str, type[nn.Module]] = {
    "rotary": Rotary,
    "learned": Learned,
    "factorised": Factorised,
    "none": NoPosition,
}


def between(place: Tensor, size: Tensor, table: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of places [P] on sides of `size` [P]: the two entries of a table that they lie between, and how far [P] float."""
    at = ((place + 0.5) * table / size - 0.5).clamp(0, table - 1)
    low = at.floor()
    return low.long(), (low.long() + 1).clamp(max=table - 1), at - low


def stretched(table: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
    """[R, C, E] table at places [P, 2] of pictures of sizes [P, 2]: [P, E], bilinear."""
    top, bottom, down = between(places[:, 0], sizes[:, 0], table.shape[0])
    left, right, across = between(places[:, 1], sizes[:, 1], table.shape[1])
    down, across = down[:, None].to(table.dtype), across[:, None].to(table.dtype)
    above = torch.lerp(table[top, left], table[top, right], across)
    below = torch.lerp(table[bottom, left], table[bottom, right], across)
    return torch.lerp(above, below, down)
