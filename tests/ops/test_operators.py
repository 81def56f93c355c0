"""The Triton kernels as torch operators: compiled graphs and selective recomputation see each as one step."""

from __future__ import annotations

import functools

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from neo_lightning.ops.interval_attention import interval_attention, prepare_intervals
from neo_lightning.training.parallel import keep_products

from .support import skip_unless_it_runs
from .test_interval_attention import SCALE, inputs, layout, run


def attention(length=40):
    """A function of (q, k, v) around the operator, and inputs for it."""
    start, limit = layout(length, 1, longest=20)
    bounds = prepare_intervals(start, limit, "triton")

    def fn(q, k, v):
        o = interval_attention(q.sin(), k, v, start, limit, scale=SCALE, backend="triton", prepared=bounds)
        return o.cos()

    return fn, inputs(length)


def test_a_graph_with_the_triton_operator_is_one_graph():
    skip_unless_it_runs("triton")
    fn, tensors = attention()
    torch._dynamo.reset()
    compiled = torch.compile(fn, backend="aot_eager", fullgraph=True)
    for a, b in zip(run(compiled, *tensors), run(fn, *tensors), strict=True):
        assert torch.equal(a, b)


class Counter(TorchDispatchMode):
    """Counts the runs of this package's operators."""

    def __init__(self):
        super().__init__()
        self.runs = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "neo_lightning":
            self.runs[func.name()] = self.runs.get(func.name(), 0) + 1
        return func(*args, **(kwargs or {}))


def test_selective_recomputation_keeps_what_the_triton_operator_made():
    skip_unless_it_runs("triton")
    fn, tensors = attention()
    policy = functools.partial(keep_products, (0, 0), frozenset())
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    expected = run(fn, *tensors)
    for options, forwards in (({"context_fn": contexts}, 1), ({}, 2)):
        with Counter() as counter:
            found = run(lambda *x, o=options: checkpoint(fn, *x, use_reentrant=False, **o), *tensors)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert counter.runs["neo_lightning::interval_attention"] == forwards
        assert counter.runs["neo_lightning::interval_attention_backward"] == 1
