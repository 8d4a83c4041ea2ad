// The events of a session, or of a whole spirit, as a conversation.

import { CallError, read } from "./api.js";
import { effectOf } from "./changes.js";
import { ConversationHead } from "./conversation_head.js";
import { conversationKeys } from "./conversation_keys.js";
import { el } from "./dom.js";
import { editTitle } from "./edits.js";
import { EventList } from "./event_list.js";
import { Feed } from "./feed.js";
import { conditions, FilterPanel, filterOf, PARAMETERS } from "./filters.js";
import { Inspector } from "./inspector.js";
import { Live } from "./live.js";
import { attempt, notify } from "./notices.js";
import { orderOf, orderParameter } from "./orders.js";
import { amend } from "./router.js";
import { TimeStrip } from "./time_strip.js";

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
    this.unseen = 0;
    this.reading = new AbortController();
    this.head = new ConversationHead({
      onfollow: () => this.toggleFollow(),
      onfilters: () => this.toggleFilters(),
      ontitle: () => this.session && editTitle(this.session, (session) => this.#setSession(session)),
      onunseen: () => this.list.scrollToEnd(),
      onorder: (order) => attempt(() => this.#change({ order: orderParameter(order) })),
    });
    this.strip = new TimeStrip((timestamp) => attempt(() => this.jumpToTime(timestamp)));
    this.feed = this.#newFeed();
    /** The feed that is shown next. */
    this.opening = this.feed;
    this.list = new EventList(this.feed, {
      onrange: (first, last) => this.#inView(first, last),
      onend: () => this.#setUnseen(0),
      oninspect: (event) => this.inspect(event),
      oncurrent: (index) => this.setCurrent(index),
    });
    this.list.current = route.query.get("event") ?? "";
    this.live = new Live({
      onevents: (events) => this.#added(events),
      onchanges: (changes) => this.#changed(changes),
      ongone: () => this.#open(),
      onstate: (state) => this.head.setFollow(this.query.get("follow") !== "0", state),
    });
    this.inspector = new Inspector({
      onclose: () => this.closeInspector(),
      onedited: (event) => attempt(() => this.edited(event)),
      onrewound: () => attempt(() => this.#open()),
    });
    this.filters = new FilterPanel((changes) => attempt(() => this.#filter(changes)));
    this.empty = el("p", { class: "empty", hidden: true, role: "status" });
    this.node = el(
      "div",
      { class: "conversation" },
      el("div", { class: "conversation-main" }, this.head.node, this.filters.node, this.strip.node, this.empty, this.list.node, this.head.pill),
      this.inspector.node,
    );
    this.onvisible = () => this.#followIfWanted();
    document.addEventListener("visibilitychange", this.onvisible);
    addEventListener("online", this.onvisible);
  }

  async mount() {
    await this.#open();
    await this.#goToAddress();
  }

  unmount() {
    document.removeEventListener("visibilitychange", this.onvisible);
    removeEventListener("online", this.onvisible);
    this.reading.abort();
    this.strip.close();
    this.live.stop();
    this.opening.close();
    this.feed.close();
    this.inspector.close();
    this.list.dispose();
  }

  /** The address has changed, and is still that of this list of events. @param {import("./router.js").Route} route */
  async update(route) {
    const isOther = [...PARAMETERS, "order"].some((name) => this.query.get(name) !== route.query.get(name));
    this.query = route.query;
    this.list.current = route.query.get("event") ?? "";
    if (!route.query.get("inspect")) this.inspector.close();
    if (isOther) await this.#open();
    await this.#goToAddress();
  }

  // ---- reading ----

  #newFeed() {
    const selection = { spiritId: this.spiritId, ...(this.sessionId !== undefined && { sessionId: this.sessionId }), filter: filterOf(this.query) };
    const feed = new Feed(selection, orderOf(this.query), () => feed === this.feed && this.#loaded());
    return feed;
  }

  /** Reads everything, at first or after a change of indexes, filters or order, and then shows it at the same place. */
  async #open() {
    this.opening.close();
    const feed = (this.opening = this.#newFeed());
    const places = this.list.isAtEnd ? [] : this.list.places();
    this.live.stop();
    this.head.setFilters(conditions(this.query), this.filters.isOpen);
    this.head.setOrder(feed.order);
    try {
      await this.#readHead();
      const { spirit } = this;
      await feed.open();
      const place = await placeIn(feed, places);
      if (feed !== this.opening || this.reading.signal.aborted) return;
      this.feed.close();
      this.feed = feed;
      this.#showFeed(place);
      this.live.open(feed, spirit);
    } finally {
      if (feed === this.opening) this.#followIfWanted();
    }
  }

  async #readHead() {
    const { spiritId, sessionId } = this;
    const { signal } = this.reading;
    const [spirit, session] = await Promise.all([
      read("SpiritService/GetSpirit", { spiritId, includeDeleted: true }, signal),
      sessionId === undefined ? undefined : read("SessionService/GetSession", { spiritId, sessionId }, signal).catch(ignoreAbsent),
    ]);
    this.spirit = spirit.spirit;
    this.#setSession(session?.session);
  }

  /** @param {any} session */
  #setSession(session) {
    this.session = session ?? this.session;
    this.head.show(this.spirit, this.sessionId, this.session);
    this.onplace({ spirit: this.spirit, session: this.session, sessionId: this.sessionId });
  }

  /** Shows the feed from a place on, or from its end. @param {{index: number, below: number}} [place] */
  #showFeed(place) {
    this.#showTotal();
    this.list.open(this.feed, place);
    attempt(() => this.strip.show(this.feed, this.feed.get(this.list.topIndex)?.occurredAt));
  }

  #loaded() {
    this.list.update();
    this.#showTotal();
  }

  #showTotal() {
    this.head.setTotal(this.feed.total);
    this.empty.hidden = this.feed.total > 0;
    this.list.node.hidden = this.feed.total === 0;
    this.empty.textContent = conditions(this.query) > 0 ? "No event passes the filters." : "There are no events yet.";
  }

  /** @param {number} first @param {number} last */
  #inView(first, last) {
    this.feed.want(first, last);
    this.strip.move(this.feed.nearest(this.list.topIndex)?.occurredAt);
  }

  // ---- moving ----

  /** Goes to the event of the address. */
  async #goToAddress() {
    const { current } = this.list;
    if (!current) return;
    const event = this.feed.get(this.feed.indexOf(current)) ?? (await this.#readEvent(current));
    if (!event) return;
    const index = await this.feed.locate(event);
    if (index >= 0) this.list.show(index);
    else notify("This event does not pass the filters, or is deleted.");
    if (index >= 0 && this.query.get("inspect")) this.inspect(event);
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

  /** @param {string} timestamp */
  async jumpToTime(timestamp) {
    const index = await this.feed.indexAt(timestamp);
    await this.feed.loadAt(index);
    this.list.show(index, 8);
    this.setCurrent(index, false);
  }

  /** Makes an event the current one. @param {number} index @param {boolean} [hasFocus] */
  setCurrent(index, hasFocus = true) {
    const event = this.feed.get(index);
    if (!event) return;
    this.list.current = event.id;
    this.query = amend({ event: event.id, inspect: this.inspector.isOpen ? "1" : undefined });
    this.list.refresh();
    if (hasFocus) this.list.focus(index);
    if (this.inspector.isOpen) this.inspector.show(event);
  }

  /** Goes to the next or previous row that is shown. @param {number} step */
  move(step) {
    let index = this.list.currentIndex;
    if (index < 0) index = this.list.topIndex - step;
    do index += step;
    while (index >= 0 && index < this.feed.total && this.feed.callOf(index) !== undefined);
    if (index < 0 || index >= this.feed.total || !this.feed.get(index)) return;
    this.list.reveal(index);
    this.setCurrent(index);
  }

  /** @param {boolean} isEnd */
  async moveToEdge(isEnd) {
    const index = isEnd ? this.feed.total - 1 : 0;
    if (index < 0) return;
    await this.feed.loadAt(index);
    if (isEnd) this.list.scrollToEnd();
    else this.list.show(0, 0);
    this.setCurrent(this.feed.callOf(index) ?? index);
  }

  // ---- details and edits ----

  /** @param {any} event */
  inspect(event) {
    this.inspector.show(event);
    this.list.current = event.id;
    this.query = amend({ event: event.id, inspect: "1" });
    this.list.refresh();
  }

  closeInspector() {
    this.inspector.close();
    this.query = amend({ inspect: undefined });
    (this.list.currentRow ?? this.list.node).focus({ preventScroll: true });
  }

  /** @param {any} event the event after an edit, with whole content */
  async edited(event) {
    const isGone = event.isDeleted && !this.query.get("deleted");
    if (isGone || this.feed.indexOf(event.id) < 0) await this.#open();
    else this.feed.replace(event);
    if (this.inspector.isOpen && this.inspector.event?.id === event.id) this.inspector.show(event);
  }

  // ---- following ----

  #followIfWanted() {
    if (this.reading.signal.aborted) return;
    const isWanted = this.query.get("follow") !== "0" && !this.spirit?.isDeleted;
    if (isWanted && !document.hidden) this.live.start();
    else this.live.stop();
    if (!isWanted) this.head.setFollow(false, "off");
  }

  toggleFollow() {
    const isOn = this.query.get("follow") === "0" || this.live.state === "ended";
    this.query = amend({ follow: isOn ? undefined : "0" });
    this.#followIfWanted();
    if (isOn) this.list.scrollToEnd();
  }

  /** @param {any[]} events */
  async #added(events) {
    const { isAtEnd } = this.list;
    const before = this.feed.total;
    const outcomes = events.map((event) => this.feed.add(event));
    if (outcomes.includes("moved")) {
      await this.#open();
      return;
    }
    const added = this.feed.total - before;
    if (added === 0) return;
    if (before === 0) this.#showFeed();
    else this.#loaded();
    if (!isAtEnd) this.#setUnseen(this.unseen + added);
  }

  /** @param {any[]} changes made by this page or by others */
  async #changed(changes) {
    const { feed } = this;
    const { events, isMoved } = await effectOf(feed, changes);
    if (feed !== this.feed) return; // read again meanwhile, or followed from before these changes
    if (isMoved) await this.#open();
    else for (const event of events) feed.replace(event);
    const { event } = this.inspector;
    if (this.inspector.isOpen && changes.some(({ eventIds }) => eventIds.includes(event.id))) this.inspector.show(event);
  }

  /** @param {number} unseen */
  #setUnseen(unseen) {
    this.unseen = unseen;
    this.head.setUnseen(unseen);
  }

  // ---- filters, order and keys ----

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
    if (Object.keys(changes).length > 1) this.filters.draw(amend(changes));
    await this.#change(changes);
  }

  /** @param {Record<string, string | undefined>} changes of the address */
  async #change(changes) {
    this.query = amend(changes);
    await this.#open();
  }

  /** Changes the order to the other one. */
  nextOrder() {
    const order = orderOf(this.query) === "time" ? "sequence" : "time";
    attempt(() => this.#change({ order: orderParameter(order) }));
  }

  /** The current event, if it is in memory. */
  get currentEvent() {
    return this.feed.get(this.list.currentIndex);
  }

  keys() {
    return conversationKeys(this);
  }
}

/**
 * The place in a feed of the first of these events that it has, or else where the first one would be.
 *
 * @param {Feed} feed @param {import("./event_list.js").Place[]} places
 */
async function placeIn(feed, places) {
  if (places.length === 0 || feed.total === 0) return undefined;
  const position = await feed.position(places[0].event);
  const index = Math.min(position, feed.total - 1);
  await feed.loadAt(index);
  const found = places.find(({ event }) => feed.indexOf(event.id) >= 0);
  return found ? { index: feed.indexOf(found.event.id), below: found.below } : { index, below: places[0].below };
}

/** @param {unknown} error */
function ignoreAbsent(error) {
  if (error instanceof CallError && error.code === "not_found") return undefined;
  throw error;
}
