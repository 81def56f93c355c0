"""`neo-lightning chat`: talk to a model folder in a terminal, token by token.

Pictures and clips named on the command line come with the first question; `/image FILE` and `/video FILE` add some to
the next one. Each question is asked with the whole conversation before it, read anew: simple, and as the model was
trained.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import UserError, user_errors

HELP = "/image FILE, /video FILE: show with the next question; /new: forget everything; /quit"


def main(argv: list[str]) -> int:
    """Chat, or answer one question with `--prompt`."""
    args = _parser().parse_args(argv)
    with user_errors("neo-lightning chat"):
        chat = Chat(args)
        for kind, files in (("image", args.image), ("video", args.video)):
            for file in files:
                chat.show(kind, file)
        if args.prompt is not None:
            chat.say(args.prompt)
            return 0
        print(HELP)
        while (line := _line()) is not None:
            try:
                if not chat.command(line):
                    chat.say(line)
            except UserError as error:
                print(f"error: {error}")  # the conversation goes on
            except Quit:
                break
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neo-lightning chat", description=__doc__.split("\n")[0], epilog=HELP)
    parser.add_argument("--model", required=True, help="model folder or Hugging Face id")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="may be given several times")
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help="may be given several times")
    parser.add_argument("--prompt", help="ask this one question and stop")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0, help="0: no limit")
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-pixels", type=int, help="largest image, in pixels; default the model's")
    parser.add_argument("--max-frames", type=int, default=32, help="frames of a clip")
    parser.add_argument("--device", help="default cuda where there is one, else cpu")
    return parser


class Quit(Exception):
    """The user has said enough."""


class Chat:
    """A conversation with a model."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        from neo_lightning.data.text.tokenizer import Tokenizer

        from ..checkpoint.load import load_model
        from ..types import Message, PixelBudget, VideoBudget

        self.args = args
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self.model = load_model(args.model, dtype=dtype, device=device).eval()
        self.tokenizer = Tokenizer.load(args.model)
        config = self.model.config
        most = args.max_pixels or config.max_pixels
        self.image_budget = PixelBudget(min_pixels=min(config.min_pixels, most), max_pixels=most)
        self.video_budget = VideoBudget(max_frames=args.max_frames)
        self.opening = [Message(role="system", parts=(args.system,))] if args.system else []
        self.messages: list[Any] = list(self.opening)
        self.shown: list[Any] = []
        """Pictures and clips that go with the next question."""

    def show(self, kind: str, file: str) -> None:
        """Add a picture or clip to the next question."""
        from ..types import Media

        try:
            data = Path(file).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from error
        self.shown.append(Media(kind="image" if kind == "image" else "video", data=data, name=file))

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

    def say(self, question: str) -> None:
        """Ask, and print the answer as it comes."""
        from ..data.facts import SampleError
        from ..types import Message

        self.messages.append(Message(role="user", parts=(*self.shown, question)))
        said = []
        try:
            for piece in self.answer():
                said.append(piece)
                print(printable(piece), end="", flush=True)
        except SampleError as error:
            self.messages.pop()
            self.shown = []
            raise UserError(str(error)) from error
        print()
        self.shown = []
        self.messages.append(Message(role="assistant", parts=("".join(said),)))

    def answer(self) -> Iterator[str]:
        """Pieces of text of the answer to the conversation so far."""
        from neo_lightning.data.text.serialize import prompt_from_messages

        from ..model.generate import Prompt, stream
        from ..model.sampling import Sampling

        args, tokenizer = self.args, self.tokenizer
        sequence, patches = prompt_from_messages(self.messages, tokenizer, self.image_budget, self.video_budget)
        prompt = Prompt(input_ids=sequence.input_ids, visual=sequence.visual, grids=sequence.grids, patches=patches)
        sampling = Sampling(
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            repetition_penalty=args.repetition_penalty,
        )
        steps = stream(
            self.model,
            [prompt],
            max_new_tokens=args.max_new_tokens,
            sampling=sampling,
            stop_ids=[tokenizer.im_end_id, tokenizer.pad_id],
            seed=args.seed,
        )
        return pieces((token for (token,) in steps if token is not None), tokenizer.decode)


def pieces(tokens: Iterator[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Text of a stream of tokens, piece by piece; a character is held back until all of its bytes are there."""
    ids: list[int] = []
    shown = 0
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        if not text.endswith("\ufffd"):
            yield text[shown:]
            shown = len(text)
    rest = decode(ids)[shown:]
    if rest:
        yield rest


def printable(text: str) -> str:
    """Text without control characters: an answer must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def _line() -> str | None:
    """The next line from the terminal; None at its end."""
    try:
        return input("> ")
    except EOFError:
        return None
