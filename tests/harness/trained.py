"""A model that has learned a few answers by heart, so that scores are neither none nor all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from neo_lightning import hf  # noqa: F401  registers


def learn(folder: Path, taught: Sequence[tuple[list[dict[str, Any]], str]], *, steps: int = 80) -> None:
    """Train the export in place.

    Args:
        folder: an export.
        taught: the parts of a user's turn, and the answer.
        steps: of AdamW, each over everything.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).train()
    asked = [{"role": "user", "content": parts} for parts, _ in taught]
    how: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batches = []
    for turn, (_, answer) in zip(asked, taught, strict=True):
        prompt = processor.apply_chat_template([turn], add_generation_prompt=True, **how)["input_ids"].shape[1]
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        batch = processor.apply_chat_template([turn, said], **how)
        labels = batch["input_ids"].clone()
        labels[:, :prompt] = -100
        batches.append({**batch, "labels": labels})
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        for batch in batches:
            model(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
