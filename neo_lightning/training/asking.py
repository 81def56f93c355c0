"""The model while it trains, made ready to be asked: its average in the weights' place, whole on every rank.

A sharded model gathers every layer for every generated token. Where there is room it is gathered once instead. Either
way the ranks take their tokens together (`Ranks.all_ended`: two numbers), so that a request to stop is heard at any.

    gathered   1 message a layer, once; then two numbers a token       2 or 4 bytes a parameter on every rank
    else       1 message a layer and token
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from neo_lightning.answering import Answering, Engine, Ranks
from neo_lightning.model.config import NeoConfig
from neo_lightning.training.ema import averages, exchange
from neo_lightning.training.parallel import keep_gathered, reshard, sharded_parts
from neo_lightning.training.stages import stage_at

ROOM = 0.5
"""The whole weights may take up this part of the memory that is free; the rest is for keys, values and activations."""


@contextmanager
def asked(trainer: Any, pl_module: Any, *, room: float = ROOM) -> Iterator[tuple[Engine, Ranks]]:
    """An engine on the model as its stage asks it, and the ranks that answer with it; the training finds all as it was.

    Args:
        trainer: of the run.
        pl_module: a NeoModule between two steps.
        room: part of the free memory that the whole weights may take; 0 never gathers them.
    """
    model, optimizer = pl_module.model, trainer.optimizers[0]
    ranks = Ranks(rank=trainer.global_rank, count=trainer.world_size, device=pl_module.device)
    stage = stage_at(pl_module.stages, max(0, trainer.global_step - 1))[1]
    width = 2 if trainer.precision == "bf16-mixed" else 4
    gathered = sum(min(width, p.element_size()) * p.numel() for p in model.parameters())
    whole = gathered <= room * _free_everywhere(pl_module.device)
    learning = model.training
    averaged = any(True for _ in averages(optimizer))
    reshard(model)  # what validation left gathered has to be gathered again from other weights
    if averaged:
        exchange(optimizer)
    model.eval()  # no dropout
    try:
        keep_gathered(model, whole)
        for part in sharded_parts(model) if whole else ():
            part.unshard()
        answering = Answering.of_stage(stage)
        yield Engine(model, trainer.datamodule.tokenizer, answering, all_ended=ranks.all_ended), ranks
    finally:
        model.train(learning)
        reshard(model)
        keep_gathered(model, pl_module.keeps_gathered(trainer.global_step))
        if averaged:
            exchange(optimizer)


def _free_everywhere(device: torch.device) -> float:
    """Bytes that are free on the fullest device of all ranks; a CPU's memory is not asked for."""
    if device.type != "cuda":
        return float("inf")
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    least = torch.tensor(float(free), device=device)
    if distributed.is_initialized():
        distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    return float(least)


def cache_bytes(config: NeoConfig, tokens: int, width: int) -> int:
    """Keys and values of so many tokens in all layers, `width` bytes a number."""
    heads, head = config.num_key_value_heads, config.head_dim
    return config.num_hidden_layers * tokens * heads * (2 * head + head) * width
