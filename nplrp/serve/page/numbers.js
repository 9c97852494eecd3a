// Numbers as people read them.

/** Four significant digits, with a real minus sign: 0.01234, −1.234e−5. */
export function short(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
  return text.replace("e+", "e").replaceAll("-", "−");
}

/** The same with its sign, always. */
export function signed(value, digits = 4) {
  return (value > 0 ? "+" : "") + short(value, digits);
}

/** A label's score: a probability or the score of a label in percent, else named for what it is. */
export function scored({ score, what }) {
  return what === "probability" || what === "score" ? percent(score) : `${what} ${short(score)}`;
}

/** A probability or a share in percent. */
export function percent(share) {
  const value = 100 * share;
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return "–";
  if (value === 0 || size >= 1e5) return `${short(value, 3)} %`;
  if (size < 0.01) return value < 0 ? "> −0.01 %" : "< 0.01 %";
  return `${value.toFixed(size < 1 ? 2 : size < 100 ? 1 : 0)} %`.replace("-", "−");
}
