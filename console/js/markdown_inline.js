// Renders the inline part of Markdown: code, emphasis, links, images as names.

import { el } from "./dom.js";

const DEPTH_MAX = 6;
/** The longest inline element in characters, which bounds the search for its end. */
const NEAR = 1_000;
const SPECIAL = /[\\`*_~[!<]|https?:\/\//g;
const AUTOLINK = /^https?:\/\/[^\s<>"'`]+[^\s<>"'`.,:;!?)\]}*_]/;
/** Addresses that a link may have. Everything else, such as `javascript:`, stays text. */
const SAFE = /^(https?:\/\/|mailto:)/i;

/** @param {string} text @param {number} [depth] @returns {(Node | string)[]} */
export function inlines(text, depth = 0) {
  if (depth > DEPTH_MAX) return [text];
  const nodes = [];
  let plain = 0;
  const scanner = new RegExp(SPECIAL);
  for (let match = scanner.exec(text); match; match = scanner.exec(text)) {
    const found = parseAt(text, match.index, depth);
    if (!found) continue;
    if (match.index > plain) nodes.push(text.slice(plain, match.index));
    nodes.push(found.node);
    plain = found.end;
    scanner.lastIndex = found.end;
  }
  if (plain < text.length) nodes.push(text.slice(plain));
  return nodes;
}

/** @typedef {{node: Node | string, end: number} | undefined} Found */

/** Parses the element that begins at a position and ends within a bounded distance. @param {string} all @param {number} position @param {number} depth @returns {Found} */
function parseAt(all, position, depth) {
  const found = parseStart(all.slice(position, position + NEAR), all[position - 1], depth);
  return found && { node: found.node, end: position + found.end };
}

/** Parses the beginning of a text. @param {string} text @param {string | undefined} before the character before it @param {number} depth @returns {Found} */
function parseStart(text, before, depth) {
  switch (text[0]) {
    case "\\":
      return /[!-/:-@[-`{-~]/.test(text[1] ?? "") ? { node: text[1], end: 2 } : undefined;
    case "`":
      return code(text);
    case "*":
    case "_":
    case "~":
      return emphasis(text, before, depth);
    case "!":
      return text[1] === "[" ? link(text, 1, depth) : undefined;
    case "[":
      return link(text, 0, depth);
    case "<":
      return bracketed(text);
    default:
      return address(text);
  }
}

/** @param {string} text @returns {Found} */
function code(text) {
  let ticks = 1;
  while (text[ticks] === "`") ticks++;
  const mark = "`".repeat(ticks);
  let end = text.indexOf(mark, ticks);
  while (end >= 0 && text[end + ticks] === "`") {
    while (text[end] === "`") end++;
    end = text.indexOf(mark, end);
  }
  if (end < 0) return { node: mark, end: ticks };
  return { node: el("code", { text: text.slice(ticks, end).replace(/^ (.+) $/s, "$1") }), end: end + ticks };
}

/** @param {string} text @param {string | undefined} before @param {number} depth @returns {Found} */
function emphasis(text, before, depth) {
  const mark = text[0];
  const double = text[1] === mark;
  if (mark === "~" && !double) return undefined;
  const marks = double ? mark + mark : mark;
  const start = marks.length;
  const isWord = (/** @type {string | undefined} */ each) => each !== undefined && /[\p{L}\p{N}_]/u.test(each);
  if (/\s/.test(text[start] ?? " ") || (mark === "_" && isWord(before))) return undefined;
  let end = text.indexOf(marks, start + 1);
  while (end > 0 && (/\s/.test(text[end - 1]) || (mark === "_" && isWord(text[end + marks.length])) || (!double && text[end + 1] === mark))) {
    end = text.indexOf(marks, end + (text[end + 1] === mark ? 2 : 1));
  }
  if (end < 0) return { node: marks, end: start };
  const tag = mark === "~" ? "s" : double ? "strong" : "em";
  return { node: el(tag, {}, ...inlines(text.slice(start, end), depth + 1)), end: end + marks.length };
}

/** `[text](address)` at a position, or an image after `!`, which is shown as its name. @param {string} text @param {number} at @param {number} depth @returns {Found} */
function link(text, at, depth) {
  const isImage = at === 1;
  const close = closing(text, at);
  if (close < 0 || text[close + 1] !== "(") return undefined;
  const end = text.indexOf(")", close);
  if (end < 0) return undefined;
  const label = text.slice(at + 1, close);
  const target = text.slice(close + 2, end).trim().split(/\s/, 1)[0].replace(/^<|>$/g, "");
  if (isImage) return { node: omittedImage(label, target), end: end + 1 };
  if (!SAFE.test(target)) return { node: `${label} (${target})`, end: end + 1 };
  return { node: anchor(target, inlines(label, depth + 1)), end: end + 1 };
}

/** @param {string} text @param {number} at */
function closing(text, at) {
  let open = 0;
  for (let index = at; index < text.length; index++) {
    if (text[index] === "\\") index++;
    else if (text[index] === "[") open++;
    else if (text[index] === "]" && --open === 0) return index;
  }
  return -1;
}

/** @param {string} text @returns {Found} */
function bracketed(text) {
  const end = text.indexOf(">");
  const target = text.slice(1, end);
  if (end < 0 || /\s/.test(target) || !SAFE.test(target)) return undefined;
  return { node: anchor(target, [target]), end: end + 1 };
}

/** @param {string} text @returns {Found} */
function address(text) {
  const match = AUTOLINK.exec(text);
  return match ? { node: anchor(match[0], [match[0]]), end: match[0].length } : undefined;
}

/** @param {string} target @param {(Node | string)[]} content */
function anchor(target, content) {
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, ...content);
}

/** An image, named and not fetched. @param {string} name @param {string} target */
export function omittedImage(name, target) {
  const address = target.length > 80 ? `${target.slice(0, 80)}…` : target;
  return el("span", { class: "omitted", text: ["Image", name, address].filter(Boolean).join(" · ") });
}
