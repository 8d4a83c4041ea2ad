// The content of an event: Markdown, JSON or plain text, folded if it is long.

import { read } from "./api.js";
import { button, el, fill } from "./dom.js";
import { byteSize } from "./format.js";
import { jsonSource, parseJson } from "./json_view.js";
import { markdown } from "./markdown.js";
import { omittedImage } from "./markdown_inline.js";
import { attempt } from "./notices.js";

/** Above this length a text is shown as it is, since Markdown costs elements. */
const MARKDOWN_CHARACTERS_MAX = 50_000;
const FOLDED_CHARACTERS = { normal: 1_600, small: 320 };
const FOLDED_LINES = { normal: 24, small: 4 };

/** Ids of the events whose content a person has opened; the oldest are forgotten. @type {Set<string>} */
const opened = new Set();
const OPENED_MAX = 500;

/** @param {string} id */
export const isOpened = (id) => opened.has(id);

/** @param {string} id @param {boolean} isOpen */
export function setOpened(id, isOpen) {
  opened.delete(id);
  if (isOpen) opened.add(id);
  if (opened.size > OPENED_MAX) opened.delete(/** @type {string} */ (opened.values().next().value));
}

/**
 * Shows the content of an event, folded to a size if it is long.
 *
 * @param {any} event
 * @param {{as?: "markdown" | "text", fold?: "normal" | "small", hasSource?: boolean}} [options] hasSource: without content,
 *   what an importer kept of the original record is shown
 */
export function contentView(event, { as = "markdown", fold = "normal", hasSource = false } = {}) {
  const source = hasSource && event.meta?.source;
  const text = event.content || (source ? JSON.stringify(source) : "");
  const parts = partsView(event.meta?.parts);
  if (text === "" && parts) return parts;
  const body = el("div", { class: `content content-${fold}` }, textView(text, as));
  const isLong = text.length > FOLDED_CHARACTERS[fold] || lineCount(text) > FOLDED_LINES[fold];
  return el("div", {}, body, (isLong || event.contentBytes) && foldButton(event, body, as), parts);
}

/** @param {string} text */
const lineCount = (text) => text.split("\n", FOLDED_LINES.normal + 2).length;

/** @param {string} text @param {"markdown" | "text"} as */
export function textView(text, as) {
  if (text === "") return el("p", { class: "muted", text: "No content" });
  if (parseJson(text) !== undefined) return jsonSource(text);
  if (as === "text" || text.length > MARKDOWN_CHARACTERS_MAX) {
    return el("pre", { class: "code", tabIndex: 0 }, el("code", { text }));
  }
  return markdown(text);
}

/** @param {any} event @param {HTMLElement} body @param {"markdown" | "text"} as */
function foldButton(event, body, as) {
  const rest = event.contentBytes ? ` (${byteSize(Number(event.contentBytes))})` : "";
  const toggle = button("", { class: "fold", "data-fold": true });
  const show = (/** @type {boolean} */ isOpen) => {
    body.classList.toggle("folded", !isOpen);
    toggle.textContent = isOpen ? "Show less" : `Show all${rest}`;
    toggle.setAttribute("aria-expanded", String(isOpen));
  };
  toggle.addEventListener("click", () => {
    const isOpen = body.classList.contains("folded");
    show(isOpen);
    setOpened(event.id, isOpen);
    if (isOpen && event.contentBytes) attempt(() => loadAll(event, body, as));
  });
  show(isOpened(event.id));
  if (isOpened(event.id) && event.contentBytes) attempt(() => loadAll(event, body, as));
  return toggle;
}

/** Reads and shows content that the list has cut. @param {any} event @param {HTMLElement} body @param {"markdown" | "text"} as */
async function loadAll(event, body, as) {
  if (body.dataset.whole) return;
  body.dataset.whole = "true";
  const request = { eventId: event.id, spiritId: event.spiritId, includeDeleted: true };
  const reply = await read("EventService/GetEvent", request);
  fill(body, textView(reply.event.content ?? "", as));
}

/** Names the parts of a message that are not in its text, such as images. They are not fetched. @param {any} parts */
function partsView(parts) {
  if (!Array.isArray(parts)) return undefined;
  const others = parts.filter((part) => part && typeof part === "object" && part.text_bytes === undefined);
  if (others.length === 0) return undefined;
  return el("ul", { class: "parts", "aria-label": "Parts beside the text" }, ...others.slice(0, 50).map((part) => el("li", {}, partView(part))));
}

/** @param {any} part */
function partView(part) {
  const source = part.source ?? part.image_url ?? part.file ?? part;
  const text = (/** @type {any} */ value) => (typeof value === "string" ? value : undefined);
  const type = text(part.type) ?? "part";
  const media = text(source?.media_type) ?? text(part.media_type) ?? text(part.mime_type);
  const address = text(source?.url) ?? text(source?.filename) ?? text(part.filename) ?? text(part.path) ?? text(source);
  if (/image/.test(type)) return omittedImage(media ?? "", address ?? "");
  return el("span", { class: "omitted", text: [type, media, address?.slice(0, 80)].filter(Boolean).join(" · ") });
}
