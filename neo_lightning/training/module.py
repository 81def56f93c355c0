"""The LightningModule: one `training_step` is one optimiser step.

In: `list[PackedBatch]`, this rank's micro-batches of the step. Out: moved weights and a `StepReport`. Optimisation is
manual, so gradient accumulation, clipping and skipping lie in one function that can be read from top to bottom, nothing
is ever saved between two micro-batches, and `global_step` counts steps, skipped ones included.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.profiler import record_function

from neo_lightning import stopping
from neo_lightning.answering import Answering
from neo_lightning.data.rows.collate import collate
from neo_lightning.exits import NUMBERS_BROKEN
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.lora import Lora, is_term
from neo_lightning.sequence import SequenceRule
from neo_lightning.training.build import Init, build_model, read_config
from neo_lightning.training.costs import document_costs
from neo_lightning.training.ema import averaging, drop_averages
from neo_lightning.training.heap import keep_freed_memory
from neo_lightning.training.optim import Kind, build_optimizer, orthogonal
from neo_lightning.training.parallel import (
    ActivationCheckpointing,
    keep_gathered,
    reshard,
    stages_kept,
    sum_over_copies,
)
from neo_lightning.training.phases import DATA, begin, waiting
from neo_lightning.training.random_state import set_random_state
from neo_lightning.training.scoring import ScoringModule
from neo_lightning.training.sequence import sharing
from neo_lightning.training.stages import apply_stage, learning_rate, lr_scales, never_trained, stage_at
from neo_lightning.training.step import (
    COUNTS,
    StepReport,
    Votes,
    clip_gradients,
    count,
    modality_losses,
    reason_to_skip,
    sent,
    sum_over_ranks,
)
from neo_lightning.types import MODALITIES, CostRatio, PackedBatch, Stage

_STATE = "neo_lightning"


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite. Raised on every rank."""

    exit_status = NUMBERS_BROKEN
    on_every_rank = True


