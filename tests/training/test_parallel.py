"""What is applied to the model from outside changes how it runs, not what it computes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from neo_lightning.checkpoint.export import export_model
from neo_lightning.model.flops import layer_flops
from neo_lightning.model.neo import Neo
from neo_lightning.training.build import PRESETS, Init, build_model, fill_parameters, read_config
from neo_lightning.training.callbacks import Curriculum, DataPosition
from neo_lightning.training.module import NeoModule
from neo_lightning.training.strategy import NeoStrategy
from neo_lightning.types import PackedBatch

from .tiny import CONFIG, TinyData, make_row, module, stages, trainer

CPU = torch.device("cpu")


def build(**options: Any) -> Neo:
    return build_model(CONFIG, Init(seed=1), stages=stages(), device=CPU, **options)


def gradients(model: Neo, row: PackedBatch) -> tuple[float, dict[str, torch.Tensor]]:
    loss = model(row).loss_sum
    loss.backward()
    return float(loss), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("mode", "layers"), [("selective", 0), ("selective", 1), ("full", 0), ("none", 2)])
def test_activation_checkpointing_changes_no_bit_of_a_gradient_and_no_name(mode: Any, layers: int) -> None:
    row = make_row(0)
    plain_loss, plain = gradients(build(), row)
    loss, found = gradients(build(activation_checkpointing=mode, recomputed_layers=layers), row)
    assert loss == plain_loss
    assert set(found) == set(plain)
    for name, gradient in plain.items():
        assert torch.equal(found[name], gradient), name


class Products(TorchDispatchMode):
    """Operations of products with weights (their gradients included), and what those with one shape gave."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape, self.flops, self.made = shape, 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and min(args[1].shape) > 4:  # narrower: sums within QK norm
            self.flops += 2 * args[0].numel() * args[1].shape[1]
            if tuple(args[1].shape) == self.shape:
                self.made.append(StorageWeakRef(out.untyped_storage()))
        return out


DOWN = CONFIG.intermediate_size, CONFIG.hidden_size


@pytest.mark.parametrize(("mode", "layers"), [("selective", 0), ("selective", 1), ("full", 0), ("none", 2)])
def test_only_layers_under_full_multiply_again_and_down_proj_never(mode: Any, layers: int) -> None:
    row, flops = make_row(0), []
    for model in (build(), build(activation_checkpointing=mode, recomputed_layers=layers)):
        loss = model(row).loss_sum
        with Products(DOWN) as products:
            loss.backward()
        flops.append(products.flops)
    length = row.input_ids.numel()
    again = layer_flops(CONFIG, tokens=length, pairs=0) - 2 * length * DOWN[0] * DOWN[1]
    assert flops[1] - flops[0] == again * (CONFIG.num_hidden_layers if mode == "full" else layers)


def test_selective_recomputation_does_not_keep_what_down_proj_gives() -> None:
    model, row = build(activation_checkpointing="selective"), make_row(0)
    kept = {}
    for name, shape in (("down", DOWN), ("gate and up", (DOWN[1], 2 * DOWN[0]))):
        with Products(shape) as products:
            loss = model(row).loss_sum
        kept[name] = sum(not made.expired() for made in products.made)
        del loss
    assert kept == {"down": 0, "gate and up": CONFIG.num_hidden_layers}


def test_more_recomputed_layers_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="recomputed_layers is 4: the model has 3 layers"):
        build(recomputed_layers=4)


def saved_bytes(model: Neo, row: PackedBatch) -> int:
    """Bytes that the forward pass keeps for the backward."""
    kept: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = model(row).loss_sum
    total = sum(kept.values())
    del loss
    return total


def test_activation_checkpointing_keeps_less() -> None:
    row = make_row(0, 96)
    assert saved_bytes(build(activation_checkpointing="full"), row) < saved_bytes(build(), row) / 2


