"""Clips are decoded in a child process, so that a hostile clip can cost this sample and nothing else.

A video decoder is a million lines of C that is fed what strangers wrote. It may loop for ever, ask for all memory, or
crash; nothing inside a process can stop that. So each thread that reads clips keeps one child (`decoder.py`) that the
system ends when it has used up its processor time for a clip, and that this side ends when a clip takes too long by
the clock; a limit on its address space makes large allocations fail. The next clip gets a new child. Answers are JSON
and raw pixels, which nothing evaluates.

It costs a fraction of a second once, and about 0.1 ms and a copy of the pixels for each clip. Not every system keeps
to the limit on address space; Linux does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from neo_lightning.data.facts import MediaError
from neo_lightning.data.media.formats import format_of, refusal

CPU_SECONDS = 120
WALL_SECONDS = 600
"""By the clock; far above the other, so that a busy machine does not change which clips are good."""

MEMORY_BYTES = 4 << 30
"""Address space of the child."""


class ClipDecoder:
    """One child process, started at the first clip and again after each that had to be ended. For one thread."""

    def __init__(
        self, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS, memory: int = MEMORY_BYTES
    ) -> None:
        self.cpu_seconds, self.wall_seconds, self.memory = cpu_seconds, wall_seconds, memory
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def facts(self, data: bytes) -> dict[str, Any]:
        """See `decoder.facts`.

        Raises:
            MediaError: the clip is bad, or the decoder was ended.
        """
        return self._ask(data, {"do": "facts"})[0]

    def frames(self, data: bytes, **wanted: Any) -> dict[int, np.ndarray]:
        """Timestamp -> [height, width, 3] uint8; for the arguments see `decoder.frames`.

        Raises:
            MediaError: the clip is bad, or the decoder was ended.
        """
        return self._ask(data, {"do": "frames", "frames": wanted})[1]

    def _ask(self, data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
        found = format_of(data)
        if found is None or found.kind != "video" or not found.reader:
            raise MediaError(refusal(data, "video"))
        child = self._running()
        self._child = None  # until it has answered
        try:
            head = {**request, "demuxer": found.reader, "bytes": len(data), "cpu_seconds": self.cpu_seconds}
            answer, frames = _exchange(child, head, data, time.monotonic() + self.wall_seconds)
            self._child = child
        except (OSError, ValueError) as error:  # time is up, or the pipe is broken or ends: the child is gone
            child.kill()
            raise MediaError(self._epitaph(child.wait(), isinstance(error, TimeoutError))) from error
        finally:
            if self._child is None:
                child.kill()
        if "error" in answer:
            raise MediaError(answer["error"])
        return answer, frames

    def _running(self) -> subprocess.Popen[bytes]:
        """The child; a new one where there is none, or where this process was forked from the owner of the old one."""
        if self._child is None or self._owner != os.getpid():
            program = Path(__file__).with_name("decoder.py")
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(program), str(self.memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self._owner = os.getpid()
        return self._child

    def _epitaph(self, status: int, expired: bool) -> str:
        if expired:
            return f"decoding took more than {self.wall_seconds:g} s"
        if status == -signal.SIGPROF:
            return f"decoding took more than {self.cpu_seconds:g} s of processor time"
        return f"the decoder was ended by {signal.Signals(-status).name}" if status < 0 else "the decoder ended"


def _exchange(
    child: subprocess.Popen[bytes], head: dict[str, Any], data: bytes, deadline: float
) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(head).encode() + b"\n")
    child.stdin.write(data)
    child.stdin.flush()
    pipe = child.stdout.fileno()
    frames: dict[int, np.ndarray] = {}
    while True:
        length = bytearray(4)
        _read(pipe, length, deadline)
        line = bytearray(int.from_bytes(length, "big"))
        _read(pipe, line, deadline)
        answer = json.loads(line)
        if "tick" not in answer:
            return answer, frames
        pixels = np.empty(answer["shape"], np.uint8)
        _read(pipe, pixels.data.cast("B"), deadline)
        frames[answer["tick"]] = pixels


def _read(pipe: int, into: bytearray | memoryview, deadline: float) -> None:
    """Fill `into`; TimeoutError at the deadline, OSError where the pipe ends."""
    rest, ready = memoryview(into), select.poll()
    ready.register(pipe, select.POLLIN)
    while rest:
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        count = os.readv(pipe, [rest])
        if not count:
            raise OSError("the answer breaks off")
        rest = rest[count:]
