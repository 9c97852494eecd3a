// A backend in JavaScript, without packages: it answers the conformance suite.    node lrp.mjs IN OUT
//
// Every linear layer is a list of rows: which input counts how much in which output. A rule is a list of parts: what each input gives,
// and what of the bias counts. All else is z, s = R / z, and R_j = what j gave times s. Numbers are float64.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const pos = (x) => Math.max(x, 0), neg = (x) => Math.min(x, 0);
const product = (shape) => shape.reduce((a, b) => a * b, 1);

function readCase(folder) {
  const words = {}, arrays = {};
  for (const line of readFileSync(join(folder, "case.txt"), "utf8").trim().split("\n")) {
    const [key, ...rest] = line.split(" ");
    words[key] = rest.join(" ");
  }
  for (const line of readFileSync(join(folder, "contents.txt"), "utf8").trim().split("\n")) {
    const [file, dtype, axes, ...rest] = line.split(" ");
    const bytes = readFileSync(join(folder, file)), size = dtype === "f4" ? 4 : 8, view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const values = Float64Array.from({ length: bytes.length / size }, (_, i) => (size === 4 ? view.getFloat32(4 * i, true) : view.getFloat64(8 * i, true)));
    arrays[file.slice(0, -4)] = { values, shape: rest.slice(0, Number(axes)).map(Number) };
  }
  const list = (key) => (words[key] ?? "").split(" ").filter(Boolean).map(Number);
  return { words, arrays, list, number: (key) => Number(words[key]), R: arrays.R.values };
}

// What a window over an image sees, row by row: [row, column, row of the kernel, column of the kernel].
function seen(c, y, x, height, width) {
  const [kh, kw] = c.list("size"), [sy, sx] = c.list("stride"), [dy, dx] = c.list("dilation"), [top, , left] = c.list("pads"), found = [];
  for (let i = 0; i < kh; i++)
    for (let j = 0; j < kw; j++) {
      const row = y * sy + i * dy - top, column = x * sx + j * dx - left;
      if (row >= 0 && row < height && column >= 0 && column < width) found.push([row, column, i, j]);
    }
  return found;
}

// Rows: for each output in order { bias, entries: [[input, weight], ...] }.
function rows(c) {
  const { kind } = c.words, found = [], shape = c.arrays.a?.shape, out = c.arrays.R.shape;
  const bias = (k) => c.arrays.bias?.values[k] ?? 0;
  if (kind === "dense") {
    const [inputs, outputs] = c.arrays.kernel.shape;
    for (let n = 0; n < out[0]; n++)
      for (let k = 0; k < outputs; k++)
        found.push({ bias: bias(k), entries: Array.from({ length: inputs }, (_, j) => [n * inputs + j, c.arrays.kernel.values[j * outputs + k]]) });
    return found;
  }
  if (kind === "conv" || kind === "depthwise") {
    const [, height, width, channels] = shape, [, kw, kc, kf] = c.arrays.kernel.shape;
    const groups = kind === "depthwise" ? channels : Number(c.words.groups ?? 1);
    const filters = out[3], per = channels / groups, given = filters / groups;
    for (let n = 0; n < out[0]; n++)
      for (let y = 0; y < out[1]; y++)
        for (let x = 0; x < out[2]; x++)
          for (let k = 0; k < filters; k++) {
            const entries = [];
            for (const [row, column, i, j] of seen(c, y, x, height, width))
              for (let p = 0; p < per; p++) {
                const channel = Math.floor(k / given) * per + p;
                const w = kind === "depthwise" ? ((i * kw + j) * kc + channel) * kf + (k % given) : ((i * kw + j) * kc + p) * kf + k;
                entries.push([((n * height + row) * width + column) * channels + channel, c.arrays.kernel.values[w]]);
              }
            found.push({ bias: bias(k), entries });
          }
    return found;
  }
  if (kind === "avgpool" || kind === "maxpool") {
    const [, height, width, channels] = shape;
    for (let n = 0; n < out[0]; n++)
      for (let y = 0; y < out[1]; y++)
        for (let x = 0; x < out[2]; x++)
          for (let k = 0; k < channels; k++) {
            const places = seen(c, y, x, height, width).map(([row, column]) => ((n * height + row) * width + column) * channels + k);
            found.push({ bias: 0, entries: places.map((at) => [at, 1 / places.length]) });
          }
    return found;
  }
  if (kind === "add") {
    const several = Object.keys(c.arrays).filter((name) => /^a\d+$/.test(name)).length, size = c.R.length;
    for (let k = 0; k < size; k++) found.push({ bias: 0, entries: Array.from({ length: several }, (_, i) => [i * size + k, 1]) });
    return found;
  }
  throw new Error(`no layers of kind ${kind}`);
}

