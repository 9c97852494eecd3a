// One preset's heatmap: the picture, its colour bar, what is read at a pixel, the ledger, downloads.

import { STEPS, paint } from "./colours.js";
import { alert, download, element } from "./dom.js";
import * as ledger from "./ledger.js";
import { percent, short, signed } from "./numbers.js";
import { panel } from "./panel.js";
import { ruleLink } from "./presets.js";
import { magnitudeAt, npy } from "./relevance.js";

let count = 0;

export class Card {
  /**
   * @param preset   its name
   * @param size     {height, width} of the network's input
   * @param events   remove(preset), again(preset), balance(), cursor(index or null, from the keyboard?)
   */
  constructor(preset, size, events) {
    count += 1;
    Object.assign(this, { preset, size, events, result: null, job: null, table: null, end: 0 });
    this.build(`card-${count}`);
  }

  build(id) {
    const { preset, size, events } = this;
    const canvas = (className) => element("canvas", { className, ...size });
    const button = (text, label, click) => element("button", { type: "button", aria: { label }, on: { click } }, text);

    this.about = element("span");
    this.image = canvas("image");
    this.heat = canvas("heat");
    this.heat.tabIndex = 0;
    for (const [name, value] of Object.entries({
      role: "application",
      "aria-roledescription": "heatmap",
      "aria-label": `Heatmap of ${preset}: arrow keys read relevance`,
    }))
      this.heat.setAttribute(name, value);
    this.cross = element("div", { className: "cross", hidden: true });
    this.progress = element("div", { className: "busy", hidden: true }, element("progress", { aria: { label: `Computing ${preset}` } }));
    this.progress.append((this.progressText = element("span")));
    this.frame = element("div", { className: "map" }, this.image, this.heat, this.cross, this.progress);
    this.frame.style.aspectRatio = `${size.width} / ${size.height}`;

    this.bar = element("canvas", { width: 2 * STEPS + 1, height: 1, aria: { hidden: "true" } });
    this.ticks = [0, 1, 2, 3, 4].map(() => element("span"));
    const colours = element("div", { className: "colour-bar" }, this.bar, element("div", { className: "ticks" }, ...this.ticks));
    this.readout = element("p", { className: "readout" });

    this.alert = element("p", { className: "alert", hidden: true, aria: { role: "alert" } });
    this.again = element("p", { hidden: true }, button("Try again", `Try ${preset} again`, () => events.again(preset)));
    this.book = element("div", { className: "book" });
    this.png = button("PNG", `Download ${preset} as PNG`, () => this.savePng());
    this.npy = button(".npy", `Download the relevance of ${preset} as .npy`, () => this.saveNpy());
    this.sha = element("code", { className: "sha" });
    this.verified = element("span", { className: "facts" });
    this.downloads = element(
      "div",
      { className: "downloads" },
      element("p", { className: "buttons" }, this.png, this.npy),
      element("p", {}, element("span", { className: "facts" }, "sha256 "), this.sha, " ", this.verified),
    );

    const heading = element("h3", { id, title: preset }, preset);
    const help = element("a", { href: ruleLink(preset), target: "_blank", rel: "noopener", aria: { label: `What ${preset} is` } }, "what is it?");
    const remove = button("×", `Take ${preset} out`, () => events.remove(preset));
    remove.className = "remove";
    this.node = element(
      "article",
      { className: "card", dataset: { preset }, aria: { labelledby: id } },
      element("header", {}, heading, remove),
      element("p", { className: "facts about" }, this.about, help),
      this.alert,
      this.again,
      element("div", { className: "card-body" }, element("div", { className: "figure" }, this.frame, colours, this.readout), element("div", { className: "beside" }, this.book, this.downloads)),
    );
    this.clear();
    this.listen();
  }

