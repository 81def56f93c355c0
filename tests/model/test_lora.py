"""Low-rank terms: every target has its effect, merging changes nothing, adapters of one model do not meet."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from neo_lightning.model.lora import (
    PRESETS,
    TARGETS,
    Lora,
    add_adapter,
    initial_terms,
    is_term,
    merge,
    remove_adapter,
    targetable,
    use,
)
from neo_lightning.model.neo import Neo
from neo_lightning.types import PackedBatch
from tests.model.support import pack, random_document, random_patches, small_config, small_model


def batch() -> PackedBatch:
    """An image and text, with losses on text."""
    config = small_config()
    documents = [random_document(config, [(2, 3)], 6, 0), random_document(config, [], 9, 1)]
    labels = torch.cat([ids for ids, _ in documents])
    labels = torch.where(labels == config.image_token_id, -100, labels)
    return pack(documents, config.image_token_id, random_patches(documents), labels)


def adapted(modules: list[str] | None = None, name: str = "one", seed: int = 0, model: Neo | None = None) -> Neo:
    """A model with an adapter in use, neither of whose factors is zero."""
    model = small_model() if model is None else model
    generator = torch.Generator().manual_seed(seed)
    terms = add_adapter(model, name, modules or targetable(model.config), rank=3, scale=1.5)
    for term in terms.values():
        for factor in (term.A, term.B):
            factor.data = 0.1 * torch.randn(factor.shape, generator=generator)
    use(model, name)
    return model


def losses(model: Neo) -> Tensor:
    with torch.no_grad():
        return model(batch()).nll


@pytest.mark.parametrize("target", [*TARGETS, *PRESETS])
def test_every_target_has_an_effect(target: str) -> None:
    """Each weight of it alone moves the losses, and both of its factors learn."""
    plain = losses(small_model())
    for module in Lora(targets=(target,)).modules(small_config()):
        model = adapted([module])
        assert not torch.allclose(losses(model), plain, atol=1e-6), f"{module} is adapted in vain"
        model(batch()).loss_sum.backward()
        for name, parameter in model.named_parameters():
            if is_term(name):
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name


def test_the_sets_of_targets_are_what_they_say() -> None:
    config = small_config()  # two layers of the pre-buffer, two behind it
    held = {name: set(Lora(targets=(name,)).modules(config)) for name in (*TARGETS, *PRESETS)}
    assert set(targetable(config)) == set().union(*(held[name] for name in TARGETS)) == held["all"]
    assert sum(len(held[name]) for name in TARGETS) == len(held["all"]) == 4 * 9 + 2
    assert held["backbone"] | held["vision"] == held["all"]
    assert not held["backbone"] & held["vision"]
    assert held["backbone"] == {
        name for name in held["all"] if ("layers.2." in name or "layers.3." in name) and name not in held["hw"]
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ("q_proj",)}, "no target 'q_proj'; there are: q, k, v, o, hw, mlp, patch, backbone, vision, all"),
        ({"targets": ("lm_head",)}, "no target 'lm_head'"),
        ({"targets": ()}, "targets is empty"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"alpha": float("inf")}, "alpha must be positive and finite"),
        ({"dropout": 1.0}, "below 1"),
        ({"base_bits": 2}, "base_bits must be 4, 8 or null"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Lora(**options)


def test_a_target_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'backbone' holds no weight of this model"):
        Lora(targets=("backbone",)).modules(small_config(extra_num_layers=4))


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    assert Lora(rank=16, alpha=8).scale == 0.5
    assert Lora(rank=16, alpha=8, rslora=True).scale == 2.0


def test_fresh_terms_add_nothing_and_hang_on_the_seed_alone() -> None:
    model = small_model()
    plain = losses(model)
    add_adapter(model, "one", targetable(model.config), rank=2, scale=3.0)
    use(model, "one")
    shapes = {name: p.shape for name, p in model.named_parameters() if is_term(name)}
    drawn = [dict(initial_terms(shapes, seed)) for seed in (0, 0, 1)]
    for name, value in drawn[0].items():
        model.get_parameter(name).data.copy_(value)
    assert torch.equal(losses(model), plain)
    first = [value for name, value in drawn[0].items() if name.endswith(".A")]
    assert all(value.std() > 0 for value in first)
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in shapes)
    assert not torch.equal(first[0], next(iter(drawn[2].values())))


def test_merging_changes_no_answer_and_leaves_the_plain_model() -> None:
    model = adapted()
    before = losses(model)
    assert not torch.allclose(before, losses(small_model()), atol=1e-3)
    merge(model, "one")
    assert torch.allclose(losses(model), before, atol=1e-5)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in small_model().named_parameters()}


def test_several_adapters_do_not_meet() -> None:
    """Each answers as in a model of its own, in any order; without one the base answers to the bit."""
    names = ("v1.2", "cats", "items")  # what a module could not be called
    few = [name for name in targetable(small_config()) if "mlp" in name]
    alone = {name: losses(adapted(few if name == "cats" else None, name, seed)) for seed, name in enumerate(names)}
    model = small_model()
    for seed, name in enumerate(names):
        adapted(few if name == "cats" else None, name, seed, model)
    parameters = [p.data_ptr() for p in model.parameters()]
    for name in (*names, *reversed(names)):
        use(model, name)
        assert torch.equal(losses(model), alone[name]), name
    assert all((one - other).abs().max() > 1e-3 for one, other in pairwise(alone.values()))
    assert parameters == [p.data_ptr() for p in model.parameters()], "nothing was copied"
    use(model, None)
    assert torch.equal(losses(model), losses(small_model()))
    with pytest.raises(ValueError, match=r"no adapter 'dogs'; it has: v1\.2, cats, items"):
        use(model, "dogs")
    with pytest.raises(ValueError, match="has an adapter 'cats' already"):
        add_adapter(model, "cats", few, rank=1, scale=1.0)
    use(model, "items")
    remove_adapter(model, "v1.2")
    assert torch.equal(losses(model), alone["items"])
    adapted(None, "again", 0, model)
    assert torch.equal(losses(model), alone["v1.2"])
    use(model, "items")
    assert torch.equal(losses(model), alone["items"]), "a new adapter does not take the place of one that is there"


def test_frozen_weights_cost_no_gradient() -> None:
    """Beside terms of rank 1, the backward pass makes the gradients to the inputs and little else."""
    counts = []
    for frozen in (False, True):
        model = adapted() if frozen else small_model()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_term(name) or not frozen)
        loss = model(batch()).loss_sum
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        counts.append(counter.get_total_flops())
        assert all((p.grad is None) != (is_term(n) or not frozen) for n, p in model.named_parameters())
    assert counts[1] < 0.75 * counts[0]
