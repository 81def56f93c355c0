"""A user's own class, named in a manifest by `class_path`, as a `Source` of equal shard parts over its indices."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import replace
from typing import Protocol, runtime_checkable

from neo_lightning.data.facts import SampleFacts
from neo_lightning.data.index import sidecar
from neo_lightning.data.index.recent import SHARD_PARTS_KEPT, Recent
from neo_lightning.data.index.table import FactsTable
from neo_lightning.data.index.tokens import count_tokens
from neo_lightning.data.manifest import ManifestError, SourceSpec
from neo_lightning.data.text.answers import DEFAULT_ANSWER_TOKENS, mark_answers
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import MODALITIES, Sample


@runtime_checkable
class UserSource(Protocol):
    """What a user's own class, named in a manifest by `class_path`, has to offer; it may also have a `digest: str`."""

    @property
    def modality(self) -> str:
        """One of types.MODALITIES."""

    def __len__(self) -> int:
        """Number of usable samples."""

    def facts(self, index: int) -> SampleFacts:
        """Header facts; cheap."""

    def read(self, index: int) -> Sample:
        """The sample with its encoded media, in the order of the facts."""


class AdaptedSource:
    """A user's own class as a `Source`: shard parts of equal size over its indices."""

    def __init__(
        self,
        name: str,
        source: UserSource,
        tokenizer: Tokenizer | None = None,
        answer_tokens: tuple[str, ...] = DEFAULT_ANSWER_TOKENS,
    ) -> None:
        self.name, self.modality, self._source, self._tokenizer = name, source.modality, source, tokenizer
        self.answer_tokens = answer_tokens
        self._starts = [0]
        for rows in sidecar.split_rows(len(source)):
            self._starts.append(self._starts[-1] + rows)
        self.shard_parts = len(self._starts) - 1
        self._facts = Recent(SHARD_PARTS_KEPT)
        known = getattr(source, "digest", None)
        self.digest = known if isinstance(known, str) else self._hash()

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """What the class itself says that it leaves out."""
        return list(getattr(self._source, "skipped", []))

    def shard_part_size(self, shard_part: int) -> int:
        """Samples in a shard part."""
        return self._starts[shard_part + 1] - self._starts[shard_part]

    def shard_part_facts(self, shard_part: int) -> FactsTable:
        """Facts of a shard part as columns."""
        return self._facts.get(shard_part, lambda: self._read_facts(shard_part))

    def facts(self, shard_part: int, sample_index: int) -> SampleFacts:
        """Facts of one sample."""
        return self._marked(self._source.facts(self._starts[shard_part] + sample_index))

    def read(self, shard_part: int, sample_index: int) -> Sample:
        """One sample."""
        sample = self._source.read(self._starts[shard_part] + sample_index)
        return replace(sample, messages=mark_answers(sample.messages, self.answer_tokens))

    def _marked(self, facts: SampleFacts) -> SampleFacts:
        return replace(facts, turns=mark_answers(facts.turns, self.answer_tokens))

    def _samples(self, shard_part: int) -> list[SampleFacts]:
        indices = range(self._starts[shard_part], self._starts[shard_part + 1])
        return [self._marked(self._source.facts(index)) for index in indices]

    def _read_facts(self, shard_part: int) -> FactsTable:
        samples = self._samples(shard_part)
        counts = None if self._tokenizer is None else count_tokens([s.turns for s in samples], self._tokenizer)
        return FactsTable.from_samples(samples, counts)

    def _hash(self) -> str:
        hasher = hashlib.sha256(self.modality.encode())
        for shard_part in range(self.shard_parts):
            for facts in self._samples(shard_part):
                media = [(m.kind, m.width, m.height, m.duration) for m in facts.media]
                turns = [(turn.role, turn.parts) if turn.learnt else (turn.role, turn.parts, 0) for turn in facts.turns]
                hasher.update(repr((facts.key, facts.modality, media, turns)).encode(errors="surrogateescape"))
        return hasher.hexdigest()


def build_source(spec: SourceSpec) -> UserSource:
    """The user's own class of a manifest's source.

    Raises:
        ManifestError: it cannot be imported or built, or lacks something.
    """
    module, _, name = spec.class_path.rpartition(".")
    where = f"source {spec.name!r}: class_path {spec.class_path!r}"
    try:
        built = getattr(importlib.import_module(module), name)(**spec.init_args)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {error}") from error
    if not isinstance(built, UserSource):
        raise ManifestError(f"{where}: needs `modality`, `__len__`, `facts(index)` and `read(index)`")
    if built.modality not in MODALITIES:
        raise ManifestError(f"{where}: modality {built.modality!r} is not one of {', '.join(MODALITIES)}")
    return built
