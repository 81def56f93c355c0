"""`neo-lightning chat`: talk to a model folder in a terminal, token by token.

The model is asked as its folder says (pixel budgets, frames, decoding). Pictures and clips named on the command line
come with the first question; `/image FILE` and `/video FILE` add some to the next one. `<image>` and `<video>` in a
question say where each goes; without them several images stand in front of it as `Image-1: `, `Image-2: `, ..., and one
image or clip as it is. Each question is asked with the whole conversation before it, of which the model computes only
what is new.
"""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

from .errors import UserError, user_errors
from .options import Options

HELP = "/image FILE, /video FILE: show with the next question; /new: forget everything; /quit"
BUDGETS = ("min_pixels", "max_pixels", "fps", "max_frames")
DECODING = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


def main(argv: list[str]) -> int:
    """Chat, or answer one question with `--prompt` or `--messages`."""
    args = _parser().parse_args(argv)
    with user_errors("neo-lightning chat"):
        chat = Chat(args)
        for kind, files in (("image", args.image), ("video", args.video)):
            for file in files:
                chat.show(kind, file)
        if args.messages is not None:
            chat.read(args.messages)
        if args.prompt is not None:
            chat.say(args.prompt)
        if args.prompt is not None or args.messages is not None:
            return 0
        print(HELP)
        while (line := _line()) is not None:
            try:
                if not chat.command(line):
                    chat.say(line)
            except (UserError, ValueError) as error:
                print(f"error: {error}")  # the conversation goes on
            except Quit:
                break
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Options(
        prog="neo-lightning chat",
        description=__doc__.partition("\n\n")[2],
        epilog=f"In the conversation: {HELP}",
    )
    parser.add_argument("--model", required=True, help="model folder, such as RUN/export, or hf://owner/name")
    parser.add_argument("--adapter", help="folder of a LoRA adapter for the model, such as RUN/adapter")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="may be given several times")
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help="may be given several times")
    parser.add_argument("--prompt", help="ask this one question and stop; <image> and <video> say where the files go")
    parser.add_argument(
        "--messages", type=Path, metavar="JSON", help="answer a list of messages (role, content) and stop"
    )
    parser.add_argument("--system", help="system message")
    parser.add_argument("--device", help="default cuda where there is one, else cpu")
    decoding = parser.add_argument_group("decoding, in place of the folder's")
    decoding.add_argument("--max-new-tokens", type=int, help="longest answer")
    decoding.add_argument("--temperature", type=float, help="0 takes the likeliest token")
    decoding.add_argument("--top-p", type=float)
    decoding.add_argument("--top-k", type=int, help="0: no limit")
    decoding.add_argument("--repetition-penalty", type=float)
    decoding.add_argument("--seed", type=int)
    budgets = parser.add_argument_group("what is shown, in place of the folder's")
    budgets.add_argument("--min-pixels", type=int, help="smallest image")
    budgets.add_argument("--max-pixels", type=int, help="largest image")
    budgets.add_argument("--max-frames", type=int, help="frames of a clip, at most")
    budgets.add_argument("--fps", type=float, help="frames a second; 0: always --max-frames, spread evenly")
    return parser


class Quit(Exception):
    """The user has said enough."""


class Chat:
    """A conversation with a model."""

    def __init__(self, args: argparse.Namespace) -> None:
        from ..answering import load
        from ..types import Message

        engine = load(args.model, device=args.device, adapter=args.adapter)
        self.engine = engine.keeping(engine.model.config.max_position_embeddings)
        budgets = {name: getattr(args, name) for name in BUDGETS}
        changed = self.engine.answering.changed(**budgets)
        if differences := self.engine.answering.differences(changed):
            print(f"not as {args.adapter or args.model} says: {', '.join(differences)}", file=sys.stderr)
        self.engine.answering = changed
        self.decoding = {name: value for name in DECODING if (value := getattr(args, name)) is not None}
        self.opening = [Message(role="system", parts=(args.system,))] if args.system else []
        self.messages: list[Any] = list(self.opening)
        self.shown: list[Any] = []
        """Pictures and clips that go with the next question."""

    def show(self, kind: str, file: str) -> None:
        """Add a picture or clip to the next question."""
        from ..answering.conversation import read_medium

        self.shown.append(read_medium("image" if kind == "image" else "video", file, f"--{kind}"))

    def command(self, line: str) -> bool:
        """Obey a line that starts with a slash; False for a question."""
        word, _, rest = line.strip().partition(" ")
        if word in ("/image", "/video"):
            self.show(word[1:], rest.strip())
        elif word == "/new":
            self.messages, self.shown = list(self.opening), []
        elif word == "/quit":
            raise Quit
        elif word.startswith("/"):
            print(HELP)
        return word.startswith("/") or not word

    def read(self, file: Path) -> None:
        """Answer the messages of a JSON file; its media's paths count from the file's folder."""
        from ..answering.conversation import read_conversation

        try:
            tree = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: not a JSON list of messages: {error}") from error
        if not isinstance(tree, list) or not tree:
            raise UserError(f"{file}: expected a JSON list of messages, each with `role` and `content`")
        self.messages += read_conversation(tree, folder=file.parent)
        self._print_answer()

    def say(self, question: str) -> None:
        """Ask, and print the answer as it comes."""
        from ..answering.conversation import lay_out
        from ..types import Message

        asked, self.shown = self.shown, []
        self.messages.append(Message(role="user", parts=lay_out(question, asked)))
        try:
            answer = self._print_answer()
        except ValueError:
            self.messages.pop()
            raise
        self.messages.append(Message(role="assistant", parts=(answer,)))

    def _print_answer(self) -> str:
        said = []
        for piece in self.engine.stream(self.messages, **self.decoding):
            said.append(piece)
            print(printable(piece), end="", flush=True)
        print()
        return "".join(said)


def printable(text: str) -> str:
    """Text without control characters: an answer must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def _line() -> str | None:
    """The next line from the terminal; None at its end."""
    try:
        return input("> ")
    except EOFError:
        return None