def test_bf16_computes_in_bf16_and_keeps_float32_masters(tmp_path: Path) -> None:
    run = stages()
    nets = {}
    for precision in ("32-true", "bf16-mixed"):
        net = module(run)
        trainer(tmp_path / precision, steps=6, save_every=6, precision=precision).fit(net, datamodule=TinyData(run))
        nets[precision] = net
    half, full = nets["bf16-mixed"], nets["32-true"]
    assert half.model is not None
    assert full.model is not None
    parameters = dict(half.model.named_parameters())
    assert all(isinstance(p, DTensor) and p.dtype == torch.float32 for p in parameters.values())
    assert not any(isinstance(p, DTensor) for p in full.model.parameters())  # one rank: nothing to shard
    assert half.report is not None
    assert full.report is not None
    assert half.report.loss != full.report.loss
    assert half.report.loss == pytest.approx(full.report.loss, rel=1e-2)
    states = half.trainer.optimizers[0].state.values()
    assert all(state["exp_avg"].dtype == torch.float32 for state in states)
    # the checkpoint of either goes on in the other
    rest = module(run)
    checkpoint = tmp_path / "bf16-mixed" / "checkpoints" / "step-00000006"
    trainer(tmp_path / "rest", steps=7, save_every=0).fit(rest, datamodule=TinyData(run), ckpt_path=checkpoint)
    assert rest.report is not None
    assert rest.report.step == 6


class _Look(Callback):
    """A forward without a backward after each step, as validation makes it."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            pl_module.model(batch[0])


def test_a_forward_between_two_stages_does_not_undo_the_thawing(tmp_path: Path) -> None:
    run, net = stages(2, 4), module(stages(2, 4))
    own = [Curriculum(print_table=False), DataPosition(), _Look()]
    fitter = trainer(tmp_path, steps=6, precision="bf16-mixed", callbacks=own, enable_checkpointing=False)
    fitter.fit(net, datamodule=TinyData(run))
    assert net.model is not None
    net.model.reshard()  # type: ignore[operator]
    state = fitter.optimizers[0].state[net.model.language_model.model.embed_tokens.weight]
    assert int(state["step"]) == 4, "thawed for every step of the second stage"


def test_precision_that_would_drop_small_updates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision 'bf16-true' is not supported; there are 32-true and bf16-mixed"):
        trainer(tmp_path, precision="bf16-true").fit(module(), datamodule=TinyData(stages()))


def test_presets_have_the_published_sizes() -> None:
    for name, billions in (("neo_ov_2b", 2.585), ("neo_ov_9b", 10.247)):
        with torch.device("meta"):
            parameters = sum(p.numel() for p in Neo(read_config(name)).parameters())
        assert round(parameters / 1e9, 3) == billions


def test_model_names_are_checked() -> None:
    assert read_config({"preset": "neo_ov_9b", "vocab_size": 5}).hidden_size == PRESETS["neo_ov_9b"]["hidden_size"]
    assert read_config(asdict(CONFIG)) == CONFIG
    with pytest.raises(ValueError, match=r"no preset and no folder.*Did you mean 'neo_ov_2b'"):
        read_config("neo_ov_2")
    with pytest.raises(ValueError, match=r"no field 'hiden_size'.*Did you mean 'hidden_size'"):
        read_config({"hiden_size": 4})
    with pytest.raises(ValueError, match="needs a folder"):
        Init(kind="released")


def test_a_released_folder_is_where_a_run_starts(tmp_path: Path) -> None:
    source = build()
    export_model(source, CONFIG, tmp_path / "model")
    run = stages()
    net = NeoModule(run, model=str(tmp_path / "model"), init=Init(kind="released", folder=str(tmp_path / "model")))
    assert net.config == CONFIG
    watch = {}

    fitter = trainer(tmp_path / "run", steps=1, save_every=0)
    original = net.on_train_start

    def remember() -> None:
        assert net.model is not None
        watch.update({name: p.detach().clone() for name, p in net.model.named_parameters()})
        original()

    net.on_train_start = remember  # type: ignore[method-assign]
    fitter.fit(net, datamodule=TinyData(run))
    assert all(torch.equal(watch[name], p) for name, p in source.named_parameters())


def test_weights_that_do_not_fit_are_listed() -> None:
    model = build()
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    values["language_model.model.norm.weight"] = torch.ones(3)
    values.pop("language_model.model.embed_tokens.weight")
    values["extra"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"3 differences") as error:
        fill_parameters(model, values.items())
    for part in ("not in this model: extra", "norm.weight: shape [3], the model has [16]", "missing: language_model"):
        assert part in str(error.value)


def test_a_size_that_no_group_has_is_refused() -> None:
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        NeoStrategy(shard_size=0)
