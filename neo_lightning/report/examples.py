"""Answered questions -> pictures beside the report, and what report.json says about each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neo_lightning.evaluation.examples import Example
from neo_lightning.evaluation.questions import Question
from neo_lightning.report.attention import heads
from neo_lightning.report.pictures import film_strip, png, side_by_side, unpatchify

FOLDER = "examples"


def save_examples(examples: list[Example], run_dir: Path) -> list[dict[str, Any]]:
    """Write the pictures below the run's folder and return what report.json says about each example."""
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number, example in enumerate(examples, start=1):
        asked = example.asked
        names = []
        for part, image in enumerate(_images(asked), start=1):
            name = f"{FOLDER}/{number:02d}-{part}.png"
            (run_dir / name).write_bytes(png(image))
            names.append(name)
        looking = None
        if example.attention is not None:
            looking = f"{FOLDER}/{number:02d}-heads.png"
            units = unpatchify(asked.patches, asked.prompt.grids)
            (run_dir / looking).write_bytes(png(heads(units, asked.prompt, example.attention)))
        records.append(
            {
                "type": asked.kind,
                "key": asked.key,
                "modality": asked.modality,
                "question": asked.text,
                "answer": example.answer,
                "truth": asked.truth,
                "correct": example.correct,
                "blanked_answer": example.blanked_answer,
                "pictures": names,
                "heads": looking,
            }
        )
    return records


def _images(asked: Question) -> list[Any]:
    """The pictures of one question: a clip as one film strip, several images in one row."""
    if not asked.patches.shape[0]:
        return []
    units = unpatchify(asked.patches, asked.prompt.grids)
    if asked.modality == "video":
        return [film_strip(units)]
    return [side_by_side(units)] if len(units) > 1 else units
