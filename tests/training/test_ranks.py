"""What ranks add up together; runs on several are compared in `test_restart.py` and `test_elastic.py`."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from neo_lightning.training import step
from tests.forks import Server


def add_up(ranks: int, bucket: int) -> None:
    """One of the ranks, the last two of which hold copies of the same parameters."""
    step._BUCKET = bucket
    rank = int(os.environ["LOCAL_RANK"])
    assert step.sum_over_ranks(torch.tensor([2.0])).item() == 2, "before there is a group"
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    total = step.sum_over_ranks(torch.tensor([1.0, 10.0 * rank]))
    assert total.tolist() == [ranks, 10.0 * sum(range(ranks))]
    copies = dist.new_group([ranks - 2, ranks - 1])
    if rank >= ranks - 2:
        fresh = [torch.arange(torch.Size(size).numel()).view(size) for size in ((), (3,), (2, 2), (5,), (1,))]
        parameters = [torch.nn.Parameter(x.float()) for x in fresh]
        frozen = parameters[3]
        for parameter in parameters:
            parameter.grad = None if parameter is frozen else rank * parameter.detach() + 1
        step.average_gradients(parameters, copies)
        for parameter, x in zip(parameters, fresh, strict=True):
            assert (parameter.grad is None) == (parameter is frozen)
            assert parameter.grad is None or torch.equal(parameter.grad, (ranks - 1.5) * x + 1)
    dist.barrier()


@pytest.mark.parametrize(("ranks", "bucket"), [(2, 1), (3, 4), (2, 100)])
def test_sums_are_over_all_ranks_and_gradients_averaged_over_copies(forks: Server, ranks: int, bucket: int) -> None:
    status, output = forks.run("tests.training.test_ranks:add_up", ranks, bucket, ranks=ranks)
    assert status == 0, output
