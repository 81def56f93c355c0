"""One PackedBatch -> HTML: the strip of its documents, its mask, and each document's text and pictures.

The batch's arrays (ids, t, h, w, start, limit) lie in the section's attributes; the script shows them for the token
under the pointer. Without a script everything but that is still there: documents open by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neo_lightning.data.media.image import unpatchify
from neo_lightning.data.plan import PackSpec
from neo_lightning.report.inspect.columns import pack_runs
from neo_lightning.report.inspect.mask import mask_svg
from neo_lightning.report.inspect.pictures import Album
from neo_lightning.report.inspect.words import Words, plain
from neo_lightning.types import IGNORE, MODALITIES, PATCH, PackedBatch

TEXT_TOKENS = 8000
"""Of a pack are shown, shared evenly among its documents."""

UNITS = 400
"""Pictures of a pack are shown; a pack of small frames can hold thousands."""

_ZOOM_TO = 160
"""Small pictures are shown magnified by a whole number, up to about this many pixels."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One image or frame of a row."""

    first: int
    """Place of its first visual token."""
    rows: int
    """Of visual tokens."""
    columns: int
    patches: Tensor
    """[rows * columns * 4, 768] uint8."""

    @property
    def last(self) -> int:
        """One past its last visual token."""
        return self.first + self.rows * self.columns


@dataclass(frozen=True, kw_only=True)
class Span:
    """One document of a row."""

    number: int
    first: int
    last: int
    key: str
    modality: str
    epoch: int
    units: list[Unit]
    learnt: int
    """Tokens that the model learns to produce."""
    weight: float
    """Of each of them in the loss."""
    tombstone: str
    """Why its pixels are blank and it teaches nothing, or empty."""


