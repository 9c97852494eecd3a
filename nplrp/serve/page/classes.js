// The class to explain: the five likeliest with their probabilities, or any other by search.

import { element } from "./dom.js";
import { scored } from "./numbers.js";

const SHOWN = 60;

const top = document.getElementById("top");
const wait = document.getElementById("classes-wait");
const search = document.getElementById("class-search");
const list = document.getElementById("class-list");

/**
 * @param classes  [{unit, id, name}] of the whole model
 * @param chosen   called with a unit, or null for what the model decided
 */
export function chooser(classes, chosen) {
  let labels = [];
  let other = null; // a class that isn't among the likeliest
  let target = null;
  let found = [];
  let active = -1;

  function choose(unit) {
    target = unit;
    chosen(unit);
  }

  function draw() {
    wait.hidden = labels.length > 0;
    const rows = labels.map((label, i) => row(label, i === 0 ? null : label.unit));
    if (other) rows.push(row(other, other.unit));
    top.replaceChildren(...rows);
  }

  function row(label, unit) {
    const bar = element("span", { className: "bar" }, element("span", { className: "filled" }));
    const share = label.what === "probability" || label.what === "score"; // else there is no whole to be a share of
    bar.hidden = label.score !== undefined && !share;
    if (share) bar.firstChild.style.width = `${100 * label.score}%`;
    return element(
      "label",
      { className: "class-row" },
      element("input", { type: "radio", name: "target", value: String(label.unit), checked: target === unit, on: { change: () => choose(unit) } }),
      element("span", { className: "name", title: label.id === String(label.unit) ? "" : label.id }, plain(label.name)),
      element("span", { className: "score" }, label.score === undefined ? "chosen" : scored(label)),
      bar,
    );
  }

  function open() {
    const wanted = fold(search.value);
    found = classes
      .filter((each) => !wanted || fold(each.name).includes(wanted) || fold(each.id) === wanted || String(each.unit) === wanted)
      .slice(0, SHOWN);
    active = found.length && wanted ? 0 : -1;
    const options = found.map((each, i) =>
      element(
        "li",
        { id: `class-${each.unit}`, aria: { role: "option", selected: String(i === active) }, on: { click: () => pick(i), pointerdown: keepFocus } },
        element("span", {}, plain(each.name)),
        element("span", { className: "id" }, each.id === String(each.unit) ? each.id : `${each.id} · ${each.unit}`),
      ),
    );
    if (!options.length) options.push(element("li", { className: "none", aria: { role: "option", disabled: "true" } }, "no class of this name"));
    list.replaceChildren(...options);
    show(true);
  }

  function show(visible) {
    list.hidden = !visible;
    search.setAttribute("aria-expanded", String(visible));
    point(visible ? active : -1);
  }

  function point(i) {
    active = i;
    [...list.children].forEach((option, k) => option.setAttribute("aria-selected", String(k === i)));
    if (i < 0) return search.removeAttribute("aria-activedescendant");
    search.setAttribute("aria-activedescendant", list.children[i].id);
    return list.children[i].scrollIntoView({ block: "nearest" });
  }

  function pick(i) {
    const each = found[i];
    const likely = labels.findIndex((label) => label.unit === each.unit);
    other = likely < 0 ? each : null;
    search.value = "";
    show(false);
    choose(each.unit);
    draw();
    if (likely === 0) top.querySelector("input").checked = true;
  }

  const keys = {
    ArrowDown: () => (list.hidden ? open() : point(Math.min(active + 1, found.length - 1))),
    ArrowUp: () => !list.hidden && point(Math.max(active - 1, 0)),
    Enter: () => !list.hidden && active >= 0 && pick(active),
    Escape: () => show(false),
  };
  search.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  search.addEventListener("input", open);
  search.addEventListener("click", () => list.hidden && open());
  search.addEventListener("blur", () => show(false));

  return {
    /** Show the likeliest classes of a new image, whose first one is what the model decided. */
    predicted(likeliest) {
      [labels, other, target] = [likeliest, null, null];
      draw();
    },
    /** Forget an image's classes. */
    clear() {
      [labels, other, target] = [[], null, null];
      draw();
    },
  };
}

/** Class names as ImageNet has them have underscores for spaces. */
export function plain(name) {
  return name.replaceAll("_", " ");
}

function fold(text) {
  return text.replace(/[_-]/g, " ").toLowerCase().trim().replace(/\s+/g, " ");
}

function keepFocus(event) {
  event.preventDefault();
}
