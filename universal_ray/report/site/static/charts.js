// Pictures as SVG, drawn to the width there is, each with its numbers as a table below it.

/**
 * A picture with a title, a caption and its data. `draw(width)` makes an SVG of that width;
 * `table` is {heads, rows}, and may be a function.
 */
function picture({ title, caption, alt, draw, table, from }) {
  alt = worded(alt);
  const canvas = h("div", { class: "canvas", role: "img", "aria-label": alt });
  let width = 0;
  new ResizeObserver(([entry]) => {
    const next = Math.floor(entry.contentRect.width);
    if (next && next !== width) canvas.replaceChildren(draw((width = next)));
  }).observe(canvas);
  return h("figure", { class: "picture" },
    title && h("h3", {}, worded(title)), canvas,
    h("figcaption", {}, [caption].flat(Infinity).map(worded), from && [" ", h("span", { class: "from" }, from)]),
    table && numbersBelow(table, alt));
}

/** The numbers of a picture, made when they are asked for. */
function numbersBelow(table, name) {
  const details = h("details", { class: "numbers" }, h("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const { heads, rows } = typeof table === "function" ? table() : table;
    details.append(scrolling(h("table", {},
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, worded(head))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))), name));
  });
  return details;
}

/** Something that may be wider than the page, which the keyboard can move too. */
function scrolling(child, name) {
  return h("div", { class: "scrolling", tabindex: "0", role: "group", "aria-label": name }, child);
}

function scale(from, to, low, high) {
  const slope = (high - low) / (to - from || 1);
  return (value) => low + (value - from) * slope;
}

/** Round numbers between two, about so many. */
function ticks(low, high, about = 5) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-6; at++) found.push(Number((at * step).toPrecision(12)));
  return found;
}

function plain(value) {
  return minus(String(value));
}

/** An SVG with room around what is drawn in it: {svg, left, right, top, bottom}. */
function field(width, height, { left = 44, right = 12, top = 10, bottom = 30 } = {}) {
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  return { svg, left, right: width - right, top, bottom: height - bottom, width, height };
}

function axisBelow(at, x, values, name, text = plain) {
  at.svg.append(s("line", { class: "axis", x1: at.left, x2: at.right, y1: at.bottom, y2: at.bottom }),
    ...values.map((value) => s("text", { class: "tick", x: x(value), y: at.bottom + 15, "text-anchor": "middle" }, text(value))));
  if (name) at.svg.append(s("text", { class: "name", x: at.right, y: at.height - 2, "text-anchor": "end" }, name));
}

function axisLeft(at, y, values, text = plain) {
  at.svg.append(...values.map((value) => s("g", {},
    s("line", { class: "grid", x1: at.left, x2: at.right, y1: y(value), y2: y(value) }),
    s("text", { class: "tick", x: at.left - 7, y: y(value) + 3.5, "text-anchor": "end" }, text(value)))));
}

/** Steps of a histogram as a path, closed below where it is to be filled. */
function steps(edges, heights, x, y, base) {
  let path = "";
  heights.forEach((height, bin) => {
    path += `${path ? "L" : "M"}${x(edges[bin]).toFixed(1)},${y(height).toFixed(1)}H${x(edges[bin + 1]).toFixed(1)}`;
  });
  return base === undefined ? path : `${path}V${base}H${x(edges[0]).toFixed(1)}Z`;
}

const LOGARITHMIC = (value) => Math.log10(1 + value);

/**
 * Histograms over one another: `series` is a list of {name, values, kind}, the first filled;
 * `lines` marks values below, as {at, name}. Heights are of log(1 + count).
 */
