"""What the report's style has beyond that of every page (see webpage): scores, cards, and narrow screens."""

CSS = """
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
svg text.stage { font-weight: 600; }
svg .boundary { stroke: var(--soft); stroke-dasharray: 4 3; }
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
.sheets { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; margin-top: 10px; }
.heads { margin: 0; max-width: 100%; background: #fff; border: 1px solid var(--rule); border-radius: 10px;
  overflow: hidden; }
.heads img { display: block; max-width: 100%; padding: 8px; box-sizing: border-box; }
.heads .said { background: var(--paper); }
.plain td.said { padding: 6px 0; }
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
