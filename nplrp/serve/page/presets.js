// The presets to compare: a list in groups, with a filter.

import { element } from "./dom.js";

export const MOST = 4;

/** What people can read stands above what its owners' groups hold. */
const FIRST_GROUP = "To begin with";
const TO_BEGIN_WITH = ["epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "montavon_vgg16"];

const list = document.getElementById("preset-list");
const filter = document.getElementById("preset-filter");
const note = document.getElementById("preset-note");

/**
 * @param presets  [{name, summary, group}]
 * @param names    those chosen at first
 * @param changed  called with the names chosen, in the order of choosing
 * @returns a function that takes one preset out
 */
export function chooser(presets, names, changed) {
  let chosen = names.slice(0, MOST);
  document.getElementById("preset-count").textContent = String(presets.length);

  const rows = presets.map((preset, i) => {
    const box = element("input", {
      type: "checkbox",
      id: `preset-${i}`,
      value: preset.name,
      aria: { describedby: `preset-${i}-summary` },
      on: { change: () => choose(preset.name, box.checked) },
    });
    const row = element(
      "li",
      {},
      box,
      element("label", { htmlFor: box.id }, preset.name),
      element("a", { href: ruleLink(preset.name), target: "_blank", rel: "noopener", aria: { label: `What ${preset.name} is` } }, "what is it?"),
      element("p", { id: `preset-${i}-summary`, className: "facts" }, preset.summary),
    );
    return { preset, box, row, text: `${preset.name} ${preset.summary} ${preset.group}`.toLowerCase() };
  });

  const groupOf = ({ name, group }) => (TO_BEGIN_WITH.includes(name) ? FIRST_GROUP : group);
  const order = ({ preset }) => TO_BEGIN_WITH.indexOf(preset.name); // -1 in all other groups, whose order stays
  const groups = [...new Set([FIRST_GROUP, ...presets.map(groupOf)])].map((group, i) => {
    const own = rows.filter(({ preset }) => groupOf(preset) === group).sort((one, two) => order(one) - order(two));
    const heading = element("h3", { id: `group-${i}` }, group);
    const node = element("div", { aria: { role: "group", labelledby: heading.id } }, heading, element("ul", {}, ...own.map(({ row }) => row)));
    return { node, own };
  });
  list.replaceChildren(...groups.map(({ node }) => node));

  function choose(name, wanted) {
    chosen = chosen.filter((each) => each !== name);
    if (wanted) chosen.push(name);
    show();
    changed([...chosen]);
  }

  function show() {
    const full = chosen.length >= MOST;
    for (const { preset, box } of rows) {
      box.checked = chosen.includes(preset.name);
      box.disabled = full && !box.checked;
    }
    note.textContent = full ? "That is four: take one out to choose another." : "";
  }

  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const { row, text } of rows) row.hidden = !words.every((word) => text.includes(word));
    for (const { node, own } of groups) node.hidden = own.every(({ row }) => row.hidden);
  });
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault(); // it is no form to be sent
  });

  show();
  return (name) => choose(name, false);
}

/** Where a preset and its rules are explained. */
export function ruleLink(name) {
  return `rules.html#${encodeURIComponent(name)}`;
}
