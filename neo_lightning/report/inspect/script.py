"""The page's script: what the pointer is over, what a token sees, and opening documents. It writes text, never HTML."""

SCRIPT = """
'use strict';
const tip = document.getElementById('tip');
const rows = new Map();

function row(pack) {                       // the pack's arrays, unfolded at first use
  if (!rows.has(pack)) {
    const arrays = {};
    for (const name of ['ids', 't', 'h', 'w', 'start', 'limit']) {
      const values = arrays[name] = [];
      for (const run of pack.dataset[name].split(';')) {
        const [first, step, count] = run.split(',').map(Number);
        for (let i = 0; i < count; i++) values.push(first + step * i);
      }
    }
    rows.set(pack, arrays);
  }
  return rows.get(pack);
}

function cellOf(image, event) {            // row and column of the visual token under the pointer
  const unit = image.closest('.unit'), box = image.getBoundingClientRect();
  const rows = Number(unit.dataset.rows), columns = Number(unit.dataset.columns);
  const place = (at, side, count) => Math.min(count - 1, Math.max(0, Math.floor(at / side * count)));
  const h = place(event.clientY - box.top, box.height, rows), w = place(event.clientX - box.left, box.width, columns);
  return {unit, h, w, rows, columns, token: Number(unit.dataset.at) + h * columns + w};
}

function tokenAt(event) {                  // index in the row, or null
  const target = event.target;
  if (target.matches('.run > i')) {
    return Number(target.parentNode.dataset.at) + Array.prototype.indexOf.call(target.parentNode.children, target);
  }
  return target.matches('.frame > img') ? cellOf(target, event).token : null;
}

function describe(pack, token) {
  const a = row(pack);
  return `token ${token}, id ${a.ids[token]}\\n(t, h, w) = (${a.t[token]}, ${a.h[token]}, ${a.w[token]})\\n` +
    `sees tokens ${a.start[token]} to ${a.limit[token] - 1}`;
}

function show(text, event) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + 'px';
  tip.style.top = Math.max(4, Math.min(event.clientY + 16, innerHeight - box.height - 8)) + 'px';
}

function frameCell(image, event) {
  const {unit, h, w, rows, columns} = cellOf(image, event), cell = unit.querySelector('.cell');
  document.querySelectorAll('.cell:not([hidden])').forEach(other => { other.hidden = other !== cell; });
  const part = (i, n) => 100 * i / n + '%';
  const box = {top: part(h, rows), left: part(w, columns), height: part(1, rows), width: part(1, columns)};
  Object.assign(cell.style, box);
  cell.hidden = false;
}

function maskText(svg, event) {
  const box = svg.getBoundingClientRect(), first = Number(svg.dataset.first), count = Number(svg.dataset.count);
  const at = (x, side) => first + Math.min(count - 1, Math.max(0, Math.floor(x / side * count)));
  const query = at(event.clientY - box.top, box.height), key = at(event.clientX - box.left, box.width);
  const a = row(svg.closest('.pack')), sees = a.start[query] <= key && key < a.limit[query];
  const said = `token ${query} ${sees ? 'sees' : 'does not see'} token ${key}`;
  return `${said}\\nit sees ${a.start[query]} to ${a.limit[query] - 1}`;
}

document.addEventListener('mousemove', event => {
  const svg = event.target.closest('svg.mask'), token = tokenAt(event);
  if (event.target.matches('.frame > img')) frameCell(event.target, event);
  if (svg) show(maskText(svg, event), event);
  else if (token !== null) show(describe(event.target.closest('.pack'), token), event);
  else tip.hidden = true;
});

function mark(pack, token, chosen) {       // underline what the clicked token sees
  document.querySelectorAll('.seen:not(.legend *), .chosen').forEach(e => e.classList.remove('seen', 'chosen'));
  const a = row(pack), sees = at => a.start[token] <= at && at < a.limit[token];
  for (const run of pack.querySelectorAll('.run')) {
    [...run.children].forEach((word, i) => { word.classList.toggle('seen', sees(Number(run.dataset.at) + i)); });
  }
  pack.querySelectorAll('.unit').forEach(unit => unit.classList.toggle('seen', sees(Number(unit.dataset.at))));
  chosen.classList.add('chosen');
}

function open(pack, number) {
  for (const button of pack.querySelectorAll('.strip button')) {
    button.setAttribute('aria-pressed', button.dataset.document === number);
  }
  const wanted = document.getElementById(pack.id + '-' + number);
  pack.querySelectorAll('details').forEach(details => { details.open = details === wanted; });
  wanted.scrollIntoView({block: 'nearest'});
}

document.addEventListener('click', event => {
  const pack = event.target.closest('.pack'), token = tokenAt(event);
  if (event.target.matches('.strip button')) open(pack, event.target.dataset.document);
  else if (token !== null) mark(pack, token, event.target.closest('.unit') || event.target);
});
"""
