"""Text <-> token ids, with no way for text to forge a special token.

Two copies of one fast tokenizer are kept. The full one decodes and knows the special tokens' ids; the *bare* one has
no added tokens at all, so `<img>`, `<|im_end|>` or `</think>` in anybody's text become ordinary characters. Special
tokens enter a sequence by id only, from `data.text.serialize`. Ids are read from the tokenizer, never from constants.

Trade-off: only fast tokenizers (a `tokenizer.json`) are supported; in return nothing of transformers is imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from neo_lightning.data.text.answers import MARKS
from neo_lightning.hub import resolve_folder
from neo_lightning.sequence import NEO, SequenceRule

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    "<|im_end|>",
    "<IMG_CONTEXT>",
    "<img>",
    "</img>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
"""NEO's additions to Qwen3's tokenizer, in the released order behind Qwen3's own."""

_MAKE = (
    "a tokenizer is made by `neo-lightning data tokenizer --from QWEN3 --out {out}`, or trained on your own shards by "
    "`neo-lightning data tokenizer --manifest MANIFEST --out {out}`"
)

_KNOWN_TEXTS, _SHORT_TEXT = 4096, 128
"""Texts whose ids are remembered, and characters of the longest: a few megabytes."""

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTES = {chr(byte): byte for byte in _PRINTABLE}
_BYTES |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))}
"""Letter -> byte, as byte-level vocabularies write bytes (GPT-2): printable ones as they are, others from 256 on."""


class TokenizerError(ValueError):
    """The tokenizer cannot be used; the message says what is missing."""


