// Follows a stream of a spirit, which is opened again after the last item when it breaks.

import { CallError, pause, stream } from "./api.js";
import { CONTENT_BYTES_MAX } from "./feed.js";

const GATHER_MS = 60;
const PAUSE_MIN_MS = 250;
const PAUSE_MAX_MS = 10_000;
/** A stream that lasted this long was not broken from the start, so the next pause is short again. */
const STABLE_MS = 5_000;
/** Attempts in a row that fail before the page gives up; about five minutes. */
const FAILURES_MAX = 35;
/** Reasons for which opening the stream again is of no use. */
const FINAL = new Set(["unauthenticated", "permission_denied", "not_found", "invalid_argument"]);

/** @typedef {"off" | "connecting" | "live" | "broken" | "ended"} State */
/** @typedef {{method: string, after: string, position: string, item: string}} Kind the RPC, and the fields of its position and items */

/** @type {Kind} */
export const NEW_EVENTS = { method: "EventService/WatchEvents", after: "afterSequence", position: "sequence", item: "event" };
/** @type {Kind} */
export const CHANGES = { method: "EventService/WatchChanges", after: "afterChange", position: "lastChange", item: "change" };

/** The request for new events of a selection. @param {{spiritId: string, sessionId?: string, filter: Record<string, any>}} selection */
export const newEventsOf = (selection) => ({ ...selection, contentBytesMax: CONTENT_BYTES_MAX });

export class Follower {
  /**
   * @param {Kind} kind
   * @param {Record<string, any>} request without the position
   * @param {string | undefined} position after which items are new
   * @param {{onitems: (items: any[]) => void, onstate?: (state: State) => void, ongone?: () => void}} handlers
   *   ongone: items after the position are no longer stored
   */
  constructor(kind, request, position, handlers) {
    this.kind = kind;
    this.request = request;
    this.position = Number(position ?? 0);
    this.handlers = handlers;
    /** @type {AbortController | undefined} */
    this.controller = undefined;
    /** @type {any[]} */
    this.gathered = [];
    this.timer = 0;
  }

  start() {
    if (this.controller) return;
    this.controller = new AbortController();
    this.#run(this.controller);
  }

  stop() {
    this.controller?.abort();
    this.controller = undefined;
    this.#deliver();
    this.#setState("off");
  }

  /** @param {State} state */
  #setState(state) {
    this.handlers.onstate?.(state);
  }

  /** @param {AbortController} controller */
  async #run(controller) {
    const { signal } = controller;
    for (let failures = 0; failures <= FAILURES_MAX; failures++) {
      this.#setState(failures === 0 ? "connecting" : "broken");
      const openedAt = performance.now();
      const end = await this.#follow(signal);
      if (signal.aborted) return;
      if (end === "gone") this.handlers.ongone?.();
      if (end !== "broken") break;
      if (performance.now() - openedAt >= STABLE_MS) failures = 0;
      await pause(Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** failures) * (0.5 + Math.random()), signal).catch(() => {});
      if (signal.aborted) return;
    }
    this.controller = undefined; // start begins again
    this.#setState("ended");
  }

  /** Reads one stream to its end. @param {AbortSignal} signal @returns {Promise<"broken" | "final" | "gone">} */
  async #follow(signal) {
    const { method, after } = this.kind;
    try {
      for await (const item of stream(method, { ...this.request, [after]: String(this.position) }, signal)) this.#take(item);
    } catch (error) {
      const code = error instanceof CallError ? error.code : "";
      if (code === "out_of_range") return "gone";
      if (FINAL.has(code)) return "final";
    }
    return "broken";
  }

  /** @param {any} message */
  #take(message) {
    this.#setState("live");
    const { position, item } = this.kind;
    this.position = Math.max(this.position, Number(message[position] ?? 0));
    if (!message[item]) return;
    this.gathered.push(message[item]);
    if (!this.timer) this.timer = setTimeout(() => this.#deliver(), GATHER_MS);
  }

  #deliver() {
    clearTimeout(this.timer);
    this.timer = 0;
    const items = this.gathered.splice(0);
    if (items.length > 0) this.handlers.onitems(items);
  }
}
