"""The stage's mixture and lengths, and what is left out -> HTML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neo_lightning.report.inspect.collect import SHARD_PARTS, Inspected
from neo_lightning.report.inspect.left_out import Group
from neo_lightning.report.inspect.words import plain

REASONS = 24
"""The commonest are shown with their samples."""

_WIDTH, _HEIGHT, _BASE = 260, 96, 78
_BINS_PER_OCTAVE = 2


def mixture_html(found: Inspected) -> str:
    """What the recipe asks of each source, and what the planned packs give."""
    report = found.report
    rows = []
    for name, source in report.sources.items():
        kind = found.modalities[name]
        shares = (source.samples, source.tokens, source.supervised)
        bars = "".join(f'<td class="share {kind}">{_bar(share)}</td>' for share in shares)
        left = f"{source.left_out:,} of {source.looked_at:,}" if source.left_out else "none"
        rows.append(
            f'<tr><th scope="row">{plain(name)}<small>{kind}</small></th><td class="num">{source.asked:.1%}</td>{bars}'
            f'<td class="num">{source.epochs:.2f}</td><td class="num">{left}</td></tr>'
        )
    unit = found.stage.mixture_unit
    heads = (f"asked ({unit})", "samples", "tokens", "supervised", "epochs", "do not fit")
    return (
        f"<h2>Mixture of stage {plain(found.name)}</h2><p>Counted in {report.planned:,} of the stage's "
        f"{report.packs:,} packs, planned without the stages before it: {report.fill:.2%} full, "
        f"{report.supervised:.1%} of the tokens supervised.</p>"
        '<table><thead><tr><th scope="col">source</th>'
        + "".join(
            f'<th scope="col" class="{"share" if 0 < i < 4 else "num"}">{head}</th>' for i, head in enumerate(heads)
        )
        + f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _bar(share: float) -> str:
    return f'<span style="width:{100 * share:.2f}%"></span><b>{share:.1%}</b>'


def lengths_html(found: Inspected) -> str:
    """A histogram of tokens a document, for each source."""
    top = max((int(lengths.max(initial=1)) for lengths in found.lengths.values()), default=1)
    bottom = min((int(lengths.min(initial=top)) for lengths in found.lengths.values()), default=1)
    charts = "".join(
        _histogram(name, found.modalities[name], lengths, bottom, top) for name, lengths in found.lengths.items()
    )
    return (
        f"<h2>Lengths</h2><p>Tokens of a document under this stage's budgets, visual tokens included, in up to "
        f'{SHARD_PARTS} parts of a source; its context is {found.stage.context:,}.</p><div class="histograms">{charts}'
        "</div>"
    )


def _histogram(name: str, kind: str, lengths: np.ndarray, bottom: int, top: int) -> str:
    """Bars over a logarithmic axis that all sources share."""
    first = int(np.floor(np.log2(bottom) * _BINS_PER_OCTAVE))
    bins = int(np.floor(np.log2(top) * _BINS_PER_OCTAVE)) - first + 1
    place = np.floor(np.log2(np.maximum(lengths, 1)) * _BINS_PER_OCTAVE).astype(int) - first
    counts = np.bincount(place, minlength=bins)
    wide, most = _WIDTH / bins, max(1, int(counts.max(initial=0)))
    parts = []
    for i, count in enumerate(counts.tolist()):
        tall = round((_BASE - 8) * count / most, 1)
        low, high = (2 ** ((first + j) / _BINS_PER_OCTAVE) for j in (i, i + 1))
        label = f"{int(np.ceil(low)):,} to {int(np.ceil(high)) - 1:,} tokens: {count:,}"
        parts.append(
            f'<rect class="{kind}" x="{i * wide + 1:.1f}" y="{_BASE - tall:.1f}" width="{max(1.0, wide - 2):.1f}" '
            f'height="{tall}"><title>{label}</title></rect>'
        )
    every = max(1, -(-bins // (4 * _BINS_PER_OCTAVE)))
    for octave in range(-(-first // _BINS_PER_OCTAVE), (first + bins) // _BINS_PER_OCTAVE + 1, every):
        x = (octave * _BINS_PER_OCTAVE - first) * wide
        if x <= _WIDTH - 20:
            parts.append(f'<text x="{x + 2:.1f}" y="{_HEIGHT - 4}">{2**octave:,}</text>')
    numbers = f"{len(lengths):,} samples"
    if len(lengths):
        numbers += f", median {int(np.median(lengths)):,}, most {int(lengths.max()):,}"
    return (
        f'<figure class="chart"><figcaption>{plain(name)} <small>{numbers}</small></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="lengths of {plain(name)}">'
        f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{_BASE}" y2="{_BASE}"/>{"".join(parts)}</svg></figure>'
    )


def left_out_html(groups: Sequence[Group]) -> str:
    """Reasons with their samples."""
    if not groups:
        return "<h2>Left out</h2><p>Nothing: every sample that was looked at is used.</p>"
    rows = "".join(
        f'<div class="reason"><h3>{group.count:,} × {plain(group.kind)}</h3><div class="lost">'
        + "".join(
            f"<div><p><b>{plain(example.sample)}</b><br>{plain(example.reason)}</p>"
            + "".join(_thumbnail(*shown) for shown in example.thumbnails())
            + "</div>"
            for example in group.examples
        )
        + "</div></div>"
        for group in groups[:REASONS]
    )
    if rest := groups[REASONS:]:
        rows += f"<p>{sum(group.count for group in rest):,} more, for {len(rest):,} other reasons.</p>"
    return (
        "<h2>Left out, or shown smaller</h2><p>What the index refused is counted in all shards; what does not fit this "
        f"stage, in up to {SHARD_PARTS} shard parts of each source.</p>{rows}"
    )


def _thumbnail(address: str, note: str) -> str:
    if not address:
        return f'<p class="soft">{plain(note)}</p>'
    return f'<img src="{address}" alt="{plain(note)}" title="{plain(note)}">'