  /** Pointer and keys move the cursor that all heatmaps share. */
  listen() {
    const { height, width } = this.size;
    const at = (event) => {
      const box = this.heat.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * width);
      const row = Math.floor(((event.clientY - box.top) / box.height) * height);
      return Math.max(0, Math.min(height - 1, row)) * width + Math.max(0, Math.min(width - 1, column));
    };
    const read = (event) => this.result && this.events.cursor(at(event), false);
    this.heat.addEventListener("pointermove", read);
    this.heat.addEventListener("pointerdown", read);
    this.heat.addEventListener("keydown", (event) => {
      if (!this.result || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = event.shiftKey ? 10 : 1;
      const here = this.index ?? this.result.pixels.strongest;
      let [row, column] = [Math.floor(here / width), here % width];
      if (event.key === "ArrowUp") row -= step;
      else if (event.key === "ArrowDown") row += step;
      else if (event.key === "ArrowLeft") column -= step;
      else if (event.key === "ArrowRight") column += step;
      else if (event.key === "Home") [row, column] = [Math.floor(this.result.pixels.strongest / width), this.result.pixels.strongest % width];
      else if (event.key !== "Escape") return;
      event.preventDefault();
      row = Math.max(0, Math.min(height - 1, row));
      column = Math.max(0, Math.min(width - 1, column));
      this.events.cursor(event.key === "Escape" ? null : row * width + column, true);
    });
  }

