// A run's summary, from the JSON in the page. Text of files and classes only ever becomes text.

import { element } from "./dom.js";
import { percent, scored, short, signed } from "./numbers.js";
import { chart, legend, sentence, table } from "./ledger.js";

const run = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const plain = (text) => text.replaceAll("_", " ");
const many = (count, what) => `${count.toLocaleString("en-GB")} ${what}${count === 1 ? "" : "s"}`;
/** Cards, mean maps that are made at once: a page of thousands stays quick. */
const [CARDS, MEANS] = [60, 18];
const one = run.composites.length === 1;

function className(unit) {
  return plain(run.classes[unit]?.[1] ?? String(unit));
}

function scoreOf(row) {
  return row.s === null ? "" : scored({ score: row.s, what: run.what });
}

/** What arrived of a map's relevance, as a share; null where that says nothing. */
function share(k, [, begun, arrived]) {
  return run.composites[k].gradient || !begun ? null : arrived / begun;
}

/** The share that is farthest from the whole, over an image's maps. */
function worstShare(row) {
  const shares = row.m.flatMap((maps, k) => maps.map((map) => share(k, map))).filter((value) => value !== null);
  return shares.reduce((worst, value) => (worst === null || Math.abs(1 - value) > Math.abs(1 - worst) ? value : worst), null);
}

function named(row) {
  const name = row.n.startsWith(run.folders) ? row.n.slice(run.folders.length) : row.n;
  const end = name.lastIndexOf("/") + 1;
  return [name.slice(0, end), name.slice(end)];
}

/** A thumbnail, or words in its place. */
function thumbnail(content, kind, alt, words) {
  if (!content) return element("div", { className: "none", textContent: words });
  const image = element("img", { alt, decoding: "async", src: `data:image/${kind};base64,${content}` });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 80));
  return image;
}

const WHY = { gone: "picture not found", changed: "picture has changed" };

/** An image beside its maps. */
function figures(row, large) {
  const found = [];
  const words = WHY[row.w] ?? (row.m.flat().some((map) => map[3]) ? "no picture" : "no thumbnail");
  const caption = row.p && row.w ? "as it was drawn" : "image";
  found.push(element("figure", {}, thumbnail(row.p, "jpeg", large ? `The image ${row.n}` : "", words), element("figcaption", { textContent: caption })));
  row.m.forEach((maps, k) => {
    for (const map of maps) {
      const value = share(k, map);
      const { name } = run.composites[k];
      const target = maps.length > 1 || map[0] !== row.c ? className(map[0]) : "";
      let text = maps.length > 1 ? (one ? target : `${name}: ${target}`) : name;
      if (large) text = [name, className(map[0]), value === null ? "" : `began with ${short(map[1])}, ${percent(value)} arrived`].filter(Boolean).join("; ");
      const alt = large ? `Map by ${name} of ${className(map[0])}` : "";
      found.push(element("figure", {}, thumbnail(map[3], "png", alt, "no thumbnail"), element("figcaption", { textContent: text, title: text })));
    }
  });
  return element("div", { className: "maps" }, ...found);
}

/** What is said of an image. */
function said(row) {
  const lines = [];
  if (row.c !== null) lines.push(`${className(row.c)}, ${scoreOf(row)}`);
  const targets = [...new Set(row.m.flat().map((map) => map[0]))].filter((unit) => unit >= 0 && unit !== row.c);
  if (targets.length === 1 && row.m.every((maps) => maps.length === 1)) lines.push(`explained: ${className(targets[0])}`);
  const worst = worstShare(row);
  if (worst !== null) lines.push(`${percent(worst)} of the relevance arrived${row.m.flat().length > 1 ? ", at worst" : ""}`);
  return lines;
}

function card(row) {
  const [folder, name] = named(row);
  const open = element("button", { className: "open", type: "button", aria: { label: `Enlarge ${row.n}` }, on: { click: () => enlarge(row) } }, figures(row, false));
  const [first, ...rest] = said(row);
  return element(
    "li",
    { className: "shot", dataset: { place: row.i } },
    open,
    element("h3", { title: row.n }, element("span", { className: "folder", textContent: folder }), name),
    ...(first ? [element("p", { textContent: first })] : []),
    ...rest.map((text) => element("p", { className: "facts", textContent: text })),
    ...(row.w ? [element("p", { className: "warning", textContent: missing(row) })] : []),
  );
}

