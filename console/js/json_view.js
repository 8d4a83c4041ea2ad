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

/** @param {any} value */
export function jsonView(value) {
  return jsonText(JSON.stringify(value, null, 2));
}

/** Shows JSON as it is written, indented if its numbers survive that. @param {string} text */
export function jsonSource(text) {
  const value = parseJson(text);
  const isExact = value !== undefined && !/\d{16}|\d[eE]|\.\d{16}/.test(text);
  return isExact ? jsonView(value) : jsonText(text);
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
