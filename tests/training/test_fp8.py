"""A model whose projections multiply in 8 bits: as close as 8 bits are, the same under recomputation, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from neo_lightning.model.neo import Neo
from neo_lightning.ops.fp8 import why_not
from neo_lightning.training.build import Init, build_model
from neo_lightning.training.module import NeoModule
from neo_lightning.training.optim import build_optimizer

from .tiny import CONFIG, TinyData, make_row, stages, trainer

CPU = torch.device("cpu")
runs = pytest.mark.skipif(bool(why_not(CPU)), reason=why_not(CPU))
WIDE = replace(CONFIG, hidden_size=32, intermediate_size=48, head_dim=16)
EIGHT_BIT = torch.ops.aten._scaled_mm_v2.default


def build(config: Any = WIDE, **options: Any) -> Neo:
    return build_model(config, Init(seed=1, std=0.1), stages=stages(), device=CPU, **options)


def loss_and_gradients(model: Neo) -> tuple[float, dict[str, torch.Tensor]]:
    loss = model(make_row(0)).loss_sum
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class EightBitProducts(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is EIGHT_BIT
        return func(*args, **(kwargs or {}))


@runs
def test_close_to_the_same_model_without() -> None:
    (plain_loss, plain), (loss, found) = (loss_and_gradients(build(fp8=fp8)) for fp8 in (False, True))
    assert loss != plain_loss
    assert loss == pytest.approx(plain_loss, rel=0.02)
    assert set(found) == set(plain)
    one, other = (torch.cat([g.flatten() for g in grads.values()]) for grads in (plain, found))
    assert torch.cosine_similarity(one, other, dim=0) > 0.98  # each product is off by 4%, three layers deep


@runs
def test_which_products() -> None:
    """The four of each layer (q k v, o, gate and up, down), and their gradients to what they were given."""
    model, row = build(fp8=True), make_row(0)
    with EightBitProducts() as forward:
        loss = model(row).loss_sum
    with EightBitProducts() as backward:
        loss.backward()
    assert forward.count == backward.count == 4 * WIDE.num_hidden_layers


@runs
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputation_changes_no_bit_and_selective_keeps_products(mode: Any) -> None:
    plain_loss, plain = loss_and_gradients(build(fp8=True))
    model, row = build(fp8=True, activation_checkpointing=mode), make_row(0)
    loss = model(row).loss_sum
    with EightBitProducts() as backward:
        loss.backward()
    assert loss.item() == plain_loss
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name not in plain), name
        assert parameter.grad is None or torch.equal(parameter.grad, plain[name]), name
    again = 4 if mode == "full" else 1  # down_proj, whose output nobody keeps
    assert backward.count == (4 + again) * WIDE.num_hidden_layers


@runs
@pytest.mark.slow
def test_a_compiled_layer_gives_the_same() -> None:
    plain_loss, plain = loss_and_gradients(build(fp8=True, attention="reference"))
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        loss, found = loss_and_gradients(build(fp8=True, attention="reference", compile_blocks=True))
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    for name, gradient in plain.items():
        assert torch.allclose(found[name], gradient, rtol=1e-2, atol=1e-4), name


@runs
@pytest.mark.slow
def test_it_learns_as_without() -> None:
    """Four rows by heart, seen 60 times each."""
    rows = [make_row(i) for i in range(4)]
    falls = {}
    for fp8 in (False, True):
        model, losses = build(fp8=fp8), []
        optimizer = build_optimizer(model, lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, lr_scales={})
        for step in range(240):
            row = rows[step % 4]
            loss = model(row).loss_sum / row.weights.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        falls[fp8] = sum(losses[:4]) / 4 - sum(losses[-4:]) / 4
    assert falls[False] > 2.0, "nothing to compare: it does not learn without"  # nats; the first loss is ln 67 = 4.2
    assert falls[True] == pytest.approx(falls[False], rel=0.05)


@runs
def test_under_bf16_with_float32_masters(tmp_path: Path) -> None:
    """Sharded layers hand their gathered weights to the same products: the same losses, but for what 8 bits lose."""
    run, losses = stages(2, 4), {}
    for fp8 in (False, True):
        net = NeoModule(run, model=WIDE, init=Init(std=0.1), fp8=fp8)
        trainer(tmp_path / str(fp8), steps=6, save_every=0, precision="bf16-mixed").fit(net, datamodule=TinyData(run))
        assert net.report is not None
        losses[fp8] = net.report.loss
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


@runs
def test_widths_that_8_bit_products_do_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16, the model's are .*'intermediate_size': 24"):
        build(CONFIG, fp8=True)


def test_a_device_that_cannot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(ValueError, match="fp8: NVIDIA A100 has no units for 8-bit floats"):
        build_model(WIDE, Init(), stages=stages(), device=torch.device("cuda"), fp8=True)