function missing(row) {
  if (row.w === "changed") return row.p ? "The file has changed since; this is what was drawn then." : "The file has changed since it was explained.";
  return row.p ? "The file is gone; this is what was drawn when it was explained." : "The file isn’t where it was.";
}

// Finding

const rows = run.rows.map((row) => {
  const units = [...new Set([row.c, ...row.m.flat().map((map) => map[0])])].filter((unit) => unit !== null && unit >= 0);
  const words = [row.n, ...units.flatMap((unit) => [plain(run.classes[unit][1]), run.classes[unit][1], run.classes[unit][0]])];
  return { row, units, words: words.join("\n").toLowerCase(), drawn: row.m.flat().some((map) => map[3]), share: worstShare(row) };
});

const last = (value) => (value === null ? -Infinity : value);
const away = ({ share: value }) => (value === null ? -1 : Math.abs(1 - value));
const ORDERS = {
  run: ["as in the run", null],
  loss: ["largest loss or gain", (a, b) => away(b) - away(a)],
  least: ["lowest confidence", (a, b) => (a.row.s ?? Infinity) - (b.row.s ?? Infinity)],
  most: ["highest confidence", (a, b) => last(b.row.s) - last(a.row.s)],
  name: ["file name", (a, b) => (a.row.n < b.row.n ? -1 : Number(a.row.n > b.row.n))],
};

let found = [];
let made = 0;

function find() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const unit = at("class").value;
  const fits = rows.filter((each) => words.every((word) => each.words.includes(word)) && (unit === "" || each.units.includes(Number(unit))));
  const drawn = at("thumbnails-field").hidden || !at("thumbnails").checked ? fits : fits.filter((each) => each.drawn);
  const order = ORDERS[at("sort").value][1];
  found = (order ? drawn.toSorted(order) : drawn).map((each) => each.row);
  const without = fits.length - found.length;
  const more = without ? `; ${without.toLocaleString("en-GB")} more without a thumbnail` : "";
  const nothing = run.done ? "No image fits: search for less, or choose all classes" : "No image has been explained yet";
  at("count").textContent = found.length || without ? `${found.length.toLocaleString("en-GB")} of ${many(rows.length, "image")}${more}.` : `${nothing}.`;
  at("cards").replaceChildren();
  made = 0;
  extend();
}

function extend() {
  const next = found.slice(made, made + CARDS);
  at("cards").append(...next.map(card));
  made += next.length;
  at("more").hidden = made >= found.length;
  at("more").textContent = `Show ${Math.min(CARDS, found.length - made)} more of ${(found.length - made).toLocaleString("en-GB")}`;
}

function show(unit) {
  at("search").value = "";
  at("class").value = unit;
  find();
  at("images").scrollIntoView();
  at("search").focus({ preventScroll: true });
}

// One image, enlarged

let shown = null;
let among = [];

function enlarge(row, list = found) {
  [shown, among] = [row, list];
  at("large-name").textContent = row.n;
  const lines = said(row).map((text) => element("p", { textContent: text }));
  if (row.w) lines.push(element("p", { className: "warning", textContent: missing(row) }));
  row.m.forEach((maps, k) => {
    const layers = run.composites[k].layers;
    for (const map of layers ? maps : []) {
      if (map.length < 6) continue;
      const of = maps.length > 1 ? ` (${className(map[0])})` : "";
      const text = `${run.composites[k].name}${of}: the largest bias is ${signed(map[4])}, at ${layers[map[5]].layer}`;
      lines.push(element("p", { className: "facts", textContent: text }));
    }
  });
  at("large-body").replaceChildren(figures(row, true), ...lines);
  const place = among.indexOf(row);
  at("large-place").textContent = place < 0 ? "" : `${(place + 1).toLocaleString("en-GB")} of ${among.length.toLocaleString("en-GB")}`;
  at("before").disabled = place <= 0;
  at("after").disabled = place < 0 || place >= among.length - 1;
  if (!at("large").open) at("large").showModal();
}

function step(by) {
  const next = among[among.indexOf(shown) + by];
  if (next) enlarge(next, among);
}

// Statistics

const SVG_NAMES = "http://www.w3.org/2000/svg";

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG_NAMES, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Writes percentages of which the difference is told: with as many decimals as a spread needs. */
function precisely(spread) {
  const digits = Math.min(8, Math.ceil(-Math.log10(spread)));
  return (value) => (spread > 0 && digits > 1 && Math.abs(value) < 1e3 ? `${(100 * value).toFixed(digits)} %`.replace("-", "−") : percent(value));
}

