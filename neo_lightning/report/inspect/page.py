"""Inspected packs -> one HTML file."""

from __future__ import annotations

from neo_lightning.report.frame import document
from neo_lightning.report.inspect.collect import Inspected
from neo_lightning.report.inspect.overview import left_out_html, lengths_html, mixture_html
from neo_lightning.report.inspect.pictures import Album
from neo_lightning.report.inspect.rows import pack_html
from neo_lightning.report.inspect.script import SCRIPT
from neo_lightning.report.inspect.style import CSS
from neo_lightning.report.inspect.words import Words, plain, visible
from neo_lightning.types import MODALITIES

PICTURE_BYTES = 16 << 20
"""Of all packs' pictures, before they are written as text, which takes a third more."""


def render(found: Inspected, title: str) -> str:
    """The page's text; `title` names the recipe."""
    words = Words(found.tokenizer)
    room = PICTURE_BYTES // len(found.packs)
    packs = "\n".join(pack_html(step, spec, row, words, Album(room)) for step, spec, row in found.packs)
    first, last = found.packs[0][1].index, found.packs[-1][1].index
    which = f"Pack {first:,}" if first == last else f"Packs {first:,} to {last:,}"
    body = "\n".join(
        (
            f'<p class="kicker">NEO-ov, data of {plain(title)}</p><h1>{which}: what the model sees</h1>',
            '<p class="lead">A pack is one row of tokens, filled with whole documents that do not see each other. '
            "Choose a document in a strip to read it; point at a token or at a part of a picture for its place "
            "(t, h, w) and for what it sees; click to keep that in view.</p>",
            _tiles(found),
            _legend(),
            packs,
            mixture_html(found),
            lengths_html(found),
            left_out_html(found.left_out),
            '<div id="tip" role="status" hidden></div>',
        )
    )
    return document(f"{visible(title)}: {which}", body, css=CSS, script=SCRIPT)


def _tiles(found: Inspected) -> str:
    rows = [row for _, _, row in found.packs]
    tokens = sum(row.info.tokens for row in rows if row.info)
    size = sum(row.input_ids.numel() for row in rows)
    tiles = (
        (f"{len(rows)} × {found.stage.row_tokens:,}", "tokens"),
        (f"{tokens / size:.1%}", "filled"),
        (f"{sum(len(row.info.keys) for row in rows if row.info):,}", "documents"),
        (f"{sum(row.visual_index.numel() for row in rows) / max(1, tokens):.0%}", "visual tokens"),
        (f"{sum(row.info.supervised for row in rows if row.info) / max(1, tokens):.0%}", "supervised"),
    )
    cells = "".join(f"<div><b>{figure}</b><span>{text}</span></div>" for figure, text in tiles)
    return f'<div class="tiles">{cells}</div>'


def _legend() -> str:
    kinds = "".join(f'<span><i class="{kind}"></i>{kind.replace("_", " ")}</span>' for kind in (*MODALITIES, "padding"))
    return (
        f'<p class="legend">{kinds}</p><p class="legend text"><span><i class="s">supervised</i> the model learns to '
        'produce this token</span><span><i class="x">&lt;img&gt;</i> special token</span><span>'
        '<i class="seen">seen</i> by the token that was clicked</span></p>'
    )
