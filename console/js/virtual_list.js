// A list of which only the rows in view exist. Rows have any height, which may change at any time; what a reader looks
// at stays where it is.

import { el } from "./dom.js";
import { Heights } from "./heights.js";

const OVERSCAN_PX = 600;
const END_PX = 24;
/** Rows that are lower than assumed make room for others, which are created in a further pass. */
const PASSES_MAX = 8;

/**
 * @typedef {object} Options
 * @property {(index: number) => HTMLElement} render creates the row of an index
 * @property {(first: number, last: number) => void} [onrange] the rows in view have changed
 * @property {(isAtEnd: boolean) => void} [onend] the end has come into view, or left it
 * @property {Record<string, any>} [attributes] of the scrolling element
 * @property {number} [estimate] height of a row before it is measured
 */

export class VirtualList {
  /** @param {Options} options */
  constructor(options) {
    this.options = options;
    this.heights = new Heights(options.estimate ?? 72);
    /** @type {Map<number, HTMLElement>} */
    this.rows = new Map();
    this.body = el("div", { class: "list-body", role: "presentation" });
    this.scroller = el("div", { class: "list-scroller", ...options.attributes }, this.body);
    /** The row at the top of the view, and how far it begins above it. */
    this.anchor = { index: 0, offset: 0 };
    this.isAtEnd = true;
    /** Where the list itself has scrolled to. */
    this.settledAt = 0;
    this.observer = new ResizeObserver((entries) => this.#resized(entries));
    this.observer.observe(this.scroller);
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // A gesture takes over, also where the list itself has just scrolled to.
    for (const gesture of ["wheel", "touchmove", "pointerdown"]) {
      this.scroller.addEventListener(gesture, () => { this.settledAt = -Infinity; }, { passive: true });
    }
  }

  get count() {
    return this.heights.count;
  }

  /** Changes the number of rows; rows that exist stay. @param {number} count */
  resize(count) {
    this.#takePlace();
    for (const index of [...this.rows.keys()]) if (index >= count) this.#unmount(index);
    this.heights.resize(count);
    this.#settle();
  }

  /** Creates the rows in view again that have changed. @param {(index: number, row: HTMLElement) => boolean} hasChanged */
  refresh(hasChanged) {
    const replaced = [];
    for (const [index, row] of [...this.rows]) {
      if (!hasChanged(index, row)) continue;
      const hadFocus = row.contains(document.activeElement);
      this.#unmount(index);
      replaced.push([index, this.#mount(index)]);
      if (hadFocus) this.rows.get(index)?.focus({ preventScroll: true });
    }
    if (replaced.length === 0) return;
    this.#takePlace();
    for (const [index, row] of replaced) this.heights.set(index, row.getBoundingClientRect().height);
    this.#settle();
  }

  /** Forgets all rows and their heights; shows the end, or a place. @param {number} count @param {{index: number, below: number}} [place] */
  reset(count, place) {
    for (const index of [...this.rows.keys()]) this.#unmount(index);
    this.heights.resize(0);
    this.heights.resize(count);
    if (place) this.scrollTo(place.index, place.below);
    else this.scrollToEnd();
  }

  /** Brings a row to the top of the view, or as close below it as given. @param {number} index @param {number} [below] */
  scrollTo(index, below = 80) {
    this.#setAtEnd(false);
    this.anchor = { index: Math.max(0, Math.min(index, this.count - 1)), offset: below };
    this.#settle();
  }

  /** The rows in view, from the top, and how far below the top of the view each begins. */
  places() {
    this.#takePlace();
    const { scrollTop, clientHeight } = this.scroller;
    const found = [];
    let below = this.heights.top(this.heights.at(scrollTop)) - scrollTop;
    for (let index = this.heights.at(scrollTop); index < this.count && below < clientHeight; index++) {
      found.push({ index, below });
      below += this.heights.get(index);
    }
    return found;
  }

  /** Brings a row into view if it is not. @param {number} index */
  reveal(index) {
    const top = this.heights.top(index) - this.scroller.scrollTop;
    const bottom = top + this.heights.get(index);
    if (top < 0) this.scrollTo(index, 12);
    else if (bottom > this.scroller.clientHeight) {
      this.scrollTo(index, Math.max(12, this.scroller.clientHeight - this.heights.get(index) - 24));
    }
  }

  scrollToEnd() {
    this.#setAtEnd(true);
    this.#settle();
  }

  dispose() {
    this.observer.disconnect();
  }

  #scrolled() {
    this.#takePlace();
    this.#layout();
  }

  /** Takes the place that a reader has scrolled to, if it is another one, as the one to keep. */
  #takePlace() {
    const { scrollTop, clientHeight } = this.scroller;
    if (this.count === 0 || Math.abs(scrollTop - this.settledAt) < 1) return;
    this.#takeAnchor();
    this.settledAt = scrollTop;
    this.#setAtEnd(scrollTop + clientHeight >= this.heights.total - END_PX);
  }

  #takeAnchor() {
    const { scrollTop } = this.scroller;
    const index = this.heights.at(scrollTop);
    this.anchor = { index, offset: this.heights.top(index) - scrollTop };
  }

