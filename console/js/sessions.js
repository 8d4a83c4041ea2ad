// The sessions of a spirit, most recently active first.

import { read } from "./api.js";
import { button, el } from "./dom.js";
import { ago, count, counted, fullTime } from "./format.js";
import { ListView } from "./list_view.js";
import { pager } from "./pager.js";
import { amended, go, links } from "./router.js";

const PAGE = 50;
/** Pages of a filter that found nothing before a person is asked whether to go on. */
const EMPTY_PAGES_MAX = 10;
const FIELDS = new Map([["title", "titleContains"], ["id", "sessionIdPrefix"], ["owner", "owner"]]);

export class SessionsView extends ListView {
  /** @param {import("./router.js").Route} route @param {import("./main.js").OnPlace} onplace */
  constructor(route, onplace) {
    super(route, onplace, { placeholder: "Filter", label: "Filter sessions" });
    this.spiritId = route.spiritId;
    this.by = /** @type {HTMLSelectElement} */ (el("select", { "aria-label": "Filter by", onchange: () => this.filter() },
      el("option", { value: "title", text: "Title contains" }), el("option", { value: "id", text: "Id begins with" }), el("option", { value: "owner", text: "Owner is" })));
    this.by.value = this.query.get("by") ?? "title";
    this.empty = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", checked: this.query.get("empty") === "1", onchange: () => this.filter() }));
    this.node = this.frame(
      el("div", { class: "joined" }, this.by, this.input),
      el("label", { class: "choice" }, this.empty, el("span", { text: "Empty" })),
      el("a", { class: "button", href: links.events(this.spiritId, undefined), text: "All events" }),
    );
  }

  async mount() {
    await Promise.all([this.#readSpirit(), this.load()]);
  }

  /** @param {import("./router.js").Route} route */
  async update(route) {
    this.by.value = route.query.get("by") ?? "title";
    await super.update(route);
  }

  async #readSpirit() {
    const { spirit } = await read("SpiritService/GetSpirit", { spiritId: this.spiritId, includeDeleted: true });
    this.title.textContent = spirit.name || spirit.id;
    this.facts.textContent = [`last sequence ${count(spirit.lastSequence ?? 0)}`, spirit.isDeleted && "deleted", spirit.description].filter(Boolean).join(" · ");
    this.onplace({ spirit });
  }

  filter() {
    const by = this.by.value === "title" ? undefined : this.by.value;
    this.reload({ q: this.input.value, by, empty: this.empty.checked ? "1" : undefined, page: undefined });
  }

  async load() {
    const { signal, token } = this.beginRead();
    const text = this.query.get("q");
    const filter = { includeEmpty: this.query.get("empty") === "1", ...(text && { [FIELDS.get(this.query.get("by") ?? "") ?? "titleContains"]: text }) };
    let pageToken = token;
    for (let pages = 1; ; pages++) {
      const reply = await read("SessionService/ListSessions", { spiritId: this.spiritId, filter, pageSize: PAGE, pageToken }, signal);
      pageToken = reply.nextPageToken ?? "";
      const sessions = reply.sessions ?? [];
      if (sessions.length > 0 || !pageToken || pages === EMPTY_PAGES_MAX) {
        this.#draw(sessions, token, pageToken);
        return;
      }
    }
  }

  /** @param {any[]} sessions @param {string} token @param {string} next */
  #draw(sessions, token, next) {
    const goTo = (/** @type {string} */ page) => go(amended({ page }));
    const key = `sessions:${this.spiritId}:${this.query.get("by")}:${this.query.get("empty")}:${this.query.get("q")}`;
    if (sessions.length > 0) {
      this.show(sessionTable(this.spiritId, sessions), pager(key, token, next, goTo));
    } else if (next) {
      this.show(el("p", { class: "empty", role: "status" }, "Nothing found yet among the most recent sessions. "), button("Search on", { onclick: () => goTo(next) }));
    } else {
      this.show(el("p", { class: "empty", role: "status", text: this.query.get("q") ? "No session passes the filter." : "There are no sessions yet." }));
    }
  }

  keys() {
    return { ...super.keys(), u: () => go(links.spirits()) };
  }
}

/** @param {string} spiritId @param {any[]} sessions */
function sessionTable(spiritId, sessions) {
  const rows = sessions.map((session) =>
    el(
      "tr",
      {},
      el("td", { class: "cell-main" },
        el("a", { href: links.events(spiritId, session.sessionId), "data-item": true, class: "stretched", text: session.title ?? session.sessionId }),
        session.title && el("p", { class: "muted clamp mono", text: session.sessionId })),
      el("td", { class: "cell-side", text: session.owner ?? "" }),
      el("td", { class: "cell-number", text: counted(session.eventCount ?? 0, "event") }),
      el("td", { class: "cell-side", title: fullTime(session.lastOccurredAt), text: session.lastOccurredAt ? ago(session.lastOccurredAt) : "no events" }),
    ),
  );
  const heads = ["Session", "Owner", "Events", "Last activity"].map((text, column) => el("th", { scope: "col", class: column === 2 ? "cell-number" : undefined, text }));
  return el("table", { class: "list" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
}
