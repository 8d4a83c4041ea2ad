// Follows new events by a stream, which is opened again after the last event when it breaks.

import { CallError, stream } from "./api.js";
import { CONTENT_BYTES_MAX } from "./feed.js";

const GATHER_MS = 60;
const PAUSE_MAX_MS = 10_000;
/** Reasons for which opening the stream again is of no use. */
const FINAL = new Set(["unauthenticated", "permission_denied", "not_found", "invalid_argument"]);

/** @typedef {"off" | "connecting" | "live" | "broken" | "ended"} State */

export class Follower {
  /**
   * @param {{spiritId: string, sessionId?: string, filter: Record<string, any>}} selection
   * @param {number} sequence after which events are new
   * @param {{onevents: (events: any[]) => void, onstate: (state: State) => void}} handlers
   */
  constructor(selection, sequence, handlers) {
    this.selection = selection;
    this.sequence = sequence;
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
    this.#run(this.controller.signal);
  }

  stop() {
    this.controller?.abort();
    this.controller = undefined;
    this.#deliver();
    this.handlers.onstate("off");
  }

  /** @param {AbortSignal} signal */
  async #run(signal) {
    for (let failures = 0; !signal.aborted; failures++) {
      this.handlers.onstate(failures === 0 ? "connecting" : "broken");
      try {
        for await (const item of this.#items(signal)) {
          failures = 0;
          this.#take(item);
        }
      } catch (error) {
        if (error instanceof CallError && FINAL.has(error.code)) {
          this.handlers.onstate("ended");
          return;
        }
      }
      const wait = Math.min(PAUSE_MAX_MS, 250 * 2 ** failures) * (0.5 + Math.random());
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  /** @param {AbortSignal} signal */
  #items(signal) {
    const request = { ...this.selection, afterSequence: String(this.sequence), contentBytesMax: CONTENT_BYTES_MAX };
    return stream("EventService/WatchEvents", request, signal);
  }

  /** @param {any} item */
  #take(item) {
    this.handlers.onstate("live");
    this.sequence = Math.max(this.sequence, Number(item.sequence ?? 0));
    if (!item.event) return;
    this.gathered.push(item.event);
    if (!this.timer) this.timer = setTimeout(() => this.#deliver(), GATHER_MS);
  }

  #deliver() {
    clearTimeout(this.timer);
    this.timer = 0;
    const events = this.gathered.splice(0);
    if (events.length > 0) this.handlers.onevents(events);
  }
}
