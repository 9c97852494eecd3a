// Relevance as the server's bits: decoded, summed over channels, and written as .npy.

const ARRAYS = { float32: [Float32Array, "<f4"], float64: [Float64Array, "<f8"] };

/** Decode {dtype, shape, b64} to {bytes, values, shape, descr}: C order, little-endian. */
export function decode({ dtype, shape, b64 }) {
  if (!(dtype in ARRAYS)) throw new Error(`The server sent relevance of dtype ${dtype}; expected float32 or float64.`);
  const [array, descr] = ARRAYS[dtype];
  const found = bytes(b64);
  const expected = shape.reduce((product, n) => product * n, array.BYTES_PER_ELEMENT);
  if (found.length !== expected) throw new Error(`The server sent ${found.length} bytes of relevance; its shape ${shape} needs ${expected}.`);
  return { bytes: found, values: new array(found.buffer), shape, descr };
}

/** The bytes that base64 stands for. */
export function bytes(b64) {
  return Uint8Array.from(atob(b64), (letter) => letter.charCodeAt(0));
}

/** Sum [.., H, W, C] over the channels: {height, width, values: Float64Array, sum, strongest (index), sorted magnitudes}. */
export function pixels({ values, shape }) {
  const [height, width, channels] = shape.slice(-3);
  const summed = new Float64Array(height * width);
  let strongest = 0;
  let sum = 0;
  for (let i = 0; i < summed.length; i += 1) {
    for (let c = 0; c < channels; c += 1) summed[i] += values[i * channels + c];
    if (Math.abs(summed[i]) > Math.abs(summed[strongest])) strongest = i;
    sum += summed[i];
  }
  return { height, width, values: summed, sum, strongest, magnitudes: summed.map(Math.abs).sort() };
}

/** The magnitude that a share of all pixels doesn't exceed; share 1 is the largest. */
export function magnitudeAt({ magnitudes }, share) {
  return magnitudes[Math.ceil(share * magnitudes.length) - 1];
}

/** A version 1.0 .npy file around the bytes. */
export function npy({ bytes, shape, descr }) {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const dict = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const before = 10; // magic, version, length of the header
  const length = Math.ceil((before + dict.length + 1) / 64) * 64 - before;
  const header = new TextEncoder().encode(dict.padEnd(length - 1) + "\n");
  const start = new Uint8Array([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, length & 255, length >> 8]);
  return new Blob([start, header, bytes], { type: "application/octet-stream" });
}

/** SHA-256 of the bytes in hexadecimal, or null where the browser has none (pages that come neither by HTTPS nor from this machine). */
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