class Tokenizer:
    """A byte-level tokenizer with NEO's special tokens, and how pictures lie between them. Picklable."""

    def __init__(self, backend: Backend, rule: SequenceRule = NEO) -> None:
        self.backend, self.rule = backend, rule
        tree = json.loads(backend.to_str())
        self.digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
        self.special = {token["content"]: token["id"] for token in tree["added_tokens"]}
        self.marks: dict[str, int] = {token: number for token, number in self.special.items() if token in MARKS}
        """Ids of the marks that this tokenizer knows."""
        self._hidden = frozenset(
            token["id"] for token in tree["added_tokens"] if token["special"] and token["content"] not in MARKS
        )
        needed = ("<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>")
        if missing := [token for token in needed if token not in self.special]:
            raise TokenizerError(
                f"the tokenizer lacks the special tokens {', '.join(missing)}; a Qwen3 tokenizer gets them by "
                "`neo-lightning data tokenizer --from FOLDER --out NEW`"
            )
        self.im_start_id: int = self.special["<|im_start|>"]
        self.im_end_id: int = self.special["<|im_end|>"]
        self.context_id: int = self.special["<IMG_CONTEXT>"]
        self.img_start_id: int = self.special["<img>"]
        self.img_end_id: int = self.special["</img>"]
        self.pad_id: int = self.special.get(END_OF_TEXT, self.im_end_id)
        tree.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        tree["model"]["ignore_merges"] = False  # else a whole word equal to a special token would map to its id
        self._bare = Backend.from_str(json.dumps(tree))
        self._known: dict[str, list[int]] = {}
        self._check_neutral()
        if rule != NEO:  # other rows from the same text: no part of a plan that another rule made
            self.digest = hashlib.sha256(f"{self.digest} {rule}".encode()).hexdigest()
        self.row_id: int | None = {"none": None, "learned": self.context_id}.get(rule.row_tokens, -1)
        """The id behind each row of a unit's visual tokens; None where there is none."""
        if self.row_id == -1:
            self.row_id = self._one_token(rule.row_token)

    @classmethod
    def load(cls, folder: str | Path, rule: SequenceRule = NEO) -> Tokenizer:
        """Load from a folder with a `tokenizer.json`, local or `hf://owner/name`.

        Raises:
            TokenizerError: no fast tokenizer there, or it lacks NEO's special tokens or the rule's row token.
        """
        return cls(_load_backend(folder), rule)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text. Special tokens spelt out in it have no power."""
        return self._bare.encode(text, add_special_tokens=False).ids

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts; uses the tokenizer's own threads.

        Short texts are remembered, since they recur: role lines, stock questions, one-word answers.
        """
        known = self._known  # threads may share it: it grows, and is then replaced by another, never emptied
        new = [text for text in dict.fromkeys(texts) if text not in known]
        items = self._bare.encode_batch_fast(new, add_special_tokens=False)
        table = {text: item.ids for text, item in zip(new, items, strict=True)}
        found = [table[text] if text in table else known[text] for text in texts]
        if len(known) >= _KNOWN_TEXTS:
            known = self._known = {}
        known.update((text, ids) for text, ids in table.items() if len(text) <= _SHORT_TEXT)
        return found

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids. Bytes that are no valid UTF-8 become replacement characters.

        What is skipped are tokens of control; those that belong to an answer (`answers.MARKS`) are part of its text.
        """
        shown = [number for number in ids if not (skip_special_tokens and number in self._hidden)]
        return self.backend.decode(shown, skip_special_tokens=False)

    def token_bytes(self, number: int) -> bytes:
        """The bytes that a token stands for, which need not be whole characters; none of an id without a token."""
        token = self.backend.id_to_token(number) or ""
        return token.encode() if token in self.special else bytes(_BYTES[letter] for letter in token)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and the `tokenizer_config.json` that transformers' AutoTokenizer reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        known = [token for token in SPECIAL_TOKENS if token in self.special]
        config = {
            "tokenizer_class": "Qwen2Tokenizer",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": self.backend.id_to_token(self.pad_id),
            "unk_token": None,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",  # prompts of a batch then end together, and answers begin there
            "extra_special_tokens": known,
            "chat_template": CHAT_TEMPLATE,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @cached_property
    def newline_ids(self) -> list[int]:
        """Ids of a single line feed."""
        return self.encode_text("\n")

    def _one_token(self, text: str) -> int:
        ids = [self.special[text]] if text in self.special else self.encode_text(text)
        if len(ids) != 1:
            raise TokenizerError(
                f"the row token {text!r} (model.design.row_tokens) is {len(ids)} tokens here; one is needed, such as "
                f"the line feed or one of {', '.join(self.special)}"
            )
        return ids[0]

    def _check_neutral(self) -> None:
        for token, identity in self.special.items():
            if identity in self.encode_text(f"a {token}") or identity in self.encode_text(token):
                raise TokenizerError(f"plain text can spell the special token {token!r}: its model merges it")

    def __getstate__(self) -> dict[str, Any]:
        return {"backend": self.backend.to_str(), "rule": self.rule}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(Backend.from_str(state["backend"]), state["rule"])  # type: ignore[misc]


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: str | Path) -> Tokenizer:
    """Train a byte-level BPE with Qwen2's splitting rules on `texts` and save it to the folder `out`.

    Args:
        texts: any number of strings; streamed.
        vocab_size: wanted number of ids, special tokens included (256 byte tokens and the special ones are a floor).
        out: folder for `tokenizer.json` and `tokenizer_config.json`; AutoTokenizer loads it too.
    """
    # Qwen2's splitting: contractions, words, single digits, punctuation, line breaks, spaces (Qwen2 tokenizer.json).
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(0, vocab_size - len(SPECIAL_TOKENS)),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer = Tokenizer(backend)
    tokenizer.save(out)
    return tokenizer


def add_special_tokens(folder: str | Path, out: str | Path) -> Tokenizer:
    """Give a plain Qwen3 tokenizer NEO's special tokens and save it to `out`. Tokens that exist keep their ids."""
    backend = _load_backend(folder)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer = Tokenizer(backend)
    tokenizer.save(out)
    return tokenizer


def _load_backend(folder: str | Path) -> Backend:
    try:
        file = resolve_folder(folder, _MAKE.format(out=folder), fetch=("tokenizer*.json",)) / "tokenizer.json"
    except ValueError as error:
        raise TokenizerError(str(error)) from error
    if not file.is_file():
        raise TokenizerError(
            f"{folder}: no tokenizer.json there (a fast tokenizer is needed). {_MAKE.format(out='NEW')}"
        )
    try:
        return Backend.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise TokenizerError(f"{file}: not a tokenizer: {error}") from error
