// Starts the page: its frame, its views by route, and signing in.

import { currentAccess, loadAccess, roleName } from "./access.js";
import { CallError, key, read, whenUnauthenticated } from "./api.js";
import { ConversationView } from "./conversation.js";
import { button, el, fill, icon } from "./dom.js";
import { field, openDialog } from "./dialogs.js";
import { eventBySequence } from "./edits.js";
import { fullTime } from "./format.js";
import { linkTo } from "./inspector.js";
import { setViewKeys, showHelp, startKeyboard } from "./keyboard.js";
import { attempt, notify, notifyError } from "./notices.js";
import { amend, go, links, parse } from "./router.js";
import { SessionsView } from "./sessions.js";
import { reasonFor, signInView } from "./sign_in.js";
import { SpiritsView } from "./spirits.js";
import { applyTheme, nextTheme, theme } from "./theme.js";

const VIEWS = { spirits: SpiritsView, sessions: SessionsView, events: ConversationView };

const trail = el("nav", { class: "trail", "aria-label": "Where you are" });
const account = el("span", { class: "account" });
const themeButton = button("Theme", { class: "quiet", onclick: changeTheme }, icon("theme"));
const main = el("main", { id: "main", tabIndex: -1 });

/** @type {{view: any, route: import("./router.js").Route} | undefined} */
let shown;
let isSignedIn = false;

function changeTheme() {
  notify(`Theme: ${nextTheme()}`);
  nameTheme();
}

function nameTheme() {
  themeButton.setAttribute("aria-label", `Theme: ${theme()}`);
  themeButton.title = `Theme: ${theme()} (t)`;
}

function drawFrame() {
  const skip = el("a", { class: "skip", href: "#main", onclick: (/** @type {Event} */ event) => { event.preventDefault(); main.focus(); } }, "Skip to content");
  const bar = el(
    "header",
    { class: "bar" },
    trail,
    el("span", { class: "spacer" }),
    account,
    button("Go to an event", { class: "quiet", title: "Go to an event (g)", onclick: askWhereToGo }, icon("search")),
    themeButton,
    button("Keys", { class: "quiet", title: "Keys (?)", onclick: showHelp }, icon("help")),
  );
  document.body.prepend(skip, bar, main);
}

/** @typedef {(place: {spirit?: any, session?: any, sessionId?: string}) => void} OnPlace gets where the reader is */

/** @type {OnPlace} */
function drawTrail({ spirit, session, sessionId }) {
  const isEvents = parse(location.hash).name === "events";
  const steps = [el("a", { href: links.spirits(), text: "Spirits" })];
  if (spirit) steps.push(el("a", { href: links.sessions(spirit.id), text: spirit.name || spirit.id }));
  if (isEvents && spirit) steps.push(el("span", { text: session?.title ?? sessionId ?? "All events" }));
  steps[steps.length - 1].setAttribute("aria-current", "page");
  fill(trail, el("ol", {}, ...steps.map((step) => el("li", {}, step))));
  document.title = `${steps.at(-1)?.textContent} – Elephantasm Events`;
}

function drawAccount() {
  const { keyPrefix, expiresAt } = currentAccess();
  if (!keyPrefix) {
    fill(account);
    return;
  }
  fill(
    account,
    el("span", { class: "muted account-key", title: expiresAt ? `expires ${fullTime(expiresAt)}` : "does not expire", text: `${keyPrefix} · ${roleName()}` }),
    button("Sign out", { onclick: signOut }),
  );
}

function signOut() {
  key.clear();
  showSignIn(reasonFor(undefined, false));
}

/** @param {import("./router.js").Route} route */
const placeOf = ({ name, spiritId, sessionId }) => JSON.stringify([name, spiritId, sessionId]);

