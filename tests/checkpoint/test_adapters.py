"""Adapters in PEFT's format: the real peft loads ours and we load its, and hostile folders are refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from neo_lightning.checkpoint.adapters import (
    Adapter,
    base_digest,
    load_adapter,
    merge_adapter,
    read_adapter,
    write_adapter,
)
from neo_lightning.hf.modeling_neo_chat import NEOChatModel
from neo_lightning.model.generate import generate
from neo_lightning.model.lora import targetable, use
from neo_lightning.model.neo import DecodeStep, Neo
from neo_lightning.sequence import positions_and_limits
from tests.hf.model_support import documents, inputs, twins

FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def adapter(model: Neo, seed: int = 0, modules: list[str] | None = None, **options: Any) -> Adapter:
    """Random factors, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    rank = options.pop("rank", 4)

    def pair(name: str) -> tuple[Tensor, Tensor]:
        shape = shapes[f"{name}.weight"]
        a = 0.1 * torch.randn(rank, *shape[1:], generator=generator)
        return a, 0.1 * torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=generator)

    return Adapter(
        rank=rank,
        alpha=options.pop("alpha", 6.0),
        pairs={name: pair(name) for name in modules or targetable(model.config)},
        **options,
    )


def logits(model: Neo) -> list[Tensor]:
    """Of the last token of each document."""
    docs, patches = documents(model)
    found = []
    for (ids, grids), pixels in zip(docs, patches, strict=True):
        visual = ids == model.config.image_token_id
        positions, limit = positions_and_limits(visual, grids)
        row = model.row(positions, torch.zeros_like(limit), limit)
        seen = (visual.nonzero().squeeze(-1), pixels, grids * 2) if len(pixels) else None
        with torch.no_grad():
            found.append(model(DecodeStep(input_ids=ids, row=row, last=torch.tensor([len(ids) - 1]), visual=seen))[0])
    return found


def their_logits(theirs: Any, model: Neo) -> list[Tensor]:
    docs, patches = documents(model)
    with torch.no_grad():
        return [
            theirs(**inputs([document], [pixels], model.config.image_token_id)).logits[0, -1]
            for document, pixels in zip(docs, patches, strict=True)
        ]


