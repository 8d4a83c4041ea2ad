// The details of an event: its fields, where it came from, its meta, its history, and what can be done with it.

import { mayWrite } from "./access.js";
import { curl, read } from "./api.js";
import { textView } from "./content.js";
import { button, copyText, el, fill, icon } from "./dom.js";
import { deleteEvent, editEvent, restoreEvent, rewind } from "./edits.js";
import { byteSize, fullTime } from "./format.js";
import { jsonView } from "./json_view.js";
import { attempt, notify, notifyError } from "./notices.js";
import { orderOf, orderParameter } from "./orders.js";
import { links, parse } from "./router.js";
import { kindOf } from "./rows.js";

const KIND_NAMES = {
  CHANGE_KIND_UPDATED: "Edited",
  CHANGE_KIND_DELETED: "Deleted",
  CHANGE_KIND_RESTORED: "Restored",
  CHANGE_KIND_PURGED: "Purged",
};

export class Inspector {
  /** @param {{onclose: () => void, onedited: (event: any) => void, onrewound: () => void}} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    this.node = el("aside", { class: "inspector", "aria-label": "Details", hidden: true, tabIndex: -1 });
    /** @type {AbortController | undefined} */
    this.reading = undefined;
    /** @type {any} */
    this.event = undefined;
  }

  get isOpen() {
    return !this.node.hidden;
  }

  close() {
    this.reading?.abort();
    this.node.hidden = true;
  }

  /** Shows an event as it is known, and then as it is read, with its history. @param {any} event */
  show(event) {
    const isOther = this.event?.id !== event.id;
    this.event = event;
    this.node.hidden = false;
    this.reading?.abort();
    this.reading = new AbortController();
    if (isOther) this.#draw(event, undefined, undefined);
    this.#read(event, this.reading.signal).catch(notifyError);
  }

  /** @param {any} event @param {AbortSignal} signal */
  async #read(event, signal) {
    const reference = { eventId: event.id, spiritId: event.spiritId };
    const [whole, changes] = await Promise.all([
      read("EventService/GetEvent", { ...reference, includeDeleted: true }, signal),
      read("EventService/ListEventChanges", reference, signal),
    ]);
    this.event = whole.event;
    this.#draw(whole.event, changes.changes ?? [], changes.nextPageToken);
  }

  /** @param {any} event @param {any[] | undefined} changes @param {string | undefined} nextPage */
  #draw(event, changes, nextPage) {
    const open = new Set([...this.node.querySelectorAll("details")].filter((each) => each.open).map((each) => each.dataset.name));
    const place = this.node.scrollTop;
    const focused = this.node.contains(document.activeElement) ? nameOf(document.activeElement) : undefined;
    fill(
      this.node,
      el(
        "header",
        { class: "inspector-head" },
        el("h2", { text: `${kindOf(event).name} ${event.sequence ?? ""}` }),
        button("Close details", { class: "quiet", onclick: this.handlers.onclose }, icon("close")),
      ),
      this.#actions(event),
      el("h3", { text: "Event" }), fields(event),
      event.metaSummary && [el("h3", { text: "Summary" }), el("p", { class: "inspector-text", text: event.metaSummary })],
      el("h3", { text: "Provenance" }), provenance(event),
      event.meta && Object.keys(event.meta).length > 0 && [el("h3", { text: "Meta" }), jsonView(event.meta)],
      el("h3", { text: "History" }), history(changes, nextPage),
      section("content", `Content as stored, ${byteSize(new TextEncoder().encode(event.content ?? "").length)}`, () => textView(event.content ?? "", "text")),
      section("raw", "Event as JSON", () => jsonView(event)),
    );
    for (const details of this.node.querySelectorAll("details")) details.open = open.has(details.dataset.name);
    this.node.scrollTop = place;
    if (focused === undefined) return;
    const same = [...this.node.querySelectorAll("button, summary")].find((each) => nameOf(each) === focused) ?? this.node;
    /** @type {HTMLElement} */ (same).focus({ preventScroll: true });
  }

  /** @param {any} event */
  #actions(event) {
    const { onedited, onrewound } = this.handlers;
    const copy = (/** @type {string} */ name, /** @type {() => string} */ text) =>
      button(name, { onclick: () => attempt(async () => { await copyText(text()); notify("Copied."); }) });
    const edits = mayWrite() && [
      button("Edit", { onclick: () => editEvent(event, onedited) }),
      event.isDeleted
        ? button("Restore", { onclick: () => attempt(() => restoreEvent(event, onedited)) })
        : button("Delete", { onclick: () => attempt(() => deleteEvent(event, onedited)) }),
      event.sessionId && button("Rewind to here", { onclick: () => rewind(event, onrewound) }),
    ];
    return el(
      "div",
      { class: "inspector-actions" },
      copy("Copy id", () => event.id),
      copy("Copy link", () => new URL(linkTo(event), document.baseURI).href),
      copy("Copy as curl", () => curl("EventService/GetEvent", { eventId: event.id, spiritId: event.spiritId })),
      edits,
    );
  }
}

