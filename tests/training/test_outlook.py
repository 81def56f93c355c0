"""What a document is assumed to be, and the rows that are made of it."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.sequence import positions_and_limits
from neo_lightning.training.outlook import Document, document_of, rows_of
from neo_lightning.types import PixelBudget, VideoBudget

from .tiny import stage


def test_documents_keep_to_a_stages_budgets() -> None:
    wide = stage(1, context=4096)  # images of a megapixel, frames of 360 x 640
    assert document_of("text", wide) == Document(units=0, unit=0, text=600)
    assert document_of("image", wide) == Document(units=1, unit=round(0.6 * 1024), text=100)
    assert document_of("multi_image", wide) == Document(units=2, unit=round(0.6 * 1024), text=100)
    assert document_of("video", wide) == Document(units=16, unit=225, text=420), "16 of 32 frames fit"
    image, video = ({"min_pixels": 1, "max_pixels": n} for n in (1024, 1023))
    narrow = stage(1, context=200, image=PixelBudget(**image), video=VideoBudget(max_frames=3, **video))
    assert document_of("text", narrow).tokens == 200
    assert document_of("image", narrow) == Document(units=1, unit=1, text=100)
    assert document_of("video", narrow) == Document(units=3, unit=1, text=130)
    large = stage(1, context=4096, image=PixelBudget(max_pixels=10**7))
    assert document_of("image", large).unit == 1_500_000 // 1024


def test_pairs_of_a_document_are_those_of_its_mask() -> None:
    document = Document(units=3, unit=6, text=7)
    visual = torch.tensor([False] * 3 + [True] * 18 + [False] * 4)
    _, limit = positions_and_limits(visual, torch.tensor([[2, 3]] * 3))
    assert (document.tokens, document.pairs) == (25, int(limit.sum()))


@pytest.mark.parametrize("unit", ["samples", "tokens"])
def test_rows_are_filled_as_the_mixture_says(unit: str) -> None:
    run = stage(1, context=4096, mixture={"a": 1.0, "b": 3.0}, mixture_unit=unit)
    average, fullest = rows_of(run, {"a": "text", "b": "image"})
    image = 614 + 100
    text_part = 600 / (600 + 3 * image) if unit == "samples" else 1 / 4
    texts, images = 4096 * text_part / 600, 4096 * (1 - text_part) / image
    assert (average.tokens, fullest.tokens) == (4096, 4096)
    assert average.visual == round(images * 614)
    assert average.supervised == round(texts * 300 + images * 50)
    pairs = 600 * 601 / 2, (image * (image + 1) + 614 * 613) / 2
    assert average.pairs == round(texts * pairs[0] + images * pairs[1])
    assert fullest.visual == round(4096 / image * 614)
    assert fullest.supervised == 2048, "a row of text alone"
    assert fullest.pairs == round(4096 / image * pairs[1]), "a row of images alone"
