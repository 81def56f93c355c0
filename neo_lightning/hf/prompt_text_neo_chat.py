"""Prompts as text, in which a token is told from text that looks like one; and their ids.

Where somebody's text is put into a prompt it is *escaped*: whatever looks like a token there gets an invisible
character behind its first one, `<` + MARK + `img>`. So it is no token for any reader of the prompt; here it is encoded
as what it was, by a tokenizer that knows no added tokens. A BREAK ends a run of text, as if a token stood there.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

MARK = "\U000f0002"
BREAK = "\U000f0003\U000f0004"
"""Characters for private use. In somebody's text they are escaped as well."""

ANSWER_TOKENS = tuple(f"<{x}{name}>" for name in ("think", "tool_call", "ref", "box", "quad") for x in ("", "/"))
"""In what a model has said, these are the tokens that they were."""

MARKS = (*ANSWER_TOKENS, "<tool_response>", "</tool_response>")
"""Tokens that belong to a text: decoding shows them."""

_ASSISTANT = "assistant\n"
_ESCAPED = re.compile(f"(.){MARK}", re.DOTALL)


class PromptText:
    """Escapes and encodes for one tokenizer.

    Args:
        tokenizer: a fast one.
        placeholders: further strings that have a meaning in a prompt.

    Raises:
        ValueError: the tokenizer is none of the `tokenizers` library.
    """

    def __init__(self, tokenizer: Any, placeholders: tuple[str, ...]) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"a fast tokenizer is needed (tokenizer.json), found {type(tokenizer).__name__}")
        self.tokens: dict[str, int] = dict(tokenizer.get_added_vocab())
        tree = json.loads(backend.to_str())
        tree.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        tree["model"]["ignore_merges"] = False  # else a whole word that equals a token would be that token
        self._bare = Tokenizer.from_str(json.dumps(tree))
        known = sorted((*self.tokens, *placeholders, BREAK), key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, known))})")
        self._anyone = re.compile("|".join(map(re.escape, (*known, MARK))))
        self._answer = re.compile("|".join(re.escape(x) for x in (*known, MARK) if x not in ANSWER_TOKENS))

    def escape(self, value: Any, *, answer: bool = False) -> Any:
        """A text, or all text in a value as JSON has them, without control; in an `answer` its own tokens stay."""
        if isinstance(value, str):
            return (self._answer if answer else self._anyone).sub(lambda m: m[0][0] + MARK + m[0][1:], value)
        if isinstance(value, Mapping):
            return {self.escape(key): self.escape(item, answer=answer) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.escape(item, answer=answer) for item in value]
        return value

    def encode(self, prompts: list[str]) -> list[list[int]]:
        """Ids of each prompt."""
        plans = [list(self._pieces(prompt)) for prompt in prompts]
        texts = list(dict.fromkeys(piece for plan in plans for piece in plan if isinstance(piece, str)))
        found = self._bare.encode_batch(texts, add_special_tokens=False)
        table = {text: item.ids for text, item in zip(texts, found, strict=True)}
        return [[i for piece in plan for i in (table[piece] if isinstance(piece, str) else [piece])] for plan in plans]

    def _pieces(self, prompt: str) -> Iterator[str | int]:
        """Runs of text and ids. The assistant's line is a run of its own, whatever the answer begins with."""
        before = ""
        for number, piece in enumerate(self._control.split(prompt)):
            if number % 2:
                before = piece
                if piece in self.tokens:
                    yield self.tokens[piece]
                continue
            if before == "<|im_start|>" and piece.startswith(_ASSISTANT):
                yield _ASSISTANT
                piece = piece.removeprefix(_ASSISTANT)
            if piece:
                yield _ESCAPED.sub(r"\1", piece)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PromptText":
        return self  # it does not change, and a tokenizer is large
