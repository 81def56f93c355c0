"""Steps of the real trainer against AdamW written out by hand: rate, clipping, decay, moments, across two stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neo_lightning.model.neo import Neo
from neo_lightning.training.stages import trained_names
from neo_lightning.types import PackedBatch, Stage

from .test_step import Weights
from .tiny import CONFIG, Steps, TinyData, module, stage, trainer

RUN = {
    # 0.4 of 4 steps are 2 of warm-up: a part of a step counts as a whole one
    "a": stage(4, lr=4e-3, warmup_ratio=0.4, min_lr_ratio=0.25, trains=("patch_embedding", "pre_buffer", "hw")),
    "b": stage(3, lr=1e-3, warmup_ratio=0.0, min_lr_ratio=0.1, context=32),
}
RATES = [2e-3, 4e-3, 4e-3, 1e-3, 1e-3, 0.55e-3, 0.1e-3]
"""Warm-up s + 1 of 2; then min + (1 - min) (1 + cos(pi p)) / 2 of the peak: p = 0, 1, and in "b" 0, 1/2, 1."""
BETAS, EPS, DECAY = (0.8, 0.9), 1e-4, 0.3


def gradients(weights: dict[str, Tensor], rows: list[PackedBatch], now: Stage) -> dict[str, Tensor]:
    """Of the step's weighted mean loss, in float64, all logits at once, for what the stage trains."""
    model = Neo(CONFIG, attention="reference").double()
    model.load_state_dict({name: weight.double() for name, weight in weights.items()})
    trained = trained_names(weights, now.trains, CONFIG.extra_num_layers)
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        x = model.embed(row.input_ids, row.visual_index, row.patches, row.grids)
        hidden = model.hidden(x, model.row(row.positions, row.start, row.limit))
        total = total + (row.weights * F.cross_entropy(model.logits(hidden), row.targets, reduction="none")).sum()
    (total / sum(row.weights.double().sum() for row in rows)).backward()
    return {name: p.grad for name, p in model.named_parameters() if name in trained and p.grad is not None}


@pytest.mark.parametrize("clip", [0.5, 0.0], ids=["clipped", "not clipped"])
def test_seven_steps_are_adamw_with_the_scheduled_rate_and_the_clipped_gradient(tmp_path: Path, clip: float) -> None:
    watch = Weights()
    net = module(RUN, betas=BETAS, eps=EPS, weight_decay=DECAY, clip=clip)
    trainer(tmp_path, watch, steps=7, save_every=0).fit(net, datamodule=TinyData(RUN))
    data, moments = Steps(RUN, 0, 1), {}
    (beta1, beta2) = BETAS
    for step, rate in enumerate(RATES):
        before, after, report = watch.history[step], watch.history[step + 1], watch.reports[step]
        grads = gradients(before, data[step], RUN["a" if step < 4 else "b"])
        norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
        assert norm > 0.5, "so that there is something to clip"
        assert report.grad_norm == pytest.approx(norm.item(), rel=1e-5)
        assert report.lr == pytest.approx(rate, rel=1e-9)
        for name, weight in before.items():
            if name not in grads:
                assert torch.equal(after[name], weight), name
                continue
            grad = grads[name] * (clip / norm if clip else 1.0)
            count, m, v = moments.get(name, (0, torch.zeros_like(grad), torch.zeros_like(grad)))
            count, m, v = count + 1, beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
            moments[name] = count, m, v
            move = m / (1 - beta1**count) / ((v / (1 - beta2**count)).sqrt() + EPS)
            decay = DECAY * weight.double() if weight.ndim > 1 else 0.0
            # float32: weights near 1 have steps of 1.2e-7, moments and gradients err by some 1e-6 of themselves
            found = after[name].double() - weight.double()
            torch.testing.assert_close(found, -rate * (move + decay), rtol=1e-3, atol=3e-7, msg=f"{name}, step {step}")
    assert set(moments) == set(watch.history[0])