def assert_alike(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """To 4e-6 of the largest logit, twice what was seen: merged weights are rounded otherwise than two products."""
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() < 4e-6 * other.abs().max()


@pytest.mark.parametrize("rslora", [False, True])
def test_the_real_peft_gives_the_same_logits(tmp_path: Path, rslora: bool) -> None:
    """All targets, and norms, a bias and the head trained whole beside them."""
    ours, theirs = twins()
    names = ("language_model.model.layers.1.self_attn.q_norm.weight", "language_model.lm_head.weight")
    whole = {name: ours.get_parameter(name) + 0.3 for name in names}
    plain = logits(ours)
    learned = adapter(ours, rslora=rslora, whole=whole, base="somewhere")
    write_adapter(learned, ours.config, tmp_path)
    merge_adapter(ours, read_adapter(tmp_path, ours.config))
    assert all((one - other).abs().max() > 1e-2 for one, other in zip(plain, logits(ours), strict=True))
    adapted = PeftModel.from_pretrained(theirs, str(tmp_path)).eval()
    assert_alike(logits(ours), their_logits(adapted, ours))


def test_an_adapter_made_by_peft_loads_here(tmp_path: Path) -> None:
    """Named by suffixes, as people write it; with what peft 0.21 writes of options that we do not know."""
    ours, theirs = twins()
    modules = ["q_proj", "q_proj_hw", "gate_proj", "down_proj", "patch_embedding", "dense_embedding"]
    made = get_peft_model(theirs, LoraConfig(r=3, lora_alpha=9, target_modules=modules, modules_to_save=["k_norm_w"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    made.eval().save_pretrained(str(tmp_path))
    read = read_adapter(tmp_path, ours.config)
    assert (read.rank, read.scale, len(read.pairs), len(read.whole)) == (3, 3.0, 4 * 4 + 2, 4)
    merge_adapter(ours, read)
    assert_alike(logits(ours), their_logits(made, ours))


def test_adapters_beside_each_other_answer_as_merged_ones(tmp_path: Path) -> None:
    merged = []
    model, _ = twins()
    for seed in range(2):
        alone, _ = twins()
        learned = adapter(alone, seed, rank=2 + seed)
        write_adapter(learned, alone.config, tmp_path / str(seed))
        load_adapter(model, tmp_path / str(seed), f"number {seed}")
        merge_adapter(alone, learned)
        merged.append(logits(alone))
    plain, _ = twins()
    for name, expected in (("number 1", merged[1]), (None, logits(plain)), ("number 0", merged[0])):
        use(model, name)
        assert_alike(logits(model), expected)


def test_generation_is_that_of_the_merged_model(tmp_path: Path) -> None:
    """Token by token, from caches."""
    from tests.hf.model_support import prompts

    model, _ = twins()
    alone, _ = twins()
    learned = adapter(alone)
    write_adapter(learned, alone.config, tmp_path)
    load_adapter(model, tmp_path, "one")
    use(model, "one")
    merge_adapter(alone, learned)
    asked = prompts(model, *documents(model))
    said = generate(model, asked, max_new_tokens=12)
    assert said == generate(alone, asked, max_new_tokens=12)
    use(model, None)
    assert said != generate(model, asked, max_new_tokens=12)


def test_a_written_adapter_is_read_to_the_bit_and_replaces_an_older_one(tmp_path: Path) -> None:
    model, _ = twins()
    for seed in range(2):
        learned = adapter(model, seed, dropout=0.1, base="hf://a/b")
        write_adapter(learned, model.config, tmp_path, files={"note.txt": "mine"})
    read = read_adapter(tmp_path, model.config)
    assert (read.rank, read.alpha, read.dropout, read.base) == (4, 6.0, 0.1, "hf://a/b")
    for name, pair in learned.pairs.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, read.pairs[name], strict=True))
    assert {file.name for file in tmp_path.iterdir()} == {FILE, CONFIG, "note.txt"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_beside_other_weights_than_its_own_is_warned_of(tmp_path: Path, dtype: torch.dtype) -> None:
    model, _ = twins()
    learned = adapter(model, base="hf://a/b")
    digest = base_digest(model.get_parameter, list(learned.pairs))
    write_adapter(replace(learned, digest=digest), model.config, tmp_path)
    model.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(model, tmp_path, "one")
        load_adapter(model, tmp_path, "beside the first, which changes no weight")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj_hw" in name:
                parameter.mul_(1.5)
    with pytest.warns(UserWarning, match=r"trained beside other weights than this model's \(hf://a/b\)"):
        load_adapter(model, tmp_path, "another")
    with pytest.warns(UserWarning, match="trained beside other weights"):
        merge_adapter(model, read_adapter(tmp_path, model.config))


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tree = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**tree, **changes}))

    return change


def edit_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        change(tensors)
        save_file(tensors, folder / FILE)

    return edit


A = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight"
HOSTILE = {
    "another method": (edit_config(peft_type="IA3"), "expected peft_type 'LORA', found 'IA3'"),
    "DoRA": (edit_config(use_dora=True), "use_dora is True"),
    "a bias": (edit_config(bias="all"), "bias is 'all'"),
    "ranks of their own": (edit_config(rank_pattern={"q_proj": 8}), "rank_pattern"),
    "what nobody knows": (edit_config(new_in_2030="yes"), "new_in_2030 is 'yes'"),
    "weights that are changed at the start": (edit_config(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "no rank": (edit_config(r="four"), "r must be a positive whole number, found 'four'"),
    "another rank": (edit_config(r=5), "lora_A.weight is .*expected"),
    "no scale": (edit_config(lora_alpha=None), "lora_alpha must be a number"),
    "a scale of nobody": (edit_config(lora_alpha=1e300), r"lora_alpha must be a number from 0 to below 1e\+06"),
    "a scale that is no float": (edit_config(lora_alpha=10**400), "lora_alpha must be a number"),
    "more dropout than all": (edit_config(lora_dropout=5), "lora_dropout must be a number from 0 to below 1"),
    "a term and the whole": (
        edit_tensors(lambda t: t.update({A.replace("lora_A.weight", "weight"): t[A].clone()})),
        "q_proj has a low-rank term and is there whole as well",
    ),
    "half a pair": (edit_tensors(lambda t: t.pop(A)), "q_proj has only one of lora_A and lora_B"),
    "NaN": (edit_tensors(lambda t: t[A].__setitem__((0, 0), float("nan"))), "q_proj.lora_A.weight holds NaN"),
    "numbers that are none": (edit_tensors(lambda t: t.update({A: t[A].int()})), "floating-point weights"),
    "another model's": (
        edit_tensors(lambda t: [t.update({k.replace("layers.0", "layers.7"): t.pop(k)}) for k in list(t)]),
        "layers.7.* is no weight of this model",
    ),
    "a name of nothing": (
        edit_tensors(lambda t: t.update({"base_model.model.classifier.weight": t[A].clone()})),
        "unexpected: classifier.weight",
    ),
    "another prefix": (edit_tensors(lambda t: t.update({"x": t[A].clone()})), "names that begin with base_model.model"),
    "a cut file": (lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-9]), "not a readable"),
    "pickled weights": (lambda folder: (folder / FILE).rename(folder / "adapter_model.bin"), "pickled weights"),
    "no adapter": (lambda folder: (folder / CONFIG).unlink(), "no adapter there"),
    "a damaged config": (lambda folder: (folder / CONFIG).write_text("{"), "not valid JSON"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused(tmp_path: Path, case: str) -> None:
    model, _ = twins()
    write_adapter(adapter(model, modules=targetable(model.config)[2:6]), model.config, tmp_path)
    spoil, said = HOSTILE[case]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=said):
        read_adapter(tmp_path, model.config)


def test_a_tied_head_is_not_trained_whole_beside_terms(tmp_path: Path) -> None:
    model, _ = twins(tie_word_embeddings=True)
    name = "language_model.model.embed_tokens.weight"
    learned = adapter(model, whole={name: model.get_parameter(name)})
    with pytest.raises(ValueError, match="head is tied to its embeddings"):
        write_adapter(learned, model.config, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_sum_with_a_base_in_bfloat16_is_rounded_once() -> None:
    model, _ = twins()
    learned = adapter(model)
    merged = model.bfloat16()
    before = {name: value.float() for name, value in merged.named_parameters()}
    merge_adapter(merged, learned)
    for name, (a, b) in learned.pairs.items():
        delta = learned.scale * (b.flatten(1) @ a.flatten(1)).view_as(before[f"{name}.weight"])
        assert torch.equal(merged.get_parameter(f"{name}.weight"), (before[f"{name}.weight"] + delta).bfloat16())


def test_sums_that_are_not_finite_are_refused() -> None:
    model, _ = twins()
    learned = adapter(model)
    name = next(iter(learned.pairs))
    a, b = learned.pairs[name]
    with pytest.raises(ValueError, match="the adapter's term is not finite"):
        merge_adapter(model, replace(learned, pairs={name: (a * 1e30, b * 1e30)}))


def test_weights_trained_whole_do_not_lie_beside_the_bases(tmp_path: Path) -> None:
    model, _ = twins()
    name = "language_model.model.norm.weight"
    write_adapter(adapter(model, whole={name: model.get_parameter(name)}), model.config, tmp_path)
    with pytest.raises(ValueError, match=r"norm\.weight: they would replace the base's. Merge it"):
        load_adapter(model, tmp_path, "one")
    assert not model.adapters.slots


def test_a_class_of_transformers_has_the_names(tmp_path: Path) -> None:
    """Every weight that may be adapted is a module there."""
    ours, theirs = twins()
    assert isinstance(theirs, NEOChatModel)
    there = dict(theirs.named_modules())
    assert all(name in there for name in targetable(ours.config))
