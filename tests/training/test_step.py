"""One optimiser step: what it adds up, what it leaves out, and what it moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from neo_lightning.training.module import NeoModule, NonFiniteError
from neo_lightning.training.step import COUNTS, clip_gradients, count, modality_losses, reason_to_skip
from neo_lightning.types import IGNORE, MODALITIES, PackedBatch

from .tiny import TinyData, make_row, module, stage, stages, trainer, without_info


class Weights(Callback):
    """Copies of all weights before the first and after every step."""

    def __init__(self) -> None:
        self.history: list[dict[str, Tensor]] = []
        self.reports: list[Any] = []

    def _copy(self, pl_module: Any) -> None:
        self.history.append({name: p.detach().clone() for name, p in pl_module.model.named_parameters()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._copy(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self._copy(pl_module)
        self.reports.append(outputs["report"])

    def changed(self, first: int, last: int) -> set[str]:
        """Names of the parameters that differ between two points."""
        before, after = self.history[first], self.history[last]
        return {name for name in before if not torch.equal(before[name], after[name])}


def fit(folder: Path, steps: list[list[PackedBatch]], **options: Any) -> tuple[Weights, NeoModule]:
    """Train on given steps and watch the weights."""
    watch = Weights()
    run = {"all": stage(len(steps), lr=1e-2, warmup_ratio=0.0)}
    net = module(run, **options)
    loader = DataLoader(steps, batch_size=None, collate_fn=lambda item: item)  # type: ignore[arg-type]
    trainer(folder, watch, steps=len(steps), save_every=0).fit(net, loader)
    return watch, net


def join(rows: list[PackedBatch]) -> PackedBatch:
    """The rows' documents in one long row."""
    lengths = [row.input_ids.numel() for row in rows]
    offsets = [sum(lengths[:i]) for i in range(len(rows))]

    def cat(name: str, shift: bool = False) -> Tensor:
        return torch.cat([getattr(r, name) + (o if shift else 0) for r, o in zip(rows, offsets, strict=True)])

    # a row's blank unit has no place in it, so only the units that have one may be joined
    units = [r.grids if r.visual_index.numel() else r.grids[:0] for r in rows]
    patches = [r.patches if r.visual_index.numel() else r.patches[:0] for r in rows]
    fields = {name: cat(name) for name in ("input_ids", "positions", "targets", "weights", "modality")}
    shifted = {name: cat(name, True).to(getattr(rows[0], name).dtype) for name in ("start", "limit", "visual_index")}
    return PackedBatch(**fields, **shifted, grids=torch.cat(units), patches=torch.cat(patches))


