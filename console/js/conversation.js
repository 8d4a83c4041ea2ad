// The events of a session, or of a whole spirit, as a conversation.

import { CallError, read } from "./api.js";
import { ConversationHead } from "./conversation_head.js";
import { conversationKeys } from "./conversation_keys.js";
import { el } from "./dom.js";
import { editTitle } from "./edits.js";
import { Feed } from "./feed.js";
import { conditions, FilterPanel, filterOf, PARAMETERS } from "./filters.js";
import { Follower } from "./follow.js";
import { Inspector } from "./inspector.js";
import { attempt, notify, notifyError } from "./notices.js";
import { amend } from "./router.js";
import { renderRow } from "./rows.js";
import { TimeStrip } from "./time_strip.js";
import { VirtualList } from "./virtual_list.js";

/** Rows of the list: browsers limit the height of an element. Jumps move the list to other events. */
const ROWS_MAX = 150_000;

export class ConversationView {
  /** @param {import("./router.js").Route} route @param {import("./main.js").OnPlace} onplace */
  constructor(route, onplace) {
    this.onplace = onplace;
    this.spiritId = route.spiritId;
    this.sessionId = route.sessionId;
    this.query = route.query;
    /** @type {any} */
    this.spirit = undefined;
    /** @type {any} */
    this.session = undefined;
    /** Id of the event with the focus. */
    this.current = route.query.get("event") ?? "";
    /** Index of the event in the first row. */
    this.base = 0;
    this.unseen = 0;
    /** Sequence above which events are new: read before the events are counted. @type {number | undefined} */
    this.firstNew = undefined;
    this.reading = new AbortController();
    this.head = new ConversationHead({
      onfollow: () => this.toggleFollow(),
      onfilters: () => this.toggleFilters(),
      ontitle: () => this.session && editTitle(this.session, (session) => this.#setSession(session)),
      onunseen: () => this.list.scrollToEnd(),
    });
    this.strip = new TimeStrip((timestamp) => attempt(() => this.jumpToTime(timestamp)));
    this.list = new VirtualList({
      render: (row) => this.#row(row),
      onrange: (first, last) => this.#inView(first, last),
      onend: (isAtEnd) => isAtEnd && this.#setUnseen(0),
      attributes: { role: "feed", "aria-label": "Events", tabIndex: 0 },
    });
    this.inspector = new Inspector({
      onclose: () => this.closeInspector(),
      onedited: (event) => attempt(() => this.edited(event)),
      onrewound: () => attempt(() => this.#reopen()),
    });
    this.filters = new FilterPanel((changes) => attempt(() => this.#filter(changes)));
    this.empty = el("p", { class: "empty", hidden: true, role: "status" });
    this.feed = this.#newFeed();
    this.node = el(
      "div",
      { class: "conversation" },
      el("div", { class: "conversation-main" }, this.head.node, this.filters.node, this.strip.node, this.empty, this.list.scroller, this.head.pill),
      this.inspector.node,
    );
    this.onvisible = () => this.#followIfWanted();
    document.addEventListener("visibilitychange", this.onvisible);
  }

  #newFeed() {
    const selection = { spiritId: this.spiritId, ...(this.sessionId !== undefined && { sessionId: this.sessionId }), filter: filterOf(this.query) };
    return new Feed(selection, () => this.#loaded());
  }

  async mount() {
    this.head.setFilters(conditions(this.query), false);
    await this.#readHead();
    await this.feed.open();
    this.#restart();
    await this.#goToAddress();
    this.#followIfWanted();
  }

  unmount() {
    document.removeEventListener("visibilitychange", this.onvisible);
    this.reading.abort();
    this.stripReading?.abort();
    this.follower?.stop();
    this.feed.close();
    this.inspector.close();
    this.list.dispose();
  }

  /** The address has changed, and is still that of this list of events. @param {import("./router.js").Route} route */
  async update(route) {
    const hasOtherFilters = PARAMETERS.some((name) => this.query.get(name) !== route.query.get(name));
    this.query = route.query;
    this.current = route.query.get("event") ?? "";
    if (!route.query.get("inspect")) this.inspector.close();
    if (hasOtherFilters) await this.#reopen();
    await this.#goToAddress();
  }

  // ---- reading ----

  async #readHead() {
    const { spiritId, sessionId } = this;
    const { signal } = this.reading;
    const [spirit, session] = await Promise.all([
      read("SpiritService/GetSpirit", { spiritId, includeDeleted: true }, signal),
      sessionId === undefined ? undefined : read("SessionService/GetSession", { spiritId, sessionId }, signal).catch(ignoreAbsent),
    ]);
    this.spirit = spirit.spirit;
    this.firstNew ??= Number(this.spirit.lastSequence ?? 0);
    this.#setSession(session?.session);
  }

  /** @param {any} session */
  #setSession(session) {
    this.session = session ?? this.session;
    this.head.show(this.spirit, this.sessionId, this.session, this.feed.total);
    this.onplace({ spirit: this.spirit, session: this.session, sessionId: this.sessionId });
  }

  /** Shows the feed from its end. */
  #restart() {
    this.base = Math.max(0, this.feed.total - ROWS_MAX);
    this.list.reset(this.feed.total - this.base);
    this.list.scrollToEnd();
    this.#showTotal();
    this.#loadStrip();
  }

  #loadStrip() {
    this.stripReading?.abort();
    this.stripReading = new AbortController();
    const { signal } = this.stripReading;
    const load = async () => {
      await this.feed.load(0);
      const [first, last] = [this.feed.get(0), this.feed.get(this.feed.total - 1)];
      this.strip.node.hidden = !first || !last;
      if (first && last) await this.strip.load(this.feed, first.occurredAt, last.occurredAt, signal);
      this.strip.move((this.feed.get(this.currentIndex) ?? last)?.occurredAt);
    };
    load().catch((error) => signal.aborted || notifyError(error));
  }

