// The events of a session or a spirit in one order, by index. Reads the pages around what is in view and keeps few of
// them, so that the memory does not depend on the number of events.

import { read } from "./api.js";
import { notifyError } from "./notices.js";
import { isBefore, ORDERS, within } from "./orders.js";

/** @typedef {any} Event an event as JSON, see elephantasm.events.v1.Event */

const PAGE = 100;
/** Pages in memory beside the last one. */
const PAGES_MAX = 12;
const PAUSE_MS = 60;
/** Rows beyond those in view that are read in advance. */
const AHEAD = 40;
/** Longer content is read when a person opens it. */
export const CONTENT_BYTES_MAX = 8_192;

export class Feed {
  /**
   * @param {{spiritId: string, sessionId?: string, filter: Record<string, any>}} selection
   * @param {import("./orders.js").Order} order
   * @param {() => void} onloaded events have been read, or have changed
   */
  constructor(selection, order, onloaded) {
    this.selection = selection;
    this.order = order;
    this.onloaded = onloaded;
    this.total = 0;
    /** @type {Map<number, Event[]>} */
    this.pages = new Map();
    /** Page tokens by page; a page without one is read by its offset. @type {Map<number, string>} */
    this.tokens = new Map();
    /** @type {Map<number, {controller: AbortController, done: Promise<void>, isNeeded: boolean}>} */
    this.loading = new Map();
    /** @type {Map<string, number>} indexes of the events in memory by id */
    this.indexes = new Map();
    /** @type {Map<string, number>} */
    this.calls = new Map();
    /** @type {Map<string, number>} */
    this.results = new Map();
    this.wanted = { first: 0, last: 0 };
    this.pause = 0;
    this.generation = 0;
  }

  /** Counts the events, and reads the last page, which new events are appended to. */
  async open() {
    this.generation++;
    for (const { controller } of this.loading.values()) controller.abort();
    for (const map of [this.loading, this.pages, this.tokens, this.indexes, this.calls, this.results]) map.clear();
    this.total = await this.countUntil(undefined);
    await this.load(this.#lastPage);
  }

  close() {
    this.generation++;
    clearTimeout(this.pause);
    for (const { controller } of this.loading.values()) controller.abort();
  }

  get #lastPage() {
    return Math.max(0, Math.floor((this.total - 1) / PAGE));
  }

  /** The event at an index, if it is in memory. @param {number} index @returns {Event | undefined} */
  get(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  /** The first event in memory at or after an index. @param {number} index */
  nearest(index) {
    for (let at = index; at < index + PAGE; at++) if (this.get(at)) return this.get(at);
    return undefined;
  }

  /** @param {string} eventId */
  indexOf(eventId) {
    return this.indexes.get(eventId) ?? -1;
  }

  /** Reads the events of a range, and stops reading others. @param {number} first @param {number} last exclusive */
  want(first, last) {
    const hasMoved = first !== this.wanted.first || last !== this.wanted.last;
    this.wanted = { first, last };
    if (this.pause) return;
    this.#readWanted();
    // While a reader scrolls fast, the pages on the way are passed over.
    if (hasMoved) this.pause = setTimeout(() => { this.pause = 0; this.#readWanted(); }, PAUSE_MS);
  }

  #readWanted() {
    const first = Math.max(0, this.wanted.first - AHEAD);
    const last = this.wanted.last + AHEAD;
    const [from, to] = [Math.floor(first / PAGE), Math.floor((last - 1) / PAGE)];
    for (const [page, { controller, isNeeded }] of this.loading) {
      if ((page < from - 1 || page > to + 1) && !isNeeded) controller.abort();
    }
    for (let page = from; page <= to && page * PAGE < this.total; page++) {
      if (!this.pages.has(page)) this.load(page, false).catch(notifyError);
    }
  }

  /** Reads a page unless it is in memory; `isNeeded` = also if it is not in view. @param {number} page @param {boolean} [isNeeded] @returns {Promise<void>} */
  load(page, isNeeded = true) {
    if (this.pages.has(page)) return Promise.resolve();
    const running = this.loading.get(page);
    if (running && !running.controller.signal.aborted) {
      running.isNeeded ||= isNeeded;
      return running.done;
    }
    const controller = new AbortController();
    const done = this.#read(page, controller.signal).finally(() => {
      if (this.loading.get(page)?.controller === controller) this.loading.delete(page);
    });
    this.loading.set(page, { controller, done, isNeeded });
    return done;
  }

