"""`neo-lightning serve`, as its reader has it: until Ctrl-C; meanwhile the program of docs/serving.md asks it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from itertools import pairwise
from pathlib import Path

from tests.forks import Server


def after(words: list[str], option: str) -> list[str]:
    """Values of an option."""
    return [value for name, value in pairwise(words) if name == option]


def ask_the_server(words: list[str], program: str, folder: Path, environment: dict[str, str], forks: Server):
    """Exit status and output: of the server, or of the program that asks it where that fails.

    Args:
        words: the command without `neo-lightning`; it gets a free port.
        program: Python that asks the address and the model which the documents name; of adapters the first.
    """
    with forks.start("tests.readme.program:main", *words, "--port", "0", cwd=folder, environment=environment) as run:
        said = []
        for line in run.stdout:
            said.append(line)
            if found := re.search(r"clients: (http\S+)/v1\)", line):
                break
        else:
            return run.wait(), "".join(said)
        with urllib.request.urlopen(found[1]) as page:
            assert b"<title>" in page.read()
        name = adapters[0].partition("=")[0] if (adapters := after(words, "--adapter")) else line.partition(": http")[0]
        text = program.replace("http://127.0.0.1:8000", found[1]).replace('"demo-0"', f'"{name}"')
        asked = subprocess.run(
            [sys.executable, "-c", text],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.killpg(run.group, signal.SIGINT)
        return asked.returncode or run.wait(), "".join(said) + asked.stdout
