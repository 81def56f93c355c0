"""Real processes that start at once: a server imports what takes seconds, once, and forks for every run.

    with server.start("module:function", args, ranks=2) as run: ...   one process or several, in a group of their own
    python -m tests.forks FD                                          the server; requests come through the socket FD

A fork of the tests' own process would not do, as the threads of its autograd do not survive one. The server computes
nothing, so its forks are like fresh processes: they can be killed, exit with a status and know their rank. The
trade-off: what an import does is seen once, not in each run; a few tests start Python itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
REQUEST_BYTES = 1 << 16
LIGHTNINGS = ("MASTER_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "RANK")
"""Variables that a trainer leaves in the environment of its process."""


def clean_environment() -> dict[str, str]:
    """This process's environment as before any training, with one thread a process.

    The variable and not `torch.set_num_threads`, of which some of torch's libraries take no notice: sums would differ
    in a bit.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LIGHTNINGS)}
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@dataclass(kw_only=True)
class Run:
    """The processes of one run."""

    channel: socket.socket
    group: int
    """Process group of all ranks."""
    stdout: IO[str]
    """What all ranks print, errors too; ends when all have ended."""
    status: int | None = None
    statuses: tuple[int, ...] = ()
    """Of each rank, when all have ended."""

    def kill(self) -> None:
        """SIGKILL to all ranks and to what they have started, and wait for the ranks."""
        if self.status is None:
            with suppress(ProcessLookupError):  # they have ended, and nobody has asked yet
                os.killpg(self.group, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Exit status of the first rank that failed, negative for a signal; 0 if none did."""
        if self.status is None:
            self.status, *statuses = json.loads(self.channel.recv(REQUEST_BYTES))
            self.statuses = tuple(statuses)
        return self.status


class Server:
    """The server and the way to it. One run at a time."""

    def __init__(self, *preload: str) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.forks", str(theirs.fileno()), *preload]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=clean_environment(), pass_fds=[theirs.fileno()], start_new_session=True
            )

    def close(self) -> None:
        """End the server."""
        self.channel.close()
        self.process.wait()

    @contextmanager
    def start(
        self,
        call: str,
        *args: Any,
        ranks: int = 1,
        cwd: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        together: bool = True,
    ) -> Iterator[Run]:
        """Call `module:function` with plain arguments in so many processes, none of which outlives the block.

        When one has failed, the others are killed at once; not so where they are not `together`.
        """
        out, into = os.pipe()
        with open(out) as stdout:
            wanted = {"call": call, "args": args, "ranks": ranks, "cwd": str(cwd), "environment": environment or {}}
            wanted["together"] = together
            socket.send_fds(self.channel, [json.dumps(wanted).encode()], [into])
            os.close(into)
            run = Run(channel=self.channel, group=int(self.channel.recv(REQUEST_BYTES)), stdout=stdout)
            try:
                yield run
            finally:
                run.kill()

    def run(self, call: str, *args: Any, **options: Any) -> tuple[int, str]:
        """Exit status and output of a run that ends by itself."""
        with self.start(call, *args, **options) as run:
            output = run.stdout.read()
            return run.wait(), output


def serve(channel: socket.socket) -> None:
    """Fork for each request, until the other side is gone. Ranks find each other as after `torchrun`."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 1)
        if not request:
            return
        wanted = json.loads(request)
        ranks: list[int] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for rank in range(wanted["ranks"]):
            many = {"LOCAL_RANK": rank, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            variables = {name: str(value) for name, value in many.items()} if wanted["ranks"] > 1 else {}
            pid = os.fork()
            if pid == 0:
                channel.close()
                _call(wanted, variables | wanted["environment"], descriptors[0])
            os.setpgid(pid, ranks[0] if ranks else pid)
            ranks.append(pid)
        os.close(descriptors[0])
        channel.send(str(ranks[0]).encode())
        channel.send(json.dumps(_statuses(ranks, together=wanted["together"])).encode())


def _statuses(ranks: Sequence[int], *, together: bool) -> list[int]:
    """Wait for all: the status of the first that failed, and those of all."""
    found: dict[int, int] = {}
    failed = 0
    while len(found) < len(ranks):
        pid, status = os.wait()
        found[pid] = os.waitstatus_to_exitcode(status)
        if status and not failed:
            failed = found[pid]
            if together:  # the others would wait for it
                with suppress(ProcessLookupError):
                    os.killpg(ranks[0], signal.SIGKILL)
    return [failed, *(found[pid] for pid in ranks)]


def _call(wanted: Mapping[str, Any], variables: Mapping[str, str], output: int) -> None:
    """What a fork does; it does not return."""
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(variables)
        os.chdir(wanted["cwd"])
        module, _, function = wanted["call"].partition(":")
        status = int(getattr(import_module(module), function)(*wanted["args"]) or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))