function histogram(width, { edges, series, lines = [], name, height = 240, marker }) {
  const at = field(width, height, { top: lines.length ? 26 : 12, bottom: 36 });
  const most = Math.max(...series.flatMap((each) => each.values), 1);
  const x = scale(edges[0], edges.at(-1), at.left, at.right);
  const high = scale(0, LOGARITHMIC(most), at.bottom, at.top);
  const y = (value) => high(LOGARITHMIC(value));
  const decades = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].filter((value) => value <= most);
  axisLeft(at, y, decades, count);
  series.forEach((each) => at.svg.append(s("path", {
    class: `series ${each.kind}`, d: steps(edges, each.values, x, y, each.kind.includes("filled") ? at.bottom : undefined),
  })));
  lines.forEach((line, place) => at.svg.append(
    s("line", { class: "threshold", x1: x(line.at), x2: x(line.at), y1: at.top - 8, y2: at.bottom }),
    s("text", { class: "tick", x: x(line.at), y: at.top - 12, "text-anchor": "middle" }, line.name)));
  if (known(marker)) at.svg.append(s("path", { class: "pointer", d: `M${x(marker)},${at.bottom}l-5,9h10z` }));
  axisBelow(at, x, ticks(edges[0], edges.at(-1), width < 500 ? 4 : 8), name);
  return at.svg;
}

/** One bar for each entry, {name, value, text, low, high, other}; `other` is a second, hollow mark. */
function bars(width, { entries, from = 0, to, text = figure, room = 120, name, height = 24, lines = [] }) {
  const left = Math.min(room, width * 0.42);
  const at = field(width, entries.length * height + 44, { left, right: 70, top: 6, bottom: 36 });
  const ends = entries.flatMap((each) => [each.value, each.low, each.high, each.other]).filter(known);
  const least = Math.min(from, ...ends);
  const most = to ?? Math.max(...ends, from, least + 1e-9);
  const x = scale(least, most, at.left, at.right);
  for (const value of ticks(least, most, width < 500 ? 3 : 5)) at.svg.append(s("line", { class: "grid", x1: x(value), x2: x(value), y1: at.top, y2: at.bottom }));
  entries.forEach((each, place) => at.svg.append(bar(each, x, at.top + place * height, height, at.left, text)));
  lines.forEach((line) => at.svg.append(s("line", { class: "threshold", x1: x(line), x2: x(line), y1: at.top, y2: at.bottom })));
  axisBelow(at, x, ticks(least, most, width < 500 ? 3 : 5), name);
  return at.svg;
}

function bar(each, x, top, height, left, text) {
  const middle = top + height / 2;
  const zero = x(0);
  const group = s("g", {}, s("text", { class: "label", x: left - 8, y: middle + 4, "text-anchor": "end" }, each.name));
  if (!known(each.value)) {
    group.append(s("text", { class: "tick", x: zero + 4, y: middle + 4 }, NOT_MEASURED));
    return group;
  }
  const end = x(each.value);
  group.append(s("rect", { class: `bar ${each.kind || ""}`, x: Math.min(zero, end), y: middle - height * 0.29, width: Math.max(Math.abs(end - zero), 1), height: height * 0.58, rx: 1.5 }));
  if (known(each.other)) group.append(s("line", { class: "other", x1: x(each.other), x2: x(each.other), y1: middle - height * 0.4, y2: middle + height * 0.4 }));
  if (known(each.low) && known(each.high)) group.append(s("line", { class: "interval", x1: x(each.low), x2: x(each.high), y1: middle, y2: middle }));
  const furthest = Math.max(end, zero, known(each.high) ? x(each.high) : 0, known(each.other) ? x(each.other) : 0);
  group.append(s("text", { class: "tick", x: furthest + 6, y: middle + 4 }, each.text ?? text(each.value)));
  return group;
}

