"""Training with model.lora: what moves, what lies where, restarts to the bit, and adapters as they were trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neo_lightning.cli.finish import export_adapter, lora_of, restore
from neo_lightning.model.frozen import is_scale
from neo_lightning.model.lora import Lora, is_term, projections
from neo_lightning.ops.coded import Coded, decode, encode
from neo_lightning.training import build
from neo_lightning.training.build import network
from neo_lightning.training.module import NeoModule
from neo_lightning.training.stages import check_stages, parameter_table
from neo_lightning.types import Stage
from tests.forks import Server

from .test_restart import Losses
from .tiny import CONFIG, TinyData, stage, trainer

LORA = Lora(rank=2, alpha=4.0, dropout=0.1)
EIGHT, FOUR = replace(LORA, base_bits=8), replace(LORA, base_bits=4)
BASES = pytest.mark.parametrize("lora", [LORA, EIGHT, FOUR], ids=["floats", "8 bits", "4 bits"])
NORMS = ("lora", "*_norm.weight")


def run_stages(*trains: str) -> dict[str, Stage]:
    """Two stages of other lengths; `trains` in the second."""
    return {
        "one": stage(4, trains=("lora",)),
        "two": stage(8, trains=trains or ("lora",), lr=1e-3, context=32),
    }


def fit(
    folder: Path, *trains: str, resume: Path | None = None, precision: Any = "32-true", **options: Any
) -> tuple[dict[int, float], NeoModule]:
    """One run in this process; its random numbers are the run's own."""
    torch.manual_seed(5)
    watch, run = Losses(), run_stages(*trains)
    net = NeoModule(run, model=CONFIG, **{"lora": LORA, **options})  # type: ignore[arg-type]
    trainer(folder, watch, precision=precision).fit(net, datamodule=TinyData(run), ckpt_path=resume)
    return watch.seen, net


def weights(net: NeoModule) -> dict[str, torch.Tensor]:
    assert net.model is not None
    return {name: getattr(p, "_local_tensor", p).detach().clone() for name, p in net.model.named_parameters()}


