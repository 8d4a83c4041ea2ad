// Keeps an open conversation as it is stored: new events, and the changes of events that other clients make.

import { CHANGES, Follower, NEW_EVENTS, newEventsOf } from "./follow.js";
import { attempt } from "./notices.js";

export class Live {
  /**
   * @param {object} handlers
   * @param {(events: any[]) => Promise<void>} handlers.onevents
   * @param {(changes: any[]) => Promise<void>} handlers.onchanges
   * @param {() => Promise<void>} handlers.ongone some changes cannot be known any more
   * @param {(state: import("./follow.js").State) => void} handlers.onstate
   */
  constructor(handlers) {
    this.handlers = handlers;
    /** @type {Follower[]} */
    this.followers = [];
    /** @type {import("./follow.js").State} */
    this.state = "off";
    /** The work on what has arrived: one thing after another. @type {Promise<void>} */
    this.work = Promise.resolve();
  }

  /** Sets what to follow; `spirit` was read before these events. @param {import("./feed.js").Feed} feed @param {any} spirit */
  open({ selection }, { id, lastSequence, lastChange }) {
    this.stop();
    const { onevents, onchanges, ongone } = this.handlers;
    const onstate = (/** @type {import("./follow.js").State} */ state) => this.#setState(state);
    this.followers = [
      new Follower(NEW_EVENTS, newEventsOf(selection), lastSequence, { onitems: this.#handler(onevents), onstate }),
      new Follower(CHANGES, { spiritId: id }, lastChange, { onitems: this.#handler(onchanges), ongone: this.#handler(ongone) }),
    ];
  }

  /** @param {import("./follow.js").State} state */
  #setState(state) {
    this.state = state;
    this.handlers.onstate(state);
  }

  start() {
    for (const follower of this.followers) follower.start();
  }

  /** Stops until the next start, which goes on after the last item. */
  stop() {
    for (const follower of this.followers) follower.stop();
  }

  /** @param {(items: any) => Promise<void>} handle @returns {(items?: any) => void} */
  #handler(handle) {
    return (items) => {
      this.work = this.work.then(() => attempt(() => handle(items)));
    };
  }
}
