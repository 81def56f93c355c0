"""What the inspected packs' page has beyond the style of every page (see webpage)."""

CSS = """
.strip { display: flex; height: 30px; gap: 1px; margin: .6rem 0 .8rem; border-radius: 6px; overflow: hidden; }
.strip > * { flex: 1 1 0; min-width: 0; padding: 0; border: 0; overflow: hidden; color: #fff;
  font: 600 11px/30px system-ui, sans-serif; cursor: pointer; }
.strip button:hover, .strip button:focus-visible { filter: brightness(1.15); }
.strip button[aria-pressed=true] { box-shadow: inset 0 -5px 0 var(--ink); }
.text, .strip .text { --tone: var(--text); } .image { --tone: var(--image); }
.multi_image { --tone: var(--multi_image); } .video { --tone: var(--video); } .padding { --tone: var(--track); }
.causal { --tone: var(--soft); }
.strip > *, .legend i[class], summary i { background: var(--tone); }
.strip .tombstone { background: repeating-linear-gradient(45deg, var(--tone) 0 6px, var(--not) 6px 12px); }
svg.mask { width: 192px; height: 192px; background: var(--paper); border: 1px solid var(--rule); display: block;
  cursor: crosshair; }
svg.mask path, svg rect { fill: var(--tone); }
.inside { display: grid; grid-template-columns: 200px minmax(0, 1fr); gap: 20px; }
.inside figcaption { font-size: .78rem; line-height: 1.35; color: var(--soft); margin-top: 6px; max-width: 192px; }
.document { border-top: 1px solid var(--rule); }
.document summary { cursor: pointer; padding: 5px 0; overflow-wrap: anywhere; }
summary i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
.body { display: flex; flex-wrap: wrap; gap: 14px; padding: 4px 0 14px; align-items: start; }
.body > .text { flex: 1 1 340px; min-width: 0; background: var(--paper); border: 1px solid var(--rule);
  border-radius: 8px; padding: 10px 12px; max-height: 620px; overflow: auto; }
.run { font: 13px/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.run i, .legend.text i { font-style: normal; border-radius: 3px; padding: 1px 0;
  box-shadow: inset -1px 0 0 var(--rule); }
.run i:hover { outline: 1.5px solid var(--ink); }
.s { background: color-mix(in srgb, var(--learned) 30%, transparent) !important; }
.x { color: var(--multi_image); font-weight: 600; }
.seen { text-decoration: underline 2px var(--partly); } .unit.seen .frame { outline: 2px solid var(--partly); }
.chosen { outline: 2px solid var(--partly); }
.unit { display: inline-block; vertical-align: top; margin: 6px 10px 6px 0; max-width: 100%; }
.unit small { display: block; font-size: .75rem; }
.frame { position: relative; display: block; max-width: 100%; }
.frame img { display: block; width: 100%; height: auto; image-rendering: pixelated; cursor: crosshair; }
.frame:hover::after { content: ""; position: absolute; inset: 0; pointer-events: none;
  background: linear-gradient(90deg, #fff8 1px, transparent 1px) 0 0 / calc(100% / var(--columns)) 100%,
    linear-gradient(#fff8 1px, transparent 1px) 0 0 / 100% calc(100% / var(--rows)); }
.cell { position: absolute; outline: 2px solid #ffd84a; pointer-events: none; z-index: 1; }
.more { display: block; color: var(--soft); font-size: .82rem; }
p.legend { display: flex; margin: 1rem 0 0; gap: 4px 18px; max-width: none; } p.legend.text { margin-top: .3rem; }
.legend i[class] { width: 13px; height: 13px; border-radius: 3px; }
.legend.text i[class] { width: auto; height: auto; background: none; padding: 1px 3px; }
#tip { position: fixed; z-index: 9; pointer-events: none; background: var(--ink); color: var(--ground);
  padding: 6px 9px; border-radius: 6px; font: 12px/1.45 ui-monospace, Menlo, Consolas, monospace; white-space: pre;
  max-width: 60ch; }
td.share { position: relative; min-width: 92px; } td.share span { position: absolute; left: 0; bottom: 3px; height: 4px;
  background: var(--tone); border-radius: 2px; max-width: calc(100% - 10px); } td.share b { font-weight: 500; }
td.num { padding-right: 14px; } thead th.num { padding-right: 14px; }
tbody th small { display: block; font-weight: 400; }
.histograms { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 14px; }
.lost { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 14px; }
.lost p { margin: 0 0 6px; font-size: .86rem; overflow-wrap: anywhere; }
.lost img { margin-right: 5px; max-width: 96px; }
.reason h3 { font-size: 1rem; margin: 1.3rem 0 .5rem; } .pack h3 { margin: 2.6rem 0 0; }
.pack h3 small { font-weight: 400; font-size: .86rem; display: block; }
@media (max-width: 680px) { .inside { grid-template-columns: minmax(0, 1fr); }
  table { display: block; overflow-x: auto; } }
"""