@BASES
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_run_is_the_run_to_the_bit(tmp_path: Path, precision: str, lora: Lora) -> None:
    """With dropout, recomputation, the average of the weights, and norms trained whole in the second stage."""
    how: dict[str, Any] = {"precision": precision, "ema": 0.5, "activation_checkpointing": "selective", "lora": lora}
    seen, whole = fit(tmp_path / "whole", *NORMS, **how)
    assert len(set(seen.values())) == 12
    checkpoint = tmp_path / "whole" / "checkpoints" / "step-00000003"
    rest, net = fit(tmp_path / "rest", *NORMS, resume=checkpoint, **how)
    assert rest == {step: loss for step, loss in seen.items() if step >= 3}
    found, expected = weights(net), weights(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_terms_move_and_the_base_does_not(tmp_path: Path, precision: str) -> None:
    _, net = fit(tmp_path, *NORMS, precision=precision)
    assert net.model is not None
    first = tmp_path / "checkpoints" / "step-00000003"
    before, after = (restored(path) for path in (first, first.with_name("step-00000012")))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    norms = {name for name in before if name.endswith("_norm.weight")}
    assert moved == norms | {name for name in before if is_term(name)}
    assert len(norms) == 6
    kinds = {name: p.dtype for name, p in net.model.named_parameters()}
    kept = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    assert {kinds[name] for name in moved} == {torch.float32}
    assert {kind for name, kind in kinds.items() if name not in moved} == {kept}
    states = net.trainer.optimizers[0].state
    assert {name for name, p in net.model.named_parameters() if p in states} == moved, "moments of what trains alone"


def restored(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The network's tensors as they lie in a checkpoint."""
    stored = load_file(checkpoint / "rank-00000-of-00001.safetensors")
    prefix = "weights/model."
    return {name.removeprefix(prefix): x for name, x in stored.items() if name.startswith(prefix)}


def test_a_base_in_bfloat16_computes_what_one_in_float32_does(tmp_path: Path, monkeypatch: Any) -> None:
    """Every loss to the bit: the sharding's policy rounds each weight to the same number."""
    halved, _ = fit(tmp_path / "a", precision="bf16-mixed")
    monkeypatch.setattr("neo_lightning.training.build.never_trained", lambda *_: set())
    whole, net = fit(tmp_path / "b", precision="bf16-mixed")
    assert {value.dtype for value in weights(net).values()} == {torch.float32}
    assert halved == whole


@pytest.mark.parametrize("lora", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_coded_base_computes_with_its_floats(tmp_path: Path, monkeypatch: Any, precision: str, lora: Lora) -> None:
    """As a base does that was rounded in the same way; sums are made in another order where torch's product was."""
    computed = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    coded, net = fit(tmp_path / "a", precision=precision, lora=lora)
    kinds = {name: p.dtype for name, p in weights(net).items()}
    inside = {name for name, kind in kinds.items() if not kind.is_floating_point}
    assert inside == set(projections(CONFIG))
    drawn = build.first_weights

    def rounded(*args: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in drawn(*args):
            yield name, decode(encode(value, lora.base_bits or 8), computed).float() if name in inside else value

    unrounded, _ = fit(tmp_path / "b", precision=precision)
    monkeypatch.setattr(build, "first_weights", rounded)
    floats, _ = fit(tmp_path / "c", precision=precision)
    assert max(abs(coded[step] / floats[step] - 1) for step in floats) < 1e-6
    assert max(abs(coded[step] / unrounded[step] - 1) for step in floats) > 3e-5, "the bound would hide anything"


@pytest.mark.parametrize("kinds", [(LORA, EIGHT), (EIGHT, LORA), (EIGHT, FOUR)], ids=["to 8", "from 8", "8 to 4"])
def test_a_run_does_not_go_on_beside_another_base(tmp_path: Path, kinds: tuple[Lora, Lora]) -> None:
    fit(tmp_path / "a", lora=kinds[0])
    with pytest.raises(ValueError, match=r"(?s)does not fit this model.*as many bits.*lora\.base_bits"):
        fit(tmp_path / "b", lora=kinds[1], resume=tmp_path / "a" / "checkpoints" / "step-00000003")


def test_what_a_stage_trains_whole_stays_floats(tmp_path: Path) -> None:
    """In one product with projections in 8 bits, and moving."""
    lora = replace(EIGHT, targets=("q", "mlp"))
    _, net = fit(tmp_path, "lora", "*layers.1.self_attn.v_proj*", lora=lora)
    assert net.model is not None
    whole = "language_model.model.layers.1.self_attn.v_proj.weight"
    floats = {name for name, x in weights(net).items() if name in projections(CONFIG) and x.dtype != torch.int8}
    assert floats == {whole}
    first = restored(tmp_path / "checkpoints" / "step-00000003")[whole]
    assert not torch.equal(first, weights(net)[whole])


def test_dropout_is_drawn_again_where_a_layer_is_recomputed(tmp_path: Path) -> None:
    plain, one = fit(tmp_path / "a", lora=replace(LORA, dropout=0.5))
    mixed: dict[str, Any] = {"activation_checkpointing": "selective", "recomputed_layers": 1}
    recomputed, other = fit(tmp_path / "b", lora=replace(LORA, dropout=0.5), **mixed)
    assert recomputed == plain
    found, expected = weights(other), weights(one)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert fit(tmp_path / "c", lora=replace(LORA, dropout=0.0))[0] != plain


@BASES
def test_a_checkpoint_gives_the_merged_model_and_the_adapter(
    tmp_path: Path, tokenizer_folder: Path, lora: Lora
) -> None:
    """Of averages where there are any; both answer alike. A coded base is merged as what it was computed as."""
    from neo_lightning.checkpoint.adapters import merge_adapter, read_adapter

    _, net = fit(tmp_path, *NORMS, ema=0.5, lora=lora)
    checkpoint = tmp_path / "checkpoints" / "step-00000012"
    assert lora_of(checkpoint) == lora
    last = weights(net)
    for name in [name for name in last if is_scale(name)]:
        weight, scale = name.removesuffix("_scale"), last.pop(name)
        last[weight] = decode(Coded(last[weight], scale), torch.float32)
    for kind in ("raw", "ema"):
        merged = restore(checkpoint, dtype=torch.float32, weights=kind)  # type: ignore[arg-type]
        export_adapter(checkpoint, tmp_path / kind, tokenizer_folder, weights=kind)  # type: ignore[arg-type]
        adapter = read_adapter(tmp_path / kind, CONFIG)
        assert (adapter.digest is None) == (lora is not LORA), "of the floats that codes were made of nothing is known"
        name = "language_model.model.layers.2.mlp.down_proj"
        assert torch.equal(adapter.pairs[name][0], last[f"{name}.lora.0.A"]) == (kind == "raw")
        base = network(CONFIG).to_empty(device="cpu")
        base.load_state_dict({n: x for n, x in last.items() if not is_term(n)})
        merge_adapter(base, adapter)
        pairs = zip(base.named_parameters(), merged.parameters(), strict=True)
        assert all(torch.equal(one, other) for (_, one), other in pairs)


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    from neo_lightning.data.text.tokenizer import train_tokenizer

    train_tokenizer(iter(["a b"]), 300, tmp_path / "words")
    return tmp_path / "words"


@pytest.mark.parametrize(
    ("trains", "said"),
    [
        (("all",), r"stage 'two': trains: \['all'\] holds .*which model.lora adapts .*say `trains: \[lora\]`"),
        (("lora", "pre_buffer"), "stage 'two'.*which model.lora adapts"),
        (("lora", "hw"), "which model.lora adapts"),
    ],
)
def test_what_a_term_stands_for_is_not_trained_whole(trains: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_stages(network(CONFIG, LORA), run_stages(*trains), CONFIG.extra_num_layers)


def test_terms_that_no_stage_trains_and_stages_of_terms_that_are_not_there_are_refused() -> None:
    norms = {"one": stage(4, trains=("*norm*",))}
    with pytest.raises(ValueError, match=r"no stage trains it: say `trains: \[lora\]`"):
        check_stages(network(CONFIG, LORA), norms, 1)
    with pytest.raises(ValueError, match="holds no parameter of this model"):
        check_stages(network(CONFIG), run_stages(), 1)


def test_a_pre_buffer_is_trained_whole_beside_terms_of_the_backbone() -> None:
    model = network(CONFIG, replace(LORA, targets=("backbone",)))
    run = run_stages("lora", "pre_buffer", "patch_embedding")
    check_stages(model, run, CONFIG.extra_num_layers)
    rows = {(row.stage, row.part): row.trained for row in parameter_table(model, run, CONFIG.extra_num_layers)}
    assert rows["two", "pre_buffer"] > rows["one", "pre_buffer"] == 0
    assert (
        rows["two", "lora"]
        == rows["one", "lora"]
        == sum(p.numel() for name, p in model.named_parameters() if is_term(name))
    )


def test_the_factors_may_have_rates_of_their_own(tmp_path: Path) -> None:
    """LoRA+ is an entry of lr_scale."""
    run = {"one": stage(2, trains=("lora",), lr_scale={"*.lora.*.B": 16.0})}
    net = NeoModule(run, model=CONFIG, lora=LORA)
    trainer(tmp_path, steps=1).fit(net, datamodule=TinyData({**run, "two": run["one"]}))
    rates = {group["lr"] for group in net.trainer.optimizers[0].param_groups}
    assert max(rates) == pytest.approx(16 * min(rates))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_two_ranks_train_and_save_whole_adapters(
    forks: Server, tmp_path: Path, tokenizer_folder: Path, bits: int | None
) -> None:
    """FSDP2 over two ranks in bfloat16: as one rank but for sums, and each rank's rows are in the adapter."""
    lora = {"rank": 3, "alpha": 6.0, "base_bits": bits}  # no multiple of the ranks
    module = {"lora": lora}
    jobs = [{"folder": str(tmp_path / str(n)), "trains": NORMS, "module": module} for n in (1, 2)]
    for job in jobs:
        job["trainer"] = {"precision": "bf16-mixed"}
    for ranks, job in zip((1, 2), jobs, strict=True):
        status, said = forks.run("tests.training.run_tiny:run", ranks, [job], ranks=ranks)
        assert status == 0, said
    found = []
    for n in (1, 2):
        checkpoint = tmp_path / str(n) / "checkpoints" / "step-00000012"
        export_adapter(checkpoint, tmp_path / f"adapter {n}", tokenizer_folder)
        found.append(load_file(tmp_path / f"adapter {n}" / "adapter_model.safetensors"))
    assert {name: x.shape for name, x in found[0].items()} == {name: x.shape for name, x in found[1].items()}
    for name, x in found[0].items():
        assert (x - found[1][name]).abs().max() < 0.02, name
        assert all(row.abs().sum() > 0 for row in found[1][name]), f"{name}: a row was lost"
    options = json.loads((tmp_path / "adapter 2" / "adapter_config.json").read_text())
    assert (options["r"], options["lora_alpha"]) == (3, 6.0)
