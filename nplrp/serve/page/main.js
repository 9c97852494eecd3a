// The page: what is chosen, what is asked of the server, and what is shown of its answers.

import * as api from "./api.js";
import { Card } from "./card.js";
import * as classes from "./classes.js";
import { MAPS, table } from "./colours.js";
import { alert, download, element } from "./dom.js";
import * as ledger from "./ledger.js";
import { scored } from "./numbers.js";
import { panel } from "./panel.js";
import * as picture from "./picture.js";
import * as presets from "./presets.js";
import { bytes, decode, pixels, sha256 } from "./relevance.js";

const byId = (id) => document.getElementById(id);

/** Shown at first, where the server has them: what speaks for the class and against it, pixel by pixel and as regions. */
const AT_FIRST = ["epsilon_plus", "epsilon_plus_flat"];
/** Where results stand below all choices. */
const NARROW = matchMedia("(max-width: 820px)");

const state = { facts: null, image: null, reading: false, target: null, label: null, cards: new Map(), cursor: null };
let imageJob = new AbortController();
let bookJob = null; // the one ledger that is being computed
let toResults = false; // whether the next heatmap is to be scrolled to
let chosenClass;

/** The start, and what it begins with where its name alone would mislead. */
function startOf({ start, begins_with: what }) {
  return what ? `${start} (${what})` : start;
}

async function begin() {
  try {
    state.facts = await api.info();
  } catch (error) {
    return alert(byId("page-alert"), `${error.message} Load the page again when it does.`);
  }
  const { facts } = state;
  const { height, width, mode, source } = facts.input;
  const prepared = mode === "unknown" ? "; nothing tells how pictures were prepared" : source.startsWith("assumed") ? `; prepared as ${mode} (${source})` : "";
  byId("model").textContent = `${facts.model}: sees ${width} × ${height} pixels, knows ${facts.classes.length} classes${prepared}`;
  chosenClass = classes.chooser(facts.classes, (unit) => {
    state.target = unit;
    toResults = true;
    explainAll();
  });
  for (const kind of ["wheel", "touchmove", "keydown"]) addEventListener(kind, () => (toResults = false), { passive: true });
  const known = facts.composites.map(({ name }) => name);
  const first = AT_FIRST.filter((name) => known.includes(name));
  const chosen = first.length ? first : known.slice(0, 1);
  const takeOut = presets.chooser(facts.composites, chosen, (names) => compare(names, takeOut));
  picture.listen(open);
  byId("sample").addEventListener("click", openSample);
  for (const [name, [label]] of Object.entries(MAPS)) byId("colours").append(element("option", { value: name }, label));
  byId("view").addEventListener("input", drawAll);
  byId("save-all").addEventListener("click", saveAll);
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  return compare(chosen, takeOut);
}

