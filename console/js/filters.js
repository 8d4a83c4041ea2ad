// The filters of a list of events: their form, and their parameters in the address.

import { button, debounced, el } from "./dom.js";
import { field } from "./dialogs.js";
import { localInput, timestampOfInput } from "./format.js";

const TYPES = ["message.in", "message.out", "thought", "tool.call", "tool.result", "system", "error", "context.compaction"];
const ROLES = ["user", "assistant", "system", "tool"];
export const PARAMETERS = ["types", "roles", "authors", "min", "from", "until", "deleted"];

/** @param {string | null} text */
const list = (text) => (text ? text.split(",").map((each) => decodeURIComponent(each)).filter(Boolean) : []);
/** @param {string[]} values */
const joined = (values) => values.map((each) => encodeURIComponent(each)).join(",");

/** The EventFilter of an address. @param {URLSearchParams} query */
export function filterOf(query) {
  /** @type {Record<string, any>} */
  const filter = {};
  if (query.get("types")) filter.eventTypes = list(query.get("types"));
  if (query.get("roles")) filter.roles = list(query.get("roles"));
  if (query.get("authors")) filter.authors = list(query.get("authors"));
  if (query.get("min")) filter.minImportance = Number(query.get("min"));
  if (query.get("from")) filter.occurredFrom = query.get("from");
  if (query.get("until")) filter.occurredUntil = query.get("until");
  if (query.get("deleted")) filter.includeDeleted = true;
  return filter;
}

/** The number of conditions. @param {URLSearchParams} query */
export const conditions = (query) => PARAMETERS.filter((name) => query.get(name)).length;

/** The place of the form, which is made when it is opened. */
export class FilterPanel {
  /** @param {Change} onchange */
  constructor(onchange) {
    this.onchange = onchange;
    this.node = el("div", { hidden: true });
  }

  get isOpen() {
    return !this.node.hidden;
  }

  /** @param {URLSearchParams} query */
  toggle(query) {
    this.node.hidden = this.isOpen;
    if (this.isOpen) this.draw(query);
  }

  /** @param {URLSearchParams} query */
  draw(query) {
    const hadFocus = this.node.contains(document.activeElement);
    this.node.replaceChildren(filterForm(query, this.onchange));
    if (hadFocus) this.focus();
  }

  focus() {
    this.node.querySelector("input")?.focus();
  }
}

/**
 * Creates the form; `onchange` gets the parameters to change in the address.
 *
 * @param {URLSearchParams} query
 * @param {(changes: Record<string, string | undefined>) => void} onchange
 */
function filterForm(query, onchange) {
  const change = debounced(onchange, 250);
  const form = el(
    "form",
    { class: "filters", "aria-label": "Filters", onsubmit: (/** @type {Event} */ event) => event.preventDefault() },
    choices("Type", "types", TYPES, query, change),
    choices("Role", "roles", ROLES, query, change),
    el(
      "div",
      { class: "filter-fields" },
      authors(query, change),
      importance(query, change),
      time("From", "from", query, change),
      time("Until", "until", query, change),
      deleted(query, change),
      button("Clear filters", { onclick: () => onchange(Object.fromEntries(PARAMETERS.map((name) => [name, undefined]))) }),
    ),
  );
  return form;
}

/** @typedef {(changes: Record<string, string | undefined>) => void} Change */

/** @param {string} label @param {string} name @param {string[]} known @param {URLSearchParams} query @param {Change} change */
function choices(label, name, known, query, change) {
  const chosen = new Set(list(query.get(name)));
  const all = [...known, ...[...chosen].filter((each) => !known.includes(each))];
  const toggle = (/** @type {string} */ value, /** @type {boolean} */ isOn) => {
    if (isOn) chosen.add(value);
    else chosen.delete(value);
    change({ [name]: joined([...chosen]) });
  };
  const box = (/** @type {string} */ value) => {
    const input = el("input", { type: "checkbox", checked: chosen.has(value) });
    input.addEventListener("change", () => toggle(value, /** @type {HTMLInputElement} */ (input).checked));
    return el("label", { class: "choice" }, input, el("span", { text: value }));
  };
  const other = el("input", { class: "choice-other", placeholder: "other", "aria-label": `Other ${label.toLowerCase()}`, maxlength: 100 });
  other.addEventListener("change", () => {
    const input = /** @type {HTMLInputElement} */ (other);
    if (!input.value.trim()) return;
    toggle(input.value.trim(), true);
    other.before(box(input.value.trim()));
    input.value = "";
  });
  return el("fieldset", { class: "choices" }, el("legend", { text: label }), ...all.map(box), other);
}

/** @param {URLSearchParams} query @param {Change} change */
function authors(query, change) {
  const input = el("input", { value: list(query.get("authors")).join(", "), placeholder: "any" });
  input.addEventListener("change", () => {
    const values = /** @type {HTMLInputElement} */ (input).value.split(",").map((each) => each.trim()).filter(Boolean);
    change({ authors: joined(values) });
  });
  return field("Author", input);
}

/** @param {URLSearchParams} query @param {Change} change */
function importance(query, change) {
  const input = el("input", { type: "number", min: 0, max: 1, step: 0.1, value: query.get("min") ?? "", placeholder: "any" });
  input.addEventListener("input", () => {
    const { value } = /** @type {HTMLInputElement} */ (input);
    if (value === "" || (Number(value) >= 0 && Number(value) <= 1)) change({ min: value || undefined });
  });
  return field("Importance at least", input);
}

/** @param {string} label @param {string} name @param {URLSearchParams} query @param {Change} change */
function time(label, name, query, change) {
  const input = el("input", { type: "datetime-local", step: 1, value: localInput(query.get(name) ?? undefined) });
  input.addEventListener("change", () => change({ [name]: timestampOfInput(/** @type {HTMLInputElement} */ (input).value) }));
  return field(label, input);
}

/** @param {URLSearchParams} query @param {Change} change */
function deleted(query, change) {
  const input = el("input", { type: "checkbox", checked: query.get("deleted") === "1" });
  input.addEventListener("change", () => change({ deleted: /** @type {HTMLInputElement} */ (input).checked ? "1" : undefined }));
  return el("label", { class: "choice" }, input, el("span", { text: "Deleted events too" }));
}
