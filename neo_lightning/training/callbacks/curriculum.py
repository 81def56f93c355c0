"""Freezes and thaws at the switch of stages, and says at the start what each stage trains.

In: the step about to be done. Out: `requires_grad` of every parameter. The stage is a function of the step alone, so a
resumed run needs nothing but its step to be where it was.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from rich.console import Console
from rich.table import Table

from neo_lightning.training.module import NeoModule
from neo_lightning.training.stages import TableRow, parameter_table, stage_at
from neo_lightning.types import Stage


def render_table(rows: list[TableRow], stages: dict[str, Stage]) -> Table:
    """The table of trained parameters, one line per stage."""
    parts = list(dict.fromkeys(row.part for row in rows))
    table = Table(title="Trained parameters per stage", title_justify="left")
    table.add_column("stage")
    for heading in ("steps", "context", "peak lr", *parts, "trained", "of"):
        table.add_column(heading, justify="right")
    for name, stage in stages.items():
        own = {row.part: row for row in rows if row.stage == name}
        cells = []
        for part in parts:
            row = own[part]
            share = f"{row.trained:,}" if row.trained == row.total else f"{row.trained:,} of {row.total:,}"
            cells.append("-" if not row.total else "frozen" if not row.trained else share)
        trained, total = sum(r.trained for r in own.values()), sum(r.total for r in own.values())
        table.add_row(
            name, f"{stage.steps:,}", f"{stage.context:,}", f"{stage.lr:g}", *cells, f"{trained:,}", f"{total:,}"
        )
    return table


class Curriculum(Callback):
    """Applies each stage at its first step, and the current one after a resume."""

    def __init__(self, print_table: bool = True) -> None:
        """Args: `print_table`, whether the table of trained parameters is shown when training starts."""
        self.print_table = print_table
        self._applied = ""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Apply the stage of the first step of this process."""
        assert isinstance(pl_module, NeoModule)
        self._applied = pl_module.apply_stage_of(trainer.global_step)
        if self.print_table:
            self._show(pl_module)

    @rank_zero_only
    def _show(self, pl_module: NeoModule) -> None:
        assert pl_module.model is not None
        rows = parameter_table(pl_module.model, pl_module.stages, pl_module.config.extra_num_layers)
        Console(width=None).print(render_table(rows, pl_module.stages))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Switch where a new stage begins."""
        name = stage_at(pl_module.stages, trainer.global_step)[0]
        if name != self._applied:
            self._applied = pl_module.apply_stage_of(trainer.global_step)
            rank_zero_info(f"step {trainer.global_step}: stage {name} begins")
