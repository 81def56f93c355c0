"""`status.json` in a run's folder: how its last start goes or ended, for schedulers, dashboards and people.

    {"outcome": "try again", "status": 75, "step": 1200, "sentence": "asked to stop ...",
     "time": "2026-11-26T08:00:00+00:00", "host": "node3", "pid": 4711}

`outcome` is `running`, or a word of `exits.OUTCOMES`. A start that is killed cannot say so: it stays `running`, of a
process that is not there any more. One that is refused before its first step changes nothing in the folder.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from neo_lightning.data.files import replacing
from neo_lightning.exits import OUTCOMES, disk_full

FILE = "status.json"


def write_status(folder: Path, *, step: int, status: int | None = None, sentence: str = "") -> None:
    """Write the file, all of it or nothing; rank 0 does.

    Args:
        folder: the run's.
        step: steps done.
        status: exit status; None while it runs.
        sentence: what there is to say about it.
    """
    content = {
        "outcome": "running" if status is None else OUTCOMES.get(status, "bug"),
        "status": status,
        "step": step,
        "sentence": sentence,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / FILE) as copy:
            copy.write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        if not disk_full(error):
            raise
        print(f"warning: {folder / FILE} could not be written, the disk is full", flush=True)  # no run ends for a note
