"""The formula against the products that torch really computes, and against the real sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import backward_flops, flops_per_step, forward_flops
from neo_lightning.model.lora import Lora, add_adapter, is_term, use
from neo_lightning.model.neo import Neo
from tests.model.support import random_batch, small_model

CONFIG_2B = NeoConfig()
CONFIG_9B = NeoConfig(
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=42,
    extra_num_layers=6,
    num_attention_heads=32,
    tie_word_embeddings=False,
)


class CountProducts(TorchDispatchMode):
    """Sums 2 m n k over matrix products, those with up to four columns left out: they are means of norms."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_"):
            a, b = args[-2:]
            m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
            if n > 4:
                self.total += 2 * m * k * n * (a.shape[0] if a.dim() == 3 else 1)
        return func(*args, **(kwargs or {}))


def stage_1(extra):
    """Patch embedding, pre-buffer, and H and W parts everywhere."""

    def trained(name):
        if ".layers." not in name:
            return name.startswith("vision_model.")
        layer = int(name.split(".layers.")[1].split(".")[0])
        return layer < extra or "_hw." in name or "_norm_h." in name or "_norm_w." in name

    return trained


def whole_image_batch(model):
    """A row that is one image, so that no score is masked and the dense reference does no work in vain."""
    batch = random_batch(model.config, [[(4, 6)]], text=1)
    keep = batch.visual_index
    targets = torch.full((24,), -100)
    targets[5:17] = torch.arange(12)
    return replace(
        batch,
        input_ids=batch.input_ids[keep],
        positions=batch.positions[keep],
        start=torch.zeros(24, dtype=torch.int32),
        limit=torch.full((24,), 24, dtype=torch.int32),
        targets=targets,
        weights=(targets >= 0).float(),
        modality=batch.modality[keep],
        visual_index=torch.arange(24),
    )


SUBSETS = {
    "all": lambda name: True,
    "stage 1": stage_1(2),
    "backbone": lambda name: name.startswith("language_model"),
    "last layer": lambda name: ".layers.3." in name,
    "last MLP norm": lambda name: ".layers.3.post_attention" in name or ".norm." in name,
    "head": lambda name: "lm_head" in name or "embed_tokens" in name,
}


# the tied head is the embedding table, which lies in front of everything: no such subset
@pytest.mark.parametrize(
    ("subset", "tied"), [(s, t) for s in SUBSETS for t in (True, False) if (s, t) != ("head", True)]
)
def test_formula_counts_what_torch_computes(subset, tied):
    model = small_model(attention="reference", tie_word_embeddings=tied)
    trained = SUBSETS[subset]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name) and not (subset == "head" and "embed_tokens" in name))
    on = {name: p.requires_grad for name, p in model.named_parameters()}
    batch = whole_image_batch(model)
    counts = {"tokens": 24, "patches": 96, "pairs": 24 * 24, "supervised": 12}
    with CountProducts() as counter:
        loss = model(batch).loss_sum
        loss.backward()
    assert counter.total == flops_per_step(model.config, **counts, trained=on.__getitem__)


@pytest.mark.parametrize(("targets", "more"), [(("o", "patch"), 1.0), (("o",), 1.01)])
def test_low_rank_terms_are_counted_as_torch_computes_them(targets, more):
    """Of one projection an input: several lie in one product with zeros, which the step does not need.

    Alone, the first layer's `o` makes no gradient to its input, which is counted nevertheless.
    """
    model = small_model(attention="reference")
    lora = Lora(rank=8, targets=targets)
    add_adapter(model, "one", lora.modules(model.config), rank=8, scale=1.0)
    use(model, "one")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_term(name))
        if is_term(name):
            torch.nn.init.normal_(parameter)
    batch = whole_image_batch(model)
    counts = {"tokens": 24, "patches": 96, "pairs": 24 * 24, "supervised": 12}
    with CountProducts() as counter:
        model(batch).loss_sum.backward()
    expected = flops_per_step(model.config, **counts, trained=is_term, ranks=lora.ranks(model.config))
    assert counter.total <= expected <= more * counter.total


@pytest.mark.parametrize(("config", "billions"), [(CONFIG_2B, 2.585), (CONFIG_9B, 10.247)])
def test_parameters_of_the_real_sizes(config, billions):
    with torch.device("meta"):
        found = sum(p.numel() for p in Neo(config).parameters())
    assert found / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize(
    ("forward", "backward", "trained", "supervised"),
    [(5.16, 7.37, stage_1(12), 0.2), (5.16, 10.29, lambda name: True, 0.2), (8.64, 17.24, lambda name: True, 0.05)],
    ids=["stage 1 image 16K", "stage 2 image 16K", "video 16K"],
)
def test_2b_per_token_stands_in_the_published_relation(forward, backward, trained, supervised):
    """docs give operations per token, not the pairs: with pairs that make the forward figure, backward must follow."""
    counts = {"tokens": 16384, "patches": 4 * 14000, "supervised": int(16384 * supervised)}
    without = forward_flops(CONFIG_2B, **counts, pairs=0)
    pair = forward_flops(CONFIG_2B, **counts, pairs=1) - without
    pairs = int((forward * 1e9 * 16384 - without) / pair)
    assert 300 < pairs / 16384 < 9000
    total = backward_flops(CONFIG_2B, **counts, pairs=pairs, trained=trained)
    assert total / 16384 / 1e9 == pytest.approx(backward, rel=5e-3)
