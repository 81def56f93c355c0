"""Whole checkpoints or none: a folder is filled under a temporary name, made durable, and renamed.

In: the final path and whatever the ranks write. Out: a folder that either exists completely or does not exist. A save
that is killed at any moment leaves a `.tmp-*` folder behind, which nothing ever loads, and every earlier checkpoint as
it was. The trade-off: old and new lie side by side for a moment, so the disk has to hold one checkpoint more.

    checkpoints/
      step-00000040/          committed
      step-00000080/          committed: `latest` is found by listing, there is no pointer that could go stale
      .tmp-step-00000120/     a save in progress, or one that was killed
      damaged-step-00000100/  set aside by a resume that found it so; nothing loads or deletes it
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"step-(\d+)(?:\.(\d+))?")
_TEMPORARY = ".tmp-"
_REPLACED = ".old-"
_DAMAGED = "damaged-"


def temporary(final: Path) -> Path:
    """Where the checkpoint `final` is written before it is committed (the same name on every rank)."""
    return final.with_name(f"{_TEMPORARY}{final.name}")


def begin(final: Path) -> Path:
    """Make the empty temporary folder of `final`; what an earlier, killed save left there goes. One rank only."""
    folder = temporary(final)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def commit(final: Path) -> None:
    """Give the temporary folder of `final` its name. One rank only, after all have written and flushed their files.

    An older checkpoint of the same name is moved aside first and deleted afterwards.
    """
    folder = temporary(final)
    sync(folder)
    aside = final.with_name(f"{_REPLACED}{final.name}")
    if final.exists():
        os.replace(final, aside)
    os.replace(folder, final)
    sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def abandon(final: Path) -> None:
    """Remove the temporary folder of `final` after a failed save."""
    shutil.rmtree(temporary(final), ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def step_of(path: Path) -> int:
    """Optimiser steps done, as the name of a committed checkpoint says; -1 for any other name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def fresh_name(folder: Path, step: int) -> Path:
    """A name for the checkpoint after `step` steps that no committed checkpoint in `folder` has yet."""
    name, again = folder / f"step-{step:08d}", 0
    while name.exists():
        again += 1
        name = folder / f"step-{step:08d}.{again}"
    return name


def committed(folder: Path) -> list[Path]:
    """All committed checkpoints of a folder, oldest step first; a link, which may lead anywhere, is none."""
    if not folder.is_dir():
        return []
    entries = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    found = [(match, path) for match, path in entries if path.is_dir() and not path.is_symlink()]
    return [path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2] or 0)))]


def latest(folder: Path | str) -> Path | None:
    """The committed checkpoint with the most steps, or None."""
    found = committed(Path(folder))
    return found[-1] if found else None


def prune(folder: Path, *, keep: int, always: frozenset[int] = frozenset()) -> list[Path]:
    """Delete all but the `keep` newest committed checkpoints and those of the steps in `always`; returns the deleted.

    A folder leaves its name before its files go, so that a kill in between leaves no half checkpoint with a valid name.
    """
    spare = [path for path in committed(folder)[:-keep] if step_of(path) not in always] if keep else []
    for path in spare:
        aside = path.with_name(f"{_REPLACED}{path.name}")
        os.replace(path, aside)
        shutil.rmtree(aside, ignore_errors=True)
    return spare


def set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name under which nothing loads or prunes it; returns that. One rank only."""
    aside, again = path.with_name(f"{_DAMAGED}{path.name}"), 0
    while aside.exists():
        again += 1
        aside = path.with_name(f"{_DAMAGED}{path.name}-{again}")
    os.replace(path, aside)
    return aside


def sweep(folder: Path) -> None:
    """Remove what killed saves and deletions left behind. Only when no save is in progress. One rank only."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith((_TEMPORARY, _REPLACED)) and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
