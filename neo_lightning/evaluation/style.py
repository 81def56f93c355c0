"""The report's style sheet: one column on a phone, two on a desk, light and dark; nothing from outside."""

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
td.num small { display: block; line-height: 1.2; }
td.bar { width: 36%; padding-right: 18px; }
tr.group th { padding-top: 20px; font-size: .8rem; font-weight: 600; color: var(--soft); text-transform: uppercase;
  letter-spacing: .06em; }
td:last-child, th:last-child { padding-right: 0; }
.pill { display: inline-block; border-radius: 99px; padding: 1px 10px; font-size: .82rem; font-weight: 600;
  white-space: nowrap; border: 1.5px solid currentColor; }
.learned { color: var(--learned); } .partly { color: var(--partly); } .not { color: var(--not); }
svg.bar { display: block; overflow: visible; }
svg .track { fill: var(--track); }
svg .fill { fill: currentColor; }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; opacity: .75; }
svg .chance { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 3 2; }
svg .blanked { fill: var(--paper); stroke: var(--ink); stroke-width: 1.75; }
.key { display: flex; flex-wrap: wrap; gap: 4px 20px; color: var(--soft); font-size: .86rem; margin: .6rem 0 0; }
.key span { display: inline-flex; align-items: center; gap: 7px; }
.key svg { flex: none; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px; }
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
svg text.stage { font-weight: 600; }
svg .grid { stroke: var(--rule); } svg .boundary { stroke: var(--soft); stroke-dasharray: 4 3; }
svg .band.odd { fill: var(--odd); } svg .band.even { fill: var(--even); }
svg .curve { fill: none; stroke-width: 1.9; stroke-linejoin: round; stroke-linecap: round; }

.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 236px), 1fr)); gap: 14px;
  grid-auto-flow: row dense; }
.card { background: var(--paper); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden;
  display: flex; flex-direction: column; }
.card.wide { grid-column: span 2; }
.shown { background: #0d0f12; height: 212px; padding: 8px; }
.shown img { display: block; width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }
.card.wide .shown, .card.wide .shown img { height: auto; }
.said { padding: 10px 13px 12px; }
.said .task { color: var(--soft); font-size: .8rem; }
.said p { margin: 1px 0; line-height: 1.4; overflow-wrap: anywhere; }
.said .question { font-weight: 600; }
.said .right { color: var(--learned); font-weight: 600; } .said .wrong { color: var(--not); font-weight: 600; }
.plain td { overflow-wrap: anywhere; white-space: pre-line; vertical-align: top; }
.plain th { vertical-align: top; padding-right: 24px; }
.plain tbody th { white-space: nowrap; }
.plain td.said { padding: 6px 0; }
footer { margin-top: 3rem; color: var(--soft); font-size: .86rem; }
@media (max-width: 680px) {
  .card.wide { grid-column: span 1; }
  .scores, .scores tbody { display: block; }
  .scores thead { display: none; }
  .scores tr { display: grid; grid-template-columns: repeat(3, auto) 1fr; gap: 0 12px; padding: 8px 0;
    border-bottom: 1px solid var(--rule); align-items: start; }
  .scores th, .scores td { border: 0; padding: 0; }
  .scores tr.group { grid-template-columns: 1fr; padding: 18px 0 4px; } .scores tr.group th { padding: 0; }
  .scores tbody th { grid-column: 1 / 4; } .scores td.verdict { grid-column: 4; grid-row: 1; justify-self: end; }
  .scores td.bar { grid-column: 1 / -1; width: auto; padding: 4px 0 0; }
  .scores .pill { font-size: .76rem; padding: 1px 8px; }
  .scores td.num { font-size: .84rem; text-align: left; }
  .scores td.num::before { content: attr(data-label); display: block; color: var(--soft); font-size: .76rem; }
  .plain:not(.facts) { display: block; overflow-x: auto; }
}
"""
