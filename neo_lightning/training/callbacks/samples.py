"""Shows what the model answers while it learns: held-out samples with their pictures, in TensorBoard.

In: held-out shards, or else samples of the data module. Out, every N steps and at the end: for each chosen sample the
question, the model's answer and the truth as text, and the pixels as the model saw them (after resizing, frames side by
side). Greedy, so two runs can be compared.

    rank 0   samples -> prompts --broadcast--> all ranks, each its share --> answers --gathered--> rank 0 logs

One rank reads, so no two disagree about what is asked. Up to a context's worth of tokens is asked at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from neo_lightning.answering import Engine
from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.facts import SampleError
from neo_lightning.data.index import ShardSource, Source, sample_ids
from neo_lightning.data.manifest import expand_pattern
from neo_lightning.data.media.image import unpatchify
from neo_lightning.model.prompt import Prompt
from neo_lightning.training.asking import asked
from neo_lightning.training.loggers import RunTensorBoardLogger
from neo_lightning.training.phases import phase
from neo_lightning.training.stages import stage_at, stage_ends
from neo_lightning.types import Message, Sample

EVERY = 500
"""Steps between generations on one device."""
_GAP = 4


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A chosen sample."""

    tag: str
    sample: Sample

    @property
    def question(self) -> str:
        """All text before the answer."""
        return "\n".join(_text(message) for message in self.sample.messages[:-1])

    @property
    def truth(self) -> str:
        """The last message."""
        return _text(self.sample.messages[-1])


def _text(message: Message) -> str:
    return "".join(part if isinstance(part, str) else f" [{part.kind}] " for part in message.parts).strip()


def picture(patches: Tensor, grids: Tensor) -> Tensor:
    """Units side by side, aligned at the top.

    Args:
        patches: [P, 768] uint8, unit after unit, row-major on the patch grid.
        grids: [I, 2] rows and columns of each unit in visual tokens, at least one unit.

    Returns:
        [3, height, width] uint8; grey between units.
    """
    sizes = (grids.long() * 2).tolist()
    units = []
    for unit, (rows, columns) in zip(patches.split([r * c for r, c in sizes]), sizes, strict=True):
        units.append(unpatchify(unit, rows, columns))
    height, width = max(u.shape[1] for u in units), sum(u.shape[2] + _GAP for u in units) - _GAP
    whole = torch.full((3, height, width), 128, dtype=torch.uint8)
    left = 0
    for unit in units:
        whole[:, : unit.shape[1], left : left + unit.shape[2]] = unit
        left += unit.shape[2] + _GAP
    return whole


def _sources_of(datamodule: Any) -> dict[str, Source]:
    """The validation sources of a NeoDataModule, or its training ones; none of a data module of another kind."""
    return datamodule.sources(validation=bool(datamodule.validation)) if isinstance(datamodule, NeoDataModule) else {}


