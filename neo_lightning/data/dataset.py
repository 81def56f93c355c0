"""A step's specification -> this rank's packed rows. Stateless, so any worker can make any step.

`PreparedSource` joins a source with its tokenised outlines; its layouts give the plan its lengths and the rows their
tokens. `StepDataset` reads, decodes and collates. A medium that proves damaged when it is decoded becomes a tombstone:
the same tokens with blank pixels and no weight, reported in the row's PackInfo; every other row stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from neo_lightning.data.collate import Document, collate
from neo_lightning.data.facts import SampleError, SampleFacts
from neo_lightning.data.index import Source, sample_ids
from neo_lightning.data.plan import DocumentSpec, PackSpec, StepSpec
from neo_lightning.data.serialize import Layout, build_sequence, make_layout, make_outlines, read_patches
from neo_lightning.data.tokenizer import Tokenizer
from neo_lightning.types import Media, PackedBatch, PixelBudget, Stage, VideoBudget

_OUTLINE_BATCH = 4096
_MAX_HALVINGS = 12


class PreparedSource:
    """A source with its facts and outlines at hand."""

    def __init__(self, name: str, source: Source, tokenizer: Tokenizer) -> None:
        self.name, self.source, self.tokenizer = name, source, tokenizer
        self.ids = list(sample_ids(source))
        self.facts: list[SampleFacts] = [source.facts(*place) for place in self.ids]
        self.outlines = [
            outline
            for at in range(0, len(self.facts), _OUTLINE_BATCH)
            for outline in make_outlines([f.turns for f in self.facts[at : at + _OUTLINE_BATCH]], tokenizer)
        ]

    def layout(self, index: int, stage: Stage) -> tuple[Layout, int]:
        """Layout of a sample under a stage's budgets, and how often its pixel budgets were halved to make it fit.

        Raises:
            SampleError: it does not fit the context, or a medium is refused.
        """
        facts, outline = self.facts[index], self.outlines[index]
        image, video = stage.image, stage.video
        for halvings in range(_MAX_HALVINGS):
            layout = make_layout(outline, facts.media, self.tokenizer, image, video)
            length = layout.length
            if length <= stage.context:
                return layout, halvings
            if stage.too_long == "drop" or not facts.media:
                break
            image = PixelBudget(**_halved(image))
            video = replace(video, **_halved(video))
            if all(unit.tokens == 1 for unit in layout.units):
                break
        raise SampleError(f"{length} tokens are more than the context of {stage.context}")

    def lengths(self, stage: Stage) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """Tokens of each sample [N] int32, 0 where it is left out; and (key, reason) of what was left out or shrunk."""
        lengths = np.zeros(len(self.facts), dtype=np.int32)
        notes: list[tuple[str, str]] = []
        for i, facts in enumerate(self.facts):
            try:
                layout, halvings = self.layout(i, stage)
            except SampleError as error:
                notes.append((facts.key, str(error)))
                continue
            lengths[i] = layout.length
            if halvings:
                notes.append((facts.key, f"kept with its pixel budget halved {halvings} times to fit the context"))
        return lengths, notes


def _halved(budget: PixelBudget | VideoBudget) -> dict[str, int]:
    most = max(1, budget.max_pixels // 2)
    return {"min_pixels": min(budget.min_pixels, most), "max_pixels": most}


class StepDataset(Dataset[list[PackedBatch]]):
    """Indexed by `StepSpec`: the micro-batches of one rank in one optimiser step."""

    def __init__(
        self, sources: Mapping[str, PreparedSource], stages: Mapping[str, Stage], tokenizer: Tokenizer
    ) -> None:
        self._sources, self._stages, self._tokenizer = sources, stages, tokenizer

    def __getitem__(self, spec: StepSpec) -> list[PackedBatch]:
        return [self._pack(pack) for pack in spec.packs]

    def _pack(self, pack: PackSpec) -> PackedBatch:
        stage = self._stages[pack.stage]
        return collate(
            [self._document(document, stage) for document in pack.documents],
            context=stage.context,
            pad_id=self._tokenizer.pad_id,
            weighting=stage.loss_weighting,
            index=pack.index,
        )

    def _document(self, spec: DocumentSpec, stage: Stage) -> Document:
        prepared = self._sources[spec.source]
        facts = prepared.facts[spec.index]
        layout, _ = prepared.layout(spec.index, stage)
        sequence = build_sequence(layout, self._tokenizer)
        if sequence.input_ids.numel() != spec.length:
            raise RuntimeError(f"{spec.source}/{facts.key}: {sequence.input_ids.numel()} tokens, planned {spec.length}")
        patches = torch.empty(0, 768, dtype=torch.uint8)
        if facts.media:
            try:
                sample = prepared.source.read(*prepared.ids[spec.index])
                media = [part for m in sample.messages for part in m.parts if isinstance(part, Media)]
                patches = read_patches(layout, media, facts.media)
            except SampleError as error:
                return Document(f"{spec.source}/{facts.key}", facts.modality, sequence, None, str(error))
        return Document(f"{spec.source}/{facts.key}", facts.modality, sequence, patches)


class StepSampler(Sampler[StepSpec]):
    """Yields the specifications of steps, without end and so without a length."""

    def __init__(self, steps: Callable[[], Iterator[StepSpec]]) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[StepSpec]:
        return self._steps()
