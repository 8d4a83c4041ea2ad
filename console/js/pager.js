// Buttons that go through pages by their tokens. The tokens of the pages before are kept for this tab.

import { button, el } from "./dom.js";

/** @type {Map<string, string[]>} by list: the tokens of the pages from the first to the current one */
const trails = new Map();
const TRAILS_MAX = 50;

/**
 * @param {string} list names the list and its filter
 * @param {string} token of the current page, empty for the first one
 * @param {string | undefined} next
 * @param {(token: string) => void} ongo
 */
export function pager(list, token, next, ongo) {
  const trail = trails.get(list) ?? [""];
  const at = trail.indexOf(token);
  const isKnown = at >= 0 && (trail[0] === "" || token === "");
  const before = isKnown ? trail.slice(0, at) : [""]; // of an address from elsewhere only the first page is known
  trails.set(list, [...before, token]);
  if (trails.size > TRAILS_MAX) trails.delete(/** @type {string} */ (trails.keys().next().value));
  if (token === "" && !next) return undefined;
  const forward = () => {
    trails.set(list, [...before, token, /** @type {string} */ (next)]);
    ongo(/** @type {string} */ (next));
  };
  return el(
    "nav",
    { class: "pager", "aria-label": "Pages" },
    button("First page", { disabled: token === "", onclick: () => ongo("") }),
    button("Previous page", { disabled: token === "", onclick: () => ongo(before.at(-1) ?? "") }),
    el("span", { class: "muted", text: isKnown ? `Page ${at + 1}` : "" }),
    button("Next page", { disabled: !next, onclick: forward }),
  );
}

/** Moves the focus between the links of a list. @param {Element} node @param {number} step */
export function moveFocus(node, step) {
  const all = /** @type {HTMLElement[]} */ ([...node.querySelectorAll("a[data-item]")]);
  const at = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + step))]?.focus();
}