function showRoute() {
  if (!isSignedIn) return;
  const route = parse(location.hash);
  if (shown && placeOf(shown.route) === placeOf(route)) {
    shown.route = route;
    const { view } = shown;
    attempt(() => view.update(route));
    return;
  }
  close();
  const View = VIEWS[route.name];
  if (!View) {
    fill(main, el("div", { class: "page" }, el("h1", { text: "No such page" }), el("p", {}, el("a", { href: links.spirits(), text: "All spirits" }))));
    return;
  }
  const view = new View(route, drawTrail);
  shown = { view, route };
  fill(main, view.node);
  setViewKeys(view.keys());
  view.mount().catch((/** @type {unknown} */ error) => showError(view, error));
}

/** @param {any} view @param {unknown} error */
function showError(view, error) {
  if (shown?.view !== view) return;
  if (!(error instanceof CallError)) {
    notifyError(error);
    return;
  }
  if (error.code === "unauthenticated") return;
  const retry = () => { shown = undefined; view.unmount(); showRoute(); };
  fill(main, el("div", { class: "page" }, el("h1", { text: "This cannot be shown" }), el("p", { role: "alert", text: error.sentence }), button("Try again", { onclick: retry })));
}

function close() {
  shown?.view.unmount();
  shown = undefined;
  setViewKeys({});
}

/** @param {string} reason */
function showSignIn(reason) {
  isSignedIn = false;
  close();
  fill(trail);
  fill(account);
  document.title = "Sign in – Elephantasm Events";
  fill(main, signInView(reason, enter));
}

function enter() {
  isSignedIn = true;
  drawAccount();
  showRoute();
}

function askWhereToGo() {
  if (!isSignedIn) return;
  const { spiritId } = parse(location.hash);
  const input = el("input", { name: "target", required: true, autocomplete: "off", spellcheck: "false", placeholder: spiritId ? "id or sequence" : "id" });
  openDialog("Go to an event", [field("Event", input, spiritId ? "The id of any event, or a sequence of this spirit" : "The id of any event")], (form) => {
    attempt(() => goToEvent(String(new FormData(form).get("target")).trim()));
  }, "Go");
}

/** @param {string} target */
async function goToEvent(target) {
  const { spiritId, sessionId } = parse(location.hash);
  let event;
  if (/^\d+$/.test(target)) {
    event = spiritId && (await eventBySequence(spiritId, undefined, Number(target)));
    if (!event) {
      notify(spiritId ? `No event has a sequence of ${target} or more.` : "A sequence belongs to a spirit: open one first.", undefined, "error");
      return;
    }
    if (event.sequence !== target) notify(`Event ${target} does not exist; this is the next one.`);
  } else {
    event = (await read("EventService/GetEvent", { eventId: target, includeDeleted: true })).event;
  }
  const isHere = event.spiritId === spiritId && event.sessionId === sessionId && !event.isDeleted;
  if (!isHere) {
    go(linkTo(event));
    return;
  }
  amend({ event: event.id, inspect: "1" });
  showRoute();
}

async function start() {
  applyTheme();
  nameTheme();
  drawFrame();
  whenUnauthenticated((error) => {
    const wasSignedIn = isSignedIn && key.get() !== "";
    if (!isSignedIn) return;
    key.clear();
    showSignIn(reasonFor(error, wasSignedIn));
  });
  addEventListener("hashchange", showRoute);
  startKeyboard({ "?": showHelp, g: askWhereToGo, t: changeTheme });
  try {
    await loadAccess();
  } catch (error) {
    if (error instanceof CallError && error.code === "unauthenticated") {
      const hadKey = key.get() !== "";
      key.clear();
      showSignIn(hadKey ? reasonFor(error, true) : reasonFor(error, false));
      return;
    }
    fill(main, el("div", { class: "page" }, el("h1", { text: "The server cannot be reached" }), el("p", { role: "alert", text: String(error instanceof CallError ? error.sentence : error) }),
      button("Try again", { onclick: () => location.reload() })));
    return;
  }
  enter();
}

start();
