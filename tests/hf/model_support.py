"""The same random network twice, ours and that for transformers, and documents as either takes them."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from neo_lightning.hf.configuration_neo_chat import NEOChatConfig
from neo_lightning.hf.modeling_neo_chat import NEOChatModel
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from tests.model.support import GOLDEN, random_document, random_patches, small_model

Document = tuple[Tensor, Tensor]
"""input_ids [N] and grids [I, 2] in visual tokens."""

DOCUMENTS: list[tuple[list[tuple[int, int]], int]] = [
    ([], 9),
    ([(2, 3)], 5),
    ([(1, 1), (3, 2)], 4),
    ([(2, 2)] * 5, 1),
]
"""Text, an image, several images, a clip: units, and tokens of text around each."""


def golden_dict() -> dict[str, Any]:
    return json.loads((GOLDEN / "config.json").read_text())


def twins(seed: int = 0, attention: str = "sdpa", **changes: Any) -> tuple[Neo, NEOChatModel]:
    """Ours and that for transformers, with the same weights, which make every part matter."""
    ours = small_model(seed, **changes).eval()
    config = NEOChatConfig(**ours.config.to_dict(), attn_implementation=attention)
    theirs = NEOChatModel(config).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert missing == (["language_model.lm_head.weight"] if ours.config.tie_word_embeddings else [])
    return ours, theirs


def documents(ours: Neo, seed: int = 0) -> tuple[list[Document], list[Tensor]]:
    """One of each kind, and the uint8 patches of each."""
    found = [random_document(ours.config, units, text, seed + i) for i, (units, text) in enumerate(DOCUMENTS)]
    return found, [random_patches([document], seed + i) for i, document in enumerate(found)]


def prompts(ours: Neo, docs: list[Document], patches: list[Tensor]) -> list[Prompt]:
    return [
        Prompt(input_ids=ids, visual=ids == ours.config.image_token_id, grids=grids, patches=pixels)
        for (ids, grids), pixels in zip(docs, patches, strict=True)
    ]


def padded(rows: list[Tensor], value: float, side: str) -> Tensor:
    """[B, L] of rows of any lengths."""
    longest = max(len(row) for row in rows)
    gaps = [longest - len(row) for row in rows]
    return torch.stack(
        [
            torch.nn.functional.pad(row, (gap, 0) if side == "left" else (0, gap), value=value)
            for row, gap in zip(rows, gaps, strict=True)
        ]
    )


def inputs(docs: list[Document], patches: list[Tensor], image_token: int, side: str = "left") -> BatchFeature:
    """A batch as the processor gives it."""
    ids = [document[0] for document in docs]
    found = {
        "input_ids": padded(ids, 0, side),
        "attention_mask": padded([torch.ones_like(row) for row in ids], 0, side),
        "mm_token_type_ids": padded([(row == image_token).long() for row in ids], 0, side),
    }
    if sum(map(len, patches)):
        found["pixel_values"] = torch.cat(patches)
        found["grid_hw"] = torch.cat([document[1] for document in docs]).long() * 2
    return BatchFeature(found)
