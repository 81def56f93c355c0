"""The average of the weights: its formula, its restarts, and that the training takes no notice of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from neo_lightning.checkpoint.shards import ShardReader
from neo_lightning.cli.finish import restore
from neo_lightning.model.neo import Neo
from neo_lightning.training.ema import EMA, exchange
from neo_lightning.training.memory import Layout, RowCounts, step_memory
from neo_lightning.training.module import NeoModule
from tests.forks import Server

from .test_restart import Losses
from .tiny import CONFIG, TinyData, make_row, module, stage, stages, trainer

DECAY = 0.75


class Averages(Callback):
    """Weights before the first and after each step, and the averages then."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.averages: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights.append({name: p.detach().clone() for name, p in pl_module.model.named_parameters()})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.on_train_start(trainer, pl_module)
        state, names = trainer.optimizers[0].state, pl_module.model.named_parameters()
        self.averages.append({name: state[p][EMA].clone() for name, p in names if EMA in state.get(p, {})})


def fit(
    folder: Path, resume: Path | None = None, ema: float | None = DECAY, **options: Any
) -> tuple[Averages, dict[int, float], NeoModule]:
    watch, losses, run = Averages(), Losses(), stages()
    net = module(run, ema=ema)
    trainer(folder, watch, losses, **options).fit(net, datamodule=TinyData(run), ckpt_path=resume)
    return watch, losses.seen, net


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Averages, dict[int, float]]:
    """A run of 4 steps with a frozen backbone and 8 of everything."""
    folder = tmp_path_factory.mktemp("averaged")
    watch, losses, _ = fit(folder)
    return folder, watch, losses


def test_it_is_the_published_average_of_what_has_been_trained(whole: Any) -> None:
    _, watch, _ = whole
    expected: dict[str, Tensor] = {}
    for step, found in enumerate(watch.averages):
        before, after = watch.weights[step : step + 2]
        for name in after:
            if name in expected or not torch.equal(before[name], after[name]):
                expected[name] = DECAY * expected.get(name, before[name]).double() + (1 - DECAY) * after[name].double()
        assert set(found) == set(expected), f"step {step}"
        for name, average in found.items():
            torch.testing.assert_close(average.double(), expected[name], rtol=1e-6, atol=1e-7)
    assert len(watch.averages[3]) < len(watch.averages[4]) == len(watch.weights[0])


def test_what_is_frozen_again_is_neared(tmp_path: Path) -> None:
    run = {"one": stage(2), "two": stage(3, trains=("patch_embedding",))}
    watch, net = Averages(), module(run, ema=DECAY)
    trainer(tmp_path, watch, steps=5, save_every=0).fit(net, datamodule=TinyData(run))
    name = "language_model.model.norm.weight"
    weight = watch.weights[-1][name]
    assert torch.equal(weight, watch.weights[2][name]), "frozen"
    gaps = [float((averages[name] - weight).abs().max()) for averages in watch.averages[1:]]
    assert gaps[-1] == pytest.approx(gaps[0] * DECAY**3, rel=1e-3)
    assert gaps[0] > 1e-4


def test_a_step_that_moves_nothing_moves_no_average(tmp_path: Path) -> None:
    watch, good, empty = Averages(), [make_row(0)], [make_row(1, weight=0.0)]
    run = {"all": stage(3)}
    net = module(run, ema=DECAY)
    loader = torch.utils.data.DataLoader([good, empty, good], batch_size=None, collate_fn=lambda item: item)  # type: ignore[arg-type]
    trainer(tmp_path, watch, steps=3, save_every=0).fit(net, loader)
    first, second, third = watch.averages
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)
    assert any(not torch.equal(first[name], watch.weights[1][name]) for name in first), "or nothing could be seen"


def test_the_training_takes_no_notice(whole: Any, tmp_path: Path) -> None:
    _, watch, losses = whole
    plain, seen, _ = fit(tmp_path, ema=None)
    assert seen == losses
    assert all(torch.equal(watch.weights[-1][name], weight) for name, weight in plain.weights[-1].items())
    assert plain.averages[-1] == {}


@pytest.mark.parametrize("done", [3, 4, 6])
def test_a_resumed_run_has_the_same_averages_to_the_bit(whole: Any, tmp_path: Path, done: int) -> None:
    folder, watch, _ = whole
    rest, _, _ = fit(tmp_path, folder / "checkpoints" / f"step-{done:08d}")
    for found, expected in zip(rest.averages, watch.averages[done:], strict=True):
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_turned_on_in_the_middle_it_begins_at_the_weights(tmp_path: Path) -> None:
    fit(tmp_path / "off", ema=None, steps=6)
    watch, _, _ = fit(tmp_path / "on", tmp_path / "off/checkpoints/step-00000006", steps=7)
    (found,), (before, after) = watch.averages, watch.weights
    assert set(found) == set(after)
    for name, average in found.items():
        torch.testing.assert_close(average, DECAY * before[name] + (1 - DECAY) * after[name])


