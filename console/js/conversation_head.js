// The head of a conversation: title, numbers, and buttons; and the button that leads to new events.

import { mayWrite } from "./access.js";
import { button, el, icon } from "./dom.js";
import { counted } from "./format.js";
import { ORDERS } from "./orders.js";

const STATES = { off: "Paused", connecting: "Connecting…", live: "Live", broken: "Reconnecting…", ended: "Ended" };

export class ConversationHead {
  /**
   * @param {object} handlers
   * @param {() => void} handlers.onfollow
   * @param {() => void} handlers.onfilters
   * @param {() => void} handlers.ontitle
   * @param {() => void} handlers.onunseen
   * @param {(order: import("./orders.js").Order) => void} handlers.onorder
   */
  constructor({ onfollow, onfilters, ontitle, onunseen, onorder }) {
    this.title = el("h1", { text: "…" });
    this.facts = el("p", { class: "facts" });
    this.rename = button("Edit the title", { class: "quiet", hidden: true, onclick: ontitle }, icon("edit"));
    this.state = el("span", { text: STATES.off });
    this.follow = button("Follow", { class: "follow", onclick: onfollow }, el("span", { class: "dot", "aria-hidden": "true" }), this.state);
    const orders = Object.entries(ORDERS).map(([value, { name }]) => el("option", { value, text: name }));
    const select = /** @type {HTMLSelectElement} */ (el("select", { "aria-label": "Order", title: "Order (s)" }, ...orders));
    select.addEventListener("change", () => onorder(/** @type {import("./orders.js").Order} */ (select.value)));
    this.order = select;
    this.filterCount = el("span", { class: "badge", hidden: true });
    this.filters = button("Filters", { "aria-expanded": "false", onclick: onfilters, title: "Filters (/)" }, icon("filter"), el("span", { text: "Filters" }), this.filterCount);
    this.pill = button("", { class: "pill", hidden: true, onclick: onunseen });
    this.total = el("span", { text: "…" });
    this.owner = el("span");
    this.facts.append(this.total, this.owner);
    this.node = el(
      "header",
      { class: "view-head" },
      el("div", { class: "view-title" }, el("div", { class: "title-line" }, this.title, this.rename), this.facts),
      el("div", { class: "view-buttons" }, this.order, this.filters, this.follow),
    );
  }

  /** @param {any} spirit @param {string | undefined} sessionId @param {any} session */
  show(spirit, sessionId, session) {
    this.title.textContent = session?.title ?? sessionId ?? `All events of ${spirit?.name ?? "the spirit"}`;
    this.rename.hidden = !mayWrite() || !session;
    this.owner.textContent = [session?.title && sessionId, session?.owner && `with ${session.owner}`, spirit?.isDeleted && "the spirit is deleted"]
      .filter(Boolean).map((each) => ` · ${each}`).join("");
  }

  /** @param {number} total */
  setTotal(total) {
    this.total.textContent = counted(total, "event");
  }

  /** @param {boolean} isWanted @param {import("./follow.js").State} state */
  setFollow(isWanted, state) {
    this.follow.setAttribute("aria-pressed", String(isWanted));
    this.follow.dataset.state = state;
    this.follow.setAttribute("aria-label", `Follow new events: ${STATES[state]}`);
    this.follow.title = "Follow new events (f)";
    this.state.textContent = STATES[state];
  }

  /** @param {import("./orders.js").Order} order */
  setOrder(order) {
    this.order.value = order;
  }

  /** @param {number} conditions @param {boolean} isOpen */
  setFilters(conditions, isOpen) {
    this.filters.setAttribute("aria-expanded", String(isOpen));
    this.filters.setAttribute("aria-label", conditions > 0 ? `Filters, ${conditions} set` : "Filters");
    this.filterCount.hidden = conditions === 0;
    this.filterCount.textContent = String(conditions);
  }

  /** @param {number} unseen */
  setUnseen(unseen) {
    this.pill.hidden = unseen === 0;
    this.pill.textContent = `${counted(unseen, "new event")} ↓`;
  }
}
