// The list of spirits.

import { read } from "./api.js";
import { debounced, el, fill } from "./dom.js";
import { ago, count, counted, fullTime } from "./format.js";
import { notifyError } from "./notices.js";
import { moveFocus, pager } from "./pager.js";
import { amend, amended, go, links } from "./router.js";

const PAGE = 50;

export class SpiritsView {
  /** @param {import("./router.js").Route} route @param {import("./main.js").OnPlace} onplace */
  constructor(route, onplace) {
    this.onplace = onplace;
    this.query = route.query;
    this.reading = new AbortController();
    this.list = el("div", { class: "table-slot" });
    this.facts = el("p", { class: "facts" });
    const filter = debounced((/** @type {string} */ q) => this.#reload({ q, page: undefined }), 200);
    this.input = el("input", {
      type: "search", class: "search", placeholder: "Name", "aria-label": "Filter spirits by name", maxlength: 255, value: this.query.get("q") ?? "",
      oninput: () => filter(/** @type {HTMLInputElement} */ (this.input).value),
    });
    const deleted = el("input", { type: "checkbox", checked: this.query.get("deleted") === "1" });
    deleted.addEventListener("change", () => {
      this.#reload({ deleted: /** @type {HTMLInputElement} */ (deleted).checked ? "1" : undefined, page: undefined });
    });
    this.node = el(
      "div",
      { class: "page" },
      el("header", { class: "view-head" }, el("div", { class: "view-title" }, el("h1", { text: "Spirits" }), this.facts),
        el("div", { class: "view-buttons" }, this.input, el("label", { class: "choice" }, deleted, el("span", { text: "Deleted" })))),
      this.list,
    );
  }

  async mount() {
    this.onplace({});
    await this.#load();
  }

  unmount() {
    this.reading.abort();
  }

  /** @param {import("./router.js").Route} route */
  async update(route) {
    this.query = route.query;
    /** @type {HTMLInputElement} */ (this.input).value = this.query.get("q") ?? "";
    await this.#load();
  }

  /** @param {Record<string, string | undefined>} changes of the address */
  #reload(changes) {
    this.query = amend(changes);
    this.#load().catch(notifyError);
  }

  async #load() {
    this.reading.abort();
    this.reading = new AbortController();
    const { signal } = this.reading;
    const token = this.query.get("page") ?? "";
    const nameContains = this.query.get("q") || undefined;
    const includeDeleted = this.query.get("deleted") === "1";
    const request = { nameContains, includeDeleted, pageSize: PAGE, pageToken: token };
    const [reply, total] = await Promise.all([
      read("SpiritService/ListSpirits", request, signal),
      read("SpiritService/CountSpirits", { includeDeleted }, signal),
    ]);
    this.facts.textContent = counted(total.count ?? 0, "spirit");
    this.#draw(reply.spirits ?? [], token, reply.nextPageToken);
  }

  /** @param {any[]} spirits @param {string} token @param {string | undefined} next */
  #draw(spirits, token, next) {
    const key = `spirits:${this.query.get("q")}:${this.query.get("deleted")}`;
    if (spirits.length === 0) {
      const text = this.query.get("q") ? "No spirit has such a name." : "There are no spirits yet. The first one is made by CreateSpirit or by import.";
      fill(this.list, el("p", { class: "empty", role: "status", text }));
      return;
    }
    fill(this.list, spiritTable(spirits), pager(key, token, next, (page) => go(amended({ page }))));
  }

  keys() {
    return {
      j: () => moveFocus(this.list, 1), ArrowDown: () => moveFocus(this.list, 1),
      k: () => moveFocus(this.list, -1), ArrowUp: () => moveFocus(this.list, -1),
      "/": () => this.input.focus(),
    };
  }
}

/** @param {any[]} spirits */
function spiritTable(spirits) {
  const rows = spirits.map((spirit) =>
    el(
      "tr",
      { class: spirit.isDeleted ? "row-deleted" : undefined },
      el("td", { class: "cell-main" },
        el("a", { href: links.sessions(spirit.id), "data-item": true, class: "stretched" }, spirit.name || spirit.id),
        spirit.isDeleted && el("span", { class: "mark mark-deleted", text: "deleted" }),
        spirit.description && el("p", { class: "muted clamp", text: spirit.description })),
      el("td", { class: "cell-number", "data-label": "Last sequence", text: count(spirit.lastSequence ?? 0) }),
      el("td", { class: "cell-side", "data-label": "Created", title: fullTime(spirit.createdAt), text: ago(spirit.createdAt) }),
    ),
  );
  const heads = ["Name", "Last sequence", "Created"].map((text, column) => el("th", { scope: "col", class: column === 1 ? "cell-number" : undefined, text }));
  return el("table", { class: "list" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
}