def test_turned_off_it_is_dropped_and_said(whole: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="average of the weights is dropped, as model.ema is not set"):
        watch, _, _ = fit(tmp_path, whole[0] / "checkpoints/step-00000006", ema=None)
    assert watch.averages[0] == {}
    assert not [n for n in ShardReader(tmp_path / "checkpoints/step-00000009").shapes if n.endswith(f"/{EMA}")]


def test_a_checkpoint_gives_its_average_or_its_weights(whole: Any, tmp_path: Path) -> None:
    folder, watch, _ = whole
    early, late = (folder / "checkpoints" / f"step-{n:08d}" for n in (3, 12))
    found = {kind: dict(restore(late, dtype=torch.float32, weights=kind).named_parameters()) for kind in ("ema", "raw")}  # type: ignore[arg-type]
    assert all(torch.equal(p, watch.averages[-1][name]) for name, p in found["ema"].items())
    assert all(torch.equal(p, watch.weights[-1][name]) for name, p in found["raw"].items())
    for name, parameter in restore(early, dtype=torch.float32).named_parameters():
        expected = watch.averages[2].get(name, watch.weights[3][name])
        assert torch.equal(parameter, expected), "what was never trained is its own average"
    fit(tmp_path, ema=None, steps=3)
    plain = tmp_path / "checkpoints" / "step-00000003"
    restore(plain, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"step-00000003 holds no average of the weights: .* without model\.ema"):
        restore(plain, dtype=torch.float32, weights="ema")


def test_exchanging_twice_is_nothing(tmp_path: Path) -> None:
    watch, net = Averages(), module(stages(), ema=DECAY)
    fitter = trainer(tmp_path, watch, steps=6, save_every=0)
    fitter.fit(net, datamodule=TinyData(stages()))
    assert net.model is not None
    exchange(fitter.optimizers[0])
    assert all(torch.equal(p, watch.averages[-1][name]) for name, p in net.model.named_parameters())
    exchange(fitter.optimizers[0])
    assert all(torch.equal(p, watch.weights[-1][name]) for name, p in net.model.named_parameters())


@pytest.mark.parametrize("decay", [0.0, 1.0, 9.0, -0.1])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"model\.ema is the part of the average that a step keeps, .* found"):
        module(ema=decay)


@pytest.mark.slow
@pytest.mark.parametrize("shard_size", [None, 1])
def test_two_ranks_have_the_average_of_one(forks: Server, whole: Any, tmp_path: Path, shard_size: int | None) -> None:
    """Shared or copied; killed and resumed; and a run of one rank goes on from theirs."""
    folder, watch, _ = whole
    job = {"shard_size": shard_size, "module": {"ema": DECAY}}
    names = [str(tmp_path / name) for name in ("full", "rest")]
    jobs = (
        {"folder": names[0], **job},
        {"folder": names[1], "checkpoint": f"{names[0]}/checkpoints/step-00000006", **job},
    )
    status, output = forks.run("tests.training.run_tiny:run", 2, jobs, ranks=2)
    assert status == 0, output
    one, two, again = (ShardReader(Path(f) / "checkpoints/step-00000012") for f in (folder, *names))
    stored = [name for name in one.shapes if name.endswith(f"/{EMA}")]
    assert len(stored) == len(watch.weights[0])
    for name in stored:
        assert torch.equal(two.read(name), again.read(name))
        torch.testing.assert_close(one.read(name), two.read(name), rtol=1e-4, atol=1e-6)
    rest, _, _ = fit(tmp_path / "one", Path(names[0]) / "checkpoints/step-00000006")
    for name, average in rest.averages[-1].items():
        torch.testing.assert_close(average, watch.averages[-1][name], rtol=1e-4, atol=1e-6)


def test_memory_counts_a_float_for_what_is_trained() -> None:
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in Neo(CONFIG).named_parameters()}
    row = RowCounts(tokens=24, visual=4, supervised=8, pairs=300)
    found = [
        step_memory(CONFIG, sizes, lambda name: "norm" not in name, row, Layout(shard_size=2, averaged=averaged))
        for averaged in (False, True)
    ]
    own = 4 * sum(size for name, size in sizes.items() if "norm" not in name) // 2
    assert [memory.averages for memory in found] == [0, own]
    assert found[1].peak - found[0].peak == own