async function openSample() {
  newImage("sample");
  try {
    await open(await api.sample(state.facts.sample.replace(/^\//, ""), imageJob.signal));
  } catch (error) {
    report(error, byId("image-alert"));
  }
}

/** Forget the image before, stop what is computed of it, and say which one is being read. */
function newImage(name) {
  imageJob.abort();
  imageJob = new AbortController();
  Object.assign(state, { image: null, reading: true, target: null, label: null, cursor: null });
  alert(byId("image-alert"), "");
  chosenClass.clear();
  for (const card of state.cards.values()) card.clear();
  drawAll();
  picture.show(null, name, `${name}: being read`);
}

/** Show an image, predict it, and explain the prediction. */
async function open(file) {
  newImage(file.name);
  toResults = true;
  const { signal } = imageJob;
  try {
    const b64 = await api.base64(file);
    const waiting = (seconds) => picture.show(null, file.name, `${file.name}: the server is busy; asking again in ${seconds} s`);
    const { model, input } = state.facts;
    const answer = await api.run(model, "predict", b64, { top: 5, seen: true }, { signal, waiting });
    const [{ labels, seen: png }] = answer.predictions;
    const seen = await picture.canvasOf(new Blob([bytes(png)], { type: "image/png" }));
    if (signal.aborted) return;
    state.image = { name: file.name, b64, seen };
    state.label = labels[0];
    picture.show(seen, file.name, `${file.name}, as the network sees it: ${input.width} × ${input.height}, ${input.resample}${input.crop ? ", centre crop" : ""}`);
    chosenClass.predicted(labels);
    explainAll();
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    picture.show(null, file.name, "");
    report(error, byId("image-alert"));
  }
}

/** Compare these presets: cards stay that are there, others come and go. */
function compare(names, takeOut) {
  for (const [name, card] of state.cards) {
    if (names.includes(name)) continue;
    bookJob?.abort(); // if it is this card's; another's is asked for again
    card.stop();
    card.node.remove();
    state.cards.delete(name);
  }
  const events = {
    remove: (name) => {
      const box = document.querySelector(`#preset-list input[value="${CSS.escape(name)}"]`);
      takeOut(name);
      box.focus();
    },
    again: (name) => explain(state.cards.get(name)),
    balance: balanceAll,
    cursor,
  };
  for (const name of names) {
    if (state.cards.has(name)) continue;
    const card = new Card(name, { height: state.facts.input.height, width: state.facts.input.width }, events);
    state.cards.set(name, card);
    byId("cards").append(card.node);
    card.read(state.cursor);
    if (state.image) explain(card);
  }
  byId("cards").dataset.count = String(state.cards.size);
  drawAll();
}

function explainAll() {
  if (state.image) for (const card of state.cards.values()) explain(card);
}

/** Ask for one preset's heatmap, without its ledger, which takes several times as long; what was asked for this card before is given up. */
async function explain(card) {
  bookJob?.abort(); // heatmaps first
  const job = new AbortController();
  const signal = AbortSignal.any([job.signal, imageJob.signal]);
  const { image, facts, target } = state;
  card.start(job, image.seen);
  drawAll();
  try {
    const parameters = { composite: card.preset, layers: ["input"], encoding: "b64", ledger: false };
    if (target !== null) parameters.target = target;
    const answer = await api.run(facts.model, "explain", image.b64, parameters, { signal, waiting: (seconds) => card.waiting(seconds) });
    const [explanation] = answer.explanations;
    const array = decode(explanation.relevance.input);
    const digest = await sha256(array.bytes);
    if (signal.aborted) return;
    const label = explanation.target;
    const about = label ? `${classes.plain(label.name)}, ${scored(label)}` : "all classes at once";
    card.show({
      array,
      label,
      pixels: pixels(array),
      rows: facts.composites.find(({ name }) => name === card.preset).ledger ? undefined : null, // undefined: it comes later
      parameters,
      warnings: explanation.warnings ?? [],
      sha256: explanation.sha256,
      genuine: digest && digest === explanation.sha256,
      picture: image.seen,
      imageName: image.name,
      model: facts.model,
      title: label ? about : `${classes.plain(state.label.name)}, ${scored(state.label)}`,
      subtitle: `of ${about}; start: ${startOf(answer.provenance)}, dialect: ${answer.provenance.dialect}`,
    });
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    card.fail(sentenceOf(error));
  }
  drawAll();
  if (toResults && NARROW.matches) {
    toResults = false;
    const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
    state.cards.values().next().value.node.scrollIntoView({ behavior });
  }
  balanceAll();
}

/** Ask for the ledgers that are missing, one after the other, as long as no heatmap is waited for. */
async function balanceAll() {
  while (!bookJob) {
    const cards = [...state.cards.values()];
    const card = cards.find(({ result }) => result && result.rows === undefined && !result.failed);
    if (!card || cards.some(({ job }) => job)) return;
    bookJob = new AbortController();
    await balance(card, AbortSignal.any([bookJob.signal, imageJob.signal]));
    bookJob = null;
  }
}

/** Ask for one heatmap's ledger. */
async function balance(card, signal) {
  const { result } = card;
  const waiting = (seconds) => card.showBook(`the server is busy; asking again in ${seconds} s`);
  try {
    const answer = await api.run(state.facts.model, "explain", state.image.b64, { ...result.parameters, ledger: true }, { signal, waiting });
    const [{ ledger: rows, warnings, sha256: digest }] = answer.explanations;
    if (digest !== result.sha256) throw new api.ApiError("The ledger that came is another heatmap's: ask again.");
    const overflows = rows.some((row) => Object.values(row).includes(null));
    Object.assign(result, { rows: overflows ? null : rows, overflows, warnings: warnings ?? [] });
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    result.failed = sentenceOf(error);
  }
  if (card.result !== result) return;
  card.showBook();
  drawAll();
}

/** Colour all heatmaps as the view says, and list their ledgers. */
function drawAll() {
  const view = new FormData(byId("view"));
  const opacity = Number(byId("opacity").value) / 100;
  const share = Number(byId("end").value);
  const colours = table(byId("colours").value || Object.keys(MAPS)[0]);
  const cards = [...state.cards.values()];
  const common = Math.max(0, ...cards.map((card) => card.ownEnd(share)));
  for (const card of cards) {
    const end = view.get("scale") === "common" ? common : card.ownEnd(share);
    card.draw({ end, colours, opacity, cut: share < 1 || end < card.ownEnd(1) });
  }
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  const done = cards.filter((card) => card.result && !card.job);
  byId("save-all").disabled = !done.length;
  byId("empty").hidden = state.reading;
  listLedgers(done.filter((card) => card.result.rows));
}

function listLedgers(cards) {
  const place = byId("ledger-tables");
  const wanted = cards.map((card) => card.result);
  const shown = place.ledgers ?? [];
  if (wanted.length === shown.length && wanted.every((result, i) => result === shown[i])) return;
  const opened = [...place.querySelectorAll("details[open]")].map((each) => each.dataset.preset);
  if (!shown.length && cards.length) opened.push(cards[0].preset);
  place.replaceChildren(
    ...cards.map((card) => {
      const caption = `Ledger of ${card.preset}`;
      const scroll = element("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label: caption } }, ledger.table(card.result.rows, caption));
      return element("details", { open: opened.includes(card.preset), dataset: { preset: card.preset } }, element("summary", {}, card.preset), scroll);
    }),
  );
  place.ledgers = wanted;
  byId("ledgers").hidden = !cards.length;
}

/** Move the cursor that all heatmaps share. */
function cursor(index, spoken) {
  state.cursor = index;
  const said = [...state.cards.values()].map((card) => [card.preset, card.read(index)]).filter(([, text]) => text);
  if (spoken) byId("spoken").textContent = said.map(([preset, text]) => `${preset} ${text}`).join("; ");
}

async function saveAll() {
  const done = [...state.cards.values()].filter((card) => card.result && !card.job);
  download(await panel(done), `${done[0].fileName().replace(/\.?-[^-]*$/, "")}.png`);
}

function report(error, place) {
  if (error.name === "AbortError") return;
  alert(place, sentenceOf(error));
  state.reading = false;
  drawAll();
}

/** An error of the server as its sentence; a defect of the page as what it is. */
function sentenceOf(error) {
  if (!(error instanceof api.ApiError)) console.error(error);
  const text = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

begin();
