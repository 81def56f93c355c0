"""Every arm: who sees whom, packing, cached decoding, text as the backbone's at step 0, costs, and the way to disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neo_lightning.checkpoint.export import export_model
from neo_lightning.checkpoint.load import load_model
from neo_lightning.model.batch import RunningBatch
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import flops_per_step
from neo_lightning.model.generate import generate
from neo_lightning.model.init import grown_state, initial_state
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.running import Running
from neo_lightning.model.sampling import Sampling
from tests.model.design.arms import ARMS, WHY_NOT
from tests.model.design.support import END, ROW, START, document, prompt, row, states
from tests.model.support import relative, small_config, small_model
from tests.model.test_flops import CountProducts

arms = pytest.mark.parametrize("arm", ARMS)


def model_of(arm: str, **changes: Any) -> Neo:
    return small_model(design=ARMS[arm], num_hidden_layers=3, extra_num_layers=1, **changes)


def seen_by_definition(ids: Tensor, config: NeoConfig, layer: int) -> Tensor:
    """[T, T] bool of one document, from the words of the mask axis."""
    n = ids.numel()
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    if config.design.mask.kind == "causal" or layer in config.causal_layers:
        return seen
    inside = {"unit": {config.image_token_id, ROW}, "tags": {config.image_token_id, ROW, START, END}}
    own = [int(i) in inside[config.design.mask.kind] for i in ids]
    for i in range(n):
        j = i
        while own[i] and j + 1 < n and own[j + 1] and int(ids[j]) != END:
            j += 1
        seen[i, i : j + 1] = True
    return seen


@arms
def test_a_layer_lets_each_token_see_what_the_mask_says(arm: str) -> None:
    model = model_of(arm)
    batch = row(model.config, [document(model.config, [(2, 2), (1, 2)], text=2)])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch.input_ids.numel(), model.config.hidden_size, generator=generator)
    packed = model.row(batch.positions, batch.start, batch.limit, batch.visual_index, batch.row_index)
    for number, layer in enumerate(model.layers):
        before = layer(x, packed.at(number))
        found = []
        for j in range(x.shape[0]):
            moved = x.clone()
            moved[j] += 1
            found.append((layer(moved, packed.at(number)) - before).abs().amax(1) > 1e-6)
        wanted = seen_by_definition(batch.input_ids, model.config, number)
        assert torch.equal(torch.stack(found, 1), wanted), f"layer {number}"
        limit = packed.at(number).limit  # type: ignore[attr-defined]
        assert bool((limit[1:] >= limit[:-1]).all())
        assert torch.equal(limit, wanted.long().cumsum(1).argmax(1) + 1), "an interval that no kernel approximates"


@arms
def test_packed_documents_are_what_each_is_alone(arm: str) -> None:
    model = model_of(arm)
    documents = [document(model.config, sizes, seed=i) for i, sizes in enumerate([[(2, 3)], [], [(3, 1), (2, 2)]])]
    together = states(model, row(model.config, documents, pad=3)).split(
        [d.sequence.input_ids.numel() for d in documents] + [3]
    )
    for number, alone in enumerate(documents):
        assert relative(together[number], states(model, row(model.config, [alone]))) < 1e-5


@arms
def test_cached_decoding_is_what_the_whole_sequence_gives(arm: str) -> None:
    model = model_of(arm)
    documents = [document(model.config, sizes, seed=i + 3) for i, sizes in enumerate([[(2, 5)], [], [(4, 1), (1, 2)]])]
    answers = generate(model, [prompt(model.config, d) for d in documents], max_new_tokens=3)
    for of, answer in zip(documents, answers, strict=True):
        again = []
        for _ in range(3):
            again += generate(model, [prompt(model.config, of, again)], max_new_tokens=1)[0]
        assert answer == again


def answered(batch: RunningBatch, asked: Prompt) -> tuple[Running, list[float]]:
    """Three tokens, and how likely each was."""
    sequence = batch.join(asked, max_new_tokens=3, sampling=Sampling(), logprobs=1)
    assert sequence is not None
    found = []
    while batch.running:
        found += [chosen.logprob for _, chosen in batch.step()]
    return sequence, found


@arms
def test_a_prompt_that_is_read_in_parts_gets_the_same_answer(arm: str) -> None:
    model = model_of(arm).double()
    of = document(model.config, [(2, 5), (1, 3)], text=5, seed=4)
    first, second = prompt(model.config, of), prompt(model.config, of, [7, 8, 9])
    batch = RunningBatch(model, prefill=3, keep=1000)
    for asked, cached in ((first, 0), (second, len(first))):
        sequence, found = answered(batch, asked)
        assert found == pytest.approx(answered(RunningBatch(model), asked)[1], abs=1e-9)
        assert sequence.cached == cached


@arms
def test_every_parameter_learns_and_text_alone_moves_none_of_a_picture(arm: str) -> None:
    model = model_of(arm)
    model(row(model.config, [document(model.config, [(2, 3)]), document(model.config, [])])).loss_sum.backward()
    last = f".layers.{len(model.layers) - 1}."  # nobody reads what it makes of a visual token
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in still if not (last in n and (".visual." in n or ".vision_lora." in n))] == []
    model.zero_grad()
    model(row(model.config, [document(model.config, [])])).loss_sum.backward()
    lora_for_text = model.config.design.vision_lora.tokens == "all"
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name}: ranks without a picture would hang"
        if name.startswith("vision_model.") or ".visual." in name or (".vision_lora." in name and not lora_for_text):
            assert not parameter.grad.any(), name


@pytest.mark.parametrize("arm", [*ARMS, "pre_buffer"])
def test_text_is_the_backbone_s_at_step_0(arm: str) -> None:
    """All arms grow from one backbone, whose own function is that of NEO-ov without a pre-buffer (test_qwen3)."""
    depth = 2 if arm == "pre_buffer" else 0
    plain = small_config(num_hidden_layers=3, extra_num_layers=0)
    generator = torch.Generator().manual_seed(4)
    backbone = {
        name: torch.randn(p.shape, generator=generator) * 0.2 + (p.dim() == 1)
        for name, p in Neo(plain).named_parameters()
    }
    config = replace(plain, design=ARMS.get(arm, {}), num_hidden_layers=3 + depth, extra_num_layers=depth)
    text = document(config, [], text=12)

    def logits(config: NeoConfig) -> Tensor:
        model = Neo(config)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        model.load_state_dict(dict(grown_state(shapes, config, backbone.__getitem__)))
        return model.logits(states(model, row(config, [text])))

    same = relative(logits(config), logits(plain)) < 1e-5
    assert same == (arm not in WHY_NOT), WHY_NOT.get(arm, "text differs")


@pytest.mark.parametrize("arm", ["eve_v2", "all_weights", "ffn", "vora"])
def test_weights_of_pictures_start_as_the_layer_s(arm: str) -> None:
    """From nothing as from a backbone; low-rank updates start without effect."""
    config = small_config(design=ARMS[arm])
    shapes = {name: p.shape for name, p in Neo(config).named_parameters()}
    plain = {n: s for n, s in shapes.items() if ".visual." not in n and ".vision_lora." not in n}
    backbone = dict(initial_state(plain, replace(config, extra_num_layers=0), seed=5))
    grown = dict(grown_state(shapes, config, lambda name: backbone[name]))
    scratch = dict(initial_state(shapes, config, seed=3, std=0.1, closed_hw=True))
    for values in (grown, scratch):
        for name, value in values.items():
            if ".visual." in name:
                assert torch.equal(value, values[name.replace(".visual.", ".")]), name
            assert not (name.endswith(".lora_b") and value.any())


@pytest.mark.parametrize("arm", [arm for arm in ARMS if ARMS[arm].get("mask", {}).get("kind", "unit") == "unit"])
@pytest.mark.parametrize("subset", ["all", "pictures", "backbone"])
def test_formula_counts_what_torch_computes(arm: str, subset: str) -> None:
    if "row_tokens" in ARMS[arm] or "causal_layers" in ARMS[arm].get("mask", {}):
        return  # of a row that is one image: neither has its share of what the counts do not tell apart
    model = model_of(arm, attention="reference")
    of_pictures = ("vision_model.", "visual.", "vision_lora.")
    for name, parameter in model.named_parameters():
        picture = any(part in name for part in of_pictures)
        parameter.requires_grad_(subset == "all" or picture == (subset == "pictures"))
    if not any(p.requires_grad for p in model.parameters()):
        return
    on = {name: p.requires_grad for name, p in model.named_parameters()}
    full = row(model.config, [document(model.config, [(4, 6)], text=1)])
    keep, targets = full.visual_index, torch.full((24,), -100)
    targets[5:17] = torch.arange(12)
    batch = replace(
        full,
        input_ids=full.input_ids[keep],
        positions=full.positions[keep],
        start=torch.zeros(24, dtype=torch.int32),
        limit=torch.full((24,), 24, dtype=torch.int32),
        targets=targets,
        weights=(targets >= 0).float(),
        modality=full.modality[keep],
        visual_index=torch.arange(24),
    )
    counts = {"tokens": 24, "patches": 96, "pairs": 24 * 24, "supervised": 12, "patch_pairs": 96 * 96}
    with CountProducts() as counter:
        model(batch).loss_sum.backward()
    assert counter.total == flops_per_step(model.config, **counts, trained=on.__getitem__)


@pytest.mark.parametrize("arm", ["all_weights", "ffn"])
def test_only_the_branch_of_a_token_is_computed(arm: str) -> None:
    totals = []
    for design in ({}, ARMS[arm]):
        model = small_model(design=design)
        batch = row(model.config, [document(model.config, [(2, 3)])])
        with CountProducts() as counter, torch.no_grad():
            model(batch)
        totals.append(counter.total)
    assert totals[0] == totals[1]


@pytest.mark.filterwarnings("ignore:.*exported without the code")
@arms
def test_a_folder_gives_the_same_model_back(arm: str, tmp_path: Path) -> None:
    model = model_of(arm)
    export_model(model, model.config, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    batch = row(model.config, [document(model.config, [(2, 3)])])
    assert torch.equal(states(again, batch), states(model, batch))
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert (kind == "neo_chat") == (arm == "neo_ov") == bool(list(tmp_path.glob("*_neo_chat.py")))


def test_an_export_says_that_transformers_cannot_read_it(tmp_path: Path) -> None:
    model = small_model()
    export_model(model, model.config, tmp_path)
    arm = model_of("1d")
    with pytest.warns(UserWarning, match=r"without the code for transformers.*'rope': \{'kind': '1d'\}"):
        export_model(arm, arm.config, tmp_path)
    assert not list(tmp_path.glob("*_neo_chat.py")), "an older export's code would read it as NEO"
