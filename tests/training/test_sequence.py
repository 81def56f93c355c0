"""Ranks that share a row compute what one rank computes of it: golden values, losses, every gradient."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from neo_lightning.data.rows.share import part_of
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo
from neo_lightning.training.memory import Layout
from neo_lightning.training.sequence import check_sizes, key_repeats, sharing
from neo_lightning.training.traffic import layer_exchange
from neo_lightning.types import PackedBatch
from tests.forks import Server
from tests.model.support import GOLDEN, golden_batch, golden_model, random_batch, relative, small_config, small_model

from .messages import Messages


def whole_gradients(model: Neo) -> dict[str, torch.Tensor]:
    """Gradients summed over the ranks, each of which must have made all of them."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
        dist.all_reduce(found[name])
    return found


def shared(model: Neo, row: PackedBatch, ranks: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Loss sum of the row, its nll [n] and gradients, of all ranks together."""
    model.zero_grad()
    model.share = sharing(model.config, dist.group.WORLD)
    out = model(part_of(row, dist.get_rank(), ranks))
    out.loss_sum.backward()
    total = out.loss_sum.detach().clone()
    dist.all_reduce(total)
    found: list[torch.Tensor] = [None] * ranks  # type: ignore[list-item]
    dist.all_gather_object(found, out.nll)
    return total, torch.cat(found), whole_gradients(model)


def check(ranks: int) -> None:
    """What one of the ranks does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=ranks)
    batch, golden = golden_batch()
    loss, _, gradients = shared(golden_model(), batch, ranks)
    assert relative(loss / batch.weights.sum(), golden["loss"][0]) < 1e-5
    expected = load_file(GOLDEN / "packed_grads.safetensors")
    for name, gradient in gradients.items():
        assert relative(gradient / batch.weights.sum(), expected[f"grad.{name}"]) < 1e-4, name
    config = small_config()
    model = small_model()
    row = random_batch(config, [[(2, 3)]], text=9)
    model.share = sharing(config, dist.group.WORLD)
    with Messages() as forward:
        out = model(part := part_of(row, dist.get_rank(), ranks))
    with Messages() as backward:
        out.loss_sum.backward()
    layout = Layout(bf16=False, sequence_size=ranks)
    expected_bytes = layer_exchange(config, part.input_ids.numel(), layout) * config.num_hidden_layers
    for messages in (forward, backward):
        sent = 4 * sum(m.elements for m in messages.seen if m.operator == "alltoall_base_")
        assert sent * (ranks - 1) / ranks == expected_bytes, "each keeps its own part"
    rows = {
        "a large image that all parts have something of": random_batch(config, [[(7, 9)]], text=3),
        "images on the first part, text on the others": random_batch(config, [[(2, 3), (1, 1)], *[[]] * 12]),
        "text on the first part, images on the others": random_batch(config, [*[[]] * 12, [(2, 3), (4, 5)]]),
        "no image at all": random_batch(config, [[]] * 5),
    }
    for what, row in rows.items():
        for dtype, close in ((torch.float64, 1e-6), (torch.bfloat16, 5e-2)):
            if dtype == torch.bfloat16 and row.visual_index.numel():
                continue  # rounding is the same everywhere
            model.to(dtype).zero_grad()
            out = model(row)
            out.loss_sum.backward()
            alone = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            loss, nll, gradients = shared(model, row, ranks)
            assert relative(loss, out.loss_sum) < close, what
            assert relative(nll, out.nll) < close, what
            for name, gradient in gradients.items():
                if name in alone and dtype == torch.float64 and float(alone[name].abs().max()) > 0:
                    assert relative(gradient, alone[name]) < close, f"{what}: {name}"
    dist.barrier()


@pytest.mark.parametrize("ranks", [2, 4])
def test_golden_values_and_rows_of_all_kinds(forks: Server, ranks: int) -> None:
    """With 4 ranks for 2 key heads these are repeated."""
    status, output = forks.run("tests.training.test_sequence:check", ranks, ranks=ranks)
    assert status == 0, output


@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "repeats"),
    [(16, 8, 1, 1), (16, 8, 4, 1), (16, 8, 8, 1), (16, 8, 16, 2), (32, 8, 32, 4), (12, 6, 3, 1)],
)
def test_heads_are_dealt_evenly(heads: int, key_heads: int, size: int, repeats: int) -> None:
    assert key_repeats(replace(NeoConfig(), num_attention_heads=heads, num_key_value_heads=key_heads), size) == repeats


@pytest.mark.parametrize(("size", "fit"), [(3, "1, 2, 4, 8, 16"), (32, "1, 2, 4, 8, 16")])
def test_a_size_that_does_not_divide_the_heads_is_refused(size: int, fit: str) -> None:
    with pytest.raises(
        ValueError, match=rf"sequence_size {size} does not deal 16 heads and 8 key heads.*may be {fit}$"
    ):
        key_repeats(NeoConfig(), size)
    with pytest.raises(ValueError, match="sequence_size 4 does not deal 12 heads and 6 key heads"):
        key_repeats(replace(NeoConfig(), num_attention_heads=12, num_key_value_heads=6), 4)


def test_another_design_is_refused() -> None:
    config = small_config(design={"mask": {"kind": "causal"}})
    assert key_repeats(config, 1) == 1
    with pytest.raises(ValueError, match="sequence_size: ranks share rows of NEO-ov"):
        key_repeats(config, 2)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((None, 3, 8), "sequence_size 3 does not divide the number of ranks, 8"),
        ((4, 2, 6), "shard_size 4 does not divide the number of ranks, 6"),
        ((2, 4, 8), "sequence_size 4 does not divide shard_size 2: ranks that share rows are of one copy"),
        ((None, 0, None), "sequence_size must be at least 1, got 0"),
    ],
)
def test_ranks_that_do_not_fit_the_grid_are_refused(sizes: tuple[int | None, int, int | None], said: str) -> None:
    with pytest.raises(ValueError, match=f"^strategy: {said}"):
        check_sizes(*sizes)


def test_a_part_without_others_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing says how to reach the others"):
        small_model()(part_of(random_batch(small_config(), [[(2, 2)]]), 0, 2))
