// The row of a call of a tool, folded together with its result.

import { contentView, isOpened, setOpened } from "./content.js";
import { button, el, icon } from "./dom.js";
import { duration, millis } from "./format.js";
import { exactJson } from "./json_view.js";
import { detailsButton, marks, rowHead } from "./row_head.js";

const PREVIEW_CHARACTERS = 160;

/** @param {any} event */
function toolName(event) {
  const name = event.meta?.tool_name ?? event.meta?.tool;
  if (typeof name === "string" && name) return name;
  return event.eventType === "tool.result" && event.author ? event.author : "tool";
}

/** The beginning of the arguments: of a single one its value, of several their names too. @param {string} content */
function preview(content) {
  const value = exactJson(content);
  const text = value && !Array.isArray(value) ? Object.entries(value).map(([name, each]) => short(name, each, value)).join("  ") : content;
  return text.replace(/\s+/g, " ").slice(0, PREVIEW_CHARACTERS);
}

/** @param {string} name @param {any} value @param {object} all */
function short(name, value, all) {
  const text = typeof value === "string" && value !== "" ? value : JSON.stringify(value);
  return Object.keys(all).length === 1 ? text : `${name}: ${text.slice(0, 60)}`;
}

/** @param {import("./rows.js").RowContext} context */
export function toolRow(context) {
  const { event, result } = context;
  const isCall = event.eventType === "tool.call";
  const isError = Boolean((result ?? event).meta?.is_error);
  const detail = el("div", { class: "tool-detail" });
  const summary = button("", { class: "tool-summary", "data-fold": true });
  const show = (/** @type {boolean} */ isOpen) => {
    detail.hidden = !isOpen;
    summary.setAttribute("aria-expanded", String(isOpen));
    if (isOpen && detail.childElementCount === 0) detail.append(...details(context));
  };
  summary.append(
    icon("chevron"),
    el("span", { class: "tool-name", text: toolName(event) }),
    el("span", { class: "tool-preview", text: preview(event.content ?? "") }),
  );
  summary.addEventListener("click", () => {
    setOpened(event.id, detail.hidden);
    show(detail.hidden);
  });
  show(isOpened(event.id));
  return el(
    "div",
    { class: `card tool${isError ? " tool-failed" : ""}` },
    el("div", { class: "tool-line" }, summary, marks(event), status(isCall, event, result, isError), detailsButton(context)),
    detail,
  );
}

/** @param {boolean} isCall @param {any} event @param {any} result @param {boolean} isError */
function status(isCall, event, result, isError) {
  const time = result && millis(result.occurredAt) - millis(event.occurredAt);
  const shown = time === undefined ? (isCall ? "no result here" : "result") : time < 0 ? `−${duration(-time)}` : duration(time);
  const title = time < 0 ? "The clock was set back between the call and its result" : undefined;
  return el("span", { class: "tool-status", title, text: [isError && "error", shown].filter(Boolean).join(" · ") });
}

/** @param {import("./rows.js").RowContext} context */
function details(context) {
  const { event, result, oninspect } = context;
  const isCall = event.eventType === "tool.call";
  const own = [el("p", { class: "tool-heading", text: isCall ? "Arguments" : "Result" }), contentView(event, { as: "text" })];
  if (!result) return own;
  const head = rowHead({ ...context, event: result, oninspect }, [el("span", { class: "tool-heading", text: "Result" })]);
  return [...own, head, contentView(result, { as: "text" })];
}
