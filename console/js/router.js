// Routes in the hash: each state of the page has an address.
//
//   #/                                   spirits            ?q=NAME &page=TOKEN &deleted=1
//   #/spirits/ID                         sessions           ?q=TEXT &by=title|id|owner &empty=1 &page=TOKEN
//   #/spirits/ID/events                  all events of a spirit
//   #/spirits/ID/sessions/SESSION        a conversation
// Both lists of events take ?event=ID (current), &inspect=1, the filters of filters.js, &order=sequence, and &follow=0.

/** @typedef {{name: "spirits" | "sessions" | "events" | "unknown", spiritId: string, sessionId: string | undefined, query: URLSearchParams}} Route */

/** @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string} hash @returns {Route} */
export function parse(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const query = new URLSearchParams(search);
  const [first, spiritId = "", kind, session] = path.split("/").map(decode);
  /** @param {Route["name"]} name @param {string} [sessionId] */
  const route = (name, sessionId) => ({ name, spiritId, sessionId, query });
  if (first === "") return route("spirits");
  if (first !== "spirits" || !spiritId) return route("unknown");
  if (kind === undefined || kind === "") return route("sessions");
  if (kind === "events") return route("events");
  if (kind === "sessions" && session) return route("events", session);
  return route("unknown");
}

/** @param {Record<string, any>} query */
function search(query) {
  const values = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  return values.length > 0 ? `?${new URLSearchParams(values.map(([name, value]) => [name, String(value)]))}` : "";
}

export const links = {
  /** @param {Record<string, any>} [query] */
  spirits: (query = {}) => `#/${search(query)}`,
  /** @param {string} spiritId @param {Record<string, any>} [query] */
  sessions: (spiritId, query = {}) => `#/spirits/${encodeURIComponent(spiritId)}${search(query)}`,
  /** The events of a session, or of the whole spirit. @param {string} spiritId @param {string | undefined} sessionId @param {Record<string, any>} [query] */
  events: (spiritId, sessionId, query = {}) => {
    const path = sessionId === undefined ? "events" : `sessions/${encodeURIComponent(sessionId)}`;
    return `#/spirits/${encodeURIComponent(spiritId)}/${path}${search(query)}`;
  },
};

/** Goes to an address, as a step that Back returns from. @param {string} hash */
export function go(hash) {
  location.hash = hash;
}

/** Changes parameters of the address without a step, and returns all; undefined removes one. @param {Record<string, string | undefined>} changes */
export function amend(changes) {
  history.replaceState(null, "", amended(changes));
  return parse(location.hash).query;
}

/** The address with other parameters. @param {Record<string, string | undefined>} changes */
export function amended(changes) {
  const [path, query = ""] = (location.hash || "#/").split("?", 2);
  const values = new URLSearchParams(query);
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined || value === "") values.delete(name);
    else values.set(name, value);
  }
  const text = values.toString();
  return text ? `${path}?${text}` : path;
}
