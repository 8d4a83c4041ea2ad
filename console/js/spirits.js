// The list of spirits.

import { read } from "./api.js";
import { el } from "./dom.js";
import { ago, count, counted, fullTime } from "./format.js";
import { ListView } from "./list_view.js";
import { pager } from "./pager.js";
import { amended, go, links } from "./router.js";

const PAGE = 50;

export class SpiritsView extends ListView {
  /** @param {import("./router.js").Route} route @param {import("./main.js").OnPlace} onplace */
  constructor(route, onplace) {
    super(route, onplace, { placeholder: "Name", label: "Filter spirits by name" });
    this.title.textContent = "Spirits";
    const deleted = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", checked: this.query.get("deleted") === "1" }));
    deleted.addEventListener("change", () => this.reload({ deleted: deleted.checked ? "1" : undefined, page: undefined }));
    this.node = this.frame(this.input, el("label", { class: "choice" }, deleted, el("span", { text: "Deleted" })));
  }

  async mount() {
    this.onplace({});
    await this.load();
  }

  filter() {
    this.reload({ q: this.input.value, page: undefined });
  }

  async load() {
    const { signal, token } = this.beginRead();
    const nameContains = this.query.get("q") || undefined;
    const includeDeleted = this.query.get("deleted") === "1";
    const [reply, total] = await Promise.all([
      read("SpiritService/ListSpirits", { nameContains, includeDeleted, pageSize: PAGE, pageToken: token }, signal),
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
      this.show(el("p", { class: "empty", role: "status", text }));
      return;
    }
    this.show(spiritTable(spirits), pager(key, token, next, (page) => go(amended({ page }))));
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