  /** Empty it, for another image. */
  clear() {
    this.stop();
    this.result = null;
    this.about.textContent = "";
    this.sha.textContent = this.verified.textContent = "";
    alert(this.alert, "");
    this.again.hidden = true;
    this.book.replaceChildren();
    this.enable(false);
    for (const canvas of [this.image, this.heat]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    this.node.classList.remove("stale", "filled");
    for (const tick of this.ticks) tick.textContent = "";
    this.read(null);
  }

  /** Say that it is being computed for a picture; an older heatmap of it stays, dimmed. */
  start(job, picture) {
    this.stop();
    this.job = job;
    this.image.getContext("2d").drawImage(picture, 0, 0);
    alert(this.alert, "");
    this.again.hidden = true;
    this.node.classList.toggle("stale", Boolean(this.result));
    this.node.setAttribute("aria-busy", "true");
    this.enable(false);
    this.progress.hidden = false;
    const began = performance.now();
    const show = () => {
      this.progressText.textContent = this.wait || `computing, ${((performance.now() - began) / 1000).toFixed(1)} s`;
    };
    this.wait = "";
    this.timer = setInterval(show, 100);
    show();
  }

  /** Say that the server is busy. */
  waiting(seconds) {
    const until = performance.now() + seconds * 1000;
    this.wait = `the server is busy; asking again in ${seconds} s`;
    setTimeout(() => performance.now() >= until - 50 && (this.wait = ""), seconds * 1000);
  }

  stop() {
    this.job?.abort();
    this.job = null;
    clearInterval(this.timer);
    this.progress.hidden = true;
    this.node.removeAttribute("aria-busy");
  }

  fail(sentence) {
    this.job = null; // it is done
    this.clear();
    alert(this.alert, sentence);
    this.again.hidden = false;
  }

  /**
   * @param result  {array, pixels, rows (null: it has no ledger; undefined: not yet), warnings, label, start, sha256, genuine, picture, about}
   */
  show(result) {
    this.job = null; // it is done
    this.stop();
    this.result = result;
    this.node.classList.remove("stale");
    this.node.classList.add("filled");
    this.enable(true);
    this.about.textContent = `${result.subtitle} `;
    this.sha.textContent = result.sha256;
    this.verified.textContent = { true: "✓ these bytes", false: "✗ not these bytes", null: "" }[result.genuine];
    if (result.genuine === false) alert(this.alert, "The relevance that arrived has another SHA-256 than the server computed: ask again.");
    this.showBook();
    this.read(this.index);
  }

  /** Show the ledger, or why it isn't there: `waiting` says what is waited for. */
  showBook(waiting = "being computed …") {
    const { rows, warnings, failed, overflows } = this.result;
    this.book.replaceChildren();
    this.book.toggleAttribute("aria-busy", rows === undefined && !failed);
    if (failed) {
      const again = () => {
        this.result.failed = "";
        this.showBook();
        this.events.balance();
      };
      const button = element("button", { type: "button", aria: { label: `Ask for the ledger of ${this.preset} again` }, on: { click: again } }, "Try again");
      return this.book.append(element("p", { className: "alert", aria: { role: "alert" } }, failed), element("p", {}, button));
    }
    if (rows === undefined) return this.book.append(element("p", { className: "facts" }, `Ledger: ${waiting}`));
    if (!rows) {
      const why = overflows ? "The ledger's sums overflow: a parameter is out of proportion." : "Gradients have no ledger: nothing is conserved.";
      return this.book.append(element("p", { className: "facts" }, why));
    }
    this.book.append(ledger.chart(rows), ledger.legend(), element("p", { className: "facts" }, ledger.sentence(rows)));
    if (!warnings.length) return undefined;
    const what = `${warnings.length} ${warnings.length === 1 ? "layer loses or creates" : "layers lose or create"} more than there was at the class`;
    const each = warnings.map((warning) => element("p", {}, warning));
    return this.book.append(element("details", { className: "warning" }, element("summary", {}, what), ...each));
  }

  enable(possible) {
    this.png.disabled = this.npy.disabled = !possible;
  }

  /** The magnitude at which colours end, on a scale of its own. */
  ownEnd(share) {
    return this.result ? magnitudeAt(this.result.pixels, share) : 0;
  }

  /** Colour the heatmap. */
  draw({ end, colours, opacity, cut }) {
    if (!this.result) return;
    Object.assign(this, { end, colours, opacity, cut });
    const { pixels } = this.result;
    this.heat.getContext("2d").putImageData(new ImageData(paint(pixels.values, end, colours), pixels.width), 0, 0);
    this.heat.style.opacity = String(opacity);
    const ramp = Float64Array.from({ length: 2 * STEPS + 1 }, (_, i) => i - STEPS);
    this.bar.getContext("2d").putImageData(new ImageData(paint(ramp, STEPS, colours), 2 * STEPS + 1), 0, 0);
    this.labels().forEach((text, i) => {
      this.ticks[i].textContent = text;
    });
  }

  /** What stands under the colour bar. */
  labels() {
    const { end, cut } = this;
    if (end === 0) return ["", "", "0 everywhere", "", ""];
    return [-1, -0.5, 0, 0.5, 1].map((part) => {
      const text = signed(part * end, 3);
      if (!cut || Math.abs(part) < 1) return text;
      return part < 0 ? `≤ ${text}` : `≥ ${text}`;
    });
  }

  /** Read one pixel, null for none. */
  read(index) {
    this.index = index ?? null;
    this.cross.hidden = this.index === null || !this.result;
    if (!this.result) {
      this.readout.textContent = "";
      return "";
    }
    const { pixels } = this.result;
    if (this.index === null) {
      const where = this.place(pixels.strongest);
      this.readout.textContent = `strongest ${signed(pixels.values[pixels.strongest])} at ${where}; sum ${short(pixels.sum)}`;
      return "";
    }
    const { height, width } = this.size;
    this.cross.style.left = `${(100 * ((this.index % width) + 0.5)) / width}%`;
    this.cross.style.top = `${(100 * (Math.floor(this.index / width) + 0.5)) / height}%`;
    const value = pixels.values[this.index];
    const largest = Math.abs(pixels.values[pixels.strongest]);
    const text = `${this.place(this.index)}: ${signed(value)}${largest ? ` (${percent(value / largest)} of the strongest)` : ""}`;
    this.readout.textContent = text;
    return text;
  }

  place(index) {
    return `row ${Math.floor(index / this.size.width)}, column ${index % this.size.width}`;
  }

  /** The file name without its ending. */
  fileName() {
    const plain = (text) => text.replace(/[^\w.-]+/g, "-").replace(/^-+|-+$/g, "");
    return [this.result.imageName.replace(/\.[^.]*$/, ""), this.preset, this.result.label?.name ?? "all"].map(plain).join("-");
  }

  async savePng() {
    download(await panel([this]), `${this.fileName()}.png`);
  }

  saveNpy() {
    const { array } = this.result;
    download(npy({ ...array, shape: [1, ...array.shape] }), `${this.fileName()}.npy`);
  }
}
