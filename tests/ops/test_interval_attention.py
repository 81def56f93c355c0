"""Every attention backend against a per-row definition in float64: values, all gradients, isolation, memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from neo_lightning.ops.interval_attention import (
    BACKENDS,
    cached,
    cached_attention,
    interval_attention,
    prepare_intervals,
    prepare_spans,
)
from neo_lightning.ops.interval_attention import tiled as tiled_backend

from .support import DEVICE, INTERPRETED, skip_unless_it_runs

HEADS, KV_HEADS, WIDTH, VALUE = 4, 2, 16, 8
SCALE = VALUE**-0.5


def layout(length, seed, longest=90):
    """Documents of 1..longest tokens with runs of visual tokens in them; some documents four times as long."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    start, limit, a = [], [], 0
    while a < length:
        end = min(length, a + draw(1, longest) * (4 if draw(0, 4) == 0 else 1))
        i = a
        while i < end:
            text = min(end, i + draw(1, 9))
            limit += range(i + 1, text + 1)
            i = min(end, text + draw(0, 20))
            limit += [i] * (i - text)
        start += [a] * (end - a)
        a = end
    return (torch.tensor(bound, dtype=torch.int32, device=DEVICE) for bound in (start, limit))


def inputs(length, seed=0, dtype=torch.float32, heads=(HEADS, KV_HEADS), widths=(WIDTH, VALUE)):
    generator = torch.Generator().manual_seed(seed)
    (h, kv), (d, e) = heads, widths
    shapes = ((length, h, d), (length, kv, d), (length, kv, e), (length, h, e))
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def by_definition(q, k, v, start, limit, scale=SCALE):
    """Row by row and head by head, straight from the words."""
    rows = []
    for i in range(q.shape[0]):
        seen = slice(int(start[i]), int(limit[i]))
        heads = []
        for h in range(q.shape[1]):
            shared = h // (q.shape[1] // k.shape[1])
            p = (k[seen, shared] @ q[i, h] * scale).softmax(0)
            heads.append(p @ v[seen, shared])
        rows.append(torch.stack(heads))
    return torch.stack(rows)


def run(fn, q, k, v, do):
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    o = fn(q, k, v)
    return o.detach(), *torch.autograd.grad(o, (q, k, v), do)


