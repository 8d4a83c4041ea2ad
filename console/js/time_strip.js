// A strip of time above a conversation: where its events are, where its pauses are, and where the reader is.

import { el } from "./dom.js";
import { clock, counted, day, duration, millis, shortTime } from "./format.js";

const BUCKETS = 60;
const PARALLEL = 3;
/** Below this number of events their times come from the list itself. */
const DIRECT_MAX = 100;

export class TimeStrip {
  /**
   * @param {(timestamp: string) => void} onjump
   */
  constructor(onjump) {
    this.onjump = onjump;
    this.counts = new Array(BUCKETS).fill(0);
    this.first = 0;
    this.last = 0;
    this.position = 0;
    /** @type {AbortController | undefined} */
    this.reading = undefined;
    this.bars = el("div", { class: "strip-bars", "aria-hidden": "true" });
    this.cursor = el("div", { class: "strip-cursor", "aria-hidden": "true" });
    this.from = el("span", {});
    this.until = el("span", {});
    this.track = el("div", {
      class: "strip-track", role: "slider", tabIndex: 0, "aria-label": "Time", "aria-valuemin": 0, "aria-valuemax": BUCKETS - 1,
      onclick: (/** @type {MouseEvent} */ event) => this.#clicked(event),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#pressed(event),
    }, this.bars, this.cursor);
    this.node = el("div", { class: "strip" }, this.track, el("div", { class: "strip-labels", "aria-hidden": "true" }, this.from, this.until));
  }

  /** Shows the events of a feed, and where the reader is. @param {import("./feed.js").Feed} feed @param {string | undefined} place */
  async show(feed, place) {
    this.close();
    this.reading = new AbortController();
    const { signal } = this.reading;
    try {
      const [first, last] = await feed.ends(signal);
      this.node.hidden = !first || !last;
      if (first && last) {
        this.#setRange(first.occurredAt, last.occurredAt);
        this.move(place ?? last.occurredAt);
        await this.#load(feed, signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  /** Stops reading. */
  close() {
    this.reading?.abort();
  }

  /** @param {string} first @param {string} last */
  #setRange(first, last) {
    this.first = millis(first);
    this.last = Math.max(millis(last), this.first + 1);
    this.from.textContent = `${day(first)}, ${clock(first)}`;
    this.until.textContent = day(first) === day(last) ? clock(last) : `${day(last)}, ${clock(last)}`;
  }

  /** Reads how many events each part of the time has. @param {import("./feed.js").Feed} feed @param {AbortSignal} signal */
  async #load(feed, signal) {
    this.counts.fill(0);
    if (feed.total <= DIRECT_MAX) {
      for (let index = 0; index < feed.total; index++) {
        const event = feed.get(index);
        if (event) this.counts[this.#bucket(millis(event.occurredAt))]++;
      }
      this.#draw();
      return;
    }
    let next = 0;
    const work = async () => {
      while (next < BUCKETS && !signal.aborted) {
        const bucket = next++;
        this.counts[bucket] = await feed.countUntil(this.#time(bucket + 1, true), this.#time(bucket, false), signal);
        this.#draw();
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, work));
  }

  /** Shows where the reader is. @param {string | undefined} timestamp */
  move(timestamp) {
    if (!timestamp || this.last === 0) return;
    const time = millis(timestamp);
    this.position = this.#bucket(time);
    const share = (time - this.first) / (this.last - this.first);
    this.cursor.style.left = `${100 * Math.max(0, Math.min(1, share))}%`;
    this.track.setAttribute("aria-valuenow", String(this.position));
    this.track.setAttribute("aria-valuetext", shortTime(time));
  }

  /** @param {number} time */
  #bucket(time) {
    const share = (time - this.first) / (this.last - this.first);
    return Math.max(0, Math.min(BUCKETS - 1, Math.floor(share * BUCKETS)));
  }

  /** The time at which a bucket begins; the end of the last one lies after the last event. @param {number} bucket @param {boolean} isEnd */
  #time(bucket, isEnd) {
    const time = this.first + ((this.last - this.first) * bucket) / BUCKETS;
    return new Date(isEnd && bucket === BUCKETS ? this.last + 1 : time).toISOString();
  }

  #draw() {
    const most = Math.max(1, ...this.counts);
    if (this.bars.childElementCount !== BUCKETS) this.bars.replaceChildren(...this.counts.map(() => el("i")));
    this.counts.forEach((number, bucket) => {
      const bar = /** @type {HTMLElement} */ (this.bars.children[bucket]);
      bar.style.height = number === 0 ? "0" : `${Math.max(12, 100 * Math.sqrt(number / most))}%`;
      bar.title = `${shortTime(Date.parse(this.#time(bucket, false)))}: ${number === 0 ? "pause" : counted(number, "event")}`;
    });
    const gaps = this.#longestGap();
    this.track.title = gaps > 0 ? `Longest pause: about ${duration(gaps)}` : "";
  }

  #longestGap() {
    let longest = 0;
    let run = 0;
    for (const number of this.counts) {
      run = number === 0 ? run + 1 : 0;
      longest = Math.max(longest, run);
    }
    return (longest * (this.last - this.first)) / BUCKETS;
  }

  /** @param {number} bucket */
  #jump(bucket) {
    this.position = bucket;
    this.onjump(this.#time(bucket, false));
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const { left, width } = this.track.getBoundingClientRect();
    this.#jump(Math.max(0, Math.min(BUCKETS - 1, Math.floor(((event.clientX - left) / width) * BUCKETS))));
  }

  /** Arrow keys go to the next part with events, across pauses. @param {KeyboardEvent} event */
  #pressed(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Home" || event.key === "End") {
      this.#jump(event.key === "Home" ? 0 : BUCKETS - 1);
    } else if (step) {
      let bucket = this.position + step;
      while (bucket > 0 && bucket < BUCKETS - 1 && this.counts[bucket] === 0) bucket += step;
      this.#jump(Math.max(0, Math.min(BUCKETS - 1, bucket)));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
