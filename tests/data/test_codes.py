"""Pictures as ids of the vocabulary (docs, the design space): a code written as text is one token."""

from __future__ import annotations

import random
from pathlib import Path

from neo_lightning.data.text.tokenizer import train_tokenizer

CODES = [chr(0xE000 + code) for code in range(64)]


def test_codes_of_the_private_use_area_are_one_token_each(tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = ["".join(f" {draw.choice(CODES)}" for _ in range(64)) for _ in range(200)]
    tokenizer = train_tokenizer([*texts, *["a cat on a mat"] * 20], 600, tmp_path)
    ids = {code: tokenizer.encode_text(f" {code}") for code in CODES}
    assert all(len(found) == 1 for found in ids.values())
    assert len({found[0] for found in ids.values()}) == 64
    assert tokenizer.encode_text(texts[7]) == [ids[code][0] for code in texts[7].split()]
