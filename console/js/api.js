// Calls of the service over Connect with JSON, on the origin of the page.

import { duration } from "./format.js";

const PACKAGE = "elephantasm.events.v1";
const TIMEOUT_MS = 30_000;
const ATTEMPTS = 4;
const KEY = "elephantasm.key";
const END_OF_STREAM = 2;

/** @typedef {{type: string, value: string, debug?: any}} Detail */

/** An error of a call. `code` is Connect's name of it, `reason` that of google.rpc.ErrorInfo. */
export class CallError extends Error {
  /** @param {string} code @param {string} message @param {Detail[]} [details] */
  constructor(code, message, details = []) {
    super(message);
    this.name = "CallError";
    this.code = code;
    const detail = (/** @type {string} */ name) => details.find((each) => each.type === name)?.debug;
    /** @type {string} */
    this.reason = detail("google.rpc.ErrorInfo")?.reason ?? "";
    /** @type {{field: string, description: string}[]} */
    this.fields = detail("google.rpc.BadRequest")?.fieldViolations ?? [];
  }

  /** A sentence for people. */
  get sentence() {
    if (this.code === "unavailable") return `The server is not available: ${this.message}`;
    if (this.reason === "REVISION_MISMATCH") return "Somebody else changed this in the meantime. It was read again; decide again.";
    const fields = this.fields.map(({ field, description }) => (field ? `${field}: ${description}` : description));
    return fields.length > 0 ? fields.join("; ") : this.message;
  }
}

/** The key of this tab; it is in session storage, so it ends with the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (/** @type {string} */ value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

/** @type {(error: CallError) => void} */
let onUnauthenticated = () => {};
/** Registers what happens when a key is needed or no longer accepted. @param {(error: CallError) => void} handler */
export function whenUnauthenticated(handler) {
  onUnauthenticated = handler;
}

/** The address of an RPC. @param {string} method such as `EventService/GetEvent` */
const urlOf = (method) => new URL(`./${PACKAGE}.${method}`, document.baseURI).href;

/** @param {string} contentType @param {boolean} isRead */
function headers(contentType, isRead) {
  /** @type {Record<string, string>} */
  const all = { "content-type": contentType, "connect-protocol-version": "1" };
  if (isRead) all["x-consistency"] = "strong"; // an edit shows at once, also beside a standby
  if (key.get()) all.authorization = `Bearer ${key.get()}`;
  return all;
}

/** @param {any} body @param {number} status */
function errorOf(body, status) {
  const error = new CallError(body?.code ?? "unknown", body?.message ?? `HTTP status ${status}`, body?.details);
  if (error.code === "unauthenticated") onUnauthenticated(error);
  return error;
}

/** Waits; rejects when `signal` aborts. @param {number} milliseconds @param {AbortSignal | undefined} signal */
export const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });

/** @param {string} method @param {object} request @param {boolean} isRead @param {AbortSignal} [signal] */
async function once(method, request, isRead, signal) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(urlOf(method), {
      method: "POST",
      headers: { ...headers("application/json", isRead), "connect-timeout-ms": String(TIMEOUT_MS) },
      body: JSON.stringify(request),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (limit.aborted) throw new CallError("deadline_exceeded", `No reply within ${duration(TIMEOUT_MS)}.`);
    throw new CallError("unavailable", "no connection");
  }
  const body = await response.json().catch(() => undefined);
  if (signal?.aborted) throw signal.reason;
  if (!response.ok) throw errorOf(body, response.status);
  if (body === undefined) throw new CallError("unavailable", "the connection broke");
  return body;
}

/**
 * Makes a call that only reads; repeats it while the server is unavailable.
 *
 * @param {string} method @param {object} request @param {AbortSignal} [signal] @returns {Promise<any>}
 */
export async function read(method, request, signal) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await once(method, request, true, signal);
    } catch (error) {
      const isTransient = error instanceof CallError && error.code === "unavailable";
      if (!isTransient || attempt === ATTEMPTS) throw error;
      await pause(250 * 2 ** attempt * (0.5 + Math.random()), signal);
    }
  }
}

/** Makes a call that changes something, once. @param {string} method @param {object} request @returns {Promise<any>} */
export const write = (method, request) => once(method, request, false);

/** @param {object} message */
function frame(message) {
  const text = new TextEncoder().encode(JSON.stringify(message));
  const bytes = new Uint8Array(5 + text.length);
  new DataView(bytes.buffer).setUint32(1, text.length);
  bytes.set(text, 5);
  return bytes;
}

/**
 * Makes a streaming call and yields its messages until the stream ends or `signal` aborts.
 *
 * @param {string} method @param {object} request @param {AbortSignal} signal
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* stream(method, request, signal) {
  let response;
  try {
    response = await fetch(urlOf(method), {
      method: "POST", headers: headers("application/connect+json", true), body: frame(request), signal,
    });
  } catch (error) {
    if (signal.aborted) return;
    throw new CallError("unavailable", "no connection");
  }
  if (!response.ok || !response.body) throw errorOf(await response.json().catch(() => undefined), response.status);
  for await (const { flags, message } of frames(response.body, signal)) {
    if (!(flags & END_OF_STREAM)) yield message;
    else if (message.error) throw errorOf(message.error, 200);
    else return;
  }
  if (!signal.aborted) throw new CallError("unavailable", "the connection broke");
}

/** @param {ReadableStream<Uint8Array>} body @param {AbortSignal} signal */
async function* frames(body, signal) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let buffer = new Uint8Array(0);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const joined = new Uint8Array(buffer.length + value.length);
      joined.set(buffer);
      joined.set(value, buffer.length);
      buffer = joined;
      while (buffer.length >= 5) {
        const end = 5 + new DataView(buffer.buffer, buffer.byteOffset).getUint32(1);
        if (buffer.length < end) break;
        yield { flags: buffer[0], message: JSON.parse(decoder.decode(buffer.subarray(5, end))) };
        buffer = buffer.subarray(end);
      }
    }
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof TypeError) return; // the connection broke
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A curl command that makes a call. The key is read from a variable and never part of it. @param {string} method @param {object} request */
export function curl(method, request) {
  const quote = (/** @type {string} */ text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const authorization = key.get() ? ` -H "authorization: Bearer $EVENTS_API_KEY"` : "";
  return `curl -H 'content-type: application/json'${authorization} -d ${quote(JSON.stringify(request))} ${quote(urlOf(method))}`;
}
