// Keys of the whole page and of its current view.

import { el } from "./dom.js";
import { openDialog } from "./dialogs.js";

/** @typedef {Record<string, (event: KeyboardEvent) => void>} Keys */

/** @type {Keys} */
let pageKeys = {};
/** @type {Keys} */
let viewKeys = {};

/** @param {Keys} keys */
export function setViewKeys(keys) {
  viewKeys = keys;
}

/** @param {Keys} keys */
export function startKeyboard(keys) {
  pageKeys = keys;
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const isTyping = target.closest("input:not([type=checkbox]), textarea, select") !== null;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (isTyping) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const isPress = event.key === "Enter" || event.key === " ";
    if (isPress && target.closest("button, a, summary")) return;
    const run = viewKeys[event.key] ?? pageKeys[event.key];
    if (!run) return;
    event.preventDefault();
    run(event);
  });
}

const HELP = [
  ["Everywhere", [["?", "this list"], ["g", "go to an event by id or sequence"], ["/", "filter"], ["t", "theme: system, light, dark"], ["u", "one level up"]]],
  ["Lists", [["j k ↓ ↑", "next, previous"], ["Enter", "open"]]],
  [
    "Conversations",
    [
      ["j k ↓ ↑", "next, previous event"], ["Home End", "first, last event"], ["o", "fold or unfold"], ["Enter", "details"],
      ["f", "follow new events"], ["s", "order: by time, as stored"], ["c", "copy the id"], ["l", "copy the link"], ["e", "edit"], ["Delete", "delete, with undo"], ["Esc", "close details"],
    ],
  ],
];

export function showHelp() {
  const sections = HELP.map(([title, keys]) =>
    el(
      "section",
      {},
      el("h3", { text: /** @type {string} */ (title) }),
      el("dl", { class: "keys" }, .../** @type {string[][]} */ (keys).flatMap(([names, text]) => [
        el("dt", {}, ...names.split(" ").map((name) => el("kbd", { text: name }))),
        el("dd", { text }),
      ])),
    ),
  );
  openDialog("Keys", [el("div", { class: "help" }, ...sections)]);
}
