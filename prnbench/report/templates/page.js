// Reads values off the figures, sorts tables, opens folded texts outside of tables for printing. The page is whole without it.
"use strict";

const format = (value) => (value === null ? "none" : Number(value.toPrecision(3)).toString().replace("-", "\u2212"));

function pointer(svg, event) {
  const box = svg.getBoundingClientRect();
  const view = svg.viewBox.baseVal;
  return [((event.clientX - box.left) / box.width) * view.width, ((event.clientY - box.top) / box.height) * view.height];
}

function valueAt(series, x) {
  let last = null;
  for (let i = 0; i < series.x.length && series.x[i] <= x + 1e-9; i += 1) last = series.y[i];
  return last;
}

function nearest(data, px, py, weightY) {
  let best = null;
  for (const series of data.series) {
    series.px.forEach((sx, i) => {
      if (sx === null || series.py[i] === null) return;
      const far = (sx - px) ** 2 + weightY * (series.py[i] - py) ** 2;
      if (!best || far < best.far) best = { far, series, i };
    });
  }
  return best;
}

function readLines(data, px) {
  const [left, , right] = data.plot;
  const [low, high] = data.xRange;
  const x = low + ((Math.min(Math.max(px, left), right) - left) / (right - left)) * (high - low);
  const parts = data.series.map((s) => `${s.name} ${format(valueAt(s, x))}${data.yUnit}`);
  return { at: Math.min(Math.max(px, left), right), text: `at ${format(x)}${data.xUnit}: ${parts.join(" · ")}` };
}

function readBars(data, px) {
  const [left, , right] = data.plot;
  const wide = (right - left) / data.categories.length;
  const which = Math.min(Math.max(Math.floor((px - left) / wide), 0), data.categories.length - 1);
  const parts = data.series.map((s) => {
    const i = s.x.indexOf(which);
    return `${s.name} ${i < 0 || s.y[i] === null ? "not offered" : format(s.y[i]) + data.yUnit}`;
  });
  return { at: left + (which + 0.5) * wide, text: `${data.categories[which]}: ${parts.join(" · ")}` };
}

function readDots(data, px, py) {
  const hit = nearest(data, px, py, 1);
  if (!hit) return null;
  const { series, i } = hit;
  const label = series.labels[i] ? `${series.labels[i]}: ` : "";
  const text = `${series.name} · ${label}${format(series.x[i])}${data.xUnit}, ${format(series.y[i])}${data.yUnit}`;
  return { at: series.px[i], ring: [series.px[i], series.py[i]], text };
}

function attach(figure) {
  const svg = figure.querySelector("svg[role='img']");
  const source = figure.querySelector("script[type='application/json']");
  const readout = figure.querySelector(".readout");
  if (!svg || !source || !readout) return;
  const data = JSON.parse(source.textContent);
  const idle = readout.textContent;
  const reader = svg.querySelector(".reader");
  const guide = svg.querySelector(".guide");
  const ring = svg.querySelector(".ring");
  const read = { line: readLines, bars: readBars, dots: readDots, labelled: readDots }[data.kind];
  let place = (data.plot[0] + data.plot[2]) / 2;

  const show = (px, py) => {
    const found = read(data, px, py);
    if (!found) return;
    place = found.at;
    reader.setAttribute("visibility", "visible");
    guide.setAttribute("x1", found.at);
    guide.setAttribute("x2", found.at);
    ring.setAttribute("visibility", found.ring ? "inherit" : "hidden");
    if (found.ring) [ring.cx.baseVal.value, ring.cy.baseVal.value] = found.ring;
    readout.textContent = found.text;
  };
  const hide = () => {
    reader.setAttribute("visibility", "hidden");
    readout.textContent = idle;
  };
  svg.addEventListener("pointermove", (event) => show(...pointer(svg, event)));
  svg.addEventListener("pointerdown", (event) => show(...pointer(svg, event)));
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -4, ArrowRight: 4 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place + (data.kind === "bars" ? step * 12 : step), (data.plot[1] + data.plot[3]) / 2);
  });
}

function cellKey(row, column) {
  const cell = row.cells[column];
  const raw = cell.dataset.sort ?? cell.textContent.trim();
  const number = raw === "" ? NaN : Number(raw);
  return Number.isNaN(number) ? raw : number;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b);
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.hasAttribute("aria-sort")) return;
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => compareKeys(cellKey(a, column), cellKey(b, column)));
      body.append(...(down ? rows.reverse() : rows));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}

document.querySelectorAll("figure.chart").forEach(attach);
document.querySelectorAll("table.sortable").forEach(sortable);

let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")].filter((details) => !details.closest("table"));
  opened.forEach((details) => (details.open = true));
});
window.addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
