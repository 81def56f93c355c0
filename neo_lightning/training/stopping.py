"""How the ranks of a training agree to stop: all at one place, with the last finished step saved, whatever they do.

What one rank is asked travels with sums that all ranks take anyway: those of a step, of a validation's batch, of a
token of an answer. Only a rank that waits for data takes part in none of them, while the others wait for it in the
next one. It hears of the request through the store (`neo_lightning.stopping`), ends its wait and goes where they are:

    rank 0   step 7 ... | has rows of 8 | SIGTERM: step 8 ............. sums ------. all see that one was asked:
    rank 1   step 7 ... | has rows of 8 | waits for rows of 9 ~~x store | step 8 --'   saved after step 8

    rank 0   step 7 ... | step 8 (SIGTERM) ........................... sums ------. all see that one had no rows:
    rank 1   step 7 ... | waits for rows of 8 ~~~~~~x store | blank rows: step 8 --'   nobody moves, saved after step 7

The first is the rule, as rows are fetched one step ahead; the second where Lightning does not (a known number of
batches, `trainer.limit_train_batches`). So nothing has to hold before a step begins, no step takes one message more,
and a request is never answered with a collective that somebody else is not in.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer


def ranks_store() -> Any:
    """A connection of its own to the store in which the ranks met; None where there is one rank."""
    if dist.get_world_size() == 1:
        return None
    return dist.distributed_c10d._get_default_store().clone()


def take_over_signals(trainer: Trainer) -> None:
    """Turn Lightning's own handling of signals off, before it begins.

    Its handler talks to the other ranks from wherever the main thread is, which can wait for ever; before each step it
    asks rank 0 once more; under SLURM it promises to requeue the job, for which it would save a checkpoint that is
    none of ours.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[attr-defined,method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def end_without_validation(trainer: Trainer) -> None:
    """Have a trainer end behind this step, at once: Lightning would validate first, and wait for `min_steps`."""
    trainer.should_stop = True
    trainer.fit_loop.epoch_loop.min_steps = None
    trainer.limit_val_batches = 0  # type: ignore[attr-defined]
