"""Freezes and thaws at the switch of stages, and says at the start what each stage trains.

In: the step about to be done. Out: `requires_grad` of every parameter. The stage is a function of the step alone, so a
resumed run needs nothing but its step to be where it was.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from rich import box
from rich.table import Table

from neo_lightning.console import table_console
from neo_lightning.training.module import NeoModule
from neo_lightning.training.stages import TableRow, parameter_table, stage_at
from neo_lightning.types import Stage

_HEADINGS = {
    "patch_embedding": "patches",
    "pre_buffer": "pre-buffer",
    "hw": "H/W",
    "backbone": "backbone",
    "lora": "LoRA",
}


def render_table(rows: list[TableRow], stages: dict[str, Stage]) -> Table:
    """The table of trained parameters, one line per stage; it fits 80 columns."""
    parts = list(dict.fromkeys(row.part for row in rows))
    everything = sum(row.total for row in rows if row.stage == rows[0].stage)
    table = Table(
        title=f"Trained of {_short(everything)} parameters", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("stage", no_wrap=True)
    for heading in ("steps", "lr", *(_HEADINGS[part] for part in parts), "trained"):
        table.add_column(heading, justify="right")
    for name, stage in stages.items():
        own = {row.part: row for row in rows if row.stage == name}
        cells = [_cell(own[part]) for part in parts]
        trained = _short(sum(row.trained for row in own.values()))
        table.add_row(name, f"{stage.steps:,}", f"{stage.lr:g}", *cells, trained)
    return table


def _cell(row: TableRow) -> str:
    if not row.total:
        return "-"
    if not row.trained:
        return "frozen"
    size = _short(row.trained) if row.trained == row.total else f"{_short(row.trained)} of {_short(row.total)}"
    low, high = row.lr_scales[0], row.lr_scales[-1]
    scale = "" if low == high == 1 else f" lr x{low:g}" if low == high else f" lr x{low:g}..{high:g}"
    return size + scale


def _short(parameters: int) -> str:
    """2,584,902,656 -> 2.585B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= size:
            return f"{parameters / size:.4g}{unit}"
    return str(parameters)


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
        table_console().print(render_table(rows, pl_module.stages))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Switch where a new stage begins."""
        name = stage_at(pl_module.stages, trainer.global_step)[0]
        if name != self._applied:
            self._applied = pl_module.apply_stage_of(trainer.global_step)
            rank_zero_info(f"step {trainer.global_step}: stage {name} begins")
