"""Measures speed and logs every number of a step.

In: `StepReport`s and the clock. Out, every `log_every_n_steps` of the trainer: one line to all loggers (see `NAMES`),
`pl_module.metrics` for the progress bar, `trainer.callback_metrics` for a user's callbacks. A step already waits for
its device once, so the clock is honest and nothing here waits again.

MFU is the model's floating-point work per second over the devices' dense bf16 peak: exact mask pairs, forward and
backward of what the stage trains, head on supervised tokens only, no recomputation counted (see `model.flops`).

Goodput is a/b, both in seconds of rank 0. a: of every step that the run still has, the time from its batch's arrival to
its end, if the optimiser moved. b: the lives of all processes of rank 0 so far. So what counts against it is starting,
waiting for data, saving, validating, answering, steps that were skipped, and steps behind the checkpoint from which a
later start went on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from neo_lightning.model.flops import flops_per_step
from neo_lightning.training.devices import peak_flops
from neo_lightning.training.goodput import WallTime
from neo_lightning.training.module import NeoModule
from neo_lightning.training.stages import stage_ends, trained_names
from neo_lightning.training.step import StepReport

NAMES = {
    "loss": "weighted mean over the step's supervised tokens of all ranks, nats",
    "loss/MODALITY": "the same over one modality's tokens",
    "lr": "learning rate",
    "grad_norm": "norm of the whole gradient before clipping",
    "stage": "number of the stage, from 0",
    "pack_fill": "part of the packed rows that documents fill",
    "tokens": "tokens of documents seen in the run",
    "tokens_per_s": "tokens of documents per second, all ranks, waiting for data included",
    "supervised_tokens_per_s": "likewise for supervised tokens",
    "step_s": "seconds per step, waiting for data included",
    "balance": "expected share of the ranks' time that is work, from the plan: the rest waits for the dearest row",
    "data_wait": "part of the time in which the step waited for its batch (rank 0)",
    "save_stall_s": "seconds that training waited for saves since the last line (rank 0)",
    "save_s": "seconds from the begin of the last checkpoint to its commit",
    "goodput": "part of the life of all starts in which steps were trained that were kept (rank 0)",
    "flops": "model FLOP of the run: forward and backward of what trains, no recomputation counted",
    "mfu": "model FLOP per second over the devices' peak, where that is known",
    "memory_gib": "largest device memory allocated since the last line (CUDA)",
    "skipped_steps": "steps of the run in which the optimiser did not move",
    "tombstones": "samples of the run that proved bad when read",
    "slowest_rank": "rank with the most seconds of work in a step (several ranks; see `pulse.Monitor.slowest`)",
    "slowest_s": "those seconds: reading, host and CPU; waiting for other ranks and for a device is not in them",
    "val_loss": "of a validation: weighted mean over the supervised tokens of all its sources, nats",
    "val_loss/SOURCE": "the same over one source of `data.validation`",
}
"""What is logged, and its unit."""


@dataclass
class _Window:
    """What happened since the last logged line."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    tokens: float = 0.0
    supervised: float = 0.0
    flops: float = 0.0
    balances: list[float] = field(default_factory=list)