  /** Reads everything again, after a change of indexes or filters, and keeps the place. */
  async #reopen() {
    const wasAtEnd = this.list.isAtEnd;
    const place = this.feed.nearest(this.base + this.list.anchor.index);
    this.follower?.stop();
    this.follower = undefined;
    this.feed.close();
    this.feed = this.#newFeed();
    this.head.setFilters(conditions(this.query), this.filters.isOpen);
    this.firstNew = undefined;
    const { feed } = this;
    await this.#readHead();
    await feed.open();
    if (feed !== this.feed) return; // opened again meanwhile
    this.#restart();
    if (!wasAtEnd && place) await this.#showEvent(place, 40);
    this.#followIfWanted();
  }

  #loaded() {
    if (this.list.count !== this.feed.total - this.base) this.list.resize(this.feed.total - this.base);
    this.#refreshRows();
    this.#showTotal();
  }

  #showTotal() {
    this.head.setTotal(this.feed.total);
    this.empty.hidden = this.feed.total > 0;
    this.list.scroller.hidden = this.feed.total === 0;
    this.empty.textContent = conditions(this.query) > 0 ? "No event passes the filters." : "There are no events yet.";
  }

  // ---- rows ----

  /** @param {number} row */
  #row(row) {
    const index = this.base + row;
    const result = this.feed.resultOf(index);
    const node = renderRow({
      index,
      total: this.feed.total,
      event: this.feed.get(index),
      previous: this.feed.get(index - 1),
      result: result === undefined ? undefined : this.feed.get(result),
      isShownByCall: this.feed.callOf(index) !== undefined,
      isCurrent: this.#isCurrent(index),
      oninspect: (event) => this.inspect(event),
      oncurrent: (at) => this.setCurrent(at),
    });
    node.dataset.key = this.#rowKey(index);
    return node;
  }

  #refreshRows() {
    this.list.refresh((row, node) => node.dataset.key !== this.#rowKey(this.base + row));
  }

  /** Everything that a row shows, as a text to compare. @param {number} index */
  #rowKey(index) {
    const event = this.feed.get(index);
    const result = this.feed.resultOf(index);
    const other = result === undefined ? "" : `${this.feed.get(result)?.id}:${this.feed.get(result)?.revision}`;
    return [event?.id, event?.revision, other, this.feed.callOf(index), this.feed.get(index - 1)?.id, this.#isCurrent(index)].join();
  }

  /** Whether a row shows the current event, or has its result. @param {number} index */
  #isCurrent(index) {
    const current = this.currentIndex;
    return current >= 0 && (current === index || this.feed.callOf(current) === index);
  }

  get currentIndex() {
    return this.current === "" ? -1 : this.feed.indexOf(this.current);
  }

  /** @param {number} first @param {number} last */
  #inView(first, last) {
    this.feed.want(this.base + first, this.base + last);
    this.strip.move(this.feed.nearest(this.base + this.list.anchor.index)?.occurredAt);
  }

  // ---- moving ----

  /** Goes to the event of the address. */
  async #goToAddress() {
    if (!this.current) return;
    const loaded = this.feed.get(this.feed.indexOf(this.current));
    const event = loaded ?? (await this.#readEvent(this.current));
    if (!event) return;
    await this.#showEvent(event);
    if (this.query.get("inspect")) this.inspect(event);
  }

  /** @param {string} eventId */
  async #readEvent(eventId) {
    try {
      return (await read("EventService/GetEvent", { eventId, spiritId: this.spiritId, includeDeleted: true })).event;
    } catch (error) {
      if (error instanceof CallError) notify(`The event of this address cannot be shown: ${error.sentence}`, undefined, "error");
      return undefined;
    }
  }

  /** Brings an event into view, if it passes the filters. @param {any} event @param {number} [below] */
  async #showEvent(event, below) {
    const index = await this.feed.locate(event);
    if (index < 0) {
      if (below === undefined) notify("This event does not pass the filters, or is deleted.");
      return;
    }
    this.#showIndex(index, below);
  }

  /** @param {number} index @param {number} [below] */
  #showIndex(index, below) {
    if (index < this.base || index >= this.base + this.list.count) {
      this.base = Math.max(0, Math.min(index - ROWS_MAX / 2, this.feed.total - ROWS_MAX));
      this.list.reset(Math.min(ROWS_MAX, this.feed.total - this.base));
    }
    const shown = this.feed.callOf(index) ?? index;
    this.list.scrollTo(shown - this.base, below);
    this.#refreshRows();
  }

  /** @param {string} timestamp */
  async jumpToTime(timestamp) {
    const index = Math.min(await this.feed.countUntil(timestamp), this.feed.total - 1);
    await this.feed.loadAt(index);
    this.#showIndex(index, 8);
    this.setCurrent(index, false);
  }

  /** Makes an event the current one. @param {number} index @param {boolean} [hasFocus] */
  setCurrent(index, hasFocus = true) {
    const event = this.feed.get(index);
    if (!event) return;
    this.current = event.id;
    this.query = amend({ event: event.id, inspect: this.inspector.isOpen ? "1" : undefined });
    this.#refreshRows();
    if (hasFocus) this.list.rows.get(index - this.base)?.focus({ preventScroll: true });
    if (this.inspector.isOpen) this.inspector.show(event);
  }

  /** Goes to the next or previous row that is shown. @param {number} step */
  move(step) {
    let index = this.currentIndex;
    if (index < 0) index = step > 0 ? this.base + this.list.anchor.index - 1 : this.base + this.list.anchor.index + 1;
    do index += step;
    while (index >= 0 && index < this.feed.total && this.feed.callOf(index) !== undefined);
    if (index < 0 || index >= this.feed.total || !this.feed.get(index)) return;
    this.list.reveal(index - this.base);
    this.setCurrent(index);
  }

  /** @param {boolean} isEnd */
  async moveToEdge(isEnd) {
    const index = isEnd ? this.feed.total - 1 : 0;
    if (index < 0) return;
    await this.feed.loadAt(index);
    if (isEnd) this.list.scrollToEnd();
    else this.#showIndex(0, 0);
    this.setCurrent(this.feed.callOf(index) ?? index);
  }

  // ---- details and edits ----

  /** @param {any} event */
  inspect(event) {
    this.inspector.show(event);
    this.current = event.id;
    this.query = amend({ event: event.id, inspect: "1" });
    this.#refreshRows();
  }

  closeInspector() {
    this.inspector.close();
    this.query = amend({ inspect: undefined });
    (this.currentRow ?? this.list.scroller).focus({ preventScroll: true });
  }

  /** @param {any} event the event after an edit, with whole content */
  async edited(event) {
    const isGone = event.isDeleted && !this.query.get("deleted");
    if (isGone || this.feed.indexOf(event.id) < 0) await this.#reopen();
    else this.feed.replace(event);
    if (this.inspector.isOpen && this.inspector.event?.id === event.id) this.inspector.show(event);
  }

  // ---- following ----

  #followIfWanted() {
    if (this.reading.signal.aborted) return;
    const isWanted = this.query.get("follow") !== "0" && !this.spirit?.isDeleted;
    this.head.setFollow(isWanted, "off");
    if (!isWanted || document.hidden || !this.spirit) {
      this.follower?.stop();
      return;
    }
    this.follower ??= new Follower(this.feed.selection, this.firstNew ?? 0, {
      onevents: (events) => attempt(() => this.#added(events)),
      onstate: (state) => this.head.setFollow(this.query.get("follow") !== "0", state),
    });
    this.follower.start();
  }

  toggleFollow() {
    const isOn = this.query.get("follow") === "0";
    this.query = amend({ follow: isOn ? undefined : "0" });
    this.#followIfWanted();
    if (isOn) this.list.scrollToEnd();
  }

  /** @param {any[]} events */
  async #added(events) {
    const before = this.feed.total;
    const outcomes = events.map((event) => this.feed.add(event));
    if (outcomes.includes("moved")) {
      await this.#reopen();
      return;
    }
    const added = this.feed.total - before;
    if (added === 0) return;
    const wasEmpty = before === 0;
    this.#loaded();
    if (wasEmpty) this.#restart();
    if (!this.list.isAtEnd) this.#setUnseen(this.unseen + added);
  }

  /** @param {number} unseen */
  #setUnseen(unseen) {
    this.unseen = unseen;
    this.head.setUnseen(unseen);
  }

  // ---- filters and keys ----

  toggleFilters() {
    this.filters.toggle(this.query);
    this.head.setFilters(conditions(this.query), this.filters.isOpen);
  }

  /** Opens the filters and moves the focus to them. */
  openFilters() {
    if (!this.filters.isOpen) this.toggleFilters();
    this.filters.focus();
  }

  /** @param {Record<string, string | undefined>} changes of the address */
  async #filter(changes) {
    this.query = amend(changes);
    if (Object.keys(changes).length > 1) this.filters.draw(this.query);
    await this.#reopen();
  }

  /** The current event, if it is in memory. */
  get currentEvent() {
    return this.feed.get(this.currentIndex);
  }

  /** The row that shows the current event, if it exists. */
  get currentRow() {
    const index = this.currentIndex;
    return this.list.rows.get((this.feed.callOf(index) ?? index) - this.base);
  }

  keys() {
    return conversationKeys(this);
  }
}

/** @param {unknown} error */
function ignoreAbsent(error) {
  if (error instanceof CallError && error.code === "not_found") return undefined;
  throw error;
}