function denominator(c, z) {
  const e = c.number("epsilon"), name = c.words.stabiliser, sign = z < 0 ? -1 : 1;
  if (name === "drop" || (name === "sign" && e === 0)) return z === 0 ? Infinity : z;
  if (name === "sign") return z + sign * e;
  if (name === "plus") return z + e;
  if (name === "zero") return z === 0 ? e : z;
  throw new Error(`no stabiliser ${name}`);
}

// Parts: { share, gives(a, w), bias(b), half }.
function parts(c) {
  const { rule, bias } = c.words, gamma = c.number("gamma"), split = c.words.split !== "0";
  const changed = (change) => (bias === "changed" ? change : bias === "raw" ? (b) => b : () => 0);
  const up = (w) => w + gamma * pos(w), down = (w) => w + gamma * neg(w);
  const plus = split ? (a, w) => pos(a * w) : (a, w) => a * pos(w), minus = split ? (a, w) => neg(a * w) : (a, w) => a * neg(w);
  switch (rule) {
    case "zero": case "epsilon": case "norm":
      return [{ share: 1, gives: (a, w) => a * w, bias: changed((b) => b) }];
    case "gamma":
      if (!split) return [{ share: 1, gives: (a, w) => a * up(w), bias: changed(up) }];
      if (c.words.branch !== "z") throw new Error("gamma chooses its half by z");
      return [
        { share: 1, half: 1, gives: (a, w) => pos(a) * up(w) + neg(a) * down(w), bias: changed(up) },
        { share: 1, half: -1, gives: (a, w) => pos(a) * down(w) + neg(a) * up(w), bias: changed(down) },
      ];
    case "zplus":
      return [{ share: 1, gives: plus, bias: changed(pos) }];
    case "alpha_beta":
      return [
        { share: c.number("alpha"), gives: plus, bias: changed(pos) },
        { share: -c.number("beta"), gives: minus, bias: changed(neg) },
      ].filter((part) => part.share !== 0);
    case "wsquare":
      return [{ share: 1, gives: (a, w) => w * w, bias: changed((b) => b * b) }];
    case "flat":
      return [{ share: 1, gives: () => 1, bias: () => 0 }];
    case "zbox": {
      const low = c.number("low"), high = c.number("high");
      return [{ share: 1, gives: (a, w) => a * w - low * pos(w) - high * neg(w), bias: () => 0 }];
    }
  }
  throw new Error(`no rule ${rule}`);
}

function answer(c) {
  const { kind, rule } = c.words;
  const inputs = Object.keys(c.arrays).filter((name) => /^a\d*$/.test(name)).sort().flatMap((name) => [...c.arrays[name].values]);
  const found = new Float64Array(inputs.length);
  if (kind === "flatten" || kind === "reshape") return Float64Array.from(c.R);
  const table = rows(c);
  if (kind === "maxpool") {
    if (rule !== "winner") throw new Error(`no rule ${rule} for max-pools`);
    table.forEach(({ entries }, k) => {
      const first = entries.reduce((best, entry) => (inputs[entry[0]] > inputs[best[0]] ? entry : best));
      found[first[0]] += c.R[k];
    });
    return found;
  }
  if (kind.endsWith("pool") && !["zero", "epsilon", "norm"].includes(rule)) throw new Error(`no rule ${rule} for average pools`);
  const z = table.map(({ bias, entries }) => entries.reduce((sum, [j, w]) => sum + inputs[j] * w, bias));
  for (const part of parts(c))
    table.forEach(({ bias, entries }, k) => {
      if (part.half && !(z[k] * part.half > 0)) return;
      const gives = entries.map(([j, w]) => part.gives(inputs[j], w));
      const s = (part.share * c.R[k]) / denominator(c, gives.reduce((sum, each) => sum + each, part.bias(bias)));
      entries.forEach(([j], i) => (found[j] += gives[i] * s));
    });
  return found;
}

const [source, target] = process.argv.slice(2);
if (!existsSync(target)) mkdirSync(target);
for (const name of readFileSync(join(source, "cases.txt"), "utf8").trim().split("\n")) {
  const c = readCase(join(source, name));
  try {
    const R = answer(c);
    writeFileSync(join(target, `${name}.bin`), Buffer.from(R.buffer));
  } catch (error) {
    writeFileSync(join(target, `${name}.txt`), `${error.message}\n`);
  }
}
