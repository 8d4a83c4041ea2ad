// A row of a conversation: one event, or a call of a tool with its result.

import { contentView } from "./content.js";
import { el } from "./dom.js";
import { clock, day, duration, millis } from "./format.js";
import { rowHead } from "./row_head.js";
import { toolRow } from "./tool_rows.js";

/** A pause from which on it is shown. */
const GAP_MS = 5 * 60_000;

/** How event types are shown: a class, a name, and the way content is folded. */
const KINDS = {
  "message.in": { kind: "in", name: "Message" },
  "message.out": { kind: "out", name: "Answer" },
  thought: { kind: "thought", name: "Thought", fold: "small" },
  "tool.call": { kind: "tool", name: "Tool call" },
  "tool.result": { kind: "tool", name: "Tool result" },
  system: { kind: "system", name: "System", fold: "small" },
  error: { kind: "error", name: "Error" },
  "context.compaction": { kind: "compaction", name: "Compaction", fold: "small" },
};

/** @param {any} event */
export const kindOf = (event) =>
  Object.hasOwn(KINDS, event.eventType ?? "") ? KINDS[event.eventType] : { kind: "other", name: event.eventType ?? "event" };

/** @param {any} event */
const speakerOf = (event) => event.author ?? event.role ?? kindOf(event).name;

/**
 * @typedef {object} RowContext
 * @property {number} index
 * @property {number} total
 * @property {any} event undefined while it is being read
 * @property {any} previous the event before it, if it is in memory
 * @property {any} result the result that belongs to this call
 * @property {boolean} isShownByCall whether the row of a call shows this result
 * @property {boolean} isCurrent
 * @property {(event: any) => void} oninspect
 * @property {(index: number) => void} oncurrent
 */

/** @param {RowContext} context */
export function renderRow(context) {
  const { event, index } = context;
  if (!event) return el("div", { class: "row row-loading", "aria-hidden": "true" }, el("div", { class: "card" }));
  if (context.isShownByCall) return el("div", { class: "row-hidden" });
  const { kind, name } = kindOf(event);
  const article = el(
    "article",
    {
      class: `row row-${kind}${event.isDeleted ? " row-deleted" : ""}${context.isCurrent ? " row-current" : ""}`,
      tabIndex: -1,
      "aria-posinset": index + 1,
      "aria-setsize": context.total,
      "aria-label": `${name}, ${speakerOf(event)}, ${clock(event.occurredAt)}`,
      "data-event-id": event.id,
    },
    separator(context),
    kind === "tool" ? toolRow(context) : card(context),
  );
  article.addEventListener("click", (click) => {
    const target = /** @type {HTMLElement} */ (click.target);
    if (!target.closest("button, a, input, summary") && getSelection()?.isCollapsed !== false) context.oncurrent(index);
  });
  return article;
}

/** A heading for a new day, or the length of a pause or of a step back. @param {RowContext} context */
function separator({ event, previous, index }) {
  if (!previous && index > 0) return undefined;
  if (day(previous?.occurredAt) !== day(event.occurredAt)) return el("div", { class: "separator", text: day(event.occurredAt) });
  const gap = millis(event.occurredAt) - millis(previous.occurredAt);
  if (Math.abs(gap) < GAP_MS) return undefined;
  return el("div", { class: "separator separator-gap", text: `${duration(Math.abs(gap))} ${gap > 0 ? "later" : "earlier"}` });
}

/** @param {RowContext} context */
function card(context) {
  const { event } = context;
  const { kind, fold } = kindOf(event);
  return el(
    "div",
    { class: "card" },
    rowHead(context, [el("span", { class: "speaker", text: speakerOf(event) }), label(event)]),
    event.metaSummary && el("p", { class: "summary", text: event.metaSummary }),
    contentView(event, { fold, hasSource: kind === "system" || kind === "other" }),
  );
}

/** @param {any} event */
function label(event) {
  const { kind, name } = kindOf(event);
  return kind !== "in" && kind !== "out" && name !== speakerOf(event) && el("span", { class: "label", text: name });
}