def test_four_micro_batches_are_one_big_batch(tmp_path: Path) -> None:
    steps = [[make_row(4 * step + i, images=i % 3) for i in range(4)] for step in range(3)]
    few, _ = fit(tmp_path / "a", steps, eps=1e-4)
    one, _ = fit(tmp_path / "b", [[join(rows)] for rows in steps], eps=1e-4)
    for a, b in zip(few.reports, one.reports, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
        assert a.modality_loss == pytest.approx(b.modality_loss, rel=1e-5)
        assert a.counts["weight"] == pytest.approx(b.counts["weight"])
    for name, weight in few.history[-1].items():
        torch.testing.assert_close(weight, one.history[-1][name], rtol=1e-4, atol=1e-5)
    assert few.changed(0, 3) == set(few.history[0])  # not equal because nothing moved


def test_loss_is_the_weighted_mean_over_the_whole_step(tmp_path: Path) -> None:
    rows = [make_row(i, images=i, weight=w) for i, w in enumerate((0.25, 3.0))]
    watch, net = fit(tmp_path, [rows])
    model = net.model
    assert model is not None
    model.load_state_dict(watch.history[0], strict=False)
    total, weight, by_modality = 0.0, 0.0, dict.fromkeys(MODALITIES, (0.0, 0.0))
    for row in rows:
        with torch.no_grad():
            hidden = model.hidden(
                model.embed(row.input_ids, row.visual_index, row.patches, row.grids),
                model.row(row.positions, row.start, row.limit),
            )
            nll = torch.nn.functional.cross_entropy(model.logits(hidden), row.targets, reduction="none")
        total, weight = total + float((row.weights * nll).sum()), weight + float(row.weights.sum())
        for kind in range(2):
            w = row.weights * (row.modality == kind)
            old = by_modality[MODALITIES[kind]]
            by_modality[MODALITIES[kind]] = (old[0] + float((w * nll).sum()), old[1] + float(w.sum()))
    report = watch.reports[0]
    assert report.loss == pytest.approx(total / weight, rel=1e-5)
    assert report.modality_loss == pytest.approx({k: x / w for k, (x, w) in by_modality.items() if w}, rel=1e-5)
    assert set(report.modality_loss) == {"text", "image"}


def test_each_stage_moves_exactly_what_it_trains(tmp_path: Path) -> None:
    run = stages(3, 3)
    watch = Weights()
    net = module(run)
    trainer(tmp_path, watch, steps=6, save_every=0).fit(net, datamodule=TinyData(run))
    names = set(watch.history[0])
    layers = "language_model.model.layers."
    moved = watch.changed(0, 3)
    assert moved == {
        name
        for name in names
        if name.startswith(("vision_model.", f"{layers}0."))
        or "_hw." in name
        or name.split(".")[-2][-2:] in ("_h", "_w")
    }
    assert f"{layers}2.self_attn.q_norm.weight" not in moved
    assert f"{layers}2.self_attn.q_norm_w.weight" in moved
    assert watch.changed(3, 6) == names
    for step in range(6):  # no step is silently empty
        assert watch.changed(step, step + 1)


def test_norms_and_biases_are_not_decayed(tmp_path: Path) -> None:
    net = module()
    trainer(tmp_path, steps=1, save_every=0).fit(net, datamodule=TinyData(net.stages))
    decays = {id(p): g["weight_decay"] for g in net.trainer.optimizers[0].param_groups for p in g["params"]}
    assert net.model is not None
    for name, parameter in net.model.named_parameters():
        plain = "norm" in name or name.endswith("bias")
        assert decays[id(parameter)] == (0.0 if plain else 0.01), name


def test_a_run_says_what_its_products_may_be_computed_in(tmp_path: Path) -> None:
    for asked in ("medium", "highest"):  # the default last
        net = module(matmul_precision=asked)
        trainer(tmp_path, steps=1, save_every=0).fit(net, datamodule=TinyData(net.stages))
        assert torch.get_float32_matmul_precision() == asked


def test_a_step_without_weight_moves_nothing(tmp_path: Path) -> None:
    good, empty = [make_row(0)], [make_row(1, weight=0.0)]
    watch, net = fit(tmp_path, [good, empty, good])
    assert [bool(r.skipped) for r in watch.reports] == [False, True, False]
    assert "no supervised token" in watch.reports[1].skipped
    assert watch.changed(1, 2) == set()
    assert watch.changed(2, 3)
    assert net.skipped_steps == 1
    assert net.trainer.global_step == 3
    assert all(torch.isfinite(p).all() for p in watch.history[-1].values())


def test_one_empty_micro_batch_changes_nothing_about_the_others(tmp_path: Path) -> None:
    with_empty, _ = fit(tmp_path / "a", [[make_row(0), make_row(1, weight=0.0)]])
    alone, _ = fit(tmp_path / "b", [[make_row(0)]])
    assert with_empty.reports[0].loss == pytest.approx(alone.reports[0].loss, rel=1e-6)
    assert with_empty.reports[0].grad_norm == pytest.approx(alone.reports[0].grad_norm, rel=1e-5)


class _Poison(Callback):
    """Makes the loss of chosen steps infinite through one weight, and repairs it."""

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.before = pl_module.model.language_model.model.norm.weight.detach().clone()
        if trainer.global_step in self.steps:
            pl_module.model.language_model.model.norm.weight.data.fill_(float("nan"))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step - 1 in self.steps:
            pl_module.model.language_model.model.norm.weight.data.copy_(self.before)


def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    watch, run = Weights(), {"all": stage(6)}
    net = module(run, stop_after_skips=3)
    trainer(tmp_path, _Poison({2, 4}), watch, steps=6, save_every=0).fit(net, datamodule=_Data(run))
    assert [r.step for r in watch.reports if r.skipped] == [2, 4]
    assert watch.changed(2, 3) == set()
    assert watch.changed(3, 4)
    assert net.skipped_steps == 2
    assert all(torch.isfinite(p).all() for p in watch.history[-1].values())


def test_too_many_in_a_row_stop_the_run(tmp_path: Path) -> None:
    run = {"all": stage(9)}
    net = module(run, stop_after_skips=3)
    with pytest.raises(NonFiniteError, match=r"3 steps in a row .* up to step 5 \(loss is not finite"):
        trainer(tmp_path, _Poison({0, 1, 3, 4, 5, 6}), steps=9, save_every=0).fit(net, datamodule=_Data(run))


class _Data(TinyData):
    """Rows for a run of one stage."""

    def train_dataloader(self) -> Any:
        def steps() -> Iterator[list[PackedBatch]]:
            index = self.next_step
            while True:
                yield [make_row(index)]
                index += 1

        return steps()


def test_documents_are_scored_one_by_one(tmp_path: Path) -> None:
    rows = [make_row(i, images=i, weight=w) for i, w in enumerate((0.25, 3.0))]
    silent = replace(rows[1], targets=rows[1].targets.index_fill(0, torch.arange(12, 24), IGNORE))
    net = module()
    loader = DataLoader([rows, [silent]], batch_size=None, collate_fn=lambda item: item)  # type: ignore[arg-type]
    found = trainer(tmp_path).predict(net, loader)
    assert found is not None
    scores = [score for step in found for score in step]
    assert [(s["key"], s["supervised"]) for s in scores] == [
        ("x/0a", 3),
        ("x/0b", 3),
        ("x/1a", 3),
        ("x/1b", 3),
        ("x/1a", 3),
        ("x/1b", 0),
    ]
    assert net.model is not None
    with torch.no_grad():
        for row, pair in zip([*rows, silent], (scores[:2], scores[2:4], scores[4:]), strict=True):
            nll, places = net.model(row).nll, row.places  # a document's are three
            for score, own in zip(pair, (nll[places < 12], nll[places >= 12]), strict=True):
                assert score["nll"] == pytest.approx(float(own.mean()), nan_ok=True)


def test_counts() -> None:
    row = make_row(3, images=2)
    named = dict(zip(COUNTS, count([row, row]).tolist(), strict=False))
    assert row.info is not None
    assert named["tokens"] == 2 * row.info.tokens
    assert named["capacity"] == 2 * row.input_ids.numel()
    assert named["supervised"] == 2 * int((row.targets != IGNORE).sum())
    assert named["visual"] == 2 * 4
    assert named["patches"] == 2 * 16
    assert named["documents"] == 4
    assert named["weight"] == pytest.approx(2 * float(row.weights.sum()))
    assert count([row])[len(COUNTS) :].sum() == pytest.approx(float(row.weights.sum()))
    bare = dict(zip(COUNTS, count([without_info(row)]).tolist(), strict=False))
    assert bare["supervised"] == row.info.supervised
    bad = replace(row, info=replace(row.info, tombstones=(("x/3a", "cut"),)))
    assert dict(zip(COUNTS, count([bad]).tolist(), strict=False))["tombstones"] == 1


def test_reasons_to_skip() -> None:
    assert reason_to_skip(weight=1.0, loss=2.0, grad_norm=3.0) == ""
    assert "gradient" in reason_to_skip(weight=1.0, loss=2.0, grad_norm=float("inf"))
    assert "loss" in reason_to_skip(weight=1.0, loss=float("nan"), grad_norm=float("nan"))
    assert "weight is nan" in reason_to_skip(weight=float("nan"), loss=float("nan"), grad_norm=1.0)


def test_a_norm_of_no_gradient_lies_where_the_others_do() -> None:
    frozen = torch.nn.Linear(2, 2, device="meta").requires_grad_(False)
    assert clip_gradients(frozen.parameters(), 1.0).device == torch.device("meta")


class _Operators(TorchDispatchMode):
    """Names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_losses_by_modality_are_added_in_a_fixed_order() -> None:
    """On a device scattered additions are atomic, and their order is another each time."""
    row = make_row(0, images=1)
    places = row.places
    nll = torch.rand(places.numel(), generator=torch.Generator().manual_seed(0))
    nll[-1] = float("nan")  # of the text document, the second
    with _Operators() as operators:
        found = modality_losses(row, nll, places)
    assert not [name for name in operators.names if "scatter" in name or "index_add" in name or "put" in name]
    image = row.modality[places] == MODALITIES.index("image")
    assert found[MODALITIES.index("image")] == pytest.approx(float((row.weights[places] * nll)[image].sum()))
    assert torch.isnan(found[MODALITIES.index("text")])
    assert found[MODALITIES.index("video")] == 0
