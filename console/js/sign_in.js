// Asks for an API key, which stays in the session storage of this tab.

import { CallError, key } from "./api.js";
import { loadAccess } from "./access.js";
import { el } from "./dom.js";
import { field } from "./dialogs.js";

/** Why a key is asked for, in a sentence. @param {CallError | undefined} error @param {boolean} wasSignedIn */
export function reasonFor(error, wasSignedIn) {
  if (error && wasSignedIn) return "This API key was revoked or has expired, so the page was closed. Sign in with another one.";
  if (error?.reason === "INVALID_KEY") return "The server does not accept this API key. Check it, or ask for another one.";
  return "This server needs an API key. It is kept in this tab only, until the tab is closed.";
}

/** @param {string} reason @param {() => void} onsignedin */
export function signInView(reason, onsignedin) {
  const input = /** @type {HTMLInputElement} */ (
    el("input", { type: "password", name: "key", autocomplete: "off", spellcheck: "false", required: true, placeholder: "ek_…" })
  );
  const message = el("p", { class: "sign-in-reason", role: "alert", text: reason });
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    key.set(input.value.trim());
    try {
      await loadAccess();
      onsignedin();
    } catch (error) {
      key.clear();
      input.select();
      const isRefused = error instanceof CallError && error.code === "unauthenticated";
      message.textContent = isRefused ? reasonFor(error, false) : error instanceof CallError ? error.sentence : String(error);
    }
  };
  const form = el(
    "form",
    { class: "sign-in card", onsubmit: submit },
    el("h1", { text: "Sign in" }),
    message,
    field("API key", input, "Created with: elephantasm-events key create --name NAME --role reader"),
    el("button", { class: "primary", text: "Sign in" }),
  );
  queueMicrotask(() => input.focus());
  return form;
}
