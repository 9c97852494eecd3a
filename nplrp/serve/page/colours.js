// Zero-centred colour maps, evenly lightened in OKLab (Ottosson 2020). Their two sides differ in blue against yellow or red, and are
// told apart with every common colour blindness; both ends are equally light, so neither sign stands out.

/** name -> label, and [lightness, chroma, hue in degrees] at -1, -1/2, 0, 1/2, 1. */
export const MAPS = {
  "blue-red": ["blue – red", [[0.36, 0.13, 258], [0.66, 0.115, 248], [0.97, 0.004, 90], [0.66, 0.14, 42], [0.36, 0.12, 28]]],
  "purple-orange": ["purple – orange", [[0.38, 0.17, 300], [0.66, 0.12, 298], [0.97, 0.004, 90], [0.66, 0.13, 64], [0.38, 0.09, 60]]],
  "blue-yellow-dark": ["blue – yellow, dark middle", [[0.85, 0.09, 235], [0.52, 0.125, 250], [0.17, 0.004, 260], [0.52, 0.1, 75], [0.85, 0.14, 92]]],
};

/** Steps on either side of 0 in a table. */
export const STEPS = 255;

/** RGB bytes of -1 to 1 in 2 STEPS + 1 colours. */
export function table(name) {
  const stops = MAPS[name][1].map(([lightness, chroma, hue]) => {
    const angle = (hue * Math.PI) / 180;
    return [lightness, chroma * Math.cos(angle), chroma * Math.sin(angle)];
  });
  const colours = new Uint8ClampedArray(3 * (2 * STEPS + 1));
  for (let i = 0; i <= 2 * STEPS; i += 1) {
    const place = (i / (2 * STEPS)) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    const mixed = stops[below].map((value, k) => value + (stops[below + 1][k] - value) * (place - below));
    colours.set(rgb(mixed), 3 * i);
  }
  return colours;
}

/** Colour values into RGBA pixels: -end, 0 and end are a table's first, middle and last colour; beyond the end it stays. */
export function paint(values, end, colours) {
  const rgba = new Uint8ClampedArray(4 * values.length);
  for (let i = 0; i < values.length; i += 1) {
    const scaled = end > 0 ? Math.max(-1, Math.min(1, values[i] / end)) : 0;
    const at = 3 * (Math.round(scaled * STEPS) + STEPS);
    rgba.set(colours.subarray(at, at + 3), 4 * i);
    rgba[4 * i + 3] = 255;
  }
  return rgba;
}

function rgb([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const value = Math.max(0, Math.min(1, linear));
    return Math.round(255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));
  });
}
