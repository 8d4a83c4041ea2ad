// Shows JSON with indentation and colours, as text nodes.

import { el } from "./dom.js";

const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|\b(true|false|null)\b/g;
/** Above this length a text is shown without colours, which cost an element each. */
const COLOURED_CHARACTERS_MAX = 60_000;

/** Parses a text that is a JSON object or array; undefined if it is not. @param {string} text */
export function parseJson(text) {
  if (!/^\s*[{[]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The same, but undefined too if a number might change. @param {string} text */
export const exactJson = (text) => (/\d{16}|\d[eE]/.test(text) ? undefined : parseJson(text));

/** @param {any} value */
export function jsonView(value) {
  return jsonText(JSON.stringify(value, null, 2));
}

/** Shows JSON as it is written, indented if its numbers survive that. @param {string} text */
export function jsonSource(text) {
  const value = exactJson(text);
  return value === undefined ? jsonText(text) : jsonView(value);
}

/** @param {string} text */
function jsonText(text) {
  const code = el("code");
  if (text.length > COLOURED_CHARACTERS_MAX) code.textContent = text;
  else code.append(...coloured(text));
  return el("pre", { class: "code json", tabIndex: 0 }, code);
}

/** @param {string} text */
function coloured(text) {
  const nodes = [];
  let plain = 0;
  for (const match of text.matchAll(TOKEN)) {
    const [whole, string, colon, number] = match;
    const kind = string ? (colon ? "key" : "string") : number ? "number" : "word";
    const token = string ?? whole;
    nodes.push(text.slice(plain, match.index), el("span", { class: `json-${kind}`, text: token }));
    plain = match.index + token.length;
  }
  nodes.push(text.slice(plain));
  return nodes;
}
