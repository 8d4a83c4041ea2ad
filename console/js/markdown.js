// Renders Markdown as DOM: the blocks. HTML in a text stays text, and images are named instead of fetched.

import { el } from "./dom.js";
import { inlines } from "./markdown_inline.js";

const DEPTH_MAX = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** @param {string} text @returns {HTMLElement} */
export function markdown(text) {
  const root = el("div", { class: "markdown" });
  root.append(...blocks(text.replaceAll("\r\n", "\n").split("\n"), 0));
  return root;
}

/** @param {string[]} lines @param {number} depth @returns {Node[]} */
function blocks(lines, depth) {
  if (depth > DEPTH_MAX) return [el("p", { text: lines.join("\n") })];
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at++;
      continue;
    }
    const read = [fence, heading, rule, quote, list, table].find((each) => each.starts(lines, at)) ?? paragraph;
    const [node, next] = read(lines, at, depth);
    nodes.push(node);
    at = next;
  }
  return nodes;
}

/** @typedef {[Node, number]} Block a node, and the line after it */

/** @param {string[]} lines @param {number} at @returns {Block} */
function fence(lines, at) {
  const [, mark, language] = /** @type {RegExpExecArray} */ (FENCE.exec(lines[at]));
  let end = at + 1;
  while (end < lines.length && !(lines[end].trimStart().startsWith(mark) && lines[end].trim().replaceAll(mark[0], "") === "")) end++;
  const code = el("code", { text: lines.slice(at + 1, end).join("\n") });
  return [el("pre", { class: "code", "data-language": language || undefined, tabIndex: 0 }, code), end + 1];
}
fence.starts = (/** @type {string[]} */ lines, /** @type {number} */ at) => FENCE.test(lines[at]);

/** @param {string[]} lines @param {number} at @returns {Block} */
function heading(lines, at) {
  const [, marks, text] = /** @type {RegExpExecArray} */ (HEADING.exec(lines[at]));
  return [el("p", { class: `md-heading md-heading-${Math.min(marks.length, 4)}` }, ...inlines(text)), at + 1];
}
heading.starts = (/** @type {string[]} */ lines, /** @type {number} */ at) => HEADING.test(lines[at]);

/** @param {string[]} _lines @param {number} at @returns {Block} */
function rule(_lines, at) {
  return [el("hr"), at + 1];
}
rule.starts = (/** @type {string[]} */ lines, /** @type {number} */ at) => RULE.test(lines[at]);

/** @param {string[]} lines @param {number} at @param {number} depth @returns {Block} */
function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [el("blockquote", {}, ...blocks(inner, depth + 1)), end];
}
quote.starts = (/** @type {string[]} */ lines, /** @type {number} */ at) => QUOTE.test(lines[at]);

/** @param {string[]} lines @param {number} at @param {number} depth @returns {Block} */
function list(lines, at, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const indent = first[1].length;
  const isOrdered = /\d/.test(first[2]);
  const node = el(isOrdered ? "ol" : "ul", isOrdered ? { start: parseInt(first[2], 10) } : {});
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || Math.abs(item[1].length - indent) > 1 || /\d/.test(item[2]) !== isOrdered) break;
    const width = item[0].length;
    const inner = [lines[at].slice(width)];
    at++;
    while (at < lines.length && belongs(lines, at, indent)) inner.push(lines[at++].replace(new RegExp(`^\\s{0,${width}}`), ""));
    node.append(listItem(inner, depth));
    while (at < lines.length && lines[at].trim() === "" && ITEM.test(lines[at + 1] ?? "")) at++;
  }
  return [node, at];
}
list.starts = (/** @type {string[]} */ lines, /** @type {number} */ at) => ITEM.test(lines[at]);

/** Whether a line continues an item of a list with this indent. @param {string[]} lines @param {number} at @param {number} indent */
function belongs(lines, at, indent) {
  const line = lines[at];
  const isIndented = (/** @type {string} */ each) => /^\s*/.exec(each)[0].length > indent + 1;
  if (line.trim() === "") return at + 1 < lines.length && lines[at + 1].trim() !== "" && isIndented(lines[at + 1]);
  return isIndented(line) || (lines[at - 1].trim() !== "" && !ITEM.test(line) && !startsBlock(lines, at));
}

/** @param {string[]} inner @param {number} depth */
function listItem(inner, depth) {
  const task = /^\[([ xX])\]\s+/.exec(inner[0]);
  if (task) inner[0] = inner[0].slice(task[0].length);
  const content = blocks(inner, depth + 1);
  const only = content.length > 0 && content[0] instanceof HTMLParagraphElement ? content.shift() : undefined;
  const mark = task && el("span", { class: "md-task", text: task[1] === " " ? "☐ " : "☑ " });
  return el("li", {}, mark, ...(only ? [...only.childNodes] : []), ...content);
}

/** @param {string} line */
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

/** @param {string[]} lines @param {number} at @returns {Block} */
function table(lines, at) {
  const head = cells(lines[at]);
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim() !== "") end++;
  const row = (/** @type {string} */ line) => {
    const values = cells(line);
    return el("tr", {}, ...head.map((_, column) => el("td", {}, ...inlines(values[column] ?? ""))));
  };
  const node = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...head.map((cell) => el("th", { scope: "col" }, ...inlines(cell))))),
    el("tbody", {}, ...lines.slice(at + 2, end).map(row)),
  );
  return [el("div", { class: "table-scroll", tabIndex: 0, role: "group", "aria-label": "Table" }, node), end];
}
table.starts = (/** @type {string[]} */ lines, /** @type {number} */ at) =>
  lines[at].includes("|") && TABLE_RULE.test(lines[at + 1] ?? "") && cells(lines[at]).length === cells(lines[at + 1]).length;

/** @param {string[]} lines @param {number} at */
const startsBlock = (lines, at) => [fence, heading, rule, quote, list].some((each) => each.starts(lines, at));

/** @param {string[]} lines @param {number} at @returns {Block} */
function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "" && !startsBlock(lines, end)) end++;
  return [el("p", {}, ...inlines(lines.slice(at, end).join("\n"))), end];
}
paragraph.starts = () => true;
