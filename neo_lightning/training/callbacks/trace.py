"""Writes what some steps do, and when: a trace that Perfetto (ui.perfetto.dev) and Chrome open.

    data | patch embedding, layer 0, layer 1, ..., loss | ... backward ... | clip | optimiser | save

In: a few steps. Out: `RUN/trace/rank-00000.json`, operations and kernels of torch's profiler with those ranges around
them. Ranges of the model are hooks that are there only while it is traced; data, clip and save are marked where they
are (`torch.profiler.record_function`), a microsecond each. A traced step is slower than others, by far on a CPU.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function


class Trace(Callback):
    """Traces steps [first, first + steps) of one start, on every rank."""

    def __init__(self, first: int = 10, steps: int = 2) -> None:
        """
        Args:
            first: step of this start, from 0, with which it begins; the first ones compile and allocate.
            steps: how many. A step of a large model has 100,000 events.

        Raises:
            ValueError: one is out of range.
        """
        if first < 0 or steps < 1:
            raise ValueError(f"Trace: need first >= 0 and steps >= 1, found {first} and {steps}")
        self.first, self.steps = first, steps
        self._done = 0
        self._profile: profile | None = None
        self._marks = ExitStack()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Begin behind the step before the first one, so that its data is in the trace; write behind the last."""
        self._done += 1
        if self._done == self.first:
            self._begin(trainer, pl_module)
        elif self._done == self.first + self.steps:
            self._write(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin at once, where the first step is wanted."""
        self._done = 0
        if self.first == 0:
            self._begin(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """A run that ends earlier leaves what there is."""
        self._write(trainer)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Also where it ends with an error."""
        self._write(trainer)

    def _begin(self, trainer: Trainer, module: Any) -> None:
        device = module.device.type
        self._profile = profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == "cuda")])
        model = module.model
        self._around(model.embeddings, "patch embedding")
        for i, layer in enumerate(model.layers):
            self._around(layer, f"layer {i}")
        loss = _Range("loss")  # from the last norm to the end of the forward pass
        self._marks.enter_context(model.language_model.model.norm.register_forward_hook(loss.begin))
        self._marks.enter_context(model.register_forward_hook(loss.end))
        inner = trainer.optimizers[0]
        optimiser = _Range("optimiser")
        self._marks.enter_context(inner.register_step_pre_hook(optimiser.begin))
        self._marks.enter_context(inner.register_step_post_hook(optimiser.end))
        self._profile.start()

    def _around(self, block: nn.Module, name: str) -> None:
        found = _Range(name)
        self._marks.enter_context(block.register_forward_pre_hook(found.begin))
        self._marks.enter_context(block.register_forward_hook(found.end))

    def _write(self, trainer: Trainer) -> None:
        if self._profile is None:
            return
        profiler, self._profile = self._profile, None
        self._marks.close()
        profiler.stop()
        file = Path(trainer.default_root_dir) / "trace" / f"rank-{trainer.global_rank:05d}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(file))
        rank_zero_info(f"{file}: a trace of {self.steps} step(s), for ui.perfetto.dev")


class _Range:
    """A named range between two hooks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: record_function | None = None

    def begin(self, *_: Any) -> None:
        self._open = record_function(self._name)
        self._open.__enter__()

    def end(self, *_: Any) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
