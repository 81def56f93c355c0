"""Exact match, its interval and the verdict, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from neo_lightning.evaluation.metrics import ExactMatch, Score, exact_match, verdict, wilson_interval


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("top left", "top left", True),
        (" top  left\n", "top left", True),
        ("top left.", "top left", False),
        ("Red", "red", False),
        ("12", "1 2", False),
        ("", "red", False),
    ],
)
def test_exact_match(answer: str, truth: str, same: bool) -> None:
    assert exact_match(answer, truth) is same


def test_counts_per_type_over_batches() -> None:
    metric = ExactMatch(["colour", "count", "never asked"])
    metric.update(["red", "2"], ["red", "3"], ["colour", "count"])
    metric.update(["blue", "red"], ["blue", "green"], ["colour", "colour"])
    assert metric.compute() == {"colour": Score(2, 3), "count": Score(0, 1), "never asked": Score(0, 0)}
    assert metric.compute()["colour"].accuracy == pytest.approx(2 / 3)
    assert math.isnan(metric.compute()["never asked"].accuracy)


def test_states_of_processes_add_up() -> None:
    one, two = ExactMatch(["a", "b"]), ExactMatch(["a", "b"])
    one.update(["x", "y"], ["x", "x"], ["a", "b"])
    two.update(["x", "x"], ["x", "x"], ["b", "b"])
    one.merge_state(two)  # the reduction that a synchronisation between processes applies
    assert one.compute() == {"a": Score(1, 1), "b": Score(2, 3)}


def test_unknown_type_and_unequal_lengths_are_refused() -> None:
    metric = ExactMatch(["a"])
    with pytest.raises(ValueError, match="unknown question type 'b'"):
        metric.update(["x"], ["x"], ["b"])
    with pytest.raises(ValueError, match="zip"):
        metric.update(["x", "y"], ["x"], ["a"])


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (8, 10, 0.490162, 0.943318),  # (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10), z = 1.959964
        (0, 10, 0.0, 0.277533),  # upper end z²/10 / (1 + z²/10)
        (10, 10, 0.722467, 1.0),
        (150, 300, 0.443779, 0.556221),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=2e-6)


def test_wilson_interval_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="5 of 4"):
        wilson_interval(5, 4)


@pytest.mark.parametrize(
    ("correct", "total", "guess", "expected"),
    [
        (95, 100, 0.25, "learned"),
        (89, 100, 0.25, "partly learned"),
        (30, 100, 0.25, "not learned"),  # interval from 0.219
        (3, 3, 0.5, "not learned"),  # all right, but three coin throws come out so often: interval from 0.438
        (0, 0, 0.0, "not learned"),
        (0, 100, 0.0, "not learned"),
    ],
)
def test_verdict(correct: int, total: int, guess: float, expected: str) -> None:
    assert verdict(Score(correct, total), guess=guess, goal=0.9) == expected