/** How the shares of a composite lie. */
function histogram(shares) {
  const [width, height, left, right, above, below] = [320, 110, 6, 6, 8, 18];
  const most = Math.max(...shares.counts, 1);
  const x = (value) => left + ((width - left - right) * (value - shares.from)) / (shares.to - shares.from);
  const y = (count) => height - below - ((height - above - below) * count) / most;
  const step = (shares.to - shares.from) / shares.counts.length;
  const label = precisely(shares.to - shares.from);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": spoken(shares) });
  shares.counts.forEach((count, i) => {
    const from = shares.from + i * step;
    const place = shape("g", {}, shape("title", {}, `${label(from)} to ${label(from + step)}: ${many(count, "map")}`));
    if (count) place.append(shape("rect", { class: "count", x: x(from) + 0.5, y: Math.min(y(count), height - below - 1), width: Math.max(x(from + step) - x(from) - 1, 1), height: Math.max(height - below - y(count), 1) }));
    place.append(shape("rect", { class: "hover", x: x(from), y: above, width: x(from + step) - x(from), height: height - above - below }));
    svg.append(place);
  });
  svg.append(shape("line", { class: "axis", x1: left, x2: width - right, y1: height - below, y2: height - below }));
  if (shares.from <= 1 && shares.to >= 1) svg.append(shape("line", { class: "whole", x1: x(1), x2: x(1), y1: above, y2: height - below }));
  svg.append(shape("text", { x: left, y: height - 4 }, label(shares.from)));
  svg.append(shape("text", { x: width - right, y: height - 4, "text-anchor": "end" }, label(shares.to)));
  return svg;
}

function spoken({ quantiles: [least, , low, median, high, , most] }) {
  const label = precisely(most - least);
  if (least === most) return `Of every map ${percent(median)} arrives.`;
  return `Half of the maps lie between ${label(low)} and ${label(high)}, the median is ${label(median)}; from ${label(least)} to ${label(most)} in all.`;
}

