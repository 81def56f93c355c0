"""Counts of what the server did, as text for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""
_PREFIX = "neo_lightning_"


class Histogram:
    """How long things took, in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> list[str]:
        """In Prometheus' format."""
        found, total = [], 0
        for bound, count in zip((*_BOUNDS, "+Inf"), self._counts, strict=True):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """Of one server, since its start. For the loop's thread."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """(endpoint, status) -> how many."""
        self.gone = 0
        """Clients that went away before their answer was there."""
        self.first_token = Histogram()
        """From the queue's end to the first token of the answer."""
        self.token = Histogram()
        """Between two tokens of one answer, the mean of each answer."""

    def text(self, load: Any, gauges: Mapping[str, int]) -> str:
        """All of it.

        Args:
            load: a dataclass of numbers: what the engine is doing.
            gauges: more numbers of this moment.
        """
        lines = [f"# TYPE {_PREFIX}requests_total counter"]
        for (endpoint, status), count in sorted(self.requests.items()):
            lines.append(f'{_PREFIX}requests_total{{endpoint="{endpoint}",status="{status}"}} {count}')
        lines += [f"# TYPE {_PREFIX}clients_gone_total counter", f"{_PREFIX}clients_gone_total {self.gone}"]
        for name, value in {**asdict(load), **gauges}.items():
            lines += [f"# TYPE {_PREFIX}{name} gauge", f"{_PREFIX}{name} {value}"]
        for name, histogram in (("first_token_seconds", self.first_token), ("token_seconds", self.token)):
            lines += [f"# TYPE {_PREFIX}{name} histogram", *histogram.lines(_PREFIX + name)]
        return "\n".join(lines) + "\n"
