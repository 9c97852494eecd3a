// What the page asks of the server. Every failure becomes an ApiError whose message is a sentence for the reader.

const TRIES = 6;
const LONGEST_WAIT = 30; // seconds

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Facts about the model and the server. */
export function info(signal) {
  return answer("v1/info", { signal });
}

/** Bytes of the built-in sample as a File. */
export async function sample(path, signal) {
  const response = await ask(path, { signal });
  const blob = await response.blob();
  return new File([blob], `sample.${blob.type === "image/jpeg" ? "jpg" : "png"}`, { type: blob.type });
}

/** Ask `verb` ("predict" or "explain") of one image. `waiting(seconds)` is called when the server is busy and asked again later. */
export function run(model, verb, image, parameters, { signal, waiting }) {
  const body = JSON.stringify({ instances: [{ b64: image }], parameters });
  const headers = { "Content-Type": "application/json" };
  return answer(`v1/models/${encodeURIComponent(model)}:${verb}`, { method: "POST", body, headers, signal }, waiting);
}

/** The bytes of a file in base64, as JSON carries them. */
export function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new ApiError(`${file.name}: the browser can't read this file.`));
    reader.readAsDataURL(file);
  });
}

async function answer(path, options, waiting) {
  const response = await ask(path, { ...options, headers: { Accept: "application/json", ...options.headers } }, waiting);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server's answer can't be read: it is no JSON, or was cut off.");
  }
}

async function ask(path, options, waiting) {
  for (let tried = 1; ; tried += 1) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server can't be reached: is nplrp serve still running?");
    }
    if (response.ok) return response;
    const busy = response.status === 429 || (response.status === 503 && response.headers.has("Retry-After"));
    if (!busy || tried === TRIES) throw new ApiError(await sentence(response), response.status);
    const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT);
    waiting?.(seconds);
    await sleep(seconds * 1000, options.signal);
  }
}

async function sentence(response) {
  const plain = `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  try {
    const { error } = await response.json();
    return typeof error === "string" && error ? error : plain;
  } catch {
    return plain;
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
