"""Saves of one process beside its training, in step with all other ranks.

In: a rank's part of the state at a step boundary. Out: a committed checkpoint, or an error on every rank.

    boundary k     all ranks: copy the state, start a thread that writes and flushes this rank's file
    steps          each rank's vote (`Votes.written`, ...) travels with the step's sums: no collective of its own
    boundary m     all have written: rank 0 renames
    boundary m+1   rank 0's vote tells whether that went well: the checkpoint counts

One save at a time. `finish` waits for it and agrees at once, with collectives: before the next save, at a stop, at the
end. A process that dies in between leaves a folder that nothing loads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import torch.distributed as dist

from neo_lightning.checkpoint import commit
from neo_lightning.checkpoint.meta import pack_meta, write_meta
from neo_lightning.checkpoint.rank_file import NotFiniteError
from neo_lightning.checkpoint.shards import Part, write_part
from neo_lightning.checkpoint.snapshot import Snapshot
from neo_lightning.exits import CANNOT_SAVE
from neo_lightning.training.step import Votes


class CheckpointSaveError(RuntimeError):
    """A checkpoint could not be written on some rank; the earlier ones are untouched. Raised on every rank."""

    exit_status = CANNOT_SAVE
    on_every_rank = True


class UnhealthyError(CheckpointSaveError):
    """A weight or optimiser state is not finite on some rank: not worth a checkpoint. Raised on every rank."""


class _Flight:
    """This rank's part of a save that is under way."""

    def __init__(self, final: Path, write: Callable[[], None]) -> None:
        self.final, self.began, self.renamed = final, time.perf_counter(), False
        self.error: Exception | None = None
        self._write = write
        self._thread = Thread(target=self._run, name="checkpoint", daemon=True)  # an exit does not wait for it
        self._thread.start()

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:  # whatever it is, the training thread says it
            self.error = error

    def votes(self) -> Votes:
        if self._thread.is_alive():
            return Votes()
        lost = isinstance(self.error, NotFiniteError)
        if lost:
            return Votes(not_finite=1.0)
        return Votes(written=1.0) if self.error is None else Votes(unsaved=1.0)

    def join(self) -> None:
        self._thread.join()

    def result(self) -> None:
        self.join()
        if self.error is not None:
            raise self.error


class Saves:
    """Begins saves and sees them committed. Every method but `votes` and `join` is called on all ranks alike."""

    def __init__(self, strategy: Any) -> None:
        """Args: the Lightning strategy that knows the ranks."""
        self.seconds = 0.0
        """From the begin of the last committed save to its commit."""
        self.snapshot = Snapshot()
        self._strategy = strategy
        self._flight: _Flight | None = None

    @property
    def in_flight(self) -> bool:
        """A save has been begun that is not committed and has not failed, as far as all ranks know."""
        return self._flight is not None

    def begin(self, final: Path, part: Part, meta: dict[str, Any]) -> None:
        """Copy the state and start to write it.

        Args:
            final: the checkpoint's folder, the same on every rank; the save before is settled or finished.
            part: this rank's.
            meta: Lightning's part; rank 0's is written.

        Raises:
            CheckpointSaveError: nothing can be written there.
        """
        assert self._flight is None, "one save at a time"
        rank, world, main = self._strategy.global_rank, self._strategy.world_size, self._strategy.is_global_zero
        packed = b""

        def prepare() -> None:
            nonlocal packed
            commit.begin(final)
            packed = pack_meta(meta)

        self._together(prepare, "prepare", final, main_only=True)
        folder, copy = commit.temporary(final), replace(part, tensors=self.snapshot.take(part.tensors))

        def write() -> None:
            self.snapshot.wait()
            write_part(folder, rank, world, copy, write_meta(folder, packed) if main else {})

        self._flight = _Flight(final, write)

    def votes(self) -> Votes:
        """What this rank says of the save in flight."""
        flight = self._flight
        if flight is None:
            return Votes()
        return Votes(unsaved=float(flight.error is not None)) if flight.renamed else flight.votes()

    def join(self) -> None:
        """Wait for this rank's part of the save in flight, however it ends."""
        if self._flight is not None:
            self._flight.join()

    def settle(self, votes: Votes) -> Path | None:
        """At a step boundary, go on with the save in flight as all ranks have said.

        Args:
            votes: the step's, summed over all ranks, each made by `votes` before the step and after `begin`.

        Returns:
            The checkpoint, where one is committed by now.

        Raises:
            CheckpointSaveError, UnhealthyError: it has failed on some rank.
        """
        flight = self._flight
        if flight is None:
            return None
        over = votes.written + votes.unsaved + votes.not_finite
        if not flight.renamed and over < self._strategy.world_size:
            return None
        if votes.unsaved or votes.not_finite:
            self._flight = None
            self._abandon(flight.final)
            raise _failure("commit" if flight.renamed else "write", flight.final, flight.error)
        if flight.renamed:
            return self._committed(flight)
        flight.renamed = True
        if self._strategy.is_global_zero:
            try:
                commit.commit(flight.final)
            except OSError as error:
                flight.error = error
        return None

    def finish(self) -> Path | None:
        """Wait for the save in flight and commit it, on all ranks together.

        Returns:
            The checkpoint; None where no save was in flight.

        Raises:
            CheckpointSaveError, UnhealthyError: it has failed on some rank.
        """
        flight, self._flight = self._flight, None
        if flight is None:
            return None
        if not flight.renamed:
            self._together(flight.result, "write", flight.final)
            self._together(lambda: commit.commit(flight.final), "commit", flight.final, main_only=True)
        else:
            self._together(flight.result, "commit", flight.final)
        return self._committed(flight)

    def _committed(self, flight: _Flight) -> Path:
        self._flight = None
        self.seconds = time.perf_counter() - flight.began
        return flight.final

    def _together(self, action: Callable[[], object], verb: str, final: Path, main_only: bool = False) -> None:
        """Run a part of the save; where it fails on one rank, all ranks give up."""
        problem: Exception | None = None
        try:
            if self._strategy.is_global_zero or not main_only:
                action()
        except Exception as error:  # all ranks are told, and each raises
            problem = error
        if self._strategy.reduce_boolean_decision(problem is None, all=True):
            return
        self._abandon(final)
        raise _failure(verb, final, problem)

    def _abandon(self, final: Path) -> None:
        if self._strategy.is_global_zero:
            commit.abandon(final)


def _failure(verb: str, final: Path, error: Exception | None) -> CheckpointSaveError:
    """What every rank raises; called on all of them, each with its own error or None."""
    unhealthy = first_said(str(error) if isinstance(error, NotFiniteError) else "")
    if unhealthy:
        return UnhealthyError(f"{final.name} is not worth keeping: {unhealthy}")
    said = first_said("" if error is None else f"{type(error).__name__}: {error}")
    return CheckpointSaveError(f"cannot {verb} the checkpoint {final}: {said}")


def first_said(problem: str) -> str:
    """The lowest rank's problem, with its number; "" where none has one. For when something has failed: it gathers."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return problem
    said: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(said, problem)
    return next((f"rank {rank}: {text}" for rank, text in enumerate(said) if text), "")
