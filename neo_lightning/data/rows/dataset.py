"""A step's specification -> this rank's packed rows. Stateless, so any worker can make any step.

A worker is handed sources that have opened nothing: facts, text and media of a sample are read when its row is made,
and serialised by the same code that measured it. A medium that proves damaged when it is decoded becomes a tombstone:
the same tokens with blank pixels and no weight, reported in the row's PackInfo; every other row stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

import torch
from torch.utils.data import Dataset, Sampler

from neo_lightning.data.facts import SampleError, SampleFacts
from neo_lightning.data.index import Source
from neo_lightning.data.plan import DocumentSpec, PackSpec, StepSpec
from neo_lightning.data.rows.collate import Document, collate
from neo_lightning.data.rows.share import span
from neo_lightning.data.text.lengths import fitted_layout
from neo_lightning.data.text.serialize import Outline, build_sequence, make_outlines, read_patches
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import Media, PackedBatch, Stage


class StepDataset(Dataset[list[PackedBatch]]):
    """Indexed by `StepSpec`: the micro-batches of one rank in one optimiser step."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        stages: Mapping[str, Stage],
        tokenizer: Tokenizer,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Args: where samples are; the curriculum; the tokenizer; which part of each row, and of how many."""
        self._sources, self._stages, self._tokenizer, self._share = sources, stages, tokenizer, share

    def __getitem__(self, spec: StepSpec) -> list[PackedBatch]:
        return [self._pack(pack) for pack in spec.packs]

    def _pack(self, pack: PackSpec) -> PackedBatch:
        stage = self._stages[pack.stage]
        facts = [self._sources[spec.source].facts(spec.shard_part, spec.sample_index) for spec in pack.documents]
        outlines = make_outlines([fact.turns for fact in facts], self._tokenizer)  # a row's text in one batch
        a, b = span(stage.row_tokens, *self._share)
        ends = accumulate(spec.length for spec in pack.documents)
        # ranks agree about what is damaged: all that have something of a document read it
        mine = [end > a and end - spec.length < b for spec, end in zip(pack.documents, ends, strict=True)]
        parts = zip(pack.documents, facts, outlines, mine, strict=True)
        return collate(
            [self._document(spec, fact, outline, stage, reads) for spec, fact, outline, reads in parts],
            context=stage.row_tokens,
            pad_id=self._tokenizer.pad_id,
            weighting=stage.loss_weighting,
            index=pack.index,
            share=self._share,
            rule=self._tokenizer.rule,
        )

    def _document(
        self, spec: DocumentSpec, facts: SampleFacts, outline: Outline, stage: Stage, reads: bool
    ) -> Document:
        layout, _ = fitted_layout(outline, facts.media, self._tokenizer, stage)
        sequence = build_sequence(layout, self._tokenizer)
        if sequence.input_ids.numel() != spec.length:
            raise RuntimeError(f"{spec.source}/{facts.key}: {sequence.input_ids.numel()} tokens, planned {spec.length}")
        patches = torch.empty(0, self._tokenizer.rule.patch_values, dtype=torch.uint8)
        if facts.media and reads:
            try:
                sample = self._sources[spec.source].read(spec.shard_part, spec.sample_index)
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
