"""Muon: its formula, torch's own as a peer, sharded matrices, restarts, and what is not its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from neo_lightning.checkpoint.shards import ShardReader
from neo_lightning.model.neo import Neo
from neo_lightning.training import muon
from neo_lightning.training.memory import Layout, RowCounts, step_memory
from neo_lightning.training.muon import DECAY, MOMENTUM, SIZE, Muon, floats_of_step, newton_schulz
from neo_lightning.training.optim import build_optimizer, orthogonal
from tests.forks import Server

from .test_adamw import gradients
from .test_restart import Losses
from .test_step import Weights
from .tiny import CONFIG, Steps, TinyData, module, stage, stages, trainer


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16), (1, 8)])
def test_singular_values_come_to_one_and_directions_stay(shape: tuple[int, int]) -> None:
    """What its authors say of these coefficients: values from 0.7 to about 1.2 for those that are not tiny."""
    matrix = drawn(3, *shape)
    (u, s, v), (p, found, q) = torch.linalg.svd(matrix[1]), torch.linalg.svd(newton_schulz(matrix)[1])
    rank = min(shape)
    assert s.min() > s.max() / 100
    assert found.min() > 0.65
    assert found.max() < 1.25
    torch.testing.assert_close(
        u[:, :rank] @ v[:rank], p[:, :rank] @ q[:rank], rtol=0, atol=1e-3, msg="the polar factor of both is one"
    )


def test_a_matrix_of_zeros_stays_one() -> None:
    assert newton_schulz(torch.zeros(2, 4, 3)).tolist() == torch.zeros(2, 4, 3).tolist()


def test_steps_are_torchs_own_with_the_rate_that_matches_adamw() -> None:
    """It computes in bfloat16, which errs by 1% of a step's size; over twelve steps in different directions."""
    ours, theirs = (nn.Linear(24, 16, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": list(ours.parameters()), "weight_decay": 0.1, "orthogonal": True}]
    first = Muon(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    second = torch.optim.Muon(
        theirs.parameters(), lr=1e-2, weight_decay=0.1, momentum=DECAY, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(12):
        before = ours.weight.detach().clone()
        for layer, optimizer in ((ours, first), (theirs, second)):
            layer.weight.grad = drawn(16, 24, seed=step)
            optimizer.step()
        size = (ours.weight.detach() - before).square().mean().sqrt().item()
        assert (ours.weight.detach() - theirs.weight.detach()).square().mean().sqrt() < 0.05 * size
        assert size == pytest.approx(1e-2 * SIZE, rel=0.2), "as large as a step of AdamW"


def test_what_a_step_does_not_use_stays_where_it_is() -> None:
    """Without a gradient, and with one of zeros; the momentum fades meanwhile."""
    used, zero, none = (nn.Linear(6, 4, bias=False) for _ in range(3))
    groups = [{"params": [x.weight for x in (used, zero, none)], "weight_decay": 0.0, "orthogonal": True}]
    optimizer = Muon(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for layer in (used, zero, none):
        layer.weight.grad = drawn(4, 6)
    optimizer.step()
    before = [x.weight.detach().clone() for x in (used, zero, none)]
    used.weight.grad, zero.weight.grad, none.weight.grad = 1e-20 * drawn(4, 6, seed=1), torch.zeros(4, 6), None
    optimizer.step()
    after = [x.weight.detach() for x in (used, zero, none)]
    assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [False, True, True]
    momenta = [optimizer.state[x.weight][MOMENTUM].norm().item() for x in (used, zero, none)]
    assert momenta[1] == pytest.approx(DECAY * momenta[2])


def test_of_a_training_projections_move_by_it_and_the_rest_by_adamw(tmp_path: Path) -> None:
    run = {
        "a": stage(3, lr=4e-3, warmup_ratio=0.0, min_lr_ratio=1.0, trains=("patch_embedding", "pre_buffer", "hw")),
        "b": stage(3, lr=1e-3, warmup_ratio=0.0, min_lr_ratio=1.0, context=32),
    }
    beta1, beta2, eps, decay, clip = 0.8, 0.9, 1e-4, 0.3, 0.5
    watch = Weights()
    net = module(run, optimizer="muon", betas=(beta1, beta2), eps=eps, weight_decay=decay, clip=clip)
    trainer(tmp_path, watch, steps=6, save_every=0).fit(net, datamodule=TinyData(run))
    data, moments, moved = Steps(run, 0, 1), {}, set()
    for step in range(6):
        before, after, rate = watch.history[step], watch.history[step + 1], 4e-3 if step < 3 else 1e-3
        grads = gradients(before, data[step], run["a" if step < 3 else "b"])
        norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
        for name, weight in before.items():
            if name not in grads:
                assert torch.equal(after[name], weight), name
                continue
            grad = grads[name] * (clip / norm)
            count, m, v = moments.get(name, (0, torch.zeros_like(grad), torch.zeros_like(grad)))
            if name.endswith(("_proj.weight", "_proj_hw.weight")):
                m = 0.95 * m + 0.05 * grad
                ahead = 0.95 * m + 0.05 * grad
                move = 0.2 * max(grad.shape) ** 0.5 * newton_schulz(ahead[None])[0]
                moved.add(name)
            else:
                m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
                move = m / (1 - beta1 ** (count + 1)) / ((v / (1 - beta2 ** (count + 1))).sqrt() + eps)
            moments[name] = count + 1, m, v
            found = after[name].double() - weight.double()
            expected = -rate * (move + (decay * weight.double() if weight.ndim > 1 else 0.0))
            # float32; the iterations make errors of small singular values larger
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-6, msg=f"{name}, step {step}")
    assert len(moved) == CONFIG.num_hidden_layers * 9, "q, k, v, o, gate, up, down, and q and k of H and W"
    assert net.model is not None
    for name, parameter in net.model.named_parameters():
        assert set(net.trainer.optimizers[0].state[parameter]) == (
            {MOMENTUM} if name in moved else {"step", "exp_avg", "exp_avg_sq"}
        )


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    def fit(folder: Path, resume: Path | None = None) -> dict[int, float]:
        losses = Losses()
        trainer(folder, losses).fit(
            module(stages(), optimizer="muon", ema=0.9), datamodule=TinyData(stages()), ckpt_path=resume
        )
        return losses.seen

    whole = fit(tmp_path / "whole")
    for done in (3, 6):  # in either stage
        rest = fit(tmp_path / f"rest-{done}", tmp_path / "whole/checkpoints" / f"step-{done:08d}")
        assert rest == {step: loss for step, loss in whole.items() if step >= done}
        last, same = (ShardReader(tmp_path / f / "checkpoints/step-00000012") for f in ("whole", f"rest-{done}"))
        assert last.shapes == same.shapes
        assert all(torch.equal(last.read(n), same.read(n)) for n in last.shapes if not n.startswith("random/"))


@pytest.mark.parametrize("kinds", [("adamw", "muon"), ("muon", "adamw")])
def test_moments_of_another_optimiser_are_refused(tmp_path: Path, kinds: tuple[str, str]) -> None:
    first, second = (module(stages(), optimizer=kind) for kind in kinds)
    trainer(tmp_path / "a", steps=6).fit(first, datamodule=TinyData(stages()))
    checkpoint = tmp_path / "a/checkpoints/step-00000006"
    with pytest.raises(ValueError, match=r"step-00000006 has moments of another optimiser than model\.optimizer says"):
        trainer(tmp_path / "b", steps=9).fit(second, datamodule=TinyData(stages()), ckpt_path=checkpoint)


def test_a_run_in_which_it_moves_nothing_says_so(tmp_path: Path) -> None:
    run = {"one": stage(1, trains=("*.norm.weight",)), "two": stage(1, trains=("patch_embedding",))}
    with pytest.warns(UserWarning, match="no stage trains a projection: AdamW moves everything"):
        trainer(tmp_path, steps=2, save_every=0).fit(module(run, optimizer="muon"), datamodule=TinyData(run))


def test_a_word_for_no_optimiser_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.optimizer must be one of adamw, muon; found 'lion'"):
        module(stages(), optimizer="lion")


SHAPES = ((12, 8), (12, 8), (12, 8), (7, 5), (7, 5), (2, 9))
"""Of four ranks: three matrices, rows that do not divide (2, 2, 2, 1), and fewer rows than ranks (1, 1, 0, 0)."""


def rank(folder: str, ranks: int, copies: int, at_once: int) -> None:
    """One of the ranks: its rows of O, of matrices that are sharded over some ranks and copied over others."""
    torch.set_num_threads(1)
    muon._AT_ONCE = at_once
    number = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("gloo", rank=number, world_size=ranks)
    mesh = init_device_mesh("cpu", (copies, ranks // copies), mesh_dim_names=("copy", "shard"))
    whole = [drawn(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    model = nn.ModuleDict({f"{i}_proj": nn.Linear(1, 1, bias=False) for i in range(len(whole))})
    for layer, matrix in zip(model.values(), whole, strict=True):
        layer.weight = nn.Parameter(distribute_tensor(matrix, mesh, (Replicate(), Shard(0))))
    optimizer = build_optimizer(model, kind="muon", lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, lr_scales={})
    for parameter in model.parameters():
        assert isinstance(parameter, DTensor)
        parameter.grad = parameter.detach().clone()  # type: ignore[assignment]
    optimizer.step()
    moved = [parameter.detach().full_tensor().clone() for parameter in model.parameters()]  # type: ignore[attr-defined]
    only = model["0_proj"].weight.grad
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    if only.to_local().numel() and number % (ranks // copies) == 0:  # one rank of each shard group has a part of it
        only.to_local()[0] = 1.0
    optimizer.step()
    stay = [torch.equal(x, p.detach().full_tensor()) for x, p in zip(moved, model.parameters(), strict=True)]  # type: ignore[attr-defined]
    assert stay == [False, *[True] * (len(SHAPES) - 1)], (
        "a gradient on one rank moves the whole matrix, none moves none"
    )
    same = True
    for matrix, found, parameter in zip(whole, moved, model.parameters(), strict=True):
        ahead = matrix * 0.05 * 0.95 + matrix * 0.05  # any factor: O does not see it
        expected = matrix - 0.1 * SIZE * max(matrix.shape) ** 0.5 * newton_schulz(ahead[None])[0]
        same &= torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert isinstance(optimizer.state[parameter][MOMENTUM], DTensor)
    (Path(folder) / f"{number}.json").write_text(json.dumps(same))
    dist.barrier()


@pytest.mark.parametrize(("ranks", "copies", "at_once"), [(2, 1, muon._AT_ONCE), (2, 1, 1), (4, 1, 1), (4, 2, 1)])
def test_sharded_matrices_move_as_whole_ones(
    forks: Server, tmp_path: Path, ranks: int, copies: int, at_once: int
) -> None:
    """Several at a time for each rank, or one, for which two ranks come twice where there are three."""
    status, output = forks.run("tests.training.test_muon:rank", str(tmp_path), ranks, copies, at_once, ranks=ranks)
    assert status == 0, output
    assert all(json.loads((tmp_path / f"{number}.json").read_text()) for number in range(ranks))


def test_a_training_on_two_ranks_is_that_of_one(forks: Server, tmp_path: Path) -> None:
    """Sums of gradients are added in another order; the first five steps."""
    found: dict[int, list[float]] = {}
    for ranks in (1, 2):
        job: dict[str, Any] = {"folder": str(tmp_path / f"on-{ranks}"), "module": {"optimizer": "muon"}, "steps": 8}
        status, output = forks.run("tests.training.run_tiny:run", ranks, [job], ranks=ranks)
        assert status == 0, output
        lines = [line.split() for line in output.splitlines() if line.startswith(f"on-{ranks} ")]
        found[ranks] = [float(line[2]) for line in lines if line[1] != "done"]
    assert len(found[1]) == 8
    assert found[2] == pytest.approx(found[1], rel=1e-4)


def test_what_a_step_takes_for_itself_is_bounded() -> None:
    """Small matrices together, of which a rank has its part; large ones one by one."""
    assert floats_of_step([6] * 4, 1) == 7 * 6 * 4
    assert floats_of_step([6] * 5, 2) == 7 * 6 * 3
    assert floats_of_step([2**25] * 8 + [6], 8) == 7 * 2**25
    assert floats_of_step([2**20] * 100, 1) == 7 * 2**24
    assert floats_of_step([], 4) == 0


def test_it_keeps_one_moment_of_a_projection() -> None:
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in Neo(CONFIG).named_parameters()}
    row = RowCounts(tokens=2400, visual=4, supervised=8, pairs=300)
    both = [step_memory(CONFIG, sizes, lambda name: True, row, Layout(optimizer=kind)) for kind in ("adamw", "muon")]
    projections = sum(size for name, size in sizes.items() if orthogonal(name))
    assert both[0].moments - both[1].moments == 4 * projections
    assert both[0].snapshot - both[1].snapshot == 4 * projections
    assert both[0].peak - both[1].peak == 4 * projections, "the peak lies in the backward pass"
    assert 0.3 < projections / sum(sizes.values()) < 0.9