  /** @param {boolean} isAtEnd */
  #setAtEnd(isAtEnd) {
    if (isAtEnd === this.isAtEnd) return;
    this.isAtEnd = isAtEnd;
    this.options.onend?.(isAtEnd);
  }

  /** @param {ResizeObserverEntry[]} entries */
  #resized(entries) {
    this.#takePlace();
    let hasChanged = false;
    for (const { target, borderBoxSize } of entries) {
      const index = Number(/** @type {HTMLElement} */ (target).dataset.index);
      const height = borderBoxSize[0].blockSize;
      if (target === this.scroller) hasChanged = true;
      else if (this.rows.get(index) === target && this.heights.get(index) !== height) {
        this.heights.set(index, height);
        hasChanged = true;
      }
    }
    if (hasChanged) this.#settle();
  }

  /** Shows the place to keep after heights or the number of rows have changed. */
  #settle() {
    this.#restore();
    this.#layout();
  }

  #restore() {
    this.body.style.height = `${this.heights.total}px`;
    const end = Math.max(0, this.heights.total - this.scroller.clientHeight);
    const wanted = this.isAtEnd ? end : this.heights.top(this.anchor.index) - this.anchor.offset;
    const scrollTop = Math.max(0, Math.min(wanted, end));
    if (Math.abs(this.scroller.scrollTop - scrollTop) > 0.5) this.scroller.scrollTop = scrollTop;
    this.settledAt = this.scroller.scrollTop;
    if (this.isAtEnd) this.#takeAnchor();
  }

  /** Creates the rows in view, measures them, and puts them in their places. */
  #layout() {
    if (this.count === 0 || this.scroller.clientHeight === 0) return;
    for (let pass = 0; pass < PASSES_MAX && this.#mountRange(); pass++) this.#restore();
    const { first, last } = this.#range();
    for (const index of [...this.rows.keys()]) if (index < first || index >= last) this.#unmount(index);
    let top = this.heights.top(first);
    for (let index = first; index < last; index++) {
      const row = this.rows.get(index);
      if (row) row.style.transform = `translateY(${top}px)`;
      top += this.heights.get(index);
    }
    this.options.onrange?.(first, last);
  }

  /** The rows in view and near it. */
  #range() {
    const { scrollTop, clientHeight } = this.scroller;
    const first = this.heights.at(Math.max(0, scrollTop - OVERSCAN_PX));
    let last = first;
    const end = scrollTop + clientHeight + OVERSCAN_PX;
    for (let bottom = this.heights.top(first); last < this.count && bottom < end; last++) bottom += this.heights.get(last);
    return { first, last };
  }

  /** Creates the missing rows of the range, and returns whether their heights differ from what was assumed. */
  #mountRange() {
    const { first, last } = this.#range();
    const fresh = [];
    for (let index = first; index < last; index++) if (!this.rows.has(index)) fresh.push([index, this.#mount(index)]);
    let hasChanged = false;
    for (const [index, row] of fresh) {
      const { height } = row.getBoundingClientRect();
      hasChanged ||= height !== this.heights.get(index);
      this.heights.set(index, height);
    }
    return hasChanged;
  }

  /** @param {number} index */
  #mount(index) {
    const row = this.options.render(index);
    row.dataset.index = String(index);
    row.classList.add("list-row");
    this.rows.set(index, row);
    // In the order of the list, so that a screen reader and Tab follow it.
    let next = index + 1;
    while (next < index + 200 && !this.rows.has(next)) next++;
    this.body.insertBefore(row, this.rows.get(next) ?? null);
    this.observer.observe(row);
    return row;
  }

  /** @param {number} index */
  #unmount(index) {
    const row = this.rows.get(index);
    if (!row) return;
    if (row.contains(document.activeElement)) this.scroller.focus({ preventScroll: true });
    this.observer.unobserve(row);
    row.remove();
    this.rows.delete(index);
  }
}
