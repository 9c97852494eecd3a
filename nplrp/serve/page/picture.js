// The image: dropped, pasted or picked, and as the network sees it.

import { element } from "./dom.js";

const drop = document.getElementById("drop");
const file = document.getElementById("file");
const preview = document.getElementById("preview");
const facts = document.getElementById("image-facts");

/** Call `chosen(file)` for every image that the reader brings. */
export function listen(chosen) {
  file.addEventListener("change", () => {
    if (file.files.length) chosen(file.files[0]);
    file.value = ""; // so that the same file can be chosen again
  });
  // Anywhere in the page: a file that misses the box would replace the page.
  let inside = 0;
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (change) => (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    inside = Math.max(0, inside + change);
    drop.classList.toggle("over", inside > 0);
  };
  document.addEventListener("dragenter", mark(1));
  document.addEventListener("dragleave", mark(-1));
  document.addEventListener("dragover", mark(0));
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    inside = 0;
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) chosen(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!pasted) return;
    event.preventDefault();
    chosen(pasted);
  });
}

/** Draw pixels, a canvas of the network's size, with a line about them; null empties the preview. */
export function show(pixels, name, line) {
  const context = preview.getContext("2d");
  preview.width = pixels?.width ?? preview.width;
  preview.height = pixels?.height ?? preview.height;
  if (pixels) context.drawImage(pixels, 0, 0);
  preview.classList.toggle("filled", Boolean(pixels));
  preview.setAttribute("aria-label", pixels ? `${name}, as the network sees it` : "No image yet");
  facts.textContent = line;
}

/** The image of a Blob as a canvas. */
export async function canvasOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = element("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}