def _choose(source: Source, count: int) -> list[Sample]:
    """Up to `count` samples with a question and an answer, spread evenly over the source."""
    total = sum(map(source.shard_part_size, range(source.shard_parts)))
    samples = (source.read(*at) for at in islice(sample_ids(source), 0, None, max(1, total // count)))
    asked = (s for s in samples if len(s.messages) > 1 and s.messages[-1].role == "assistant")
    return list(islice(asked, count))


class SampleGenerations(Callback):
    """Answers to a few samples, again and again."""

    def __init__(
        self,
        shards: dict[str, str] | None = None,
        every_n_steps: int | None = None,
        per_modality: int = 4,
        max_new_tokens: int = 64,
    ) -> None:
        """
        Args:
            shards: modality -> pattern of held-out shards, from the working directory. Without it, samples come from
                the data module: from its validation sources, or from those it trains on where it has none.
            every_n_steps: None shows them every 500 steps on one device, and at the ends of stages on several, all of
                which wait meanwhile; 0 at the end only.
            per_modality: samples of each modality, spread evenly over its shards.
            max_new_tokens: most tokens of an answer.
        """
        if (every_n_steps or 0) < 0 or per_modality < 1 or max_new_tokens < 1:
            raise ValueError("samples: need every_n_steps >= 0, per_modality >= 1, max_new_tokens >= 1")
        self.shards, self.every_n_steps = shards, every_n_steps
        self.per_modality, self.max_new_tokens = per_modality, max_new_tokens
        self._shown: list[_Shown] = []
        """On rank 0."""
        self._asks = False
        """Whether there are any, on every rank."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Choose the samples, on rank 0.

        Raises:
            ManifestError, ShardError: a pattern matches nothing, or a shard is damaged.
        """
        if stage != "fit" or self._asks:
            return
        problem: Exception | None = None
        if trainer.is_global_zero:
            try:
                self._shown = list(self._chosen(trainer))
            except Exception as error:  # the other ranks are told before it goes on its way
                problem = error
        self._asks, said = trainer.strategy.broadcast((bool(self._shown), problem and str(problem)))
        if problem is not None:
            raise problem
        if said is not None:
            raise ValueError(f"sample generations, on rank 0: {said}")

    def _chosen(self, trainer: Trainer) -> Iterator[_Shown]:
        sources = self._held_out() if self.shards else _sources_of(trainer.datamodule)  # type: ignore[attr-defined]
        for name, source in sources.items():
            for number, sample in enumerate(_choose(source, self.per_modality)):
                yield _Shown(tag=f"samples/{name}_{number}", sample=sample)

    def _held_out(self) -> dict[str, Source]:
        return {
            modality: ShardSource(
                f"samples_{modality}", modality, tuple(expand_pattern(Path(), pattern, "sample generations"))
            )
            for modality, pattern in (self.shards or {}).items()
        }

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Generate if it is time, unless the run is about to stop."""
        if pl_module.report.stop or not self._asks:
            return
        if self._due(trainer.global_step, trainer.world_size, stage_ends(pl_module.stages)):
            with phase("samples"):
                self._generate(trainer, pl_module)

    def _due(self, done: int, devices: int, ends: Collection[int]) -> bool:
        if self.every_n_steps is None and devices > 1:
            return done in ends
        every = EVERY if self.every_n_steps is None else self.every_n_steps
        return (every > 0 and done % every == 0) or done == max(ends)

    def _generate(self, trainer: Trainer, pl_module: Any) -> None:
        with asked(trainer, pl_module) as (engine, ranks):
            context = stage_at(pl_module.stages, trainer.global_step - 1)[1].context
            shown, prompts = _prompts(self._shown, engine, context) if trainer.is_global_zero else ([], [])
            prompts = trainer.strategy.broadcast(prompts)
            if not prompts:
                return
            size = max(1, context // max(len(prompt) for prompt in prompts))
            places = ranks.share(range(len(prompts)))
            said = engine.texts((prompts[i] for i in places), at_once=size, max_new_tokens=self.max_new_tokens)
            answers = dict(ranks.gather(list(zip(places, said, strict=True))))
        if trainer.is_global_zero:
            self._log(trainer, shown, prompts, [answers[i] for i in range(len(prompts))])

    def _log(self, trainer: Trainer, shown: list[_Shown], prompts: Sequence[Prompt], answers: list[str]) -> None:
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for item, prompt, answer in zip(shown, prompts, answers, strict=True):
            lines = {"sample": item.sample.key, "question": item.question, "answer": answer, "truth": item.truth}
            text = "\n\n".join(f"**{name}**\n\n{_quoted(value)}" for name, value in lines.items())
            for logger in boards:
                with logger.attempt() if isinstance(logger, RunTensorBoardLogger) else nullcontext():
                    logger.experiment.add_text(item.tag, text, trainer.global_step)
                    if prompt.grids.numel():
                        shot = picture(prompt.patches, prompt.grids)
                        logger.experiment.add_image(item.tag, shot, trainer.global_step)


def _prompts(shown: list[_Shown], engine: Engine, context: int) -> tuple[list[_Shown], list[Prompt]]:
    """The samples that can be asked, and their prompts; the others are named in a warning."""
    readable, prompts = [], []
    for item in shown:
        try:
            prompt = engine.prompt(item.sample.messages)
            if (length := prompt.input_ids.numel()) > context:
                raise SampleError(f"its question has {length} tokens, the stage's context {context}")
        except SampleError as error:
            rank_zero_warn(f"sample generations: {item.sample.key} is left out: {error}")
            continue
        readable.append(item)
        prompts.append(prompt)
    return readable, prompts


def _quoted(text: str) -> str:
    """As a block of plain text, so that nothing in a sample becomes markup."""
    return "\n".join(f"    {line}" for line in (text.splitlines() or [""]))
