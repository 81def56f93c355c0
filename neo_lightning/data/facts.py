"""What is known about a sample before anything is decoded: the index's output, the plan's and serialiser's input.

One object a sample; many samples together are columns (`data.index.table`).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from neo_lightning.exits import TRY_AGAIN


class SampleError(ValueError):
    """This sample cannot be used; the message is the reason that the user reads in the log."""


class MediaError(SampleError):
    """This image or clip cannot be used."""


class ShardError(ValueError):
    """The shard cannot be used; the message names the shard and the byte or member."""


class RetryError(OSError):
    """A store did not deliver until the deadline; nothing is known to be wrong, so trying again may help."""

    exit_status = TRY_AGAIN


_USUAL = (OSError, ValueError, SyntaxError, RuntimeError, MemoryError, zlib.error, struct.error)
"""What readers raise on damaged data. Any other type is told, as it may be a fault of this program."""


def plain_reason(error: BaseException) -> str:
    """An error's first line for people: no error numbers, no paths of the machine that a library was built on."""
    text = str(error).strip().partition("\n")[0]
    text = re.sub(r"\[Errno -?\d+\] |,? ?\S*/\S+\.(?:c|cc|cpp|h|hpp|cu|py|pyx|rs)\b(?::\d+)*,?", "", text)[:160].strip(
        " :,"
    )
    named = isinstance(error, _USUAL) and text
    return text if named else f"{type(error).__name__}: {text}".rstrip(": ")


@contextmanager
def costs_one_sample(what: str = "cannot be read", kind: type[SampleError] = SampleError) -> Iterator[None]:
    """Inside, whatever a reader of one sample raises is the reason why that sample is left out: none ends the rest.

    What is wrong with a shard or a store concerns more than one sample and passes.

    Raises:
        SampleError: of this kind, with `what` before the reason of an error that is none yet.
    """
    try:
        yield
    except (SampleError, ShardError, RetryError):
        raise
    except Exception as error:
        raise kind(f"{what}: {plain_reason(error)}") from error


_TELLS_APART = re.compile(
    r"(?P<name>JPEG 2000|[A-Za-z]+[-.]?\d[\w.]*|\d+[A-Z]\w*)"
    r"|(?<!\w)(?:'[^']*'|\"[^\"]*\")|0x[0-9a-f]+|\d+x\d+|\d+(?:\.\d+)?"
)
"""Names of formats, as in UTF-8, H.264 and 3GP, which are kept; and what is quoted, and numbers."""


def reason_kind(reason: str) -> str:
    """A reason without the names and numbers that tell its cases apart: for counting by reason."""
    return _TELLS_APART.sub(lambda found: found["name"] or "…", re.sub(r" \[[^]]*\]$", "", reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFacts:
    """Header facts of one image or clip."""

    kind: Literal["image", "video"]
    width: int
    """Pixels as shown: turned, mirrored and of square pixels."""
    height: int
    format: str = ""
    """Image: format by content, as Pillow names it."""
    orientation: int = 1
    """Image: EXIF orientation 1-8, already applied to width and height."""
    plain: bool = False
    """Image: JPEG or WebP that torchvision decodes as it is (no orientation, alpha or animation)."""
    ticks: np.ndarray | None = None
    """Video: presentation timestamps of all frames, int64, increasing, in units of `time_base`."""
    time_base: tuple[int, int] = (1, 1)
    """Video: seconds per tick as a fraction."""
    duration: float = 0.0
    """Video: seconds from the first frame to the end of the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message: text runs, marks (see `types.Mark`) and places of media, by index, in reading order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | int, ...]
    learnt: bool = True
    """Whether the model learns to say it; of an assistant's turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """One usable sample."""

    key: str
    modality: str
    """One of types.MODALITIES."""
    turns: tuple[Turn, ...]
    media: tuple[MediaFacts, ...] = ()
    """In the order in which the turns show them."""
    meta: Mapping[str, Any] = field(default_factory=dict)
