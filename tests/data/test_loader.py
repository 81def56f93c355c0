from __future__ import annotations

import gc
import multiprocessing
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import pytest
import torch

from neo_lightning.data.facts import RetryError
from neo_lightning.data.rows.loader import WatchedLoader


class Squares:
    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.full((number % 5, 3), number * number)


class Endless:
    def __iter__(self) -> Iterator[int]:
        return count()


def load(specs: object, dataset: object = None, **options: object) -> WatchedLoader:
    return WatchedLoader(dataset or Squares(), specs, **{"workers": 2, "timeout": 60, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order_in_every_pass(workers: int) -> None:
    loader = load(range(20), workers=workers, finish=lambda item: item + 1)
    assert len(loader) == 20
    for _ in range(2):
        items = list(loader)
        assert [item.shape for item in items] == [(i % 5, 3) for i in range(20)]
        assert all(torch.equal(item, torch.full((i % 5, 3), i * i + 1)) for i, item in enumerate(items))
    assert not multiprocessing.active_children()


class Mine:
    """Deadly to collect in any process but its own, as a process group is."""

    def __init__(self) -> None:
        self.itself, self.owner = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.owner:
            os._exit(1)


class Collecting(Squares):
    def __getitem__(self, number: int) -> torch.Tensor:
        gc.collect()
        return super().__getitem__(number)


def test_workers_leave_the_parents_garbage_alone() -> None:
    gc.disable()  # else it may be gone before the fork
    try:
        Mine()
        items = list(load(range(4), dataset=Collecting()))
    finally:
        gc.enable()
    assert [int(item.sum()) for item in items] == [0, 3, 24, 81]


def test_an_endless_pass_that_is_left_ends_its_processes() -> None:
    loader = load(Endless())
    with pytest.raises(TypeError):
        len(loader)
    items = iter(loader)
    assert [int(item.sum()) for item in islice(items, 4)] == [0, 3, 24, 81]
    assert len(multiprocessing.active_children()) == 2
    del items
    assert not multiprocessing.active_children()


def test_specifications_are_drawn_as_far_ahead_as_asked() -> None:
    drawn: list[int] = []

    class Drawn:
        def __iter__(self) -> Iterator[int]:
            for i in count():
                drawn.append(i)
                yield i

    items = iter(load(Drawn(), ahead=3))
    for i in range(4):
        next(items)
        assert len(drawn) == 2 * 3 + i + 1


@dataclass(frozen=True)
class Row:
    """Of every kind that a packed row has."""

    ids: torch.Tensor
    patches: torch.Tensor
    flags: torch.Tensor
    weights: torch.Tensor
    name: str


class Rows:
    """200 rows an item: 800 tensors."""

    def __getitem__(self, number: int) -> list[Row]:
        g = torch.Generator().manual_seed(number)
        return [
            Row(
                torch.randint(0, 9, (i, 3), generator=g)[:, 1:],  # not contiguous
                torch.randint(0, 255, (i, 7), generator=g, dtype=torch.uint8),
                torch.rand(i, generator=g) > 0.5,
                torch.rand(i + 1, generator=g),
                f"row {i}",
            )
            for i in range(200)
        ]


def test_tensors_arrive_as_they_were_and_take_few_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        items = list(load(range(10), Rows()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for number, rows in enumerate(items):
        for row, was in zip(rows, Rows()[number], strict=True):
            assert row.name == was.name
            for name in ("ids", "patches", "flags", "weights"):
                a, b = getattr(row, name), getattr(was, name)
                assert a.dtype == b.dtype
                assert torch.equal(a, b)
            row.weights.add_(1)  # may be written to


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, number: int) -> int:
        if number == 3:
            raise self.error
        return number


class OddError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"odd {a + b}")


def test_errors_of_the_dataset_keep_their_kind_and_say_where() -> None:
    items = iter(load(range(9), Failing(RetryError("the store is gone"))))
    assert list(islice(items, 3)) == [0, 1, 2]
    with pytest.raises(RetryError) as error:
        next(items)
    assert str(error.value) == "the store is gone"
    assert "__getitem__" in error.value.__notes__[0]
    with pytest.raises(TimeoutError, match="slow"):
        list(load(range(9), Failing(TimeoutError("slow"))))
    with pytest.raises(RuntimeError, match="odd 3"):
        list(load(range(9), Failing(OddError(1, 2))))
    assert not multiprocessing.active_children()
