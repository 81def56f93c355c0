"""What the LightningModule does without training: validation, test and prediction over packed rows.

In: `list[PackedBatch]`, this rank's micro-batches. Out: weighted mean losses over the supervised tokens of all ranks,
by source as well, or a score for each document. Nothing of the training moves.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed

from neo_lightning import stopping
from neo_lightning.model.neo import Neo
from neo_lightning.training.step import sum_over_ranks, sums_by_kind
from neo_lightning.training.stopping import ranks_store, take_over_signals
from neo_lightning.types import PackedBatch, RowPart

# at every start Lightning would say twice that there is no validation data, and once what torch renames;
# and `validate` needs no logger for its table
warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
warnings.filterwarnings("ignore", message="You called `self.log.*no logger configured")


class ScoringModule(LightningModule):
    """Scores packed rows with a model that a subclass builds."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Neo | None = None
        self._requests = ExitStack()
        self._validation = torch.zeros(1, 2, dtype=torch.float64)
        """Weighted losses and weights of the validation, a row a source and one for all."""

    def setup(self, stage: str) -> None:
        take_over_signals(self.trainer)

    def on_validation_start(self) -> None:
        """Several ranks that do not train stop together too: what one is asked waits for the next batch of all."""
        if self.trainer.world_size > 1 and self.trainer.state.fn != "fit":
            self._requests.enter_context(stopping.held(ranks_store()))

    def on_validation_end(self) -> None:
        self._requests.close()

    def on_test_start(self) -> None:
        self.on_validation_start()

    def on_test_end(self) -> None:
        self.on_validation_end()

    def on_predict_start(self) -> None:
        self.on_validation_start()

    def on_predict_end(self) -> None:
        self.on_validation_end()

    def _stop_if_asked(self) -> None:
        """On all ranks, where one of them was asked to stop; in front of a batch."""
        asked: float = stopping.asked()
        if self.trainer.world_size > 1:  # one rank alone need not wait for its device
            asked = sum_over_ranks(torch.tensor(float(asked), device=self.device)).item()
        if asked:
            raise stopping.StoppedTogether(stopping.why() or "another rank was asked")

    def on_validation_epoch_start(self) -> None:
        rows = len(self._validation_sources()) + 1
        self._validation = torch.zeros(rows, 2, dtype=torch.float64, device=self.device)

    def sequence_group(self) -> distributed.ProcessGroup | None:
        """The ranks that share this one's rows; None where it has rows of its own."""
        return getattr(self.trainer.strategy, "sequence_group", None)

    def _validation_sources(self) -> list[str]:
        return list(getattr(self.trainer.datamodule, "validation", ()))  # type: ignore[attr-defined]

    def validation_step(self, batch: list[PackedBatch], batch_idx: int) -> None:
        """Add a step's micro-batches to the validation loss.

        Raises:
            StoppedTogether: on all ranks, where one of them was asked to stop.
        """
        assert self.model is not None
        self._stop_if_asked()
        sources = self._validation_sources()
        for micro_batch in batch:
            on_device = micro_batch.to(self.device, non_blocking=True)
            loss_sum, nll, places = self.model(on_device)
            self._validation[-1, 0] += loss_sum.double()
            self._validation[-1, 1] += on_device.weights.sum()
            if sources and micro_batch.info:
                keys, count, owner = _documents(on_device, places)
                named = [sources.index(_source_of(key, sources)) for key in keys]
                padding = [0] * (count - len(named))  # nothing of it is supervised
                source = torch.tensor(named + padding, device=self.device)[owner]
                weights = on_device.weights[places]
                for column, values in enumerate((weights * nll.float(), weights)):
                    self._validation[:-1, column] += sums_by_kind(values.double(), source, len(sources))

    def on_validation_epoch_end(self) -> None:
        """Log `val_loss`, the weighted mean over all supervised tokens of all ranks, and `val_loss/SOURCE`."""
        self._log_validation("val_loss")

    def _log_validation(self, name: str) -> None:
        losses, weights = sum_over_ranks(self._validation).T
        means = losses / weights
        found = dict(zip([f"{name}/{source}" for source in self._validation_sources()], means, strict=False))
        # while training, `Throughput` gives them to the loggers: Lightning would count a step less
        to_loggers = self.trainer.state.fn != "fit"
        self.log_dict({name: means[-1], **found}, logger=to_loggers, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: list[PackedBatch], batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `test_loss` and `test_loss/SOURCE`."""
        self._log_validation("test_loss")

    def predict_step(self, batch: list[PackedBatch], batch_idx: int) -> list[dict[str, Any]]:
        """Score documents: `key`, number of `supervised` tokens, and their mean `nll` in nats (nan without any).

        Of a row that ranks share, the first of them gives the scores.
        """
        assert self.model is not None
        self._stop_if_asked()
        scores: list[dict[str, Any]] = []
        for micro_batch in batch:
            on_device = micro_batch.to(self.device, non_blocking=True)
            nll = self.model(on_device).nll.float().cpu()  # added up here: a device's order is not always the same
            keys, documents, owner = _documents(micro_batch, micro_batch.places)
            counts = torch.bincount(owner, minlength=documents)
            sums = torch.zeros(documents).index_add_(0, owner, nll)
            if isinstance(micro_batch, RowPart):
                both = torch.stack([counts.double(), sums.double()]).to(self.device)
                distributed.all_reduce(both, group=self.sequence_group())
                counts, sums = both[0].long().cpu(), both[1].float().cpu()
                keys = () if micro_batch.part else keys
            means = zip(keys, counts.tolist(), (sums / counts).tolist(), strict=False)  # the last may be padding
            scores += [{"key": key, "supervised": count, "nll": mean} for key, count, mean in means]
        return scores


def _documents(batch: PackedBatch, places: Tensor) -> tuple[tuple[str, ...], int, Tensor]:
    """Keys of a row's documents, their number with padding, and which of them the tokens at `places` [n] are of [n]."""
    starts, owner = batch.start.unique(return_inverse=True)
    if isinstance(batch, RowPart):
        return batch.row_keys, starts.numel(), owner[batch.offset + places]
    return batch.info.keys if batch.info else (), starts.numel(), owner[places]


def _source_of(key: str, sources: list[str]) -> str:
    """Source of a document's key `source/key`; either part may hold a slash."""
    return max((source for source in sources if key.startswith(f"{source}/")), key=len)