def units_of(batch: PackedBatch) -> list[Unit]:
    """Units with a place in the row, in order."""
    units, token, patch = [], 0, 0
    for rows, columns in batch.grids.tolist() if batch.visual_index.numel() else []:
        size = rows * columns
        first = int(batch.visual_index[token])
        patches = batch.patches[patch : patch + size]
        units.append(Unit(first=first, rows=rows // 2, columns=columns // 2, patches=patches))
        token, patch = token + size // 4, patch + size
    return units


def spans_of(spec: PackSpec, batch: PackedBatch) -> list[Span]:
    """Documents of a row; its padding is none of them."""
    assert batch.info is not None
    starts = torch.unique_consecutive(batch.start).tolist()
    units, tombstones = units_of(batch), dict(batch.info.tombstones)
    spans = []
    for number, (key, document) in enumerate(zip(batch.info.keys, spec.documents, strict=True)):
        first = starts[number]
        last = starts[number + 1] if number + 1 < len(starts) else batch.input_ids.numel()
        learnt = batch.targets[first:last] != IGNORE
        spans.append(
            Span(
                number=number,
                first=first,
                last=last,
                key=key,
                modality=MODALITIES[int(batch.modality[first])],
                epoch=document.epoch,
                units=[unit for unit in units if first <= unit.first < last],
                learnt=int(learnt.sum()),
                weight=float(batch.weights[first:last].max()),
                tombstone=tombstones.get(key, ""),
            )
        )
    return spans


def pack_html(step: int, spec: PackSpec, batch: PackedBatch, words: Words, album: Album) -> str:
    """The section of one pack; `step` is the optimiser step that it belongs to."""
    assert batch.info is not None
    spans, info, size = spans_of(spec, batch), batch.info, batch.input_ids.numel()
    share = max(64, TEXT_TOKENS // max(1, len(spans)))
    left = UNITS
    documents = []
    for span in spans:
        documents.append(_document(span, spec.index, batch, words, album, share, left))
        left = max(0, left - len(span.units))
    kinds = [(span.first, span.last, span.modality) for span in spans]
    if info.tokens < size:
        kinds.append((info.tokens, size, "padding"))
    facts = (
        f"stage {plain(spec.stage)}, step {step:,}: {len(spans)} documents, {info.tokens:,} of {size:,} tokens, "
        f"{info.supervised:,} supervised, {batch.visual_index.numel():,} visual"
    )
    arrays = {"ids": batch.input_ids, "start": batch.start, "limit": batch.limit}
    arrays |= {name: batch.positions[:, axis] for axis, name in enumerate("thw")}
    data = "".join(f' data-{name}="{pack_runs(values)}"' for name, values in arrays.items())
    return (
        f'<section class="pack" id="pack-{spec.index}"{data}><h3>Pack {spec.index:,} <small>{facts}</small></h3>'
        f'<div class="strip">{"".join(map(_segment, spans))}{_padding(size - info.tokens)}</div>'
        f'<div class="inside"><figure class="whole">{mask_svg(batch.start, batch.limit, kinds)}'
        "<figcaption>Mask of the row: a token (down) sees the coloured tokens (across).</figcaption></figure>"
        f'<div class="documents">{"".join(documents)}</div></div></section>'
    )


def _segment(span: Span) -> str:
    tokens = span.last - span.first
    label = f"{span.modality}, {tokens:,} tokens: {plain(span.key)}"
    dead = " tombstone" if span.tombstone else ""
    return (
        f'<button type="button" class="{span.modality}{dead}" style="flex-grow:{tokens}" '
        f'data-document="{span.number}" title="{label}">{tokens}</button>'
    )


def _padding(tokens: int) -> str:
    return f'<span class="padding" style="flex-grow:{tokens}" title="padding, {tokens:,} tokens"></span>' * (tokens > 0)


def _document(
    span: Span, pack: int, batch: PackedBatch, words: Words, album: Album, text_tokens: int, pictures: int
) -> str:
    tokens, visual = span.last - span.first, sum(unit.last - unit.first for unit in span.units)
    facts = [f"{tokens:,} tokens", f"{visual:,} visual in {len(span.units)} pictures" if visual else "no pixels"]
    facts.append(f"{span.learnt:,} supervised, weight {span.weight:.3g} each" if span.learnt else "nothing supervised")
    if span.epoch:
        facts.append(f"pass {span.epoch + 1} over its source")
    alarm = f'<p class="alarm">Blank pixels, weight 0: {plain(span.tombstone)}</p>' if span.tombstone else ""
    body = "".join(_body(span, batch, words, album, text_tokens, pictures))
    return (
        f'<details class="document {span.modality}" id="pack-{pack}-{span.number}"{" open" * (span.number == 0)}>'
        f"<summary><i></i><b>{plain(span.key)}</b> <small>{', '.join(facts)}</small></summary>{alarm}"
        f'<div class="body"><div class="text">{body}</div>'
        f"<figure>{mask_svg(batch.start, batch.limit, list(_runs(span)))}</figure></div></details>"
    )


def _runs(span: Span) -> Iterator[tuple[int, int, str]]:
    """(first, one past the last, kind) of text runs and units."""
    at = span.first
    for unit in span.units:
        if at < unit.first:
            yield at, unit.first, "causal"
        yield unit.first, unit.last, span.modality
        at = unit.last
    if at < span.last:
        yield at, span.last, "causal"


def _body(span: Span, batch: PackedBatch, words: Words, album: Album, text_tokens: int, pictures: int) -> Iterator[str]:
    units = {unit.first: (number, unit) for number, unit in enumerate(span.units)}
    for first, last, _ in _runs(span):
        if first in units:
            number, unit = units[first]
            yield _picture(unit, album) if number < pictures else ""
            if number == pictures:
                yield f'<span class="more">… {len(units) - pictures:,} more pictures are not shown</span>'
            continue
        shown = max(0, min(last - first, text_tokens))
        text_tokens -= shown
        if shown:
            yield _text(first, first + shown, span, batch, words)
        if shown < last - first:
            yield f'<span class="more">… {last - first - shown:,} more tokens are not shown</span>'


def _text(first: int, last: int, span: Span, batch: PackedBatch, words: Words) -> str:
    ids = batch.input_ids[first:last].tolist()
    learnt = [at > span.first and int(batch.targets[at - 1]) != IGNORE for at in range(first, last)]
    marks = {(False, False): "", (True, False): " class=s", (False, True): " class=x", (True, True): ' class="s x"'}
    tokens = (
        f"<i{marks[taught, token in words.special]}>{words.html(token)}</i>"
        for token, taught in zip(ids, learnt, strict=True)
    )
    return f'<span class="run" data-at="{first}">{"".join(tokens)}</span>'


def _picture(unit: Unit, album: Album) -> str:
    picture = album.add(unpatchify(unit.patches, unit.rows * 2, unit.columns * 2))
    height, width = unit.rows * 2 * PATCH, unit.columns * 2 * PATCH
    zoom = max(1, _ZOOM_TO // max(height, width))
    note = f"{width} × {height} px, {unit.columns} × {unit.rows} tokens"
    note += ", shown smaller to keep this page small" if picture.reduced else ""
    return (
        f'<span class="unit" data-at="{unit.first}" data-rows="{unit.rows}" data-columns="{unit.columns}">'
        f'<span class="frame" style="width:{width * zoom}px;--rows:{unit.rows};--columns:{unit.columns}">'
        f'<img src="{picture.source}" width="{width * zoom}" height="{height * zoom}" alt="{note}">'
        f'<span class="cell" hidden></span></span><small>{note}</small></span>'
    )
