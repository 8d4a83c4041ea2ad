// Short notices at the bottom of the page, some with an action such as Undo.

import { button, el, icon } from "./dom.js";
import { CallError } from "./api.js";

const SHOWN_MS = 6_000;
const WITH_ACTION_MS = 20_000;

const region = el("div", { class: "notices", role: "status", "aria-live": "polite" });
document.body.append(region);

/**
 * Shows a notice until its time is over or it is closed.
 *
 * @param {string} text
 * @param {{label: string, run: () => Promise<void> | void}} [action]
 * @param {"info" | "error"} [kind]
 */
export function notify(text, action, kind = "info") {
  const close = () => notice.remove();
  const notice = el(
    "div",
    { class: `notice notice-${kind}` },
    el("span", { text }),
    action && button(action.label, { class: "notice-action", onclick: () => { close(); attempt(action.run); } }),
    button("Dismiss", { class: "quiet", onclick: close }, icon("close")),
  );
  region.replaceChildren(notice);
  setTimeout(close, action ? WITH_ACTION_MS : SHOWN_MS);
}

/** Shows an error, unless it is one that the page shows otherwise. @param {unknown} error */
export function notifyError(error) {
  if (error instanceof DOMException && error.name === "AbortError") return;
  if (error instanceof CallError) {
    if (error.code !== "unauthenticated") notify(error.sentence, undefined, "error");
    return;
  }
  notify(String(error), undefined, "error");
  console.error(error);
}

/** Runs an action and shows its error. @param {() => Promise<void> | void} action */
export async function attempt(action) {
  try {
    await action();
  } catch (error) {
    notifyError(error);
  }
}
