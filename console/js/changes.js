// The effect of changes that other clients make on the events of a feed.

import { CallError, read } from "./api.js";
import { CONTENT_BYTES_MAX } from "./feed.js";

/** Changed events that are read one by one; more of them are read as pages. */
const READS_MAX = 25;
const PAGE = 200;

/** @typedef {import("./feed.js").Feed} Feed */

/**
 * Reads what changes have made of the events in memory. `isMoved` = events have come or gone, so that indexes are others.
 *
 * @param {Feed} feed @param {any[]} changes @returns {Promise<{events: any[], isMoved: boolean}>}
 */
export async function effectOf(feed, changes) {
  const { known, others } = concerned(feed, changes);
  if (known.size > READS_MAX || (await hasAny(feed, others))) return { events: [], isMoved: true };
  const purged = changes.some(({ kind }) => kind === "CHANGE_KIND_PURGED");
  if (purged && (await feed.countUntil(undefined)) !== feed.total) return { events: [], isMoved: true };
  const events = await Promise.all([...known].map((eventId) => readEvent(feed, eventId)));
  return { events: events.filter((event) => event && passes(feed, event)), isMoved: events.some((event) => !event || !passes(feed, event)) };
}

/**
 * The ids of changed events in memory, and the sequences of those whose change matters although they are not.
 *
 * @param {Feed} feed @param {any[]} changes
 */
function concerned(feed, changes) {
  const { minImportance, includeDeleted } = feed.selection.filter;
  /** @type {Set<string>} */
  const known = new Set();
  /** @type {Set<number>} */
  const others = new Set();
  for (const { kind, eventIds, sequences, revision } of changes) {
    const canMove = kind === "CHANGE_KIND_UPDATED" ? minImportance !== undefined : kind !== "CHANGE_KIND_PURGED" && !includeDeleted;
    eventIds.forEach((/** @type {string} */ id, /** @type {number} */ at) => {
      const event = feed.get(feed.indexOf(id));
      if (event) {
        // An edit that was made here is in memory already.
        if (!revision || Number(event.revision) < Number(revision)) known.add(id);
      } else if (canMove) others.add(Number(sequences[at]));
    });
  }
  return { known, others };
}

/** Whether the session has an event with one of these sequences. @param {Feed} feed @param {Set<number>} sequences */
async function hasAny({ selection: { spiritId, sessionId } }, sequences) {
  if (sequences.size === 0) return false;
  if (sessionId === undefined) return true;
  const sorted = [...sequences].sort((a, b) => a - b);
  const { events = [], nextPageToken } = await read("EventService/ListEvents", {
    spiritId, sessionId, order: "EVENT_ORDER_SEQUENCE", afterSequence: String(sorted[0] - 1), filter: { includeDeleted: true },
    view: "EVENT_VIEW_BASIC", pageSize: PAGE,
  });
  if (events.some((/** @type {any} */ event) => sequences.has(Number(event.sequence)))) return true;
  return Boolean(nextPageToken) && Number(events.at(-1)?.sequence ?? 0) < /** @type {number} */ (sorted.at(-1));
}

/** Reads an event as lists do; undefined if it was purged. @param {Feed} feed @param {string} eventId */
async function readEvent({ selection: { spiritId } }, eventId) {
  try {
    const request = { eventId, spiritId, includeDeleted: true, contentBytesMax: CONTENT_BYTES_MAX };
    return (await read("EventService/GetEvent", request)).event;
  } catch (error) {
    if (error instanceof CallError && error.code === "not_found") return undefined;
    throw error;
  }
}

/** Whether an event passes the conditions of the filter that an edit can change. @param {Feed} feed @param {any} event */
function passes({ selection: { filter } }, event) {
  if (event.isDeleted && !filter.includeDeleted) return false;
  return filter.minImportance === undefined || (event.importanceScore ?? -1) >= filter.minImportance;
}
