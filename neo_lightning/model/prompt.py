"""A prompt, what is computed of it once, and how much of it another sequence already has in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from neo_lightning.sequence import NEO, SequenceRule, next_position, positions_and_limits, row_places
from neo_lightning.types import TokenSequence


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One document to go on from."""

    input_ids: Tensor
    """[N] int64, at least one token."""
    visual: Tensor
    """[N] bool: which tokens are visual."""
    grids: Tensor
    """[I, 2] rows and columns of each image or frame in visual tokens."""
    patches: Tensor
    """[P, 768] uint8 (or normalised floats), as in PackedBatch; [0, 768] without images."""
    rule: SequenceRule = NEO
    """The network's."""

    @classmethod
    def of(cls, sequence: TokenSequence, patches: Tensor, rule: SequenceRule) -> Prompt:
        """From what data makes of a conversation."""
        return cls(
            input_ids=sequence.input_ids, visual=sequence.visual, grids=sequence.grids, patches=patches, rule=rule
        )

    def __len__(self) -> int:
        return self.input_ids.numel()

    def check(self, name: str) -> None:
        """Raises ValueError: it is empty, or its patches or grids do not match its visual tokens."""
        if len(self) == 0:
            raise ValueError(f"{name} is empty: generation needs at least one token to go on from")
        if self.patches.shape[0] != 4 * int(self.visual.sum()):
            raise ValueError(
                f"{name} has {int(self.visual.sum())} visual tokens, which need four patches each, "
                f"but {self.patches.shape[0]} patches"
            )
        self.layout  # noqa: B018 - raises where the grids do not fit

    @cached_property
    def layout(self) -> tuple[Tensor, Tensor]:
        """Positions [N, 3] int32 and limits [N] int32; see `neo_lightning.sequence`."""
        return positions_and_limits(self.visual.cpu(), self.grids.cpu(), self.rule)

    @cached_property
    def time(self) -> int:
        """t of a text token behind the prompt."""
        if self.rule.positions == "grid":  # behind an image it is further on than all of it
            return int(next_position(self.visual.cpu(), self.grids.cpu(), self.rule)[0])
        return int(self.layout[0][-1, 0]) + 1

    @cached_property
    def limits(self) -> list[int]:
        """`layout`'s limits, on the host."""
        return self.layout[1].tolist()

    @cached_property
    def ends(self) -> list[int]:
        """For each token: behind the last one that is read together with it, those of an image all at once."""
        if self.rule.mask != "causal":
            return self.limits
        rule = replace(self.rule, mask="unit")
        return positions_and_limits(self.visual.cpu(), self.grids.cpu(), rule)[1].tolist()

    @cached_property
    def row_places(self) -> Tensor:
        """[R] int64: places of the row tokens of images."""
        return row_places(self.visual.cpu(), self.grids.cpu(), self.rule)

    @cached_property
    def keys(self) -> Tensor:
        """[N] int64 on the host: equal where a token is the same. A text token is its id; those of an image carry a
        negative digest of its grid and pixels, so that another image of the same size is another."""
        keys = self.input_ids.cpu().clone()
        place, patches, at = self.visual.cpu().nonzero().squeeze(-1), self.patches.cpu().contiguous(), 0
        for rows, columns in self.grids.tolist():
            count = int(rows * columns)
            pixels = patches[4 * at : 4 * (at + count)]
            said = hashlib.blake2b(f"{rows} {columns} {pixels.dtype}".encode(), digest_size=8)
            said.update(pixels.numpy().tobytes())
            keys[place[at : at + count]] = -1 - (int.from_bytes(said.digest(), "little") >> 1)
            at += count
        return keys

    def common(self, keys: Tensor) -> int:
        """How many tokens the prompt and `keys` have in common from the first on; whole images, and never all of the
        prompt, whose last token has to say what comes next."""
        n = min(len(self) - 1, keys.numel())
        other = (self.keys[:n] != keys[:n]).nonzero()
        return self.cut(0, int(other[0]) if other.numel() else n)

    def cut(self, start: int, end: int) -> int:
        """The last place in [start, end] at which no image is cut."""
        while end > start and self.ends[end - 1] > end:
            end -= 1
        return end

    def part(self, start: int, size: int) -> int:
        """Where a part from `start` on of up to `size` tokens ends; of more where it begins with a larger image."""
        end = min(start + size, len(self))
        return self.cut(start, end) if self.cut(start, end) > start else self.ends[start]

    def pixels(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Patches and grids [I, 2] of the images in [start, end), which cuts none."""
        before, count = int(self.visual[:start].sum()), int(self.visual[start:end].sum())
        sizes = self.grids.long().prod(-1)
        first = sizes.cumsum(0) - sizes
        within = (first >= before) & (first < before + count)
        return self.patches[4 * before : 4 * (before + count)], self.grids[within]
