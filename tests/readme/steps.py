"""What a reader of README.md would do, in the order of reading: files to write, programs to run, commands to type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

FENCE = re.compile(r"```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
FILE_NAME = re.compile(r"#\s*(\S+\.(?:py|yaml|json|jsonl))\b.*\n")
PROGRAMS = ("neo-lightning ", "lightning ", "python ", "make ")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do."""

    kind: Literal["file", "python", "command", "unknown"]
    """A block that opens with a file's name is that file; any other Python is a program."""
    text: str
    line: int
    """In README.md, from 1."""
    name: str = ""
    """Of a file."""


def read(readme: str) -> list[Step]:
    """All steps: fenced blocks, and commands with arguments that stand in the text between backquotes."""
    steps: list[Step] = []
    at = 0
    for block in FENCE.finditer(readme):
        steps += _in_text(readme, at, block.start())
        steps += _in_block(block[1], block[2], _line(readme, block.start(2)))
        at = block.end()
    return steps + _in_text(readme, at, len(readme))


def _in_block(language: str, text: str, line: int) -> list[Step]:
    if language == "bash":
        return [Step(kind="command", text=command, line=line + n) for n, command in _commands(text)]
    named = FILE_NAME.match(text)
    if language in ("python", "yaml", "json") and named:
        return [Step(kind="file", text=text, line=line, name=named[1])]
    return [Step(kind="python" if language == "python" else "unknown", text=text, line=line)]


def _commands(text: str) -> list[tuple[int, str]]:
    """(lines before it, command) of a shell block: a command is a line, with those that it is continued on."""
    found: list[tuple[int, str]] = []
    open_end = False
    for number, line in enumerate(text.splitlines()):
        if open_end:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        elif line.strip() and not line.startswith("#"):
            found.append((number, line))
        open_end = line.endswith("\\")
    return found


def _in_text(readme: str, start: int, stop: int) -> list[Step]:
    """A command in the text is a program of ours or Python's with an argument that is more than a subcommand."""
    return [
        Step(kind="command", text=text, line=_line(readme, span.start()))
        for span in SPAN.finditer(readme, start, stop)
        if (text := " ".join(span[1].split())).startswith(PROGRAMS) and re.search(r" -|[./]", text)
    ]


def _line(readme: str, at: int) -> int:
    return readme.count("\n", 0, at) + 1
