"""The two calls that make interval attention out of causal attention, with the library's function written out densely.

flash-attn itself needs a GPU (`test_interval_attention.py` takes it there); the cutting, turning and merging does not.
"""

from __future__ import annotations

import pytest
import torch

from neo_lightning.ops.interval_attention import flash

from .support import DEVICE
from .test_interval_attention import SCALE, by_definition, inputs, layout, run


def scores(q, k, part, scale):
    """[H, T, T], -inf where a sequence's token comes later or the sequence is another."""
    token = torch.arange(q.shape[0], device=q.device)
    sequence = torch.bucketize(token, part.ends[1:].long(), right=True)
    visible = (sequence[:, None] == sequence) & (token <= token[:, None])
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    return (torch.einsum("thd,shd->hts", q, k) * scale).masked_fill(~visible, -torch.inf)


def forward(q, k, v, part, scale):
    s = scores(q, k, part, scale)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    return torch.einsum("hts,she->the", s.softmax(-1), v), s.logsumexp(-1)


def backward(do, q, k, v, o, lse, part, scale):
    """As such kernels do: probabilities from the log-sum-exp that is handed in."""
    p = (scores(q, k, part, scale) - lse[..., None]).exp()
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    dp = torch.einsum("the,she->hts", do, wide_v)
    ds = p * (dp - (do * o).sum(-1).t()[..., None]) * scale
    dk, dv = torch.einsum("hts,thd->shd", ds, q), torch.einsum("hts,the->she", p, do)
    dk, dv = (x.unflatten(1, (-1, group)).sum(2) for x in (dk, dv))
    return torch.einsum("hts,shd->thd", ds, wide_k), dk, dv


@pytest.mark.parametrize(("length", "seed"), [(1, 0), (63, 1), (111, 2), (300, 3)])
def test_two_causal_calls_are_the_interval_mask(length, seed):
    start, limit = layout(length, seed)
    tensors = inputs(length, seed, torch.float64)
    calls = flash.prepare(start, limit)
    dense = flash.Varlen(forward, backward)
    ours = run(lambda q, k, v: flash.attend(q, k, v, calls, SCALE, dense), *tensors)
    exact = run(lambda q, k, v: by_definition(q, k, v, start, limit), *tensors)
    for name, a, b in zip(("o", "dq", "dk", "dv"), ours, exact, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12), name


def test_other_masks_are_refused():
    start, limit = (torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in ([0, 0, 0], [2, 3, 3]))
    with pytest.raises(ValueError, match="causal text and bidirectional units only"):
        flash.prepare(start, limit)
