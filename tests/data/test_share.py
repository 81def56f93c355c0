"""The parts of a row are the row, wherever it is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neo_lightning.data.rows.collate import Document, collate
from neo_lightning.data.rows.share import part_of, span
from neo_lightning.model.patch_embed import merged_places
from neo_lightning.types import IGNORE, PackedBatch, RowPart
from tests.data.test_collate import document

DOCUMENTS = [
    document([(2, 3)], 4, 5, seed=1),
    document([], 6, 2, seed=2),
    document([(5, 3), (2, 2), (1, 1)], 0, 3, seed=3),
    document([(2, 1)], 3, 2, dead=True, seed=4),
    document([], 4, 9, seed=5),
]
CONTEXT = 83
"""Of which documents fill 73 tokens."""


def whole() -> PackedBatch:
    return collate(DOCUMENTS, context=CONTEXT, pad_id=3, weighting="square", index=7)


def parts_of(row: PackedBatch, parts: int) -> list[RowPart]:
    return [part_of(row, part, parts) for part in range(parts)]


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 16, 83])
def test_parts_joined_are_the_row(parts: int) -> None:
    row, cut = whole(), parts_of(whole(), parts)
    each = {part.input_ids.numel() for part in cut}
    assert len(each) == 1
    assert parts * each.pop() - CONTEXT < parts, "less than a token more a part"
    for name in ("input_ids", "positions", "targets", "weights", "modality"):
        joined = torch.cat([getattr(part, name) for part in cut])
        assert torch.equal(joined[:CONTEXT], getattr(row, name)), name
        assert joined.dtype == getattr(row, name).dtype
    assert (torch.cat([part.targets for part in cut])[CONTEXT:] == IGNORE).all()
    assert not torch.cat([part.weights for part in cut])[CONTEXT:].any()
    assert torch.equal(torch.cat([part.visual_index + part.offset for part in cut]), row.visual_index)
    assert torch.equal(torch.cat([part.places + part.offset for part in cut]), row.places)
    for part in cut:
        assert part.start.numel() == part.limit.numel() == parts * part.input_ids.numel()
        assert torch.equal(part.start[:CONTEXT], row.start)
        assert torch.equal(part.limit[:CONTEXT], row.limit)
        i = torch.arange(part.start.numel())
        assert bool(((part.start <= i) & (i < part.limit) & (part.limit <= i.numel())).all())


@pytest.mark.parametrize("parts", [2, 3, 4, 7, 16, 83])
def test_a_part_has_the_patches_of_its_visual_tokens_at_their_places(parts: int) -> None:
    row = whole()
    index, places = merged_places(row.grids, row.patches.shape[0])
    tokens, at = row.patches[index].view(-1, 4, 768), places.view(-1, 4, 2)
    seen = 0
    for part in parts_of(row, parts):
        assert int(part.grids.prod(-1).sum()) == part.patches.shape[0]
        n = part.visual_index.numel()
        if not n:
            assert part.patches.shape[0] == 4, "one blank unit"
            continue
        index, places = merged_places(part.grids, part.patches.shape[0], 2 * part.first_row)
        own = slice(4 * part.before, 4 * (part.before + n))
        assert torch.equal(part.patches[index][own].view(-1, 4, 768), tokens[seen : seen + n])
        assert torch.equal(places[own].view(-1, 4, 2), at[seen : seen + n])
        assert part.patches.shape[0] // 4 - n < 2 * 3, "of an image that is cut, whole rows of tokens and no more"
        seen += n
    assert seen == len(tokens)


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_row_is_counted_once(parts: int) -> None:
    row, cut = whole(), [part.info for part in parts_of(whole(), parts)]
    assert row.info is not None
    for name in ("tokens", "supervised", "pairs"):
        assert sum(getattr(info, name) for info in cut if info) == getattr(row.info, name), name
    for name in ("keys", "tombstones"):
        assert [x for info in cut if info for x in getattr(info, name)] == [*getattr(row.info, name)], name
    assert {part.row_keys for part in parts_of(row, parts)} == {row.info.keys}


def same(a: PackedBatch, b: PackedBatch) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_part_is_collated_without_pixels_of_documents_elsewhere(parts: int) -> None:
    unread = torch.empty(0, 768, dtype=torch.uint8)
    for part in range(parts):
        a, b = span(CONTEXT, part, parts)
        at, documents = 0, []
        for doc in DOCUMENTS:
            end = at + doc.sequence.input_ids.numel()
            documents.append(doc if end > a and at < b else replace(doc, patches=unread))
            at = end
        found = collate(documents, context=CONTEXT, pad_id=3, weighting="square", index=7, share=(part, parts))
        assert isinstance(found, RowPart)
        assert same(found, part_of(whole(), part, parts))


def test_rows_without_pixels_and_without_documents() -> None:
    bare: list[Document] = [document([], 3, 9, seed=i) for i in range(2)]
    for documents in (bare, []):
        for part in parts_of(collate(documents, context=30, pad_id=3, weighting="token"), 4):
            assert part.visual_index.numel() == 0
            assert part.patches.shape == (4, 768)
            assert part.grids.tolist() == [[2, 2]]