  /** Reads the page of an index unless it is in memory. @param {number} index */
  loadAt(index) {
    return this.load(Math.floor(index / PAGE));
  }

  /** @param {number} page @param {AbortSignal} signal */
  async #read(page, signal) {
    const { generation } = this;
    let token = this.tokens.get(page);
    /** @type {Event[]} */
    const events = [];
    do {
      const position = token ? { pageToken: token } : { offset: page * PAGE };
      const reply = await read("EventService/ListEvents", {
        ...this.selection, ...position,
        order: ORDERS[this.order].wire, pageSize: PAGE - events.length, contentBytesMax: CONTENT_BYTES_MAX,
      }, signal);
      events.push(...(reply.events ?? []));
      token = reply.nextPageToken;
    } while (token && events.length < PAGE);
    if (generation !== this.generation) return;
    if (token) this.tokens.set(page + 1, token);
    this.#keep(page, events, !token);
  }

  /** @param {number} page @param {Event[]} events @param {boolean} isEnd */
  #keep(page, events, isEnd) {
    this.pages.set(page, events);
    events.forEach((event, at) => this.#index(event, page * PAGE + at));
    const read = page * PAGE + events.length;
    if (isEnd && (events.length > 0 || page === 0)) this.total = read;
    else this.total = Math.max(this.total, read);
    this.#evict(page);
    this.onloaded();
  }

  /** @param {Event} event @param {number} index */
  #index(event, index) {
    this.indexes.set(event.id, index);
    const id = event.meta?.tool_call_id;
    if (typeof id !== "string") return;
    if (event.eventType === "tool.call") this.calls.set(id, index);
    else if (event.eventType === "tool.result") this.results.set(id, index);
  }

  /** Forgets the pages that are the farthest from what is in view, but never the last one and a new one. @param {number} [fresh] */
  #evict(fresh) {
    const middle = (this.wanted.first + this.wanted.last) / 2 / PAGE;
    const isKept = (/** @type {number} */ page) => page === this.#lastPage || page === fresh;
    const distance = (/** @type {number} */ page) => (isKept(page) ? -1 : Math.abs(page + 0.5 - middle));
    while (this.pages.size > PAGES_MAX + 1) {
      const page = [...this.pages.keys()].reduce((a, b) => (distance(b) > distance(a) ? b : a));
      for (const event of this.pages.get(page) ?? []) {
        this.indexes.delete(event.id);
        const id = event.meta?.tool_call_id;
        const pairs = event.eventType === "tool.call" ? this.calls : this.results;
        if (typeof id === "string" && Math.floor((pairs.get(id) ?? -1) / PAGE) === page) pairs.delete(id);
      }
      this.pages.delete(page);
    }
  }

  /** The index of the result of a call; undefined if there is none in memory. @param {number} index */
  resultOf(index) {
    const call = this.get(index);
    if (call?.eventType !== "tool.call") return undefined;
    const id = call.meta?.tool_call_id;
    const result = typeof id === "string" ? this.results.get(id) : index + 1;
    const event = result === undefined || result <= index ? undefined : this.get(result);
    if (event?.eventType !== "tool.result" || event.meta?.tool_call_id !== id) return undefined;
    return typeof id === "string" && this.calls.get(id) !== index ? undefined : result;
  }

  /** The index of the call of a result, whose row shows the result. @param {number} index */
  callOf(index) {
    const result = this.get(index);
    if (result?.eventType !== "tool.result") return undefined;
    const id = result.meta?.tool_call_id;
    const call = typeof id === "string" ? this.calls.get(id) : index - 1;
    return call !== undefined && this.resultOf(call) === index ? call : undefined;
  }

  /**
   * Adds an event that was just stored. Returns `added`, `known`, or `moved` if indexes have changed, because it
   * comes before others.
   *
   * @param {Event} event
   */
  add(event) {
    if (this.indexes.has(event.id)) return "known";
    const last = this.total > 0 ? this.get(this.total - 1) : undefined;
    if (this.total > 0 && (!last || isBefore(this.order, event, last))) return "moved";
    const index = this.total++;
    const page = Math.floor(index / PAGE);
    if (index % PAGE === 0) this.pages.set(page, []);
    this.pages.get(page)?.push(event);
    this.#index(event, index);
    this.#evict();
    return "added";
  }

  /** Replaces an event that was edited. @param {Event} event */
  replace(event) {
    const index = this.indexOf(event.id);
    const page = this.pages.get(Math.floor(index / PAGE));
    if (index < 0 || !page) return;
    page[index % PAGE] = event;
    this.onloaded();
  }

  /** The number of events that occurred before a time. @param {string | undefined} until @param {string} [from] @param {AbortSignal} [signal] */
  async countUntil(until, from, signal) {
    const filter = within(this.selection.filter, from, until);
    if (!filter) return 0;
    const reply = await read("EventService/CountEvents", { ...this.selection, filter }, signal);
    return Number(reply.count ?? 0);
  }

  /** Reads a single event without its content. @param {Record<string, any>} request @param {AbortSignal} [signal] @returns {Promise<Event | undefined>} */
  async #readOne(request, signal) {
    const reply = await read("EventService/ListEvents", { ...this.selection, pageSize: 1, view: "EVENT_VIEW_BASIC", ...request }, signal);
    return reply.events?.[0];
  }

  /** The earliest and the latest event. @param {AbortSignal} signal */
  ends(signal) {
    return Promise.all(["EVENT_ORDER_OLDEST_FIRST", "EVENT_ORDER_NEWEST_FIRST"].map((order) => this.#readOne({ order }, signal)));
  }

  /** The index of the first event by time that occurred at or after a time, or of the last event. @param {string} timestamp */
  async indexAt(timestamp) {
    const last = this.total - 1;
    if (this.order === "time") return Math.min(await this.countUntil(timestamp), last);
    const filter = within(this.selection.filter, timestamp, undefined);
    const event = filter && (await this.#readOne({ order: "EVENT_ORDER_OLDEST_FIRST", filter }));
    return event ? Math.min(await this.position(event), last) : last;
  }

  /** An index at or before that of an event. @param {Event} event */
  async #before(event) {
    if (this.order === "time") return this.countUntil(event.occurredAt);
    // There is no count by sequence, so the pages are halved until one is left.
    let [low, high] = [0, this.#lastPage];
    while (low < high) {
      const page = Math.ceil((low + high) / 2);
      const first = this.get(page * PAGE) ?? (await this.#readOne({ order: ORDERS.sequence.wire, offset: page * PAGE }));
      if (first && !isBefore(this.order, event, first)) low = page;
      else high = page - 1;
    }
    return low * PAGE;
  }

  /** The index of an event, or the one at which it would be if it is not among these events. @param {Event} event */
  async position(event) {
    if (this.indexOf(event.id) >= 0) return this.indexOf(event.id);
    if (this.total === 0) return 0;
    for (let index = await this.#before(event); index < this.total; index++) {
      await this.loadAt(index);
      const found = this.get(index);
      if (!found || !isBefore(this.order, found, event)) return index;
    }
    return this.total;
  }

  /** Finds the index of an event; -1 if it is not among these events. @param {Event} event */
  async locate(event) {
    const index = await this.position(event);
    return this.get(index)?.id === event.id ? index : -1;
  }
}
