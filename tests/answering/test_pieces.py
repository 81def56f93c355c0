"""Text of a stream of tokens: characters appear whole, joined they are the text, and the work grows with its length."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.answering.pieces import Pieces
from neo_lightning.data.text.tokenizer import Tokenizer
from tests.data.data_helpers import make_tokenizer

TEXT = "左边 the 漢字 😀👩\u200d👩\u200d👧 right é \n ∑ "


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Knows few Chinese characters and emoji: most are two to four tokens."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def decode(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


def test_a_character_appears_when_all_its_bytes_are_there() -> None:
    data = "aé漢b".encode()
    pieces = Pieces(decode)
    assert [piece for byte in data if (piece := pieces.add(byte))] == ["a", "é", "漢", "b"]
    assert pieces.rest() == ""
    cut = Pieces(decode)
    assert [cut.add(byte) for byte in data[:2]] == ["a", ""]
    assert cut.rest() == "\ufffd", "an unfinished character at the end is shown as such"


def test_characters_split_over_tokens_come_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_text(TEXT)
    pieces = Pieces(tokenizer.decode)
    found = [piece for token in ids if (piece := pieces.add(token))]
    assert "".join(found) == TEXT
    assert not any("\ufffd" in piece for piece in found)
    assert len(ids) > len(found) > 20, "several tokens a character, and a character at a time"
    assert pieces.rest() == ""


def test_pieces_of_any_tokens_are_the_text(tokenizer: Tokenizer) -> None:
    """Bytes that make no character, and tokens that are not shown, among them."""
    generator = torch.Generator().manual_seed(0)
    for length in (1, 2, 3, 5, 8, 200):
        for _ in range(40):
            ids = torch.randint(tokenizer.vocab_size, (length,), generator=generator).tolist()
            pieces = Pieces(tokenizer.decode)
            assert "".join([*map(pieces.add, ids), pieces.rest()]) == tokenizer.decode(ids)


def test_the_work_grows_with_the_length(tokenizer: Tokenizer) -> None:
    decoded = []

    def counting(ids: list[int]) -> str:
        decoded.append(len(ids))
        return tokenizer.decode(ids)

    ids, pieces = tokenizer.encode_text(TEXT * 50), Pieces(counting)
    assert "".join(map(pieces.add, ids)) == TEXT * 50
    assert sum(decoded) < 12 * len(ids)
