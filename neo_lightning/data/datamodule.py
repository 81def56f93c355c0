"""Manifest + stages + tokenizer -> Lightning's loaders: one item is one optimiser step of this rank.

The only state is the number of steps done. It is set by a training callback (`next_step`), saved with the checkpoint
together with a digest of everything that the plan depends on, and a resume under another manifest, tokenizer, seed or
curriculum is refused with the difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from neo_lightning.data.dataset import PreparedSource, StepDataset, StepSampler
from neo_lightning.data.index import Source, open_source
from neo_lightning.data.index.progress import ProgressBar
from neo_lightning.data.manifest import Manifest, ManifestError, load_manifest
from neo_lightning.data.plan import PlanError, StepSpec, iterate_steps, one_pass
from neo_lightning.data.tokenizer import Tokenizer
from neo_lightning.types import PackedBatch, Stage

VERSION = 1
_DATA_FIELDS = ("steps", "context", "packs_per_step", "mixture", "image", "video", "loss_weighting", "too_long")


class NeoDataModule(pl.LightningDataModule):
    """Packed rows of a curriculum.

    Args:
        manifest: YAML file that names the sources (see data.manifest).
        stages: the curriculum, by name, in order.
        tokenizer: folder with a `tokenizer.json`, or a hub repository.
        num_workers: reading processes; 0 reads in the training process. The rows are the same for any number.
        seed: of the shuffling.
        validation: sources that `validate`, `test` and `predict` read once, under the last stage's budgets.
        prefetch: steps that each worker prepares ahead.
    """

    def __init__(
        self,
        manifest: str,
        stages: dict[str, Stage],
        tokenizer: str,
        num_workers: int = 0,
        seed: int = 0,
        validation: list[str] | None = None,
        prefetch: int = 2,
    ) -> None:
        super().__init__()
        if not stages:
            raise PlanError("no stages: the curriculum is empty")
        self.manifest_path, self.stages, self.tokenizer_path = manifest, dict(stages), tokenizer
        self.num_workers, self.seed, self.prefetch = num_workers, seed, prefetch
        self.validation = list(validation or [])
        self.next_step = 0
        self.skipped: list[tuple[str, str]] = []
        """(`source/key`, reason) of what was left out or shrunk; filled by `setup`."""
        self._tokenizer: Tokenizer | None = None
        self._sources: dict[str, PreparedSource] = {}
        self._lengths: dict[tuple[str, str], np.ndarray] = {}
        self._validation_lengths: dict[str, np.ndarray] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded at first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.load(self.tokenizer_path)
        return self._tokenizer

    def setup(self, stage: str = "fit") -> None:
        """Index every source that a stage or the validation names, check the stages and derive all lengths. Once.

        Raises:
            ManifestError, ShardError, TokenizerError, PlanError: what the recipe names cannot be used.
        """
        if self._sources:
            return
        manifest = load_manifest(self.manifest_path)
        self._check_names(manifest)
        names = dict.fromkeys([s for stage_ in self.stages.values() for s in stage_.mixture] + self.validation)
        sources = {name: self._prepare(manifest, name) for name in names}
        for name, stage_ in self.stages.items():
            check_reachable(name, stage_, {s: sources[s].source.modality for s in stage_.mixture})
            for source in stage_.mixture:
                lengths, notes = sources[source].lengths(stage_)
                self._lengths[source, name] = lengths
                self.skipped += [(f"{source}/{key}", f"stage {name}: {reason}") for key, reason in notes]
        for source in self.validation:
            lengths, notes = sources[source].lengths(list(self.stages.values())[-1])
            self._validation_lengths[source] = lengths
            self.skipped += [(f"{source}/{key}", f"validation: {reason}") for key, reason in notes]
        self._sources = sources

    def _check_names(self, manifest: Manifest) -> None:
        for name, stage in self.stages.items():
            for source in stage.mixture:
                try:
                    manifest.source(source)
                except ManifestError as error:
                    raise PlanError(f"stage {name!r}, mixture: {error}") from error
        for source in self.validation:
            manifest.source(source)

    def _prepare(self, manifest: Manifest, name: str) -> PreparedSource:
        with ProgressBar(name) as progress:
            source = open_source(manifest, name, tokenizer=self.tokenizer, progress=progress)
        self.skipped += [(f"{name}/{key}", reason) for key, reason in source.skipped]
        return PreparedSource(name, source, self.tokenizer)

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def sources(self, *, validation: bool) -> dict[str, Source]:
        """The indexed sources, by name: those of the validation, or those that the stages name."""
        self.setup()
        trained = dict.fromkeys(source for stage in self.stages.values() for source in stage.mixture)
        return {name: self._sources[name].source for name in (self.validation if validation else trained)}

    def steps(self, first_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[StepSpec]:
        """The plan as one rank sees it, from a step on; endless."""
        self.setup()
        names = {id(stage): name for name, stage in self.stages.items()}
        return iterate_steps(
            self.stages,
            lambda source, stage: self._lengths[source, names[id(stage)]],
            self.seed,
            first_step=first_step,
            rank=rank,
            world=world,
        )

    def train_dataloader(self) -> DataLoader[list[PackedBatch]]:
        """Endless; starts at `next_step` as it stands when iteration begins."""
        self.setup()
        rank, world = self._rank_and_world()
        return self._loader(StepSampler(lambda: self.steps(self.next_step, rank, world)))

    def val_dataloader(self) -> Any:
        """One row an item, one pass over the validation sources; nothing where none is named."""
        if not self.validation:
            return []
        self.setup()
        name, stage = list(self.stages.items())[-1]
        return self._loader(one_pass(name, stage, self._validation_lengths, *self._rank_and_world()))

    def test_dataloader(self) -> Any:
        """As `val_dataloader`.

        Raises:
            PlanError: no validation source is named, so there is nothing to read.
        """
        if not self.validation:
            raise PlanError("nothing to read: name held-out sources of the manifest in data.validation")
        return self.val_dataloader()

    def predict_dataloader(self) -> Any:
        """As `test_dataloader`."""
        return self.test_dataloader()

    def _loader(self, sampler: Iterable[StepSpec]) -> DataLoader[list[PackedBatch]]:
        workers = self.num_workers
        return DataLoader(
            StepDataset(self._sources, self.stages, self.tokenizer),
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            collate_fn=_identity,
            persistent_workers=workers > 0,
            prefetch_factor=self.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def digest(self) -> dict[str, str]:
        """What the plan depends on, part by part."""
        self.setup()
        parts = {"seed": str(self.seed), "tokenizer": self.tokenizer.digest}
        for name in sorted({source for stage in self.stages.values() for source in stage.mixture}):
            parts[f"source {name}"] = self._sources[name].source.digest  # not those of the validation
        for number, (name, stage) in enumerate(self.stages.items()):
            fields = asdict(stage)
            shown = {field: fields[field] for field in _DATA_FIELDS} | {"mixture": dict(stage.mixture)}
            parts[f"stage {number} {name}"] = json.dumps(shown, sort_keys=True)
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Primitive values only, so that a checkpoint needs no unpickling."""
        return {"version": VERSION, "next_step": self.next_step, "digest": self.digest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the position.

        Raises:
            PlanError: the plan would not be the one that the checkpoint was trained on; names every difference.
        """
        if state_dict.get("version") != VERSION:
            raise PlanError(f"data state of version {state_dict.get('version')}; this program reads {VERSION}")
        if differences := _differences(state_dict["digest"], self.digest()):
            raise PlanError("the checkpoint was trained on another plan:\n  " + "\n  ".join(differences))
        self.next_step = int(state_dict["next_step"])


def check_reachable(name: str, stage: Stage, modalities: Mapping[str, str]) -> None:
    """Refuse a stage whose smallest image or frame is longer than its context.

    Raises:
        PlanError: with the numbers.
    """
    for source, modality in modalities.items():
        if modality == "text":
            continue
        least = stage.video.min_pixels if modality == "video" else stage.image.min_pixels
        tokens = -(-least // 1024) + 2
        if tokens > stage.context and stage.too_long == "drop":
            kind = "video" if modality == "video" else "image"
            raise PlanError(
                f"stage {name!r}: {kind}.min_pixels {least} makes every picture of source {source!r} at least {tokens} "
                f"tokens, more than the context of {stage.context}; raise the context or lower {kind}.min_pixels"
            )


def _identity(item: Any) -> Any:
    return item


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines = []
    for part in dict.fromkeys([*old, *new]):
        if part not in new or part not in old:
            lines.append(f"{part}: only in {'the checkpoint' if part in old else 'this run'}")
        elif old[part] != new[part] and part.startswith("stage "):
            was, now = json.loads(old[part]), json.loads(new[part])
            lines += [f"{part}: {k} was {was.get(k)}, is {now[k]}" for k in now if was.get(k) != now[k]]
        elif old[part] != new[part]:
            lines.append(f"{part}: was {old[part][:12]}, is {new[part][:12]}")
    return lines
