"""A page that needs nothing else: what `report.html` and `inspect.html` share in looks and in what they may do.

In: a body of which everything that others wrote was escaped, a style, and perhaps a script. Out: one HTML file. Its
content policy forbids loading anything, and running anything but that very script (named by its digest), should
escaping ever fail.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

CSS = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --paper: #ffffff; --ink: #1d2127; --soft: #5c6570; --rule: #e3e1dc; --track: #eceae5;
  --learned: #1f8a5b; --partly: #b7791f; --not: #c2413b;
  --text: #6b7280; --image: #2563c9; --multi_image: #c2570c; --video: #8b3fb5; --single: #2563c9;
  --odd: transparent; --even: #f3f1ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --paper: #1b1f25; --ink: #e8eaed; --soft: #9aa4b0; --rule: #2d333b; --track: #2a3038;
    --learned: #3fbf86; --partly: #e0a84a; --not: #f07a72;
    --text: #a3acb8; --image: #6ea5ff; --multi_image: #f39a5b; --video: #c78bea; --single: #6ea5ff;
    --even: #20252c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1060px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; margin: 0 0 .5rem; letter-spacing: -.02em; }
.kicker { margin: 0 0 .3rem; color: var(--soft); font-weight: 600; }
h2 { font-size: 1.3rem; margin: 3.2rem 0 .4rem; letter-spacing: -.01em; }
p { margin: .5rem 0; max-width: 74ch; }
small, .soft { color: var(--soft); }
.lead { font-size: 1.1rem; }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--paper); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.alarm { border-left: 4px solid var(--not); background: var(--paper); padding: 10px 14px; margin: 1rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 1.6rem 0 0; }
.tiles div { background: var(--paper); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; }
.tiles b { display: block; font-size: clamp(1.1rem, 4vw, 1.4rem); line-height: 1.25; letter-spacing: -.01em; }
.tiles span { color: var(--soft); font-size: .85rem; }

table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: middle; }
thead th { font-size: .8rem; font-weight: 600; color: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 600; }
tbody th small { display: block; font-weight: 400; line-height: 1.25; }
td.num { text-align: right; white-space: nowrap; }
th.num { text-align: right; }
figure { margin: 0; }
.chart { background: var(--paper); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 12px 4px; }
.chart figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 8px; font-weight: 600; }
.chart svg { display: block; width: 100%; height: auto; }
.legend { display: inline-flex; flex-wrap: wrap; gap: 2px 12px; font-size: .82rem; font-weight: 400;
  color: var(--soft); margin-left: auto; }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; vertical-align: middle;
  margin-right: 5px; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg text.end { text-anchor: end; } svg text.middle { text-anchor: middle; }
svg .grid { stroke: var(--rule); }
.plain td { overflow-wrap: anywhere; white-space: pre-line; vertical-align: top; }
.plain th { vertical-align: top; padding-right: 24px; }
.plain tbody th { white-space: nowrap; }
footer { margin-top: 3rem; color: var(--soft); font-size: .86rem; }
"""
"""Colours of light and dark, type, tables, tiles and charts."""


def document(title: str, body: str, *, css: str = "", script: str = "") -> str:
    """The file's text; `title` is escaped here, `body` must have been."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        script = f"<script>{script}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{css}</style>\n</head>\n<body>\n"
        f"<main>\n{body}\n</main>\n{script}</body>\n</html>\n"
    )
