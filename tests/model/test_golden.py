"""The network computes what the authors' code computed: values, loss and every gradient."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.model.support import GOLDEN, golden_batch, golden_model, relative


def test_positions_are_the_authors():
    batch, golden = golden_batch()
    assert torch.equal(batch.positions.long(), golden["thw"])


@pytest.mark.parametrize("attention", ["reference", "tiled"])
def test_every_hidden_state_and_the_logits(attention):
    model = golden_model()
    model.attention = attention
    batch, golden = golden_batch()
    visual = model.embeddings(batch.patches, batch.grids)
    assert relative(visual, golden["vision_embeddings"]) < 1e-5
    row = model.row(batch.positions, batch.start, batch.limit)
    x = model.embed(batch.input_ids, batch.visual_index, batch.patches, batch.grids)
    for i, layer in enumerate(model.layers):
        x = layer(x, row)
        assert relative(x, golden[f"layer_{i:02d}"]) < 1e-5, f"layer {i}"
    assert i == 3
    logits = model.logits(model.language_model.model.norm(x))
    assert relative(logits, golden["logits"]) < 1e-5


@pytest.mark.parametrize("attention", ["reference", "tiled"])
def test_loss_and_every_gradient(attention):
    model = golden_model()
    model.attention = attention
    batch, golden = golden_batch()
    output = model(batch)
    loss = output.loss_sum / batch.weights.sum()
    assert relative(loss, golden["loss"][0]) < 1e-5
    loss.backward()
    expected = load_file(GOLDEN / "packed_grads.safetensors")
    names = {name for name, _ in model.named_parameters()}
    assert {f"grad.{name}" for name in names} == set(expected)
    for name, parameter in model.named_parameters():
        assert relative(parameter.grad, expected[f"grad.{name}"]) < 1e-4, name
