// Modal dialogs: a question with fields, and the list of keys.

import { button, el } from "./dom.js";

/**
 * Opens a dialog; it is removed when it closes.
 *
 * @param {string} title @param {Node[]} content @param {(form: HTMLFormElement) => void} [onsubmit] @param {string} [submit]
 */
export function openDialog(title, content, onsubmit, submit = "OK") {
  const opener = document.activeElement;
  const form = /** @type {HTMLFormElement} */ (el("form", { class: "dialog-form", method: "dialog" }));
  const dialog = /** @type {HTMLDialogElement} */ (el("dialog", { "aria-label": title }, form));
  form.append(
    el("h2", { text: title }),
    ...content,
    el(
      "div",
      { class: "dialog-buttons" },
      button(onsubmit ? "Cancel" : "Close", { onclick: () => dialog.close() }),
      onsubmit && el("button", { class: "primary", text: submit }),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
    onsubmit?.(form);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (opener instanceof HTMLElement && opener.isConnected) opener.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** A labelled field. @param {string} label @param {HTMLElement} input @param {string} [hint] */
export function field(label, input, hint) {
  return el("label", { class: "field" }, el("span", { text: label }), input, hint && el("small", { text: hint }));
}
