"""Manifest + stages + tokenizer -> Lightning's loaders: one item is one optimiser step of this rank.

The state is the position in the plan behind the steps that were done, which a training callback counts (`next_step`);
what workers have read ahead is no part of it. It is saved with the checkpoint together with a fingerprint of everything
that the plan depends on. Stages that have not begun may be others when a run is resumed; the one it stands in only if
that is said (`accept_changes`), and it then goes on as `data.plan.segments` draws it. Other data behind the steps that
were done, another tokenizer or seed are refused with the difference. Planning happens in the main process, on every
rank alike, with workers in a thread that is a step ahead of them; workers are handed lists of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch

from neo_lightning.data.answers import Answers
from neo_lightning.data.checks import check_names, check_reachable, skip_ranges
from neo_lightning.data.fingerprint import fingerprint, pack_parts
from neo_lightning.data.index import Source, open_source
from neo_lightning.data.index.progress import ProgressBar
from neo_lightning.data.manifest import Manifest, load_manifest
from neo_lightning.data.plan import Balance, Plan, PlanError, Position, Segment, StepSpec, one_pass, segments_of
from neo_lightning.data.rows.ahead import OneAhead
from neo_lightning.data.rows.dataset import StepDataset, StepSampler
from neo_lightning.data.rows.loader import WatchedLoader
from neo_lightning.data.skipped import Skipped
from neo_lightning.data.store import Store
from neo_lightning.data.text.lengths import ShardPartLengths
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.data.trained import VERSION, Trained
from neo_lightning.sequence import NEO, SequenceRule
from neo_lightning.types import CostRatio, PackedBatch, Stage


class NeoDataModule(pl.LightningDataModule):
    """Packed rows of a curriculum.

    Args:
        manifest: YAML file that names the sources (see data.manifest).
        stages: the curriculum, by name, in order.
        tokenizer: folder with a `tokenizer.json`, or `hf://owner/name`.
        num_workers: reading processes; 0 reads in the training process. The rows are the same for any number.
        seed: of the shuffling.
        validation: sources that `validate`, `test` and `predict` read once, under the last stage's budgets.
        prefetch: steps that each worker prepares ahead.
        lanes: chains of bundles side by side (see data.plan). With as many as ranks each rank reads shards of its own,
            at the price of planning one bundle a lane at the start; 1 is best where all ranks share a disk.
        skip: ranges [first, last) of packs that are passed over, to go on behind data that broke a run. They may be
            added when a run is resumed from a checkpoint in front of them; a checkpoint keeps them.
        balance: `slots` deals a step's rows to the ranks so that they wait least for each other; `none` deals them as
            they come; `steps` also fills rows by cost and makes steps of rows of like cost, which many ranks in
            lockstep want (`data.plan.even`).
        loader_timeout: seconds without a step's rows after which workers count as hanging and the run ends; more than
            the manifest's `store.deadline` and the ten minutes that a clip may take.

    Raises:
        PlanError: no stage, fewer than one lane, a source of the validation that is named twice, or a range that ends
            before it starts.
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
        lanes: int = 1,
        skip: list[list[int]] | None = None,
        balance: Balance = "slots",
        loader_timeout: float = 1200.0,
    ) -> None:
        super().__init__()
        if not stages:
            raise PlanError("no stages: the curriculum is empty")
        if lanes < 1:
            raise PlanError(f"data.lanes must be at least 1, got {lanes}")
        self.manifest_path, self.stages, self.tokenizer_path = manifest, dict(stages), tokenizer
        self.num_workers, self.seed, self.prefetch = num_workers, seed, prefetch
        self.validation = list(validation or [])
        if twice := sorted({source for source in self.validation if self.validation.count(source) > 1}):
            raise PlanError(f"data.validation names the source {twice[0]!r} twice; once is enough")
        self.loader_timeout = loader_timeout
        self.lanes, self.skip = lanes, skip_ranges(skip or [])
        self.balance: Balance = balance
        self.costs: dict[str, CostRatio] = {}
        """Stage -> what its documents cost the model that is trained; set before `setup`. Else as the 2B."""
        self.rule: SequenceRule = NEO
        """How pictures lie in the rows of the model that is trained; set before `setup`."""
        self.lockstep: int | None = None
        """Ranks that wait for each other in every layer; all of them if None. Those that share rows count as one."""
        self.parts = 1
        """Ranks that share each row; set by the strategy where there is one."""
        self.next_step = 0
        """Steps done."""
        self.accept_changes = False
        """Whether a checkpoint may be gone on from with another kind of the stage that it stands in."""
        self.skipped = Skipped()
        """What was left out or shrunk: by the index, and in every shard part measured so far. Of rank 0 alone, as the
        others would have the same list."""
        self.answers: Answers | None = None
        """What the store has said about the shards, where another rank has asked it."""
        self._tokenizer: Tokenizer | None = None
        self._manifest: Manifest | None = None
        self._sources: dict[str, Source] = {}
        self._plan: Plan | None = None
        self._ahead: OneAhead[tuple[StepSpec, Position]] | None = None
        self._validation_noted = False
        self._balance: dict[int, float] = {}  # by step
        self._positions: dict[int, Position] = {}  # by steps done: where we started, and what was handed to the loader

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded at first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.load(self.tokenizer_path, self.rule)
        return self._tokenizer

    def ask(self) -> Answers:
        """Ask the store about the shards of every source that `setup` will open.

        Raises:
            ManifestError, PlanError, RetryError: see `setup`.
        """
        manifest = load_manifest(self.manifest_path, self.answers)
        check_names(manifest, self.stages, self.validation)
        store = Store(manifest.store, manifest.answers)
        store.stamps([shard for name in self._named() for shard in manifest.source(name).shards])
        return manifest.answers

    def setup(self, stage: str = "fit") -> None:
        """Index every source that a stage or the validation names, check the stages and measure the sources. Once.

        Raises:
            ManifestError, ShardError, TokenizerError, PlanError: what the recipe names cannot be used.
        """
        if self._plan is not None:
            return
        self._manifest = manifest = load_manifest(self.manifest_path, self.answers)
        if self.loader_timeout <= manifest.store.deadline:
            raise PlanError(
                f"data.loader_timeout {self.loader_timeout:g} must be more than the store.deadline of "
                f"{manifest.store.deadline:g} s in {self.manifest_path}, or a slow store looks like a hanging worker"
            )
        check_names(manifest, self.stages, self.validation)
        self._sources = {name: self._open(manifest, name) for name in self._named()}
        for name, stage_ in self.stages.items():
            check_reachable(name, stage_, {s: self._sources[s].modality for s in stage_.mixture})
        self._plan = self._planned(segments_of(self.stages, self.costs))

    def _planned(self, segments: Sequence[Segment]) -> Plan:
        """The plan of some segments; opens sources that only stages of before have drawn."""
        assert self._manifest is not None
        for name in (source for segment in segments for source in segment.stage.mixture):
            if name not in self._sources:
                self._sources[name] = self._open(self._manifest, name)
        names_of = {id(segment.stage): segment.name for segment in segments}

        def note(sample: str, stage: Stage, reason: str) -> None:
            self._skip(sample, f"stage {names_of[id(stage)]}: {reason}")

        ratios = {id(segment.stage): segment.ratio for segment in segments}
        lengths_of = ShardPartLengths(self._sources, self.tokenizer, note, lambda stage: ratios[id(stage)])
        return Plan(
            segments,
            self._sources,
            lengths_of,
            self.seed,
            lanes=self.lanes,
            skip=self.skip,
            costs_of=lengths_of.costs,
            balance=self.balance,
        )

    def _trained(self) -> list[str]:
        return list(dict.fromkeys(source for stage in self.stages.values() for source in stage.mixture))

    def _named(self) -> list[str]:
        return list(dict.fromkeys([*self._trained(), *self.validation]))

    @property
    def plan(self) -> Plan:
        """The sequence of packs."""
        self.setup()
        assert self._plan is not None
        return self._plan

    def _open(self, manifest: Manifest, name: str) -> Source:
        with ProgressBar(name) as progress:
            source = open_source(manifest, name, tokenizer=self.tokenizer, progress=progress)
        if self._rank_and_world()[0] == 0:
            for key, reason in source.skipped:
                self._skip(f"{name}/{key}", reason)
        return source

    def _skip(self, sample: str, reason: str) -> None:
        if self._rank_and_world()[0] == 0:
            self.skipped.add(sample, reason)

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _part_and_parts(self) -> tuple[int, int]:
        """Which part of its rows this rank reads."""
        if self.trainer is not None:
            self.parts = getattr(self.trainer.strategy, "sequence_size", 1)
        return self._rank_and_world()[0] % self.parts, self.parts

    def _group_and_groups(self) -> tuple[int, int]:
        """Which of the groups that share rows reads them here."""
        (rank, world), (_, parts) = self._rank_and_world(), self._part_and_parts()
        return rank // parts, world // parts

    def sources(self, *, validation: bool) -> dict[str, Source]:
        """The indexed sources, by name: of the validation, or those that the stages name."""
        self.setup()
        self._settle()
        names = self.validation if validation else self._trained()
        return {name: self._sources[name] for name in names}

    def position(self) -> Position:
        """Behind the steps that were done."""
        if self.next_step in self._positions:  # the usual case, which does not wait for a plan that is being made
            return self._positions[self.next_step]
        plan = self.plan
        self._settle()
        known = [step for step in self._positions if step <= self.next_step]
        position = plan.at(self.next_step, self._positions[max(known)] if known else plan.start())
        self._positions[self.next_step] = position
        return position

    def pack_at(self, step: int) -> int:
        """Number of the next pack behind so many steps: those done, or handed to the loader."""
        return self._positions[step].pack

    def skip_packs(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Pass over more packs, ranges [first, last), as with `skip`. Before anything is read."""
        self.skip = skip_ranges([*{*self.skip, *pairs}])
        self.plan.skip = self.skip

    def steps(self, rank: int = 0, world: int = 1) -> Iterator[StepSpec]:
        """The plan as one rank sees it, or a group that shares rows, from `next_step` as it stands when iteration
        begins; endless."""
        walk = self.plan.steps(self.position(), rank, world, self.lockstep)
        if not self.num_workers:  # this thread reads as well, from the sources that planning looks at
            yield from (self._handed_out(*step) for step in walk)
            return
        self._ahead = ahead = OneAhead(walk)
        try:
            for step in ahead:
                yield self._handed_out(*step)
        finally:
            ahead.close()

    def _handed_out(self, spec: StepSpec, position: Position) -> StepSpec:
        """Remember the position behind a step that the loader gets; those in front of what is done are not needed."""
        done = max((step for step in self._positions if step <= self.next_step), default=0)
        self._positions = {step: known for step, known in self._positions.items() if step >= done}
        self._positions[position.step] = position
        self._balance = {step: known for step, known in self._balance.items() if step >= self.next_step - 1}
        self._balance[spec.step] = spec.balance
        return spec

    def balance_of(self, step: int) -> float | None:
        """Expected share of work of a step (see `StepSpec.balance`) that is being done or comes next."""
        return self._balance.get(step)

    def _settle(self) -> None:
        """Wait until nobody plans: plan and sources are not made for two threads."""
        if self._ahead is not None:
            self._ahead.settle()

    def train_dataloader(self) -> WatchedLoader:
        """Endless; starts at `next_step` as it stands when iteration begins."""
        self.setup()
        group, groups = self._group_and_groups()
        if self.trainer is not None and (ranks := getattr(self.trainer.strategy, "shard_size", None)):
            self.lockstep = ranks // self._part_and_parts()[1]
        return self._loader(StepSampler(lambda: self.steps(group, groups)))

    def val_dataloader(self) -> Any:
        """One row an item, one pass over the validation sources; nothing where none is named."""
        if not self.validation:
            return []
        self.setup()
        return self._loader(self._validation_steps(*self._group_and_groups()))

    def _validation_steps(self, rank: int, world: int) -> list[StepSpec]:
        name, stage = list(self.stages.items())[-1]
        known, self._validation_noted = self._validation_noted, True
        self._settle()

        def note(sample: str, _: Stage, reason: str) -> None:
            if not known:
                self._skip(sample, f"validation: {reason}")

        sources = {source: self._sources[source] for source in self.validation}
        return one_pass(name, stage, sources, ShardPartLengths(sources, self.tokenizer, note), rank, world)

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

    def _loader(self, specs: Iterable[StepSpec]) -> WatchedLoader:
        # the run's device: a run on the CPU of a GPU machine does not touch the GPU
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return WatchedLoader(
            StepDataset(self._sources, self.stages, self.tokenizer, self._part_and_parts()),
            specs,
            workers=self.num_workers,
            timeout=self.loader_timeout,
            ahead=self.prefetch,
            finish=partial(_pinned, device) if device.type == "cuda" else None,
        )

    def digest(self) -> dict[str, Any]:
        """What the plan depends on, part by part; sources of the validation are no part of it."""
        self.setup()
        trained = {name: self._sources[name] for name in self.plan.sources}
        digests = {name: source.digest for name, source in trained.items()}
        answer_tokens = {name: source.answer_tokens for name, source in trained.items()}
        segments, tokenizer = self.plan.segments, self.tokenizer.digest
        more = {"seed": self.seed, "lanes": self.lanes}
        return fingerprint(segments, digests, tokenizer, answer_tokens, by_cost=self.balance == "steps", **more)

    def state_dict(self) -> dict[str, Any]:
        """Primitive values only, so that a checkpoint needs no unpickling; under 2 KB."""
        skip = [list(pair) for pair in self.skip]
        return {"version": VERSION, "digest": pack_parts(self.digest()), "skip": skip, **self.position().to_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the position.

        Raises:
            PlanError: the steps that were done were trained on other data, or in stages that are others now (names each
                difference), or packs are to be skipped that they were trained on.
        """
        trained = Trained.of(state_dict, self.stages, self.lanes, self.costs)
        if trained.changed and not self.accept_changes:
            raise PlanError("\n  ".join(["the checkpoint stands in a stage of another kind:", *trained.changed]))
        self.setup()
        self._settle()
        self._plan = self._planned(trained.segments)
        if found := trained.differences(self.digest()):
            raise PlanError("\n  ".join(["the checkpoint was trained on another plan:", *found]))
        position = trained.position
        kept = skip_ranges(state_dict["skip"])
        if late := [pair for pair in self.skip if pair not in kept and pair[0] < position.pack]:
            raise PlanError(
                f"data.skip: pack {late[0][0]} was trained on already, the checkpoint goes on with {position.pack}; "
                "resume from an earlier checkpoint"
            )
        self.skip_packs(kept)
        self.next_step = position.step
        self._positions = {position.step: position}


def _pinned(device: torch.device, rows: Sequence[PackedBatch]) -> list[PackedBatch]:
    """In page-locked memory, from where copies to the device run beside the model."""
    with torch.cuda.device(device):  # the loader's threads would begin to use the first one
        return [row.pin_memory() for row in rows]
