"""A sign of life of every rank, every second; where one is lost, all end within seconds and say which.

    training thread --phases.NOW--> exchange thread --store--> exchange threads of all ranks
                                          |
                                    judge thread: silent? hanging? frozen myself?  -->  one line, stacks, status 76

A collective waits for a lost rank until its timeout, half an hour later, and names nobody; the pulse needs none of the
collectives. It has a connection of its own to the store in which the process group met: torchrun's, or one in rank 0's
process, with which it is gone (which then says that rank 0 is). The judge never touches the network, so nothing can
keep it from ending the process; the training thread hangs in a collective then, so it ends without it (`os._exit`).
Every rank judges for itself, by its own clock.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from neo_lightning.exits import RANK_LOST
from neo_lightning.training.beats import Beat, Heard, compare, hung, last_words, silent, tell_hung, tell_silent
from neo_lightning.training.frames import in_collective, where
from neo_lightning.training.phases import CALLBACKS, DATA, ENDED, NOW, STEP, begin
from neo_lightning.training.status import write_status

_TICK = 0.05
"""Seconds between two looks of the judge."""
_STEPS = 8
"""That ranks are compared by."""
_GRACE = 2.0
"""Seconds that a rank has to end by itself when another one has said why it ends."""
_LAST_SECONDS = 1.5
"""For the last line, the stacks and the logs."""


class RankLostError(RuntimeError):
    """A rank died, froze, hangs or has ended; the message is one line that names it.

    `exit_status` is `RANK_LOST`, or that of the rank that ended with a reason of its own.
    """

    def __init__(self, message: str, status: int = RANK_LOST) -> None:
        super().__init__(message)
        self.exit_status = status


class Monitor:
    """This rank's pulse, and its ear for the others."""

    def __init__(
        self,
        store: Any,
        rank: int,
        world: int,
        *,
        silence: float,
        allowed: Callable[[str], float],
        folder: Path,
        advice: Callable[[], str],
        flush: Callable[[], None],
        host_of_store: str,
    ) -> None:
        """
        Args:
            store: a client that no other thread uses, with keys that no other monitor has.
            rank: this one's number.
            world: how many there are.
            silence: seconds.
            allowed: phase -> seconds that it may take on this rank now.
            folder: for `stacks/rank-N.txt`.
            advice: what to do, said behind what has happened.
            flush: writes what logs hold back.
            host_of_store: for people, whose end ends the store.
        """
        self.rank, self.world, self.silence = rank, world, silence
        self.interval = min(1.0, silence / 10)
        self._store, self._allowed, self._host_of_store = store, allowed, host_of_store
        self._folder, self._advice, self._flush = folder, advice, flush
        self._keys = [f"beat/{number}" for number in range(world)]
        self._main = threading.get_ident()
        self._host = socket.gethostname()
        self._number = 0
        self.steps = 0
        """Done in this process; whoever does them counts them."""
        self._busy = 0.0
        self._words, self._status = "", 0
        self._heard: dict[int, Heard] = {}
        self._exchanged = self._ticked = time.monotonic()
        self._store_error = ""
        self._word_since = self._deadline = float("inf")
        self._counted: dict[int, Beat] = {}
        self._wake, self._sent, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._telling = threading.Lock()  # taken by whoever ends this process, and never given back
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._exchange, self._judge)]

    # ---- the training thread's side

    def start(self, patience: float) -> None:
        """Begin, when every rank has given its first sign of life.

        Raises:
            RankLostError: some did not within `patience` seconds.
        """
        self._store.set(self._keys[self.rank], self._beat().pack())
        try:
            self._store.wait(self._keys, timedelta(seconds=patience))
        except RuntimeError as error:
            missing = [rank for rank, key in enumerate(self._keys) if not self._store.check([key])]
            raise RankLostError(f"no sign of life of ranks {missing} within {patience:.0f} s") from error
        self._store.set_timeout(timedelta(seconds=self.silence))
        self._exchanged = self._ticked = time.monotonic()
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """End this process where it was frozen: others have gone on, and what it writes would disturb them."""
        if (gap := time.monotonic() - self._ticked) > self.silence:
            self._end_frozen(gap)

    def explain(self) -> RankLostError | None:
        """Who is behind a collective that has failed; None if all live. From then on only the caller tells of it."""
        self._telling.acquire()  # waits for ever where the judge is about to end the process
        patience = 3 * self.interval + 0.5
        end = time.monotonic() + patience + 2
        while time.monotonic() < end:
            if found := last_words(self._others()) or self._lost(patience):
                self._say(*found)
                self._deadline = time.monotonic() + 10 * _GRACE  # whatever the way out waits for
                return RankLostError(f"{found[0]}. {self._advise(found[1])}", found[1])
            time.sleep(_TICK)
        self._telling.release()
        return None

    def leave(self, words: str, status: int) -> None:
        """Tell the others why this rank ends."""
        with self._telling:
            self._say(words, status)
            time.sleep(2 * self.interval)  # the store may be in this process: they read it from there
            self._stopped.set()

    def stop(self) -> None:
        """Done: returns when all are and have been heard, so that the store is there for the last of them."""
        begin(ENDED)
        self._wake.set()
        while not self._store_error:
            ended = [heard.beat.phase == ENDED for heard in list(self._heard.values())]  # this rank's own as well
            if len(ended) == self.world and all(ended):
                break
            time.sleep(_TICK)
        self._stopped.set()
        for thread in self._threads:
            thread.join(_GRACE)

    def slowest(self) -> tuple[Beat, float, float] | None:
        """The slowest rank of the last steps: its beat, its seconds of work a step, and the others' median.

        None where no new `_STEPS` steps of every rank were heard of.

        Work is the time in which the training thread is neither in a collective nor waiting for the device, from a
        look at its stack every `_TICK` seconds: reading, computing on the CPU, callbacks. A step takes equally long on
        all ranks, as they wait for the slowest; this is what differs. What a GPU computes is not in it.
        """
        now = {rank: heard.beat for rank, heard in list(self._heard.items())}
        before, first = self._counted, not self._counted
        if len(now) < self.world or any(b.steps < _STEPS + (0 if first else before[r].steps) for r, b in now.items()):
            return None
        self._counted = now
        return None if first else compare(before, now)  # at first something may be compiled

    # ---- exchange

    def _beat(self) -> Beat:
        self._number += 1
        frame = sys._current_frames().get(self._main)
        seconds = time.monotonic() - NOW.since
        return Beat(
            rank=self.rank,
            host=self._host,
            number=self._number,
            step=NOW.step,
            phase=NOW.phase,
            seconds=round(seconds, 2),
            allowed=self._allowed(NOW.phase),
            waiting=in_collective(frame),
            where=where(frame),
            steps=self.steps,
            busy=round(self._busy, 4),
            words=self._words,
            status=self._status,
        )

    def _exchange(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                beat = self._beat()
                self._store.set(self._keys[self.rank], beat.pack())
                found = [Beat.unpack(text) for text in self._store.multi_get(self._keys)]
            except Exception as error:  # whatever the store raises, there is none any more
                self._store_error = str(error) or type(error).__name__
                return
            now = time.monotonic()
            for beat in found:
                known = self._heard.get(beat.rank)
                if known is None or known.beat.number != beat.number:
                    self._heard[beat.rank] = Heard(beat, now)
            self._exchanged = now
            if self._words:
                self._sent.set()
            self._wake.wait(_TICK if NOW.phase == ENDED else self.interval)

    def _others(self) -> list[Heard]:
        return [heard for rank, heard in list(self._heard.items()) if rank != self.rank]

    # ---- the judge

    def _judge(self) -> None:
        while not self._stopped.wait(_TICK):
            now = time.monotonic()
            gap, self._ticked = now - self._ticked, now
            if gap > self.silence:
                self._end_frozen(gap)
            if NOW.phase in (DATA, STEP, CALLBACKS) and not NOW.waiting:
                self._busy += 0.0 if in_collective(sys._current_frames().get(self._main)) else gap
            if now > self._deadline:
                os._exit(self._status)
            if self._telling.locked() or (NOW.phase == ENDED and self._store_error):
                continue
            if left := last_words(self._others()):
                self._word_since = min(self._word_since, now)
                if left[1] == RANK_LOST or now - self._word_since > _GRACE:
                    self._end(*left)
            elif lost := self._lost(self.silence):
                self._end(*lost)

    def _lost(self, silence: float) -> tuple[str, int] | None:
        """Who is lost, in one line."""
        now, heard = time.monotonic(), dict(self._heard)
        since = now - self._exchanged
        if self._store_error or since > silence:
            last = f"{heard[0].beat.name}, last seen in {heard[0].beat.place}" if heard else "rank 0"
            what = f"there is no connection to {last}, or to {self._host_of_store}, for {since:.0f} s"
            return f"{what}: dead, frozen, or the network is cut", RANK_LOST
        if gone := silent(heard, now, silence):
            return tell_silent(gone, now - heard[gone[0].rank].at), RANK_LOST
        if held := hung(heard):
            return tell_hung(held), RANK_LOST
        return None

    # ---- the end

    def _say(self, words: str, status: int) -> None:
        """Hand the others the last words, as far as there is a way to them."""
        self._words, self._status = words, status
        self._sent.clear()
        self._wake.set()
        if not self._store_error:
            self._sent.wait(2 * self.interval)

    def _end_frozen(self, gap: float) -> None:
        self._telling.acquire()
        _print(f"rank {self.rank} ({self._host}) was frozen for {gap:.0f} s in step {NOW.step}; the others have ended")
        os._exit(RANK_LOST)

    def _end(self, sentence: str, status: int) -> None:
        """Say why, leave the stacks, save the logs, end this process; within `_LAST_SECONDS`."""
        self._telling.acquire()
        farewell = threading.Thread(target=self._farewell, args=(sentence, status), daemon=True)
        farewell.start()
        self._say(sentence, status)
        if self.rank == 0 and not self._store_error:
            time.sleep(2 * self.interval)  # the store may be in this process: the others read it there
        farewell.join(_LAST_SECONDS)
        os._exit(status)

    def _advise(self, status: int) -> str:
        return self._advice() if status == RANK_LOST else "More is in its own output."

    def _farewell(self, sentence: str, status: int) -> None:
        stacks = self._folder / "stacks" / f"rank-{self.rank}.txt"
        _print(f"{sentence}. {self._advise(status)} Stacks: {stacks}")
        with suppress(OSError):
            stacks.parent.mkdir(parents=True, exist_ok=True)
            with stacks.open("w", encoding="utf-8") as file:
                file.write(f"{sentence}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        with suppress(OSError):
            write_status(self._folder, step=NOW.step, status=status, sentence=sentence)
        with suppress(Exception):  # there is nobody left to tell
            self._flush()


def _print(sentence: str) -> None:
    # past Python's buffers and their locks, one of which the training thread may hold
    os.write(2, f"error: {sentence}\n".encode())
