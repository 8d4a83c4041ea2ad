// The keys of a conversation.

import { mayWrite } from "./access.js";
import { copyText } from "./dom.js";
import { deleteEvent, editEvent } from "./edits.js";
import { linkTo } from "./inspector.js";
import { attempt, notify } from "./notices.js";
import { go, links } from "./router.js";

/** @param {import("./conversation.js").ConversationView} view @returns {import("./keyboard.js").Keys} */
export function conversationKeys(view) {
  const withCurrent = (/** @type {(event: any) => void | Promise<void>} */ action) => () => {
    const event = view.currentEvent;
    if (event) attempt(() => action(event));
  };
  const edited = (/** @type {any} */ event) => attempt(() => view.edited(event));
  const next = () => view.move(1);
  const previous = () => view.move(-1);
  const inspect = withCurrent((event) => {
    view.inspect(event);
    view.inspector.node.focus();
  });
  return {
    j: next, ArrowDown: next, k: previous, ArrowUp: previous,
    Home: () => attempt(() => view.moveToEdge(false)),
    End: () => attempt(() => view.moveToEdge(true)),
    o: () => /** @type {HTMLElement | null | undefined} */ (view.list.currentRow?.querySelector("[data-fold]"))?.click(),
    Enter: inspect, i: inspect,
    f: () => view.toggleFollow(),
    s: () => view.nextOrder(),
    "/": () => view.openFilters(),
    c: withCurrent(async (event) => {
      await copyText(event.id);
      notify("The id was copied.");
    }),
    l: withCurrent(async (event) => {
      await copyText(new URL(linkTo(event), document.baseURI).href);
      notify("The link was copied.");
    }),
    e: withCurrent((event) => { if (mayWrite()) editEvent(event, edited); }),
    Delete: withCurrent((event) => (mayWrite() ? deleteEvent(event, edited) : undefined)),
    Escape: () => { if (view.inspector.isOpen) view.closeInspector(); },
    u: () => go(links.sessions(view.spiritId)),
  };
}
