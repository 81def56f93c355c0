"""`lightning launch RECIPE`: `lightning run` on several devices or hosts, started again where a rank is lost.

launch --torch's elastic agent, in this process--> ranks, each `lightning run RECIPE`

SIGTERM, SIGUSR1, Ctrl-C   handed on to the ranks, which save and end; never the agent first
status 76, a killed rank   all ranks are started again, from the last checkpoint, at most --max-restarts times
any other status           theirs, the most telling one (`exits.most_telling`); nothing is started again
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from .. import exits, stopping
from .errors import UserError, nearest

_PATIENCE = 120.0
"""Seconds that the other ranks of a host have to end when one has."""
_PATIENCE_WITH_LOST = 15.0
"""The same where a rank was lost: the pulse has ended by then what it can end, and what is frozen does not."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

USAGE = """usage: lightning launch [options] RECIPE [...]       what `lightning run` takes

  -n N                        ranks on this host (default: its GPUs, else 1)
  --nnodes M                  hosts (default 1); the same command on each
  --rdzv-endpoint HOST:PORT   where they meet: the host with --node-rank 0
  --node-rank R               this host's number
  --rdzv-id NAME              of this job, where several meet at one place
  --max-restarts K            starts after a lost rank (default 3)

exit status:
{table}
Only after 76, and where a rank is killed, the ranks are started again."""


def main(argv: list[str]) -> int:
    """Run a recipe under an agent; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(table=exits.table()))
        return exits.DONE
    options, recipe = _read(argv)
    os.environ[stopping.LAUNCHER] = str(os.getpid())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it calls each status an error
    with tempfile.TemporaryDirectory(prefix="neo_lightning_launch_") as logs:
        agent = _Agent(_spec(options, recipe), logs_specs=DefaultLogsSpecs(log_dir=logs))
        try:
            agent.run()
        except RendezvousError as error:  # the host where all meet has ended: its ranks and ours for the same reason
            if not agent.statuses():
                raise UserError(f"--rdzv-endpoint {options.rdzv_endpoint}: the hosts did not meet: {error}") from error
        finally:
            agent.rendezvous.shutdown()
    return agent.verdict()


def _read(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-n", "--nproc-per-node", type=int, default=0, dest="ranks")
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--rdzv-endpoint", default="")
    parser.add_argument("--rdzv-id", default="")
    parser.add_argument("--max-restarts", type=int, default=3)
    try:
        options, recipe = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"lightning launch: {error}") from error
    if recipe and recipe[0].startswith("-") and recipe[0].partition("=")[0] not in ("--config", "-c"):
        known = (option for action in parser._actions for option in action.option_strings)
        raise UserError(
            f"lightning launch: {recipe[0]} comes before the recipe and is no option. {nearest(recipe[0], known)}"
        )
    if not recipe:
        raise UserError("lightning launch: name a recipe, as for `lightning run`")
    if options.ranks < 0 or options.nnodes < 1 or options.max_restarts < 0:
        raise UserError("lightning launch: need -n >= 1, --nnodes >= 1 and --max-restarts >= 0")
    if options.nnodes > 1 and not options.rdzv_endpoint:
        raise UserError("lightning launch: several hosts want --rdzv-endpoint HOST:PORT, the same on each")
    if not options.ranks:
        import torch

        options.ranks = torch.cuda.device_count() or 1
    return options, recipe


def _spec(options: argparse.Namespace, recipe: Sequence[str]) -> WorkerSpec:
    """What is run, how often, and where hosts meet."""
    alone = options.nnodes == 1
    meeting = RendezvousParameters(
        backend="c10d",
        endpoint=options.rdzv_endpoint or "localhost:0",
        run_id=options.rdzv_id or (uuid.uuid4().hex if alone else "neo_lightning"),
        min_nodes=options.nnodes,
        max_nodes=options.nnodes,
        local_addr="localhost" if alone else None,
        is_host=options.node_rank == 0,
        timeout=900,
    )
    return WorkerSpec(
        role="default",
        local_world_size=options.ranks,
        entrypoint=sys.executable,
        args=("-m", "neo_lightning", "run", *recipe),
        rdzv_handler=get_rendezvous_handler(meeting),
        max_restarts=options.max_restarts,
        monitor_interval=0.2,
        local_addr="localhost" if alone else None,
    )


class _Agent(LocalElasticAgent):
    """torch's agent, which would kill the other ranks as soon as one ends, and start again whatever the reason."""

    def __init__(self, spec: WorkerSpec, logs_specs: DefaultLogsSpecs) -> None:
        super().__init__(spec, logs_specs)
        self.rendezvous: Any = spec.rdzv_handler
        self._asked = False
        self._first_ended = 0.0
        self._first: list[int] = []

    def verdict(self) -> int:
        """Why this host's ranks ended: a rank that was killed, or else what they say.

        That is, one of the first to end: what is left of a collective may end the others in any way.
        """
        return exits.RANK_LOST if min(self._first, default=0) < 0 else exits.most_telling(self.statuses())

    def statuses(self) -> list[int]:
        """Of the ranks of this host that have ended, in the last start."""
        return [code for process in self._processes() if (code := process.poll()) is not None]

    def _processes(self) -> list[Any]:
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        return [handler.proc for handler in handlers.values()]

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        # a store of its own for each start: torch would hand out the last one, in which a rank that is quick finds
        # where those of the last start could be reached
        self.rendezvous._bootstrap_store_info = self.rendezvous._shared_tcp_store_server = None
        super()._rendezvous(worker_group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        if self._asked:
            raise stopping.Stopped("before the ranks were started")
        self._first_ended, self._first = 0.0, []
        started = super()._start_workers(worker_group)
        for number in _SIGNALS:  # behind torch's own handlers, which end the agent first
            signal.signal(number, self._hand_on)
        return started

    def _hand_on(self, number: int, frame: Any) -> None:
        self._asked = True
        for process in self._processes():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """As torch's, when all ranks have ended or those that are left had the time to."""
        processes, statuses = self._processes(), self.statuses()
        if any(statuses):
            if not self._first:
                self._first_ended, self._first = time.monotonic(), statuses
            lost = any(status < 0 or status == exits.RANK_LOST for status in statuses)
            patience = _PATIENCE_WITH_LOST if lost else _PATIENCE
            if len(statuses) < len(processes) and time.monotonic() - self._first_ended < patience:
                return RunResult(state=WorkerState.HEALTHY)
        result = super()._monitor_workers(worker_group)
        if result.is_failed():
            self._decide()
        return result

    def _decide(self) -> None:
        """Whether the ranks are started again; the agent does as long as it counts any starts that are left."""
        if self._asked or self.verdict() != exits.RANK_LOST:
            self._remaining_restarts = 0
        elif self._remaining_restarts:
            allowed = self._worker_group.spec.max_restarts
            number = allowed - self._remaining_restarts + 1
            print(f"launch: a rank was lost; all are started again ({number} of {allowed})", flush=True)
        else:
            print("launch: a rank was lost, and no start is left (--max-restarts)", file=sys.stderr, flush=True)
