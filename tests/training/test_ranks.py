"""What ranks add up together; runs on several are compared in `test_restart.py` and `test_elastic.py`."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from neo_lightning.training import step
from tests.forks import Server


def add_up(bucket: int) -> None:
    """A rank of three, the last two of which hold copies of the same parameters."""
    step._BUCKET = bucket
    rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("gloo", rank=rank, world_size=3)
    assert step.sum_over_ranks(torch.tensor([1.0, 10.0 * rank])).tolist() == [3.0, 30.0]
    copies = dist.new_group([1, 2])
    if rank:
        sizes = (), (3,), (2, 2), (5,), (1,)
        parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
        for i, parameter in enumerate(parameters):
            if i != 3:  # frozen
                parameter.grad = torch.arange(parameter.numel()).view(sizes[i]) * 2.0 * rank + i
        step.average_gradients(parameters, copies)
        for i, parameter in enumerate(parameters):
            if i == 3:
                assert parameter.grad is None
            else:
                assert torch.equal(parameter.grad, torch.arange(parameter.numel()).view(sizes[i]) * 3.0 + i)
    dist.barrier()


@pytest.mark.parametrize("bucket", [1, 4, 100])
def test_sums_are_over_all_ranks_and_gradients_averaged_over_copies(forks: Server, bucket: int) -> None:
    status, output = forks.run("tests.training.test_ranks:add_up", bucket, ranks=3)
    assert status == 0, output
