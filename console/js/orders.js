// The orders in which the events of a conversation can be shown.

/** Orders by their value in the address; `wire` is the EventOrder of the service. */
export const ORDERS = {
  time: { name: "By time", wire: "EVENT_ORDER_OLDEST_FIRST" },
  sequence: { name: "As stored", wire: "EVENT_ORDER_SEQUENCE" },
};

/** @typedef {keyof typeof ORDERS} Order */

/** The order of an address. @param {URLSearchParams} query @returns {Order} */
export const orderOf = (query) => (query.get("order") === "sequence" ? "sequence" : "time");

/** The parameter of the address for an order; undefined for the one that an address has without it. @param {Order} order */
export const orderParameter = (order) => (order === "time" ? undefined : order);

/** A timestamp whose texts sort as its times do. @param {string} timestamp */
function sortable(timestamp) {
  const [whole, fraction = ""] = timestamp.replace("Z", "").split(".");
  return `${whole}.${fraction.padEnd(9, "0")}`;
}

/** Whether an event comes before another one. @param {Order} order @param {any} one @param {any} other */
export function isBefore(order, one, other) {
  const [a, b] = [sortable(one.occurredAt), sortable(other.occurredAt)];
  return order === "sequence" || a === b ? Number(one.sequence) < Number(other.sequence) : a < b;
}

/**
 * The filter that also limits the time; undefined if no time is within all limits.
 *
 * @param {Record<string, any>} filter @param {string | undefined} from @param {string | undefined} until exclusive
 */
export function within(filter, from, until) {
  const sorted = (/** @type {(string | undefined)[]} */ times) =>
    /** @type {string[]} */ (times.filter(Boolean)).sort((a, b) => (sortable(a) < sortable(b) ? -1 : 1));
  const earliest = sorted([filter.occurredFrom, from]).at(-1);
  const latest = sorted([filter.occurredUntil, until])[0];
  if (earliest && latest && sortable(latest) <= sortable(earliest)) return undefined;
  return { ...filter, ...(earliest && { occurredFrom: earliest }), ...(latest && { occurredUntil: latest }) };
}
