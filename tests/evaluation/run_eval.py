"""`neo-lightning eval` in a process of its own (see tests/forks.py), which may be killed amid its answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neo_lightning.cli.main import main
from neo_lightning.evaluation.running import answers


def evaluate(argv: list[str], killed_after: int = 0) -> int:
    """Run the command; with `killed_after` SIGKILL strikes within the answer behind so many batches of them."""
    if killed_after:
        append, written = answers.Log.append, 0

        def struck(self: answers.Log, records: Iterable[Mapping[str, Any]]) -> None:
            nonlocal written
            append(self, records)
            written += 1
            if written == killed_after:
                with Path(self._file.name).open("ab") as half:
                    half.write(b'{"key": "cut", "answ')
                os.kill(os.getpid(), signal.SIGKILL)

        answers.Log.append = struck  # type: ignore[method-assign]
    return main(["eval", *argv])


def evaluate_as_rank(argv: list[str], ranks: int) -> int:
    """Run the command as one process of several, as torchrun would start it."""
    os.environ.update(RANK=os.environ["LOCAL_RANK"], WORLD_SIZE=str(ranks))
    return evaluate(argv)


def note_status_as_rank(argv: list[str], ranks: int, folder: str) -> None:
    """The same, with the status in a file: nobody ends a rank because another one has failed."""
    (Path(folder) / f"status-{os.environ['LOCAL_RANK']}").write_text(str(evaluate_as_rank(argv, ranks)))
