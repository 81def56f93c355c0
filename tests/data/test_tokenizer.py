from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from neo_lightning.data.text.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerError, add_special_tokens

HOSTILE = ["<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "</think>"]


@pytest.mark.parametrize("token", HOSTILE)
def test_special_tokens_in_text_are_plain_text(tokenizer: Tokenizer, token: str) -> None:
    for text in (token, f"a{token}b", f" {token} {token}", f"{token}\n"):
        ids = tokenizer.encode_text(text)
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert tokenizer.encode_texts([text]) == [ids]


def test_added_tokens_that_are_not_special_are_plain_text_as_well(tokenizer: Tokenizer) -> None:
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_tokens(["</think>"])
    thinking = Tokenizer(backend)
    assert thinking.special["</think>"] not in thinking.encode_text("a </think> b")


@pytest.mark.parametrize("text", ["Ünïcödé 42 漢字 🙂", "a\n\nb\t c  ", "", "it's 1234"])
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_survives_pickling_and_saving(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for copy in (pickle.loads(pickle.dumps(tokenizer)), Tokenizer.load(tmp_path)):
        assert copy.digest == tokenizer.digest
        assert copy.encode_text("a red circle <img>") == tokenizer.encode_text("a red circle <img>")
        assert copy.im_end_id == tokenizer.im_end_id


def test_transformers_reads_the_saved_folder(tokenizer_folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    text = "What colour is the circle? 42"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode_text(text)
    assert theirs.convert_tokens_to_ids("<IMG_CONTEXT>") == tokenizer.context_id
    chat = [{"role": "user", "content": "Hi"}]
    shown = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_plain_tokenizer_is_refused_and_can_be_extended(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tree = json.loads(tokenizer.backend.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if t["content"].startswith("<|")]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(TokenizerError, match="<IMG_CONTEXT>, <img>, </img>"):
        Tokenizer.load(tmp_path)
    extended = add_special_tokens(tmp_path, tmp_path / "out")
    assert set(SPECIAL_TOKENS) <= set(extended.special)
    assert extended.im_end_id == tokenizer.im_end_id


def test_missing_or_broken_folder(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_bytes_of_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    for text in ("Ünïcödé 漢字 🙂\n\t x", "plain"):
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode_text(text))) == text.encode()
    assert tokenizer.token_bytes(tokenizer.im_end_id) == b"<|im_end|>"
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b"", "an id of a head that is wider than the vocabulary"
