"""What a thread is doing, told from its stack: whether it waits for other ranks, and where in whose code it is."""

from __future__ import annotations

import os
from types import FrameType

_COLLECTIVES = {"distributed_c10d.py", "_fsdp_collectives.py", "_functional_collectives.py"}
"""torch's files whose calls wait for other ranks."""


def in_collective(frame: FrameType | None) -> bool:
    for _ in range(3):
        if frame is None:
            return False
        if os.path.basename(frame.f_code.co_filename) in _COLLECTIVES:
            return True
        frame = frame.f_back
    return False


def where(frame: FrameType | None) -> str:
    """Innermost line that is not of an installed package; else the innermost."""
    own, innermost = frame, frame
    while own is not None and "site-packages" in own.f_code.co_filename:
        own = own.f_back
    shown = own or innermost
    if shown is None:
        return "an unknown place"
    return f"{os.path.basename(shown.f_code.co_filename)}:{shown.f_lineno} ({shown.f_code.co_name})"
