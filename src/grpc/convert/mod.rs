//! Converts requests to domain types and domain types to replies. Checks every rule for fields of requests.
//!
//! Every request is destructured exhaustively, so a new field does not compile until it is handled. Code that
//! receives the converted values does not check them again.

mod change;
pub(super) mod create;
mod deletion;
mod edit;
mod fields;
mod outbound;
mod page;
mod purge;
mod read;
pub(super) mod session;
mod spirit;
pub mod timestamp;

pub(super) use change::{change_page, list_event_changes, watch_changes};
pub(super) use create::{Batch, IngestItem, batch, ingest, new_event};
pub(super) use deletion::{deletion, deletion_response, restoration};
pub(super) use edit::{event_edit, restore_event, soft_delete_event};
pub(super) use outbound::{
    access, batch_result, change, create_response, event, outcome, receipt, session, spirit,
};
pub(super) use page::event_page;
pub(super) use purge::{event_purge, list_purges, purge_page, spirit_purge};
pub(super) use read::{count, get_event, list, replay, unchecked_path, watch};
pub(super) use session::{get_session, list_sessions, session_edit, session_page};
pub(super) use spirit::{
    get_spirit, list_spirits, new_spirit, restore_spirit, soft_delete_spirit, spirit_edit, spirit_page,
};