/** Points with intervals around a zero: entries of {name, value, low, high, kind, note}. */
function intervals(width, { entries, from = -1, to = 1, name, height = 21, room = 190 }) {
  const left = Math.min(room, width * 0.45);
  const at = field(width, entries.length * height + 40, { left, right: 18, top: 6, bottom: 32 });
  const x = scale(from, to, at.left, at.right);
  const values = ticks(from, to, width < 500 ? 2 : 4);
  for (const value of values) at.svg.append(s("line", { class: value === 0 ? "axis" : "grid", x1: x(value), x2: x(value), y1: at.top, y2: at.bottom }));
  entries.forEach((each, place) => {
    const middle = at.top + (place + 0.5) * height;
    at.svg.append(s("text", { class: "label", x: at.left - 8, y: middle + 4, "text-anchor": "end" }, each.name));
    if (!known(each.value)) {
      at.svg.append(s("text", { class: "tick", x: x(0) + 6, y: middle + 4 }, NOT_MEASURED));
      return;
    }
    if (known(each.low)) at.svg.append(s("line", { class: `interval ${each.kind || ""}`, x1: x(each.low), x2: x(each.high), y1: middle, y2: middle }));
    at.svg.append(s("circle", { class: `point ${each.kind || ""}`, cx: x(each.value), cy: middle, r: 4 }));
    if (each.note) at.svg.append(s("text", { class: "tick", x: x(to) - 2, y: middle + 4, "text-anchor": "end" }, each.note));
  });
  axisBelow(at, x, values, name);
  return at.svg;
}

/** A matrix of shares, rows down and columns across, each cell shaded and told. */
function matrix(width, { rows, columns, values, down, across, text = (value) => percent(value, 0) }) {
  const cell = Math.max(Math.min((width - 70) / columns.length, 92), 14);
  const high = Math.max(Math.min(cell * 0.62, 44), 14);
  const at = field(width, rows.length * high + 54, { left: 56, right: 8, top: 34, bottom: 4 });
  at.svg.append(s("text", { class: "name", x: at.left, y: 12 }, across), s("text", { class: "name", x: 0, y: at.top - 6 }, down));
  const most = Math.max(...values.flat().filter(known), 1e-9);
  columns.forEach((name, place) => at.svg.append(s("text", { class: "tick", x: at.left + (place + 0.5) * cell, y: at.top - 6, "text-anchor": "middle" }, name)));
  rows.forEach((name, row) => {
    at.svg.append(s("text", { class: "label", x: at.left - 10, y: at.top + (row + 0.5) * high + 4, "text-anchor": "end" }, name));
    values[row].forEach((value, column) => {
      const share = known(value) ? value / most : 0;
      at.svg.append(s("rect", { class: "cell", x: at.left + column * cell + 1, y: at.top + row * high + 1, width: cell - 2, height: high - 2, rx: 2, "fill-opacity": (0.06 + 0.84 * share).toFixed(3) }));
      if (cell > 34) at.svg.append(s("text", { class: share > 0.5 ? "tick strong" : "tick", x: at.left + (column + 0.5) * cell, y: at.top + (row + 0.5) * high + 4, "text-anchor": "middle" }, known(value) ? text(value) : "–"));
    });
  });
  return at.svg;
}

/** Lines over one another: `series` of {name, values, kind}, at 0, 1, 2 …, or at `positions`. */
function lines(width, { series, positions, name, height = 190, zero = false, ticksAt }) {
  const at = field(width, height, { left: 52, top: 12, bottom: 36 });
  const all = series.flatMap((each) => each.values).filter(known);
  const [low, high] = [Math.min(...all, zero ? 0 : Infinity), Math.max(...all, zero ? 0 : -Infinity)];
  const places = positions || series[0].values.map((_, place) => place);
  const x = scale(places[0], places.at(-1), at.left, at.right);
  const y = scale(low, high === low ? low + 1 : high, at.bottom, at.top);
  axisLeft(at, y, ticks(low, high, 4));
  series.forEach((each) => at.svg.append(s("path", { class: `series ${each.kind}`, d: path(places, each.values, x, y) })));
  axisBelow(at, x, ticksAt || ticks(places[0], places.at(-1), width < 500 ? 4 : 8), name);
  return at.svg;
}

/** Through all points that are known, broken where one is not. */
function path(places, values, x, y) {
  let drawn = "", broken = true;
  values.forEach((value, at) => {
    if (known(value)) drawn += `${broken ? "M" : "L"}${x(places[at]).toFixed(1)},${y(value).toFixed(1)}`;
    broken = !known(value);
  });
  return drawn;
}

/** What the marks of a picture mean. */
function legend(entries) {
  return h("p", { class: "legend" }, entries.map(([kind, name]) => [h("span", { class: `key ${kind}`, "aria-hidden": "true" }), h("span", {}, worded(name))]));
}