function panel(composite) {
  const { name, shares, layers, dialect, start } = composite;
  const node = element("div", { className: "panel" }, element("h3", {}, name, " ", element("small", { textContent: `${dialect}, start ${start}, ${many(composite.maps, "map")}` })));
  const say = (text, kind = "") => node.append(element("p", { textContent: text, className: kind }));
  if (composite.gradient) say("A gradient hands no relevance down: its sums mean nothing, so there is no share that arrived.", "facts");
  else if (!shares?.quantiles) say(composite.maps ? "Every pass began with nothing, so there are no shares." : "No maps yet.", "facts");
  else {
    node.append(histogram(shares));
    say(spoken(shares));
    const notes = [shares.from <= 1 && shares.to >= 1 ? "The dashed line is the whole." : ""];
    const [under, over] = shares.outside;
    if (under + over) notes.push(`${many(under, "map")} below and ${over.toLocaleString("en-GB")} above what is drawn.`);
    if (shares.nothing) notes.push(`${many(shares.nothing, "map")} began with nothing.`);
    say(notes.filter(Boolean).join(" "), "facts");
  }
  if (layers?.length) {
    const details = element("details", {}, element("summary", { textContent: "Every layer, mean over the maps" }));
    details.append(element("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label: `Layers of ${name}` } }, table(layers, `Mean ledger of ${name}`)));
    node.append(element("p", { textContent: `On average: ${sentence(layers)}` }), chart(layers), legend(), details);
  } else if (!composite.gradient && composite.maps) say("Layer by layer: run nplrp batch with --ledger.", "facts");
  return node;
}

const TITLES = { loss: "Largest loss of relevance, or gain", bias: "Largest single bias", confidence: "Lowest confidence" };

/** How much, in words: what is lost is more often read as a gain from a sign than from a word. */
function amount(what, value) {
  if (what === "confidence") return scored({ score: value, what: run.what });
  const verbs = what === "bias" ? ["takes", "gives"] : ["lost", "gained"];
  return `${verbs[Number(value < 0)]} ${percent(Math.abs(value))}`;
}

function outlierList({ what, composite, rows: places, nth, values, layers }) {
  const of = composite === null || one ? "" : run.composites[composite].name;
  const list = places.map((place) => run.rows[place]);
  const items = list.map((row, i) => {
    const map = row.m[composite ?? 0][nth?.[i] ?? 0];
    const unit = what === "confidence" ? row.c : map[0];
    const about = [unit === null ? "" : className(unit), layers?.[i]].filter(Boolean).join(", at ");
    const label = element("span", { className: "name" }, named(row)[1], element("small", { textContent: about }));
    const button = element("button", { type: "button", title: row.n, on: { click: () => enlarge(row, list) } }, thumbnail(row.p, "jpeg", "", ""), thumbnail(map?.[3], "png", "", ""), label, element("span", { textContent: amount(what, values[i]) }));
    return element("li", {}, button);
  });
  return element(
    "div",
    { className: "panel" },
    element("h3", {}, TITLES[what], " ", element("small", { textContent: of })),
    items.length ? element("ul", { className: "outlier-list" }, ...items) : element("p", { className: "facts", textContent: what === "loss" ? "Nothing is lost, in any map." : "None." }),
  );
}

function meanMaps(count) {
  at("means").replaceChildren(
    ...run.means.slice(0, count).map(({ c, n, m }) =>
      element(
        "li",
        {},
        element("div", { className: "maps" }, ...m.map((content, k) => element("figure", {}, thumbnail(content, "png", `Mean map by ${run.composites[k].name} of ${className(c)}`, "none"), ...(one ? [] : [element("figcaption", { textContent: run.composites[k].name, title: run.composites[k].name })])))),
        c < 0 ? className(c) : element("button", { type: "button", textContent: className(c), aria: { label: `Show the images of ${className(c)}` }, on: { click: () => show(String(c)) } }),
        element("span", { className: "facts", textContent: many(n, "map") }),
      ),
    ),
  );
  const more = run.means.length - count;
  at("more-means").replaceChildren(...(more > 0 ? [element("button", { type: "button", textContent: `Show ${more} more`, on: { click: () => meanMaps(run.means.length) } })] : []));
  const classes = new Set(run.rows.flatMap((row) => row.m.flat().map((map) => map[0]))).size;
  if (more <= 0 && classes > run.means.length) at("more-means").textContent = `The ${run.means.length} classes with most maps, of ${classes}.`;
}

// The page

function notes() {
  const { shards, images, done, failed } = run;
  const say = (text, kind, ...more) => at("notes").append(element("li", { className: kind }, text, ...more));
  const left = images - done - failed.count;
  if (left > 0) say(`The run isn’t finished: ${many(left, "image")} of ${images.toLocaleString("en-GB")} aren’t there yet (${shards.missing} of ${many(shards.of, "shard")}). nplrp batch goes on where it stopped.`, "doubt");
  for (const text of shards.damaged) say(`${text}.`, "alert");
  if (failed.count) say(`${many(failed.count, "image")} couldn’t be explained: `, "alert", element("a", { href: "#failed", textContent: "which, and why" }));
  const gone = run.rows.filter((row) => row.w === "gone").length;
  const changed = run.rows.filter((row) => row.w === "changed").length;
  if (gone) say(`${many(gone, "picture")} of those shown ${gone === 1 ? "isn’t" : "aren’t"} where nplrp batch found ${gone === 1 ? "it" : "them"}; maps are here all the same. Names count from the folder in which it ran.`, "doubt");
  if (changed) say(`${many(changed, "picture")} of those shown ${changed === 1 ? "has" : "have"} changed since; maps are of what was there then.`, "doubt");
  if (run.kept < done) say(`This page lists ${run.kept.toLocaleString("en-GB")} of ${many(done, "image")}; its numbers are of all.`, "doubt");
}

function failures() {
  const { count, listed } = run.failed;
  if (!count) {
    at("failures").append(element("p", { className: "facts", textContent: "None." }));
    return;
  }
  const body = listed.map(([name, reason]) => element("tr", {}, element("th", { scope: "row", textContent: name }), element("td", { textContent: reason.startsWith(`${name}: `) ? reason.slice(name.length + 2) : reason })));
  const head = element("tr", {}, ...["image", "why"].map((text) => element("th", { scope: "col", textContent: text })));
  at("failures").append(element("div", { className: "scroll" }, element("table", { className: "left" }, element("thead", {}, head), element("tbody", {}, ...body))));
  if (count > listed.length) at("failures").append(element("p", { className: "facts", textContent: `And ${many(count - listed.length, "other")}: nplrp merge lists them.` }));
}

function provenance() {
  const { about } = run;
  const kept = { float32: "maps as computed", float16: "maps rounded to float16", reduced: "sums over the channels" }[about.kept];
  const entries = [
    ["Model", `${about.model}, input ${about.input_shape.join(" × ")}, ${about.scores}`],
    ["Weights, SHA-256", about.weights_sha256],
    ["Composites", about.composites.map(({ name, dialect, start }) => `${name} (dialect ${dialect}, start ${start})`).join("; ")],
    ["Explained", about.target === null ? "each image’s largest output" : `target ${about.target}`],
    ["Preprocessing", about.preprocessing + (about.source ? ` (${about.source})` : "")],
    ["Numbers", `${about.dtype}, algorithm ${about.algorithm}; kept: ${kept}${about.ledger ? ", with ledgers" : ""}`],
    ["Run", about.folder],
    ["Job, SHA-256", about.job],
    ["Computed by", about.generator],
    ["Summarised by", `nplrp ${about.version}`],
  ];
  at("facts").append(...entries.flatMap(([name, text]) => [element("dt", { textContent: name }), element("dd", { textContent: text, className: name.includes("SHA") ? "mono" : "" })]));
  at("rules").append(
    ...about.composites.map(({ name, rules }) => {
      const body = Object.entries(rules).map(([layer, rule]) => element("tr", {}, element("th", { scope: "row", textContent: layer }), element("td", { className: "rule", textContent: rule })));
      const head = element("tr", {}, ...["layer", "rule"].map((text) => element("th", { scope: "col", textContent: text })));
      return element("details", {}, element("summary", { textContent: `Rules of ${name}` }), element("div", { className: "scroll" }, element("table", { className: "left" }, element("thead", {}, head), element("tbody", {}, ...body))));
    }),
  );
}

function begin() {
  const maps = run.composites.map((each) => each.name).join(", ");
  at("heading").textContent = `${run.about.model}: ${many(run.done, "image")} explained by ${maps}${run.failed.count ? `, ${run.failed.count} failed` : ""}`;
  notes();
  at("composites").append(...run.composites.map(panel));
  const lists = run.outliers.map(outlierList);
  at("outlier-lists").append(...(lists.length ? lists : [element("p", { className: "facts", textContent: "There is nothing to order images by." })]));
  at("means").dataset.maps = one ? "1" : run.composites.length === 2 ? "2" : "many";
  meanMaps(MEANS);
  if (!run.means.length) at("means").append(element("li", { className: "facts", textContent: "No maps yet." }));

  const most = Math.max(1, ...run.rows.map((row) => row.m.flat().length));
  at("cards").dataset.maps = most > 2 ? "many" : String(most);
  const counts = new Map();
  for (const { units } of rows) for (const unit of units) counts.set(unit, (counts.get(unit) ?? 0) + 1);
  const units = [...counts.keys()].sort((a, b) => className(a).localeCompare(className(b)));
  at("class").append(element("option", { value: "", textContent: "all" }), ...units.map((unit) => element("option", { value: unit, textContent: `${className(unit)} (${counts.get(unit)})` })));
  const scores = run.rows.some((row) => row.s !== null);
  const shares = rows.some((each) => each.share !== null);
  const orders = Object.entries(ORDERS).filter(([name]) => (scores || !["least", "most"].includes(name)) && (shares || name !== "loss"));
  at("sort").append(...orders.map(([name, [text]]) => element("option", { value: name, textContent: text })));
  at("thumbnails-field").hidden = rows.every((each) => each.drawn) || rows.every((each) => !each.drawn);
  at("find").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["search", "class", "sort", "thumbnails"]) at(id).addEventListener("input", find);
  at("more").addEventListener("click", () => {
    const first = made;
    extend();
    at("cards").children[first]?.querySelector("button").focus();
  });
  at("close").addEventListener("click", () => at("large").close());
  at("before").addEventListener("click", () => step(-1));
  at("after").addEventListener("click", () => step(1));
  at("large").addEventListener("click", (event) => event.target === at("large") && at("large").close());
  document.addEventListener("keydown", (event) => {
    if (at("large").open) {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") step(event.key === "ArrowLeft" ? -1 : 1);
    } else if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      event.preventDefault();
      at("search").focus();
    }
  });
  failures();
  provenance();
  find();
}

begin();