class Throughput(Callback):
    """Speed, and the log of every step's numbers."""

    def __init__(self) -> None:
        self.tokens = 0.0
        self.flops = 0.0
        self.tombstones = 0.0
        self.trained_s = 0.0
        """Seconds of the steps that the run has and in which the optimiser moved."""
        self._wall: WallTime | None = None
        self._stalled = 0.0
        self._window = _Window()
        self._began = 0.0
        self._every = 1
        self._peak: float | None = None
        self._trained: dict[str, set[str]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Totals of the run."""
        return {
            "tokens": self.tokens,
            "flops": self.flops,
            "tombstones": self.tombstones,
            "trained_s": self.trained_s,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens, self.tombstones = state_dict["tokens"], state_dict["tombstones"]
        self.trained_s = state_dict.get("trained_s", 0.0)  # earlier versions did not count it,
        self.flops = state_dict.get("flops", 0.0)  # nor these

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Look up the peak."""
        self._every = max(1, getattr(trainer, "log_every_n_steps", 1))
        self._window = _Window()
        self._peak = peak_flops(pl_module.device)
        starts = Path(trainer.default_root_dir) / "starts.json"
        if not starts.is_file():  # a branch: the steps before were trained in the life of another run
            self.trained_s = 0.0
        self._wall = WallTime(starts)
        self._stalled = pl_module.save_stall_s

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The batch is here: what has passed since the last step's hooks was waiting."""
        self._began = time.perf_counter()
        self._window.waited += self._began - pl_module.hooks_done

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the step, and log if it is time."""
        assert isinstance(pl_module, NeoModule)
        report, window = pl_module.report, self._window
        assert report is not None
        window.steps += 1
        seconds = time.perf_counter() - self._began
        window.seconds += seconds
        self.trained_s += 0.0 if report.skipped else seconds
        window.tokens += report.counts["tokens"]
        window.supervised += report.counts["supervised"]
        balance_of = getattr(trainer.datamodule, "balance_of", None)  # type: ignore[attr-defined]
        balance = balance_of(report.step) if balance_of else None
        window.balances += [] if balance is None else [balance]
        flops = self._flops(pl_module, report)
        window.flops += flops
        self.flops += flops
        self.tokens += report.counts["tokens"]
        self.tombstones += report.counts["tombstones"]
        done = report.step + 1
        if done == 1 or done % self._every == 0 or done in stage_ends(pl_module.stages):
            pl_module.metrics = self._metrics(trainer, pl_module, report)
            for logger in trainer.loggers:
                logger.log_metrics(pl_module.metrics, step=done)
            # what `log_dict` would do for callbacks that watch a metric, without its 10 ms
            trainer.callback_metrics.update({name: torch.tensor(x) for name, x in pl_module.metrics.items()})
            self._window, self._stalled = _Window(), pl_module.save_stall_s
            if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                assert self._wall is not None
                self._wall.note()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log its losses with the steps done."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        losses = {name: x.item() for name, x in trainer.callback_metrics.items() if name.startswith("val_loss")}
        for logger in trainer.loggers:
            logger.log_metrics(losses, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Nothing logged may be lost with the process."""
        if self._wall is not None and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._wall.note()
        for logger in trainer.loggers:
            logger.save()

    def _flops(self, module: NeoModule, report: StepReport) -> float:
        """Model FLOP of a step of all ranks."""
        if report.stage not in self._trained:
            assert module.model is not None
            names = [name for name, _ in module.model.named_parameters()]
            trains = module.stages[report.stage].trains
            self._trained[report.stage] = trained_names(names, trains, module.config.extra_num_layers)
        counts = report.counts
        return flops_per_step(
            module.config,
            tokens=int(counts["capacity"]),
            patches=int(counts["patches"]),
            pairs=int(counts["pairs"]),
            supervised=int(counts["supervised"]),
            patch_pairs=int(counts["patch_pairs"]),
            trained=self._trained[report.stage].__contains__,
            ranks=module.lora.ranks(module.config) if module.lora else None,
        )

    def _metrics(self, trainer: Trainer, module: NeoModule, report: StepReport) -> dict[str, float]:
        window = self._window
        assert self._wall is not None
        seconds = max(1e-9, window.seconds + window.waited)
        metrics = {
            "loss": report.loss,
            **{f"loss/{name}": loss for name, loss in report.modality_loss.items()},
            "lr": report.lr,
            "grad_norm": report.grad_norm,
            "stage": float(list(module.stages).index(report.stage)),
            "pack_fill": report.fill,
            "tokens": self.tokens,
            "flops": self.flops,
            "tokens_per_s": window.tokens / seconds,
            "supervised_tokens_per_s": window.supervised / seconds,
            "step_s": seconds / window.steps,
            "data_wait": window.waited / seconds,
            "skipped_steps": float(module.skipped_steps),
            "tombstones": self.tombstones,
            "save_stall_s": module.save_stall_s - self._stalled,
            "goodput": self.trained_s / self._wall.seconds,
        }
        if module.save_s:
            metrics["save_s"] = module.save_s
        if module.slowest is not None:
            metrics["slowest_rank"], metrics["slowest_s"] = module.slowest
        if window.balances and trainer.world_size > 1:
            metrics["balance"] = sum(window.balances) / len(window.balances)
        if self._peak:
            metrics["mfu"] = window.flops / seconds / (self._peak * trainer.world_size)
        if module.device.type == "cuda":
            metrics["memory_gib"] = torch.cuda.max_memory_allocated(module.device) / 2**30
            torch.cuda.reset_peak_memory_stats(module.device)
        return metrics