LENGTHS = [(1, 0), (63, 1), (111, 2)] + [(300, 3)] * (not INTERPRETED)  # which takes long there

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Of the largest value (at least 1): sums of up to 360 terms in float32; half dtypes round scores' weights to 11 or 8
bits (the interpreter of Triton cuts them off instead, twice the error)."""


def check(backend, start, limit, tensors, scale=SCALE):
    """Output and all gradients against the definition in float64."""
    q, k, v, do = tensors
    exact = run(lambda q, k, v: by_definition(q, k, v, start, limit, scale), *(x.double() for x in tensors))
    ours = run(lambda q, k, v: interval_attention(q, k, v, start, limit, scale=scale, backend=backend), q, k, v, do)
    for name, a, b in zip(("o", "dq", "dk", "dv"), ours, exact, strict=True):
        assert a.dtype == q.dtype
        error = (a.double() - b).abs().max()
        assert error <= BOUNDS[q.dtype] * max(1.0, float(b.abs().max())), f"{name}: {error}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("length", "seed"), LENGTHS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_values_and_gradients(backend, length, seed, dtype):
    skip_unless_it_runs(backend, dtype)
    check(backend, *layout(length, seed), inputs(length, seed, dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("heads", "widths"), [((3, 3), (32, 16)), ((4, 1), (24, 10)), ((2, 1), (256, 128))])
def test_any_heads_and_widths(backend, heads, widths):
    skip_unless_it_runs(backend, torch.float16)
    check(backend, *layout(270, 5), inputs(270, 5, torch.float16, heads, widths), scale=widths[1] ** -0.5)


@pytest.mark.parametrize(("length", "seed"), [(256, 6), (515, 4)])
def test_flex_computes_the_same_and_skips_blocks(length, seed):
    """Its forward pass runs on a CPU too, uncompiled; which blocks it visits shows in the mask."""
    start, limit = layout(length, seed)
    q, k, v, _ = inputs(length, seed)
    mask = prepare_intervals(start, limit, "flex")
    with torch.no_grad():
        o = interval_attention(q, k, v, start, limit, scale=SCALE, backend="flex", prepared=mask)
    assert (o - by_definition(q, k, v, start, limit)).abs().max() < BOUNDS[torch.float32]
    n = -(-length // 128)
    visible = torch.zeros(128 * n, 128 * n, dtype=torch.bool, device=DEVICE)
    j = torch.arange(length, device=DEVICE)
    visible[:length, :length] = (j >= start[:, None]) & (j < limit[:, None])
    blocks = visible.view(n, 128, n, 128).transpose(1, 2).flatten(2)
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks.any(-1))
    assert int(mask.full_kv_num_blocks.sum()) == int(blocks.all(-1).sum())


def test_triton_refuses_float64_and_says_what_takes_it():
    with pytest.raises(TypeError, match="no float64; use backend 'tiled' or 'reference'"):
        check("triton", *layout(9, 0), inputs(9, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_value_crosses_a_document(backend):
    skip_unless_it_runs(backend)
    length = 110 if INTERPRETED else 400
    start, limit = layout(length, 5, longest=length // 5)
    bounds = start.unique().tolist()
    assert len(bounds) > 4
    a, b = bounds[2], bounds[3]
    q, k, v, do = inputs(length)
    other = [x.clone() for x in (q, k, v)]
    for x in other:
        x[a:b] = 100 * torch.randn_like(x[a:b])
    fn = lambda q, k, v: interval_attention(q, k, v, start, limit, scale=SCALE, backend=backend)  # noqa: E731
    before, after = run(fn, q, k, v, do), run(fn, *other, do)
    outside = torch.ones(length, dtype=torch.bool, device=DEVICE)
    outside[a:b] = False
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x[outside], y[outside])
        assert not torch.allclose(x[a:b], y[a:b])


def test_masks_made_anew_in_each_call_are_the_kept_ones(monkeypatch):
    start, limit = layout(300, 6)
    q, k, v, do = inputs(300)
    fn = lambda q, k, v: interval_attention(q, k, v, start, limit, scale=SCALE, backend="tiled")  # noqa: E731
    kept = run(fn, q, k, v, do)
    monkeypatch.setattr(tiled_backend, "KEPT_BIAS", 0)
    assert all(torch.equal(x, y) for x, y in zip(kept, run(fn, q, k, v, do), strict=True))


@pytest.mark.parametrize(("last", "kept"), [(256, True), (257, False)])
def test_shared_masks_are_kept_up_to_16_mib_for_each_head_of_a_group(last, kept):
    """Documents of 2,816 tokens, 22 tiles, and of two tiles have 2**22 elements between them."""
    length = 2816 + last
    start, limit = torch.zeros(length, dtype=torch.int32), torch.arange(1, length + 1, dtype=torch.int32)
    start[2816:] = 2816
    tiles = prepare_intervals(start, limit, "tiled")
    masks = sum((tile.b - tile.a) * (tile.hi - tile.lo) for tile in tiles)
    assert (masks == 1 << 22) is kept
    held = [tile.bias(2, torch.float32) for tile in tiles]  # by a layer with two query heads a group
    assert [x.numel() for x in held] == [2 * (tile.b - tile.a) * (tile.hi - tile.lo) for tile in tiles]
    again = [tile.bias(2, torch.float32) for tile in tiles]
    assert [x is y for x, y in zip(again, held, strict=True)] == [kept] * len(tiles)


@pytest.mark.parametrize("longest", [60, 600])
def test_tiled_keeps_probabilities_of_short_documents_only(longest):
    """Elements kept for the backward pass: queries, keys and values, and never more than three times as much."""
    start = torch.arange(600, dtype=torch.int32) // longest * longest
    limit = torch.arange(1, 601, dtype=torch.int32)
    q, k, v, _ = inputs(600, widths=(64, 32))
    for x in (q, k, v):
        x.requires_grad_()
    prepared = prepare_intervals(start, limit, "tiled")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        interval_attention(q, k, v, start, limit, scale=SCALE, backend="tiled", prepared=prepared)
    given = q.numel() + k.numel() + v.numel()
    assert given < sum(kept) <= 3 * given if longest == 60 else sum(kept) == given


def test_a_tile_is_a_little_longer_where_that_spares_a_document_the_cut():
    ends = [147, 294, 300, 700]  # two documents of 147 tokens, a short one and one of 400
    start = torch.cat([torch.full((b - a,), a) for a, b in zip([0, *ends[:-1]], ends, strict=True)]).int()
    tiles = prepare_intervals(start, torch.arange(1, 701).int(), "tiled")
    assert [(tile.a, tile.b, tile.lo) for tile in tiles] == [
        (0, 147, 0),
        (147, 294, 147),
        (294, 300, 294),
        (300, 428, 300),
        (428, 556, 300),
        (556, 700, 300),
    ]


def test_tiles_skip_what_no_row_of_theirs_sees():
    start, limit = layout(2000, 8)
    tiles = prepare_intervals(start, limit, "tiled")
    assert [tile.a for tile in tiles[1:]] == [tile.b for tile in tiles[:-1]]
    scores = sum((tile.b - tile.a) * (tile.hi - tile.lo) for tile in tiles)
    pairs = int((limit - start).sum())
    assert pairs <= scores < 0.1 * 2000 * 2000


@pytest.mark.parametrize("backend", BACKENDS)
def test_activation_checkpointing_and_autocast_change_nothing(backend):
    skip_unless_it_runs(backend)
    start, limit = layout(100, 9)
    q, k, v, do = inputs(100)
    fn = lambda q, k, v: interval_attention(q, k, v, start, limit, scale=SCALE, backend=backend)  # noqa: E731
    plain = run(fn, q, k, v, do)
    again = run(lambda *x: checkpoint(fn, *x, use_reentrant=False), q, k, v, do)
    assert all(torch.equal(x, y) for x, y in zip(plain, again, strict=True))
    inside = run(torch.autocast(DEVICE, torch.bfloat16)(fn), q, k, v, do)
    assert all(torch.equal(x, y) for x, y in zip(plain, inside, strict=True)), "float32 inputs stay float32"


def test_an_unknown_backend_is_refused_with_the_known_ones():
    q, k, v, _ = inputs(3)
    bounds = torch.zeros(3, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
    with pytest.raises(ValueError, match="'flesh' is unknown; there are: auto, reference, tiled, triton, flex, flash"):
        interval_attention(q, k, v, *bounds, scale=1.0, backend="flesh")


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_cached_attention_sees_exactly_the_places_of_its_sequence(joint, dtype, monkeypatch):
    monkeypatch.setattr(cached, "JOINT", 1 << 20 if joint else 0)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, HEADS, WIDTH, generator=generator).to(dtype)
    k = torch.randn(KV_HEADS, 60, WIDTH, generator=generator).to(dtype)
    v = torch.randn(KV_HEADS, VALUE, 60, generator=generator).to(dtype)
    ranges = [(40, 41), (3, 10), (15, 35)]
    for free in (0, 12, 59):
        k[:, free], v[:, :, free] = float("nan"), float("nan")
    spans = prepare_spans(ranges, HEADS * (WIDTH + VALUE), q.device)
    assert (spans.bias is not None) == joint
    o = cached_attention(q, k, v, spans, scale=SCALE)
    for i, (a, b) in enumerate(ranges):
        query = torch.zeros(b - a, HEADS, WIDTH, dtype=dtype)
        query[-1] = q[i]
        bounds = torch.zeros(b - a), torch.full((b - a,), b - a)
        expected = by_definition(query, k[:, a:b].transpose(0, 1), v[:, :, a:b].permute(2, 0, 1), *bounds)[-1]
        assert torch.allclose(o[i], expected.to(dtype), atol=1e-10 if dtype == torch.float64 else 3e-2)
