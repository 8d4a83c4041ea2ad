// Edits of events and sessions, each with its undo.

import { read, write } from "./api.js";
import { el } from "./dom.js";
import { field, openDialog } from "./dialogs.js";
import { counted } from "./format.js";
import { attempt, notify } from "./notices.js";

/** @typedef {(event: any) => void} Done receives the event after a change */

/** @param {any} event */
const reference = (event) => ({ eventId: event.id, spiritId: event.spiritId });

/** Asks for a new summary and importance. @param {any} event @param {Done} done */
export function editEvent(event, done) {
  const summary = el("textarea", { name: "summary", rows: 4, maxlength: 16_384, value: event.metaSummary ?? "" });
  const importance = el("input", { name: "importance", type: "number", min: 0, max: 1, step: "any", value: event.importanceScore ?? "" });
  openDialog(
    `Edit event ${event.sequence}`,
    [field("Summary", summary), field("Importance", importance, "0 to 1; empty for none")],
    (form) => {
      const values = new FormData(form);
      attempt(() => saveEvent(event, String(values.get("summary")), String(values.get("importance")), done));
    },
    "Save",
  );
}

/** @param {any} event @param {string} summary @param {string} importance @param {Done} done */
async function saveEvent(event, summary, importance, done) {
  const former = { metaSummary: event.metaSummary, importanceScore: event.importanceScore };
  const edited = await updateEvent(event, {
    metaSummary: summary || undefined,
    importanceScore: importance === "" ? undefined : Number(importance),
  });
  done(edited);
  if (edited.revision === event.revision) return;
  notify(`Event ${event.sequence} was edited.`, {
    label: "Undo",
    run: async () => done(await updateEvent(edited, former)),
  });
}

/** Sets summary and importance, or clears those that are undefined. @param {any} event @param {Record<string, any>} values */
async function updateEvent(event, values) {
  const request = { ...reference(event), ...values, updateMask: "metaSummary,importanceScore", expectedRevision: event.revision };
  return (await write("EventService/UpdateEvent", request)).event;
}

/** @param {any} event @param {Done} done */
export async function deleteEvent(event, done) {
  const deleted = (await write("EventService/SoftDeleteEvent", reference(event))).event;
  done(deleted);
  notify(`Event ${event.sequence} was deleted.`, { label: "Undo", run: () => restoreEvent(deleted, done) });
}

/** @param {any} event @param {Done} done */
export async function restoreEvent(event, done) {
  done((await write("EventService/RestoreEvent", reference(event))).event);
}

/** Deletes the events of a session after an event, once a person has confirmed it. @param {any} event @param {() => void} done */
export function rewind(event, done) {
  const text = `Every event of this session that was stored after event ${event.sequence} is deleted. This can be undone.`;
  openDialog("Rewind the session", [el("p", { text })], () => attempt(() => rewindNow(event, done)), "Rewind");
}

/** @param {any} event @param {() => void} done */
async function rewindNow(event, done) {
  const { spiritId, sessionId } = event;
  const reply = await write("EventService/SoftDeleteEvents", { spiritId, sessionId, afterSequence: event.sequence });
  done();
  if (!reply.deletedAt) {
    notify("There was nothing to delete.");
    return;
  }
  const restore = async () => {
    await write("EventService/RestoreEvents", { spiritId, sessionId, deletedAt: reply.deletedAt });
    done();
  };
  notify(`${counted(reply.deletedCount, "event")} deleted.`, { label: "Undo", run: restore });
}

/** Asks for a new title of a session. @param {any} session @param {(session: any) => void} done */
export function editTitle(session, done) {
  const input = el("input", { name: "title", maxlength: 255, value: session.title ?? "" });
  openDialog(
    "Title of the session",
    [field("Title", input, "Empty for none")],
    (form) => attempt(() => saveTitle(session, String(new FormData(form).get("title")).trim(), done)),
    "Save",
  );
}

/** @param {any} session @param {string} title @param {(session: any) => void} done */
async function saveTitle(session, title, done) {
  const edited = await updateTitle(session, title);
  done(edited);
  if (edited.revision === session.revision) return;
  const run = async () => done(await updateTitle(edited, session.title));
  notify("The title was changed.", { label: "Undo", run });
}

/** @param {any} session @param {string | undefined} title */
async function updateTitle({ spiritId, sessionId, revision }, title) {
  const request = { spiritId, sessionId, title: title || undefined, updateMask: "title", expectedRevision: revision ?? "0" };
  return (await write("SessionService/UpdateSession", request)).session;
}

/** The first event at or after a sequence. @param {string} spiritId @param {string | undefined} sessionId @param {number} sequence */
export async function eventBySequence(spiritId, sessionId, sequence) {
  const request = {
    spiritId, sessionId, order: "EVENT_ORDER_SEQUENCE", afterSequence: String(sequence - 1), pageSize: 1,
    filter: { includeDeleted: true }, view: "EVENT_VIEW_BASIC",
  };
  return (await read("EventService/ListEvents", request)).events?.[0];
}
