"""Numbers and names as people read them."""

from __future__ import annotations

from collections.abc import Sequence

GROUPS = {"image": "One image", "multi_image": "Several images", "video": "Clips", "text": "Text"}
"""Modality -> heading, in the order of the report."""


def label(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def percent(share: float) -> str:
    """A share (0-1) in percent; one decimal only where rounding would say 0% or 100% of something that is not."""
    return f"{points(share)}%"


def points(share: float) -> str:
    """A share (0-1) in points, without the sign."""
    value = 100 * share
    rounded = round(value)
    if (rounded in (0, 100) and abs(value - rounded) >= 0.05) or 0 < value < 2:
        return f"{value:.1f}"
    return str(rounded)


def count(number: float) -> str:
    """A count with three digits: 840, 5.5 K, 1.53 M, 2.59 B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "K")):
        if number >= size:
            value = number / (1e3 if letter == "K" else size)
            return f"{value:.3g} {letter}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 12 min 30 s, 3 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def listing(words: Sequence[str]) -> str:
    """a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]
