from __future__ import annotations

import pytest
import torch

from neo_lightning.data.rows.collate import Document, collate
from neo_lightning.sequence import positions_and_limits
from neo_lightning.types import IGNORE, TokenSequence

CONTEXT_ID, PAD = 7, 3


def document(grids: list[tuple[int, int]], text: int, learnt: int, *, dead: bool = False, seed: int = 0) -> Document:
    """`text` plain tokens, then units with marks, then `learnt` supervised tokens."""
    random = torch.Generator().manual_seed(seed)
    ids, visual = torch.randint(10, 99, (text,), generator=random).tolist(), [False] * text
    for rows, columns in grids:
        ids += [8, *[CONTEXT_ID] * (rows * columns), 9]
        visual += [False, *[True] * (rows * columns), False]
    ids += torch.randint(10, 99, (learnt,), generator=random).tolist()
    visual += [False] * learnt
    tokens = sum(r * c for r, c in grids)
    patches = torch.randint(0, 256, (tokens * 4, 768), dtype=torch.uint8, generator=random)
    sequence = TokenSequence(
        input_ids=torch.tensor(ids),
        supervised=torch.arange(len(ids)) >= len(ids) - learnt,
        visual=torch.tensor(visual),
        grids=torch.tensor(grids, dtype=torch.int32).reshape(-1, 2),
    )
    kind = "text" if not grids else "image" if len(grids) == 1 else "multi_image"
    return Document(f"s/{seed}", kind, sequence, None if dead else patches, "broken" if dead else "")


DOCUMENTS = [
    document([(2, 3)], 4, 5, seed=1),
    document([], 6, 2, seed=2),
    document([(1, 1), (2, 2)], 0, 3, seed=3),
]


def test_every_document_stands_as_if_alone() -> None:
    batch = collate(DOCUMENTS, context=64, pad_id=PAD, weighting="square")
    at = 0
    for doc in DOCUMENTS:
        n = doc.sequence.input_ids.numel()
        positions, limit = positions_and_limits(doc.sequence.visual, doc.sequence.grids)
        span = slice(at, at + n)
        assert torch.equal(batch.input_ids[span], doc.sequence.input_ids)
        assert torch.equal(batch.positions[span], positions)
        assert torch.equal(batch.limit[span], limit + at)
        assert (batch.start[span] == at).all()
        predicted = (batch.targets[span] != IGNORE).nonzero().squeeze(-1)
        assert torch.equal(predicted + 1, doc.sequence.supervised.nonzero().squeeze(-1))
        assert torch.equal(batch.targets[span][predicted], doc.sequence.input_ids[predicted + 1])
        at += n
    pad = slice(at, 64)
    assert (batch.input_ids[pad] == PAD).all()
    assert (batch.start[pad] == at).all()
    assert torch.equal(batch.limit[pad], torch.arange(at + 1, 65).int())
    assert torch.equal(batch.positions[pad, 0], torch.arange(64 - at).int())
    assert (batch.targets[pad] == IGNORE).all()
    assert (batch.limit[1:] >= batch.limit[:-1]).all()
    assert (batch.start[1:] >= batch.start[:-1]).all()


def test_dtypes_and_shapes_are_those_of_the_door() -> None:
    batch = collate(DOCUMENTS, context=64, pad_id=PAD, weighting="square")
    types = {
        "input_ids": torch.int64,
        "positions": torch.int32,
        "start": torch.int32,
        "limit": torch.int32,
        "targets": torch.int64,
        "weights": torch.float32,
        "modality": torch.int64,
        "visual_index": torch.int64,
        "patches": torch.uint8,
        "grids": torch.int32,
    }
    assert {name: getattr(batch, name).dtype for name in types} == types
    assert torch.equal(batch.visual_index, (batch.input_ids == CONTEXT_ID).nonzero().squeeze(-1))
    assert batch.grids.tolist() == [[4, 6], [2, 2], [4, 4]]
    assert torch.equal(batch.patches, torch.cat([d.patches for d in DOCUMENTS if d.patches is not None]))
    assert batch.modality[[0, 20, 40]].tolist()[0] == 1


@pytest.mark.parametrize(("weighting", "power"), [("square", -0.5), ("token", 0.0), ("sample", -1.0)])
def test_weights_per_document(weighting: str, power: float) -> None:
    batch = collate(DOCUMENTS, context=64, pad_id=PAD, weighting=weighting)
    at = 0
    for doc, learnt in zip(DOCUMENTS, (5, 2, 3), strict=True):
        weights = batch.weights[at : at + doc.sequence.input_ids.numel()]
        assert torch.allclose(weights[weights > 0], torch.full((learnt,), float(learnt) ** power))
        at += doc.sequence.input_ids.numel()
    assert batch.weights[at:].sum() == 0


def test_a_tombstone_keeps_its_place_and_loses_its_weight() -> None:
    dead = document([(2, 3)], 4, 5, dead=True, seed=1)
    alive = collate(DOCUMENTS, context=64, pad_id=PAD, weighting="square")
    batch = collate([dead, *DOCUMENTS[1:]], context=64, pad_id=PAD, weighting="square")
    n = dead.sequence.input_ids.numel()
    assert torch.equal(batch.input_ids, alive.input_ids)
    assert torch.equal(batch.positions, alive.positions)
    assert batch.weights[:n].sum() == 0
    assert (batch.targets[:n] == IGNORE).all()
    assert torch.equal(batch.weights[n:], alive.weights[n:])
    assert torch.equal(batch.patches[24:], alive.patches[24:])
    assert len(batch.patches[:24].unique()) == 1
    assert batch.info is not None
    assert batch.info.tombstones == (("s/1", "broken"),)
    assert batch.info.supervised == 5


@pytest.mark.parametrize("documents", [[], [DOCUMENTS[1]]])
def test_a_row_without_pixels_carries_one_blank_unit(documents: list[Document]) -> None:
    batch = collate(documents, context=16, pad_id=PAD, weighting="square")
    assert batch.visual_index.numel() == 0
    assert batch.grids.tolist() == [[2, 2]]
    assert batch.patches.shape == (4, 768)


def test_info_counts_pairs_and_tokens() -> None:
    batch = collate(DOCUMENTS, context=64, pad_id=PAD, weighting="square", index=9)
    info = batch.info
    assert info is not None
    used = sum(d.sequence.input_ids.numel() for d in DOCUMENTS)
    pairs = sum(int(positions_and_limits(d.sequence.visual, d.sequence.grids)[1].sum()) for d in DOCUMENTS)
    assert (info.index, info.tokens, info.supervised, info.pairs) == (9, used, 10, pairs)
    assert info.keys == ("s/1", "s/2", "s/3")


def test_a_full_row_has_no_padding_and_an_overfull_one_is_an_error() -> None:
    used = sum(d.sequence.input_ids.numel() for d in DOCUMENTS)
    assert collate(DOCUMENTS, context=used, pad_id=PAD, weighting="token").input_ids.numel() == used
    with pytest.raises(ValueError, match="do not fit"):
        collate(DOCUMENTS, context=used - 1, pad_id=PAD, weighting="token")
    broken = Document("s/x", "image", DOCUMENTS[0].sequence, torch.zeros(4, 768, dtype=torch.uint8))
    with pytest.raises(ValueError, match="4 patches for grids that hold 24"):
        collate([broken], context=64, pad_id=PAD, weighting="token")
