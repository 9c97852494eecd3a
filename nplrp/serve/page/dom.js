// Two helpers. Text from outside the page (class names, errors, file names) only ever becomes text.

/** An element with properties (and `dataset`, `aria`, `on`) and children. */
export function element(tag, { dataset = {}, aria = {}, on = {}, ...properties } = {}, ...children) {
  const node = document.createElement(tag);
  Object.assign(node.dataset, dataset);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(name === "role" ? name : `aria-${name}`, value);
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

/** Show a sentence in an element with role=alert; an empty one hides it. */
export function alert(node, sentence) {
  node.hidden = !sentence;
  node.textContent = sentence;
}

/** Offer a blob as a download. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
