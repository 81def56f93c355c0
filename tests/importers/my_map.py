"""A user's own functions: a WebDataset sample -> a record."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def to_record(sample: dict[str, Any]) -> dict[str, Any] | None:
    """One question of several by the key; drawings are not wanted."""
    if "png" in sample:
        return None
    question = ["What is this?", "What do you see?"][len(sample["__key__"]) % 2]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": sample["cls"].decode()}]
    return {"image": sample["jpg"], "messages": turns, "meta": json.loads(sample["json"])}


def hostile(sample: dict[str, Any]) -> Any:
    """Some samples end the process, as a crash in a library does, or raise what nobody expects, or are no record."""
    kind = sample["txt"].decode()
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        sys.exit(3)
    if kind == "raise":
        raise ZeroDivisionError("nobody expects this")
    return 7 if kind == "number" else {"text": kind}
