"""Benchmarks by name. One is a `Benchmark`, a small declaration; a user's own is named by its dotted path.

benchmark.py  what a benchmark is; row -> item
words.py      item -> what the model is shown
pictures.py  clips.py  space.py      the built-in ones
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from .benchmark import GROUPS, LIKELIEST, SAMPLED, Benchmark, Frames, Words
from .clips import CLIPS
from .pictures import PICTURES
from .space import SPACE

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*PICTURES, *CLIPS, *SPACE)}


def find_benchmark(name: str) -> Benchmark:
    """The built-in benchmark of this name, or the one at `module.NAME`.

    Raises:
        ValueError: there is none; names the nearest one.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    module, dot, attribute = name.rpartition(".")
    if dot:
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"benchmark {name!r}: {error}") from error
        if not isinstance(found, Benchmark):
            raise ValueError(f"benchmark {name!r} is a {type(found).__name__}; expected a Benchmark")
        return found
    near = get_close_matches(name.lower(), BENCHMARKS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no benchmark {name!r}; {hint}Built in: {', '.join(BENCHMARKS)}; your own: module.NAME")


def of_conversations(name: str, metric: str) -> Benchmark:
    """Held-out conversations, asked as they stand: the last turn is the right answer."""
    decoding = {**LIKELIEST, "max_new_tokens": 512}
    return Benchmark(name=name, metric=metric, decoding=decoding, source="conversations, asked as they stand")


__all__ = [
    "BENCHMARKS",
    "GROUPS",
    "LIKELIEST",
    "SAMPLED",
    "Benchmark",
    "Frames",
    "Words",
    "find_benchmark",
    "of_conversations",
]