/** @param {Element | null} element */
const nameOf = (element) => element?.getAttribute("aria-label") ?? element?.textContent ?? "";

/** The address of an event in its session, in the order of the current address. @param {any} event */
export function linkTo(event) {
  const order = orderParameter(orderOf(parse(location.hash).query));
  return links.events(event.spiritId, event.sessionId, { event: event.id, inspect: 1, deleted: event.isDeleted ? 1 : undefined, order });
}

/** A part that is made when it is first opened. @param {string} name @param {string} title @param {() => Node} content */
function section(name, title, content) {
  const details = /** @type {HTMLDetailsElement} */ (el("details", { "data-name": name }, el("summary", { text: title })));
  details.addEventListener("toggle", () => details.open && details.childElementCount === 1 && details.append(content()));
  return details;
}

/** @param {[string, any][]} entries */
function definitions(entries) {
  const shown = entries.filter(([, value]) => value !== undefined && value !== "");
  return el("dl", { class: "fields" }, ...shown.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: String(value) })]));
}

/** @param {any} event */
const fields = (event) =>
  definitions([
    ["Id", event.id], ["Sequence", event.sequence], ["Type", event.eventType], ["Role", event.role], ["Author", event.author],
    ["Occurred", fullTime(event.occurredAt)], ["Importance", event.importanceScore], ["Revision", event.revision],
    ["Deleted", fullTime(event.deletedAt)],
  ]);

/** @param {any} event */
const provenance = (event) =>
  definitions([
    ["Session", event.sessionId], ["Source", event.sourceUri], ["Dedupe key", event.dedupeKey],
    ["Model", typeof event.meta?.model === "string" ? event.meta.model : undefined],
    ["Stored", fullTime(event.createdAt)], ["Updated", fullTime(event.updatedAt)],
  ]);

/** @param {any} previous */
function former(previous) {
  const isEmpty = Object.keys(previous).length === 0;
  return el("div", { class: "former" }, el("span", { class: "muted", text: isEmpty ? "Before: no value" : "Before:" }), !isEmpty && jsonView(previous));
}

/** @param {any[] | undefined} changes @param {string | undefined} nextPage */
function history(changes, nextPage) {
  if (!changes) return el("p", { class: "muted", text: "Reading…" });
  if (changes.length === 0) return el("p", { class: "muted", text: "Never changed." });
  const items = changes.map((change) =>
    el(
      "li",
      {},
      el("p", {}, el("strong", { text: KIND_NAMES[change.kind] ?? change.kind }), ` ${fullTime(change.changedAt)}`,
        change.changedBy && ` by ${change.changedBy}`),
      change.fields?.length > 0 && el("p", { class: "muted", text: `${change.fields.join(", ")} · change ${change.change}` }),
      change.previous && former(change.previous),
    ),
  );
  return el("ol", { class: "history" }, ...items, nextPage && el("li", { class: "muted", text: "Older changes: see ListEventChanges." }));
}
