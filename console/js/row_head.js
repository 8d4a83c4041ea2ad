// The parts that rows share: the line above the content, its marks, and the button for details.

import { button, el, icon } from "./dom.js";
import { clock, counted, fullTime } from "./format.js";

/** The line above the content: who, kind, time, and a button for details. @param {import("./rows.js").RowContext} context @param {(Node | string | false | undefined)[]} first */
export function rowHead(context, first) {
  const { event } = context;
  const time = el("time", { datetime: event.occurredAt, title: fullTime(event.occurredAt), text: clock(event.occurredAt) });
  return el("header", { class: "row-head" }, ...first, marks(event), el("span", { class: "spacer" }), time, detailsButton(context));
}

/** @param {import("./rows.js").RowContext} context */
export const detailsButton = ({ event, oninspect }) =>
  button(`Details of event ${event.sequence}`, { class: "quiet details-button", onclick: () => oninspect(event) }, icon("chevron"));

/** Marks of an event: its agent if another one started it, importance, usage, deleted. @param {any} event */
export function marks(event) {
  const usage = Number(event.meta?.usage?.output_tokens);
  const agents = event.meta?.agent_path;
  return el(
    "span",
    { class: "marks" },
    Array.isArray(agents) && agents.length > 1 && el("span", { class: "mark", title: agents.join(" › "), text: `agent ${String(agents.at(-1)).slice(0, 24)}` }),
    event.importanceScore !== undefined && el("span", { class: "mark mark-importance", title: "Importance", text: `★ ${Number(event.importanceScore.toFixed?.(2) ?? event.importanceScore)}` }),
    usage > 0 && el("span", { class: "mark", text: counted(usage, "token") }),
    event.isDeleted && el("span", { class: "mark mark-deleted", text: "deleted" }),
  );
}
