// The ledger of one heatmap: a sentence, a chart and a table.

import { element } from "./dom.js";
import { percent, short } from "./numbers.js";

const SVG = "http://www.w3.org/2000/svg";
// Key of a row, heading, significant digits.
const COLUMNS = [
  ["relevance_in", "in", 5],
  ["relevance_out", "out", 5],
  ["bias", "bias", 4],
  ["epsilon", "epsilon", 3],
  ["dropped", "dropped", 3],
  ["created", "created", 3],
  ["residual", "residual", 2],
];
const ABSORBED = ["bias", "epsilon", "dropped", "created"];

/** What a ledger, rows from the output down to the input, comes to. */
export function sentence(rows) {
  const { start, end, total } = sums(rows);
  const verb = (term) => (term === "created" ? "created" : total[term] > 0 ? `${term} takes` : `${term} gives`);
  const terms = ABSORBED.filter((term) => total[term] !== 0).map((term) => `${verb(term)} ${short(Math.abs(total[term]), 3)}`);
  return `Of ${short(start)} at the class ${short(end)} (${percent(end / start)}) arrives at the pixels; ${terms.join(", ") || "nothing is lost"}.`;
}

/** Relevance kept from the class to the pixels as a line, and what each layer absorbs as bars, in shares of the start. */
export function chart(rows) {
  const { start } = sums(rows);
  const unit = start || 1;
  const bars = rows.map((row) => ABSORBED.map((term) => [term, (term === "created" ? -row[term] : row[term]) / unit]));
  // What is left of the start below each layer, on all ways together.
  let remains = start;
  const kept = [1, ...rows.map((row) => (remains += row.relevance_out - row.relevance_in) / unit)].map((share) => (start ? share : 0));
  const highest = Math.max(1, ...kept, ...bars.map((terms) => stacked(terms, 1)));
  const lowest = Math.min(0, ...kept, ...bars.map((terms) => stacked(terms, -1)));
  const [width, height, left, right, above, below] = [320, 118, 48, 6, 8, 18];
  const x = (i) => left + ((width - left - right) * i) / rows.length;
  const y = (share) => above + ((height - above - below) * (highest - share)) / (highest - lowest);

  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": sentence(rows) });
  const marks = [...new Set([lowest, 0, ...(highest > 3 || lowest < -3 ? [] : [1]), highest])];
  for (const share of marks) {
    svg.append(draw("line", { class: share === 0 ? "axis" : "grid", x1: left, x2: width - right, y1: y(share), y2: y(share) }));
    svg.append(draw("text", { x: left - 4, y: y(share) + 3.5, "text-anchor": "end" }, percent(share).replace(/\.\d+ /, " ")));
  }
  rows.forEach((row, i) => {
    const place = draw("g", {}, draw("title", {}, `${row.layer}: in ${short(row.relevance_in)}, out ${short(row.relevance_out)}`));
    let [up, down] = [0, 0];
    for (const [term, share] of bars[i]) {
      const from = share > 0 ? up : down;
      if (share > 0) up += share;
      else down += share;
      const [high, low] = share > 0 ? [from + share, from] : [from, from + share];
      const size = y(low) - y(high);
      if (size > 0.05) place.append(draw("rect", { class: term, x: x(i) + 1, y: y(high), width: Math.max(x(i + 1) - x(i) - 2, 1), height: size }));
    }
    place.append(draw("rect", { class: "hover", x: x(i), y: above, width: x(i + 1) - x(i), height: height - above - below }));
    svg.append(place);
  });
  const points = kept.map((share, i) => `${x(i).toFixed(2)},${y(share).toFixed(2)}`).join(" ");
  svg.append(draw("polyline", { class: "kept", points }));
  svg.append(draw("text", { x: left, y: height - 4 }, "class"));
  svg.append(draw("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "pixels"));
  return svg;
}

/** What the chart's colours are. */
export function legend() {
  const entries = [["kept", "kept"], ["bias", "bias"], ["epsilon", "epsilon"], ["dropped", "dropped"], ["created", "created (below 0)"]];
  return element(
    "ul",
    { className: "legend", aria: { hidden: "true" } },
    ...entries.map(([term, text]) => element("li", {}, element("span", { className: `swatch ${term}` }), text)),
  );
}

/** Every layer's balance, with the sums at the foot. */
export function table(rows, caption) {
  const { start, end, total } = sums(rows);
  const cells = (values) => values.map((value, i) => element("td", {}, typeof value === "number" ? short(value, COLUMNS[i][2]) : value));
  const head = element("tr", {}, ...["layer", ...COLUMNS.map(([, text]) => text), "out / start", "rule"].map((text) => element("th", { scope: "col" }, text)));
  const body = rows.flatMap((row) => [
    element(
      "tr",
      {},
      element("th", { scope: "row" }, row.layer),
      ...cells([...COLUMNS.map(([key]) => row[key]), percent(row.relevance_out / start)]),
      element("td", { className: "rule" }, row.rule),
    ),
    ...edges(row).map(([name, share]) =>
      element(
        "tr",
        { className: "edge" },
        element("th", { scope: "row" }, `to ${name}`),
        ...cells(COLUMNS.map(([key]) => (key === "relevance_out" ? share : "")).concat(percent(share / start))),
        element("td", {}),
      ),
    ),
  ]);
  const foot = element(
    "tr",
    {},
    element("th", { scope: "row" }, "total"),
    ...cells([start, end, ...COLUMNS.slice(2).map(([key]) => total[key]), percent(end / start)]),
    element("td", {}),
  );
  return element(
    "table",
    {},
    element("caption", { className: "visually-hidden" }, caption),
    element("thead", {}, head),
    element("tbody", {}, ...body),
    element("tfoot", {}, foot),
  );
}

function sums(rows) {
  const total = {};
  for (const [key] of COLUMNS) total[key] = rows.reduce((sum, row) => sum + row[key], 0);
  const layers = new Set(rows.map((row) => row.layer));
  const ends = rows.flatMap((row) => Object.entries(row.edges)).filter(([name]) => !layers.has(name));
  return { start: rows[0].relevance_in, end: ends.reduce((sum, [, share]) => sum + share, 0), total };
}

/** What left a layer at each of its inputs, where it has several. */
function edges(row) {
  const found = Object.entries(row.edges);
  return found.length > 1 ? found : [];
}

function stacked(terms, sign) {
  return terms.reduce((sum, [, share]) => sum + (share * sign > 0 ? share : 0), 0);
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
