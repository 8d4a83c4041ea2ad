// The rows of a conversation: an event in each, of a feed that may have more events than a list can have rows.

import { renderRow } from "./rows.js";
import { VirtualList } from "./virtual_list.js";

/** Rows of the list: browsers limit the height of an element. Jumps move the list to other events. */
const ROWS_MAX = 200_000;
/** Rows before a place that the list is moved to, or before the end, which leaves room for new events. */
const ROWS_BEFORE = 150_000;
const CONTROLS = "a, button, pre, summary";

/** @typedef {{event: any, below: number}} Place an event in view, and its distance from the top of the view */

export class EventList {
  /**
   * @param {import("./feed.js").Feed} feed
   * @param {object} handlers
   * @param {(first: number, last: number) => void} handlers.onrange the events in view have changed
   * @param {() => void} handlers.onend the end has come into view
   * @param {(event: any) => void} handlers.oninspect
   * @param {(index: number) => void} handlers.oncurrent
   */
  constructor(feed, handlers) {
    this.feed = feed;
    this.handlers = handlers;
    /** Index of the event in the first row. */
    this.base = 0;
    /** Id of the event with the focus. */
    this.current = "";
    this.list = new VirtualList({
      render: (row) => this.#row(this.base + row),
      onrange: (first, last) => handlers.onrange(this.base + first, this.base + last),
      onend: (isAtEnd) => isAtEnd && handlers.onend(),
      attributes: { role: "feed", "aria-label": "Events", tabIndex: 0 },
    });
    this.node = this.list.scroller;
    this.node.addEventListener("keydown", (event) => event.key === "Tab" && !event.shiftKey && event.target === this.node && this.#enter(event));
  }

  get isAtEnd() {
    return this.list.isAtEnd && this.#hasEnd;
  }

  /** Index of the event at the top of the view. */
  get topIndex() {
    return this.base + this.list.anchor.index;
  }

  /** Index of the current event; -1 if it is not in memory. */
  get currentIndex() {
    return this.current === "" ? -1 : this.feed.indexOf(this.current);
  }

  /** The row that shows the current event, if it exists. */
  get currentRow() {
    const index = this.currentIndex;
    return this.list.rows.get((this.feed.callOf(index) ?? index) - this.base);
  }

  /** Shows a feed, from a place on or at its end. @param {import("./feed.js").Feed} feed @param {{index: number, below: number}} [place] */
  open(feed, place) {
    const hadFocus = this.node.contains(document.activeElement);
    this.feed = feed;
    this.base = Math.max(0, feed.total - ROWS_BEFORE);
    if (place) this.#moveTo(place.index, place.below);
    else this.list.reset(this.#rowCount);
    if (hadFocus) (this.currentRow ?? this.node).focus({ preventScroll: true });
  }

  get #rowCount() {
    return Math.min(ROWS_MAX, this.feed.total - this.base);
  }

  /** Whether the last row is that of the last event. */
  get #hasEnd() {
    return this.base + this.#rowCount === this.feed.total;
  }

  /** Shows what has been read or has changed. */
  update() {
    if (this.list.count !== this.#rowCount) this.list.resize(this.#rowCount);
    this.refresh();
  }

  refresh() {
    this.list.refresh((row, node) => node.dataset.key !== this.#rowKey(this.base + row));
  }

  /** The events in view, from the top. @returns {Place[]} */
  places() {
    return this.list.places().map(({ index, below }) => ({ event: this.feed.get(this.base + index), below })).filter(({ event }) => event);
  }

  /** Brings an event close to the top of the view. @param {number} index @param {number} [below] */
  show(index, below) {
    const shown = this.feed.callOf(index) ?? index;
    if (this.#hasRow(shown)) this.list.scrollTo(shown - this.base, below);
    else this.#moveTo(shown, below);
    this.refresh();
  }

  /** @param {number} index */
  #hasRow(index) {
    return index >= this.base && index < this.base + this.list.count;
  }

  /** @param {number} index @param {number} [below] */
  #moveTo(index, below = 80) {
    const { total } = this.feed;
    if (index < this.base || index >= this.base + ROWS_MAX) this.base = Math.max(0, Math.min(index - ROWS_BEFORE / 2, total - ROWS_BEFORE));
    this.list.reset(this.#rowCount, { index: index - this.base, below });
  }

  /** Brings an event into view if it is not. @param {number} index */
  reveal(index) {
    if (this.#hasRow(index)) this.list.reveal(index - this.base);
    else this.show(index);
  }

  scrollToEnd() {
    if (this.#hasEnd) this.list.scrollToEnd();
    else this.open(this.feed);
  }

  /** @param {number} index */
  focus(index) {
    this.list.rows.get(index - this.base)?.focus({ preventScroll: true });
  }

  dispose() {
    this.list.dispose();
  }

  /** Tab leads from the list to the current row, or to the first one in view. @param {KeyboardEvent} event */
  #enter(event) {
    let index = this.currentRow ? (this.feed.callOf(this.currentIndex) ?? this.currentIndex) : this.topIndex;
    while (this.feed.callOf(index) !== undefined) index++;
    if (!this.feed.get(index) || !this.list.rows.has(index - this.base)) return;
    event.preventDefault();
    this.handlers.oncurrent(index);
  }

  /** @param {number} index */
  #row(index) {
    const { oninspect, oncurrent } = this.handlers;
    const result = this.feed.resultOf(index);
    const node = renderRow({
      index,
      total: this.feed.total,
      event: this.feed.get(index),
      previous: this.feed.get(index - 1),
      result: result === undefined ? undefined : this.feed.get(result),
      isShownByCall: this.feed.callOf(index) !== undefined,
      isCurrent: this.#isCurrent(index),
      oninspect,
      oncurrent,
    });
    node.dataset.key = this.#rowKey(index);
    // Tab reaches the controls of the current row only, so that it leaves the list however many rows there are.
    if (!this.#isCurrent(index)) for (const control of node.querySelectorAll(CONTROLS)) /** @type {HTMLElement} */ (control).tabIndex = -1;
    return node;
  }

  /** Everything that a row shows, as a text to compare. @param {number} index */
  #rowKey(index) {
    const event = this.feed.get(index);
    const result = this.feed.resultOf(index);
    const other = result === undefined ? "" : `${this.feed.get(result)?.id}:${this.feed.get(result)?.revision}`;
    return [event?.id, event?.revision, other, this.feed.callOf(index), this.feed.get(index - 1)?.id, this.#isCurrent(index)].join();
  }

  /** Whether a row shows the current event, or has its result. @param {number} index */
  #isCurrent(index) {
    const current = this.currentIndex;
    return current >= 0 && (current === index || this.feed.callOf(current) === index);
  }
}