class NeoModule(ScoringModule):
    """Trains a NEO through the stages of a run."""

    def __init__(
        self,
        stages: dict[str, Stage],
        model: str | dict[str, Any] | None = None,
        init: Init | None = None,
        lora: Lora | None = None,
        optimizer: Kind = "adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        ema: float | None = None,
        activation_checkpointing: ActivationCheckpointing = "none",
        recomputed_layers: int = 0,
        compile_blocks: bool = False,
        attention: str = "auto",
        fp8: bool = False,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
        stop_after_skips: int = 10,
    ) -> None:
        """
        Args:
            stages: the curriculum, in order.
            model: name of a preset (`training.build.PRESETS`), a folder with a `config.json`, or `NeoConfig`'s fields.
                None takes that of `init`: every size from its Qwen3, or the released model's; else `neo_ov_2b`.
            init: where the first weights come from; random if None.
            lora: low-rank terms that stages train as `trains: [lora]`, beside weights that stay as they are. The run
                leaves them as an adapter beside the export, into which they are merged.
            optimizer: `adamw`, or `muon`: projections move by orthogonalised momentum, everything else by AdamW, at the
                same rates (`training.muon`).
            betas: AdamW's.
            eps: AdamW's.
            weight_decay: of matrices; norms and biases have none.
            clip: largest norm of the gradient over all parameters; 0 does not clip.
            ema: decay a step of the average of the weights, such as 0.999; exports, samples and evaluations take the
                average then. None keeps none.
            activation_checkpointing: what the backward pass computes again to save memory; see `training.parallel`.
            recomputed_layers: of so many layers everything is computed again, as with `full`.
            compile_blocks: compile each layer.
            attention: backend of `ops.interval_attention`.
            fp8: multiply with the layers' projections in 8-bit floats (`ops.fp8`); wants `compile_blocks` for speed.
            matmul_precision: what the float32 products of projections may be computed in, for the whole process
                (`torch.set_float32_matmul_precision`): `high` allows tf32, `medium` bfloat16 inside, each where the
                device has units for it. With bf16-mixed there are no such products.
            stop_after_skips: so many steps in a row without a finite loss and gradient end the run.
        """
        if ema is not None and not 0 < ema < 1:
            raise ValueError(f"model.ema is the part of the average that a step keeps, between 0 and 1; found {ema}")
        if optimizer not in get_args(Kind):
            raise ValueError(f"model.optimizer must be one of {', '.join(get_args(Kind))}; found {optimizer!r}")
        super().__init__()
        self.automatic_optimization = False
        self.stages = stages
        self.init = init or Init()
        self.config: NeoConfig = read_config(model, self.init)
        self.lora = lora
        self.optimizer: Kind = optimizer
        self.betas, self.eps, self.weight_decay, self.clip = betas, eps, weight_decay, clip
        self.ema = ema
        self._how: dict[str, Any] = {
            "activation_checkpointing": activation_checkpointing,
            "recomputed_layers": recomputed_layers,
            "compile_blocks": compile_blocks,
            "attention": attention,
            "fp8": fp8,
        }
        self.matmul_precision = matmul_precision
        self.stop_after_skips = stop_after_skips
        self.report: StepReport | None = None
        """The last step."""
        self.metrics: dict[str, float] = {}
        """The last line of the log; see `callbacks.throughput.NAMES`."""
        self.votes = Votes()
        """What this rank says of the save in flight; travels to all ranks with the next step's sums."""
        self.save_stall_s = 0.0
        """Seconds that training has waited for saves, in this process."""
        self.save_s = 0.0
        """Seconds from the begin of the last save that was committed to its commit."""
        self.skipped_steps = 0
        """Steps of the whole run in which the optimiser did not move."""
        self.slowest: tuple[int, float] | None = None
        """The slowest rank and its seconds of work a step, where a `Pulse` has heard of all of them lately."""
        self.hooks_done = 0.0
        """`time.perf_counter()` when the last step's hooks had run: what follows is waiting for data."""
        self._skips_in_a_row = 0
        self._kept: frozenset[str] = frozenset()

    # ---- set-up

    def configure_model(self) -> None:
        """Build, shard and fill the model on this rank's device (nothing if it is there already)."""
        if self.model is not None:
            return
        torch.set_float32_matmul_precision(self.matmul_precision)
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        mesh = getattr(self.trainer.strategy, "mesh", None)
        if mesh is None and self.trainer.world_size > 1:
            raise ValueError("several processes need strategy `neo_lightning.training.strategy.NeoStrategy`")
        precision = self.trainer.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"precision {precision!r} is not supported; there are 32-true and bf16-mixed")
        self._kept = stages_kept(getattr(self.trainer.strategy, "keep_gathered", False), self.stages)
        self.model = build_model(
            self.config,
            self.init,
            stages=self.stages,
            device=self.trainer.strategy.root_device,
            lora=self.lora,
            mesh=mesh() if mesh is not None and (self.trainer.world_size > 1 or precision != "32-true") else None,
            bf16=precision == "bf16-mixed",
            **self._how,
            fill=self.trainer.ckpt_path is None,  # a checkpoint is about to bring all weights
            share=sharing(self.config, group) if (group := self.sequence_group()) else None,
        )

    def document_costs(self) -> dict[str, CostRatio]:
        """What documents cost in each stage, for the plan. A model of your own may have this method too."""
        return document_costs(self.config, self.stages, self.lora)

    def sequence_rule(self) -> SequenceRule:
        """How pictures lie in the rows, for the data. A model of your own that has `document_costs` has this too."""
        return self.config.rule

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One over everything."""
        assert self.model is not None
        names = {name for name, _ in self.model.named_parameters()}
        trained = names - never_trained(names, self.stages, self.config.extra_num_layers)
        if self.optimizer == "muon" and not any(map(orthogonal, trained)):
            rank_zero_warn("model.optimizer is muon, but no stage trains a projection: AdamW moves everything")
        return build_optimizer(
            self.model,
            kind=self.optimizer,
            lr=learning_rate(self.stages, 0),
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            lr_scales={name: self._lr_scales(stage) for name, stage in self.stages.items()},
        )

    def _lr_scales(self, stage: Stage) -> dict[str, float]:
        assert self.model is not None
        return lr_scales((name for name, _ in self.model.named_parameters()), stage, self.config.extra_num_layers)

    def apply_stage_of(self, step: int) -> str:
        """Freeze and thaw as the stage of an optimiser step says; returns the stage's name."""
        assert self.model is not None
        reshard(self.model)  # what is thawed on a gathered copy is frozen again one step later
        name, stage, _ = stage_at(self.stages, step)
        apply_stage(self.model, stage, self.config.extra_num_layers)
        keep_gathered(self.model, self.keeps_gathered(step))
        return name

    def keeps_gathered(self, step: int) -> bool:
        """Whether layers stay gathered between forward and backward of a micro-batch of this optimiser step."""
        return stage_at(self.stages, step)[0] in self._kept

    def on_train_start(self) -> None:
        """Random states of the checkpoint, after everything that may have drawn during the set-up."""
        if self.ema is None and drop_averages(self.trainer.optimizers[0]):
            rank_zero_warn("the checkpoint's average of the weights is dropped, as model.ema is not set any more")
        states = getattr(self.trainer.strategy, "random_states", {})
        if states:
            set_random_state(states, self.device)
            states.clear()
        self._wait_for_data()

    # ---- training

    def training_step(self, batch: list[PackedBatch], batch_idx: int) -> dict[str, Any]:
        """One optimiser step over this rank's micro-batches; see `training.step` for the arithmetic."""
        assert self.model is not None
        optimizer: Any = self.optimizers()
        step = self.trainer.global_step
        gave_up = not batch  # the others have their rows and are in this step, which ends only with us
        batch = batch or self._blank_rows(step)
        counts = sum_over_ranks(sent(count(batch), self.device))
        weight = counts[0]
        scale = torch.where(weight > 0, self.trainer.world_size / weight, 0.0).float()
        losses = torch.zeros(len(MODALITIES), device=self.device)
        for number, micro_batch in enumerate(batch, 1):
            on_device = micro_batch.to(self.device, non_blocking=True)
            sum_over_copies(self.model, number == len(batch))
            loss_sum, nll, index = self.model(on_device)
            self.manual_backward(loss_sum * scale)
            losses += modality_losses(on_device, nll, index)
        with record_function("clip"):
            norm = clip_gradients(self.model.parameters(), self.clip)
        votes = torch.tensor(self.votes._replace(stop=float(stopping.asked()), gave_up=float(gave_up)))
        outcome = sum_over_ranks(torch.cat([losses, sent(votes, self.device)]))
        with waiting():
            numbers = torch.cat([outcome.double(), norm.double().reshape(1), counts]).tolist()  # the step's one wait
        report = self._read(step, numbers)
        if report.votes.gave_up:
            optimizer.zero_grad(set_to_none=True)
            raise stopping.StoppedTogether("while a rank waited for data")
        if report.skipped:
            optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = report.lr * group["lr_scales"][report.stage]
        with averaging(optimizer.optimizer, None if report.skipped else self.ema):
            optimizer.step()  # without gradients it only counts the step
        optimizer.zero_grad(set_to_none=True)
        self._count_skips(report)
        self.report = report
        loss = torch.tensor(report.loss)  # on the host: a device would have to be waited for
        self.log("train_loss", loss, prog_bar=True, logger=False)  # each step's, for a bar or monitor of the user's own
        return {"loss": loss, "report": report}

    def _blank_rows(self, step: int) -> list[PackedBatch]:
        """As many rows as this rank has in a step, with nothing in them."""
        stage = stage_at(self.stages, step)[1]
        parts = getattr(self.trainer.strategy, "sequence_size", 1)
        share = self.trainer.global_rank % parts, parts
        weighting, rule = stage.loss_weighting, self.config.rule
        row = collate([], context=stage.row_tokens, pad_id=0, weighting=weighting, share=share, rule=rule)
        return [row] * -(-stage.packs_per_step // (self.trainer.world_size // parts))

    def _read(self, step: int, numbers: list[float]) -> StepReport:
        """Name the numbers of a step."""
        kinds, said = len(MODALITIES), len(MODALITIES) + len(Votes._fields)
        losses, votes, norm = numbers[:kinds], Votes(*numbers[kinds:said]), numbers[said]
        counts = dict(zip(COUNTS, numbers[said + 1 :], strict=False))
        weights = numbers[-kinds:]
        loss = sum(losses) / counts["weight"] if counts["weight"] else 0.0
        return StepReport(
            step=step,
            stage=stage_at(self.stages, step)[0],
            loss=loss,
            modality_loss={m: x / w for m, x, w in zip(MODALITIES, losses, weights, strict=True) if w},
            grad_norm=norm,
            lr=learning_rate(self.stages, step),
            skipped=reason_to_skip(weight=counts["weight"], loss=loss, grad_norm=norm),
            votes=votes,
            counts=counts,
        )

    def _count_skips(self, report: StepReport) -> None:
        if not report.skipped:
            self._skips_in_a_row = 0
            return
        self.skipped_steps += 1
        self._skips_in_a_row += 1
        rank_zero_warn(f"step {report.step}: {report.skipped}, the optimiser did not move")
        if self._skips_in_a_row >= self.stop_after_skips:
            raise NonFiniteError(
                f"{self._skips_in_a_row} steps in a row without an update, up to step {report.step} "
                f"({report.skipped}; loss {report.loss}, gradient norm {report.grad_norm}, lr {report.lr:g}). "
                "Go back to an earlier checkpoint with a lower learning rate, or look at the data of these steps."
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Runs after the callbacks' hooks."""
        self._wait_for_data()

    def _wait_for_data(self) -> None:
        self.hooks_done = time.perf_counter()
        begin(DATA)

    def on_validation_epoch_end(self) -> None:
        """Log the losses; what follows is waiting for data."""
        super().on_validation_epoch_end()
        self._wait_for_data()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a reader of the checkpoint wants to know; plain values only."""
        done = self.trainer.global_step
        name, stage, _ = stage_at(self.stages, max(0, done - 1))
        checkpoint[_STATE] = {
            "steps": done,
            "stage": name,
            "answering": asdict(Answering.of_stage(stage)),
            "skipped_steps": self.skipped_steps,
            "skips_in_a_row": self._skips_in_a_row,
            "config": self.config.to_dict(),
            "lora": None if self.lora is None else self._about_adapter(self.lora),
        }

    def _about_adapter(self, lora: Lora) -> dict[str, Any]:
        """What an adapter's file says of it."""
        assert self.model is not None
        names = [name for name, _ in self.model.named_parameters()]
        trained = set(names) - never_trained(names, self.stages, self.config.extra_num_layers)
        return {
            "options": {**asdict(lora), "targets": list(lora.targets)},
            "base": self.init.folder if self.init.kind == "released" else None,
            "whole": sorted(name for name in trained if not is_term(name)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counters of the run so far."""
        state = checkpoint[_STATE]
        self.skipped_steps, self._skips_in_a_row = state["skipped_steps"], state["skips_in_a_row"]
