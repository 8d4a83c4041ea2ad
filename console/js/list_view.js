// The parts that the lists of spirits and of sessions share: frame, filter, reading page by page, and keys.

import { debounced, el, fill } from "./dom.js";
import { notifyError } from "./notices.js";
import { moveFocus } from "./pager.js";
import { amend } from "./router.js";

export class ListView {
  /**
   * @param {import("./router.js").Route} route @param {import("./main.js").OnPlace} onplace
   * @param {{placeholder: string, label: string}} filter names of the field that filters by a text
   */
  constructor(route, onplace, { placeholder, label }) {
    this.onplace = onplace;
    this.query = route.query;
    this.reading = new AbortController();
    this.list = el("div", { class: "table-slot" });
    this.title = el("h1", { text: "…" });
    this.facts = el("p", { class: "facts" });
    this.input = /** @type {HTMLInputElement} */ (el("input", {
      type: "search", class: "search", placeholder, "aria-label": label, maxlength: 255, value: this.query.get("q") ?? "",
      oninput: debounced(() => this.filter(), 200),
    }));
  }

  /** Creates the page. @param {...Node} controls beside the title */
  frame(...controls) {
    const head = el("header", { class: "view-head" },
      el("div", { class: "view-title" }, this.title, this.facts), el("div", { class: "view-buttons" }, ...controls));
    return el("div", { class: "page" }, head, this.list);
  }

  unmount() {
    this.reading.abort();
  }

  /** @param {import("./router.js").Route} route */
  async update(route) {
    this.query = route.query;
    this.input.value = this.query.get("q") ?? "";
    await this.load();
  }

  /** Reads the list with other parameters of the address. @param {Record<string, string | undefined>} changes */
  reload(changes) {
    this.query = amend(changes);
    this.load().catch(notifyError);
  }

  /** Ends a read that is under way; returns the signal and the page token of the next one. */
  beginRead() {
    this.reading.abort();
    this.reading = new AbortController();
    return { signal: this.reading.signal, token: this.query.get("page") ?? "" };
  }

  /** Shows a page; the focus goes to its first item if it was in the page before. @param {...(Node | undefined)} children */
  show(...children) {
    const hadFocus = this.list.contains(document.activeElement);
    fill(this.list, ...children);
    if (hadFocus) moveFocus(this.list, 1);
  }

  /** Applies the text of the filter. */
  filter() {}

  /** Reads and shows the page of the address. */
  async load() {}

  /** @returns {import("./keyboard.js").Keys} */
  keys() {
    const next = () => moveFocus(this.list, 1);
    const previous = () => moveFocus(this.list, -1);
    return { j: next, ArrowDown: next, k: previous, ArrowUp: previous, "/": () => this.input.focus() };
  }
}
