"""Muon: matrices of layers move by orthogonalised momentum, everything else by AdamW, in one optimiser.

    m <- 0.95 m + 0.05 g                                      g: the clipped gradient
    u  = 0.95 m + 0.05 g                                      Nesterov's look ahead
    w <- (1 - lr * decay) w - lr * 0.2 sqrt(max(rows, columns)) * O(u)

O(u) takes every singular value of u to about 1 (0.7 to 1.2), by five Newton-Schulz iterations (Jordan et al. 2024,
kellerjordan.github.io/posts/muon). The factor in front gives a step the size of AdamW's, so that learning rates and
decay carry over (Liu et al., arXiv 2502.16982). Rare directions move as far as frequent ones.

Sharded matrices of one shape are exchanged, so that each rank of a shard group orthogonalises whole ones and no two do
the same work:

    rank   holds rows of              gets (all-to-all)      O, and back (all-to-all)
     0     A0  B0  C0  D0             A0 A1 A2 A3 = A         A0  B0  C0  D0
     1     A1  B1  C1  D1             B0 B1 B2 B3 = B         A1  B1  C1  D1
     ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from neo_lightning.checkpoint.shards import is_distributed

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

MOMENTUM = "momentum"
"""Key in a matrix's state: float32, as the matrix lies."""
DECAY = 0.95
SIZE = 0.2
"""Root mean square of AdamW's steps, about."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_AT_ONCE = 2**24
"""Elements that are orthogonalised together: small matrices would else spend their time in starting operations."""
_FLOATS = 7
"""Floats that each of them takes meanwhile: allocated on a CPU are 7 for squares and 5.3 for 1 x 4."""


def floats_of_step(sizes: Iterable[int], ranks: int) -> int:
    """Floats that a rank takes in a step beside weights, gradients and momenta.

    Args:
        sizes: elements of each matrix that moves.
        ranks: that share the matrices.
    """
    together = [
        size * min(-(-count // ranks), max(1, _AT_ONCE // size // ranks)) for size, count in Counter(sizes).items()
    ]
    return _FLOATS * max(together, default=0)


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal: True` hold matrices; the others are AdamW's, with its keys.

    Args:
        groups: each with `lr`, `weight_decay` and `orthogonal`.
        lr, betas, eps: defaults, as of AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        groups = list(groups)
        self._adamw = torch.optim.AdamW([dict(group) for group in groups], lr=lr, betas=betas, eps=eps, fused=True)
        super().__init__(groups, self._adamw.defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient; returns what `closure` does, which is called first."""
        self._adamw.param_groups = [group for group in self.param_groups if not group["orthogonal"]]
        self._adamw.state = self.state
        result = self._adamw.step(closure)
        for group in self.param_groups:
            if group["orthogonal"]:
                for matrices in _alike([p for p in group["params"] if p.grad is not None]):
                    self._move(matrices, group["lr"], group["weight_decay"])
        return result

    def _move(self, matrices: Sequence[Tensor], lr: float, decay: float) -> None:
        for matrix in matrices:
            if MOMENTUM not in self.state[matrix]:
                self.state[matrix][MOMENTUM] = torch.zeros_like(matrix)
        weights = [_own(matrix) for matrix in matrices]
        gradients = [_own(matrix.grad) for matrix in matrices if matrix.grad is not None]
        momenta = [_own(self.state[matrix][MOMENTUM]) for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - DECAY)
        steps = orthogonalised(matrices[0], torch.stack(torch._foreach_lerp(gradients, momenta, DECAY)))
        steps *= _used(matrices[0], gradients)[:, None, None]
        torch._foreach_mul_(weights, 1 - lr * decay)
        torch._foreach_add_(weights, steps.unbind(), alpha=-lr * SIZE * max(matrices[0].shape) ** 0.5)


def orthogonalised(matrix: Tensor, updates: Tensor) -> Tensor:
    """O of [n, rows, columns], of matrices that are all like `matrix`; if that is distributed, of their rows here."""
    return _exchanged(matrix, updates) if is_distributed(matrix) and _ranks(matrix) > 1 else newton_schulz(updates)


def _alike(matrices: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of one shape, as many at a time as give every rank some, and few operations many elements."""
    found: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        found.setdefault(matrix.shape, []).append(matrix)
    for shape, group in found.items():
        ranks = _ranks(group[0])
        together = ranks * max(1, _AT_ONCE // shape.numel() // ranks)
        for first in range(0, len(group), together):
            yield group[first : first + together]


def _used(matrix: Tensor, gradients: list[Tensor]) -> Tensor:
    """[n] of 0 and 1: whether the gradient of a matrix like `matrix` is anything but 0, on any rank.

    O sees no size: of what no token of a step went through, such as visual tokens' own weights in text, the fading
    momentum would go on in steps of full length for hundreds of steps.
    """
    sizes = torch.stack(torch._foreach_norm(gradients, 1))
    if is_distributed(matrix) and _ranks(matrix) > 1:
        dist.all_reduce(sizes, group=matrix.device_mesh.get_group(_dimension(matrix)))
    return (sizes > 0).to(sizes.dtype)


def newton_schulz(stack: Tensor) -> Tensor:
    """O of each of [n, rows, columns], float32; a matrix of zeros stays one.

    Products are in bfloat16 on a GPU, as its authors have them, and in float32 on a CPU, which need not have units for
    it.
    """
    a, b, c = _COEFFICIENTS
    high = stack.shape[1] > stack.shape[2]
    x = stack.bfloat16() if stack.is_cuda else stack
    x = x.mT if high else x  # the smaller square
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if high else x).to(stack.dtype)


def _exchanged(matrix: DTensor, stack: Tensor) -> Tensor:
    """O of matrices like `matrix`, of which [n, rows here, columns] lie here: the drawing at the head.

    FSDP2 cuts rows into parts of one height, of which the last may be lower or empty: they are padded with zeros, and
    so is a number of matrices that does not divide by the ranks.
    """
    group, ranks = matrix.device_mesh.get_group(_dimension(matrix)), _ranks(matrix)
    (number, own, _), rows = stack.shape, matrix.shape[0]
    height = -(-rows // ranks)
    stack = F.pad(stack, (0, 0, 0, height - own, 0, -number % ranks))
    sent = stack.unflatten(0, (-1, ranks)).transpose(0, 1).contiguous()  # [to rank, n / ranks, height, columns]
    got = torch.empty_like(sent)  # [from rank, n / ranks, height, columns]
    dist.all_to_all_single(got, sent, group=group)
    done = newton_schulz(got.transpose(0, 1).flatten(1, 2)[:, :rows])  # [n / ranks, rows, columns]
    parts = F.pad(done, (0, 0, 0, height * ranks - rows)).unflatten(1, (ranks, height))
    dist.all_to_all_single(got, parts.transpose(0, 1).contiguous(), group=group)
    return got.transpose(0, 1).flatten(0, 1)[:number, :own]


def _ranks(matrix: Tensor) -> int:
    """How many ranks share its rows."""
    return matrix.device_mesh.size(_dimension(matrix)) if is_distributed(matrix) else 1


def _dimension(matrix: DTensor) -> int:
    """Of the mesh: the one over which rows are sharded; copies lie along others."""
    found = [i for i, placement in enumerate(matrix.placements) if placement.is_shard(0)]
    assert len(found) == 1, f"rows are not sharded over one dimension of the mesh: {matrix.placements}"
    return found[0]


def _own(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_distributed(tensor) else tensor
