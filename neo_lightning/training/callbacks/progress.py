"""One progress bar over all stages, with the time that is left.

In: `pl_module.report` and `pl_module.metrics`. Out: a rich bar on a terminal, plain lines elsewhere. A stage's step may
cost many times another's, so progress is counted in tokens of packed rows, not in steps, and the time left comes from
the tokens per second of the last steps. The bar is drawn at most twice a second.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn

from neo_lightning.console import table_console
from neo_lightning.training.stages import stage_at, total_steps
from neo_lightning.types import Stage


def row_tokens(stages: Mapping[str, Stage], step: int) -> int:
    """Tokens of all packed rows of the first `step` steps of a run."""
    tokens = 0
    for stage in stages.values():
        steps = min(step, stage.steps)
        tokens += steps * stage.row_tokens * stage.packs_per_step
        step -= steps
    return tokens


class RunProgress(ProgressBar):
    """Progress over the whole run."""

    def __init__(self, every_n_steps: int = 50, seconds_between: float = 0.5) -> None:
        """
        Args:
            every_n_steps: between two lines where the output is no terminal.
            seconds_between: two drawings of the bar.
        """
        super().__init__()
        self.every_n_steps, self.seconds_between = every_n_steps, seconds_between
        self._enabled = True
        self._bar: Progress | None = None
        self._task: Any = None
        self._drawn = 0.0
        self._times: deque[tuple[float, int]] = deque(maxlen=64)

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line above the bar."""
        (self._bar.console if self._bar else table_console()).print(*args, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the bar, where there is a terminal."""
        stages = pl_module.stages
        self._times.clear()
        self._times.append((time.perf_counter(), row_tokens(stages, trainer.global_step)))
        if self._enabled and sys.stdout.isatty():
            columns = "{task.percentage:>3.0f}% {task.fields[line]}"
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn(columns), auto_refresh=False)
            self._task = self._bar.add_task("", total=row_tokens(stages, total_steps(stages)), line="")
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move on."""
        done, now = trainer.global_step, time.perf_counter()
        tokens = row_tokens(pl_module.stages, done)
        self._times.append((now, tokens))
        if not self._enabled:
            return
        name = stage_at(pl_module.stages, done - 1)[0]
        if self._bar is not None:
            if now - self._drawn >= self.seconds_between:
                self._drawn = now
                self._bar.update(self._task, completed=tokens, description=name, line=self._line(trainer, pl_module))
                self._bar.refresh()
        elif done == 1 or done % self.every_n_steps == 0 or done == total_steps(pl_module.stages):
            print(f"[{name}] {self._line(trainer, pl_module)}", flush=True)

    def _line(self, trainer: Trainer, pl_module: Any) -> str:
        metrics, total = pl_module.metrics, total_steps(pl_module.stages)
        parts = [f"step {trainer.global_step}/{total}", f"loss {pl_module.report.loss:.4f}"]
        parts.append(f"lr {pl_module.report.lr:.2e}")
        if metrics:
            parts += [f"{metrics['tokens_per_s']:,.0f} tok/s", f"data wait {metrics['data_wait']:.0%}"]
            parts += [f"save stall {metrics['save_stall_s']:.1f} s"] * (metrics["save_stall_s"] >= 0.05)
            parts += [f"goodput {metrics['goodput']:.0%}"]
        if "mfu" in metrics:
            parts.append(f"MFU {metrics['mfu']:.1%}")
        return "  ".join([*parts, f"left {self._time_left(pl_module.stages, total)}"])

    def _time_left(self, stages: Mapping[str, Stage], total: int) -> str:
        (start, before), (end, now) = self._times[0], self._times[-1]
        if now <= before:
            return "?"
        seconds = (row_tokens(stages, total) - now) * (end - start) / (now - before)
        return str(timedelta(seconds=round(seconds)))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Tell the loss of each validation source."""
        if not self._enabled or trainer.sanity_checking or trainer.state.fn != "fit" or trainer.global_rank:
            return
        losses = {
            name: float(x) for name, x in trainer.callback_metrics.items() if name.partition("/")[0] == "val_loss"
        }
        told = [f"{name.partition('/')[2] or 'loss'} {loss:.4f}" for name, loss in losses.items()]
        self.print(f"validation after step {trainer.global_step}: {', '.join(told)}", highlight=False, markup=False)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the finished bar on the screen."""
        self._close(pl_module, row_tokens(pl_module.stages, trainer.global_step))

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Give the terminal back."""
        self._close(pl_module, None)

    def _close(self, pl_module: Any, tokens: int | None) -> None:
        if self._bar is not None:
            if tokens is not None:
                self._bar.update(self._task, completed=tokens)
                self._bar.refresh()
            self._bar.stop()
            self._bar = None
