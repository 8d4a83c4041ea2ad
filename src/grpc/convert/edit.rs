//! Converts requests of `UpdateEvent`, `SoftDeleteEvent` and `RestoreEvent`, and update masks.

use prost_types::FieldMask;

use super::fields::{enumeration, meta};
use crate::domain::access::Editor;
use crate::domain::edit::{Change, EventEdit, EventTarget};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{AUTHOR_CHARS_MAX, Limits, META_SUMMARY_BYTES_MAX, ROLE_CHARS_MAX};
use crate::domain::meta::{Meta, MetaChange};
use crate::grpc::pb;

/// Maximum number of unknown paths that an error shows.
const SHOWN_PATHS_MAX: usize = 3;
/// Maximum number of characters that an error shows of a path.
const SHOWN_PATH_CHARS_MAX: usize = 40;

/// The fields that an update writes.
pub(super) enum Mask {
    /// The fields that are present in the request.
    Present,
    /// The listed fields; a listed field that is absent is cleared.
    Listed(Vec<String>),
}

impl Mask {
    /// Reads an update mask, which may list `mutable` fields. Without a mask, the present fields are written.
    pub(super) fn read(fields: &mut Fields, mask: Option<FieldMask>, mutable: &[&str]) -> Self {
        let paths = mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Self::Present;
        }
        let unknown: Vec<String> = paths
            .iter()
            .filter(|path| !mutable.contains(&path.as_str()))
            .take(SHOWN_PATHS_MAX)
            .map(|path| {
                let shown = path.chars().filter(|c| !c.is_control());
                format!("\"{}\"", shown.take(SHOWN_PATH_CHARS_MAX).collect::<String>())
            })
            .collect();
        if !unknown.is_empty() {
            fields.refuse(
                "update_mask",
                format_args!("may list {}; lists {}", mutable.join(", "), unknown.join(", ")),
            );
        }
        Self::Listed(paths)
    }

    fn lists(&self, field: &str) -> bool {
        matches!(self, Self::Listed(paths) if paths.iter().any(|path| path == field))
    }

    /// Returns the change of a field that the update may clear.
    pub(super) fn clearable<T>(&self, field: &str, value: Option<T>) -> Change<Option<T>> {
        match (self, value) {
            (Self::Present, Some(value)) => Change::Set(Some(value)),
            (Self::Listed(_), value) if self.lists(field) => Change::Set(value),
            _ => Change::Keep,
        }
    }

    /// Returns the change of a field that the update must not clear.
    pub(super) fn required<T>(&self, fields: &mut Fields, field: &str, value: Option<T>) -> Change<T> {
        match self.clearable(field, value) {
            Change::Set(Some(value)) => Change::Set(value),
            Change::Set(None) => {
                fields.refuse(field, "is listed in update_mask and must have a value");
                Change::Keep
            }
            Change::Keep => Change::Keep,
        }
    }
}

/// Returns the change of `meta`. Clearing it sets it to the empty object.
pub(super) fn meta_change(
    fields: &mut Fields,
    mask: &Mask,
    value: Option<Meta>,
    mode: i32,
) -> Change<MetaChange> {
    let mode: pb::MetaMode = enumeration(fields, "meta_mode", mode);
    match mask.clearable("meta", value) {
        Change::Keep => Change::Keep,
        Change::Set(None) => Change::Set(MetaChange::Replace(Meta::empty())),
        Change::Set(Some(meta)) => Change::Set(match mode {
            pb::MetaMode::Unspecified | pb::MetaMode::Replace => MetaChange::Replace(meta),
            pb::MetaMode::MergePatch => MetaChange::MergePatch(meta),
        }),
    }
}

/// Reads an expected revision of 1 or more.
pub(super) fn expected_revision(fields: &mut Fields, revision: Option<i64>) -> Option<i64> {
    revision.map(|revision| fields.at_least("expected_revision", revision, 1))
}

/// Converts an update of an event.
pub(crate) fn event_edit(
    request: pb::UpdateEventRequest,
    editor: Editor,
    limits: &Limits,
) -> Result<(EventTarget, EventEdit), Invalid> {
    let pb::UpdateEventRequest {
        event_id,
        spirit_id,
        meta_summary,
        importance_score,
        meta: meta_struct,
        role,
        author,
        is_deleted,
        update_mask,
        meta_mode,
        expected_revision,
    } = request;
    let mut f = Fields::default();
    let target = event_target(&mut f, &event_id, spirit_id, expected_revision, editor);
    let mutable = [
        "meta_summary",
        "importance_score",
        "meta",
        "role",
        "author",
        "is_deleted",
    ];
    let mask = Mask::read(&mut f, update_mask, &mutable);
    let meta_summary = meta_summary.map(|text| f.bytes("meta_summary", text, META_SUMMARY_BYTES_MAX));
    let importance_score = importance_score.map(|score| f.score("importance_score", score));
    let role = role.map(|text| f.chars("role", text, ROLE_CHARS_MAX));
    let author = author.map(|text| f.chars("author", text, AUTHOR_CHARS_MAX));
    let meta = meta_struct.map(|value| meta(&mut f, "meta", &value, limits.meta_bytes_max));
    let edit = EventEdit {
        meta_summary: mask.clearable("meta_summary", meta_summary),
        importance_score: mask.clearable("importance_score", importance_score),
        role: mask.clearable("role", role),
        author: mask.clearable("author", author),
        meta: meta_change(&mut f, &mask, meta, meta_mode),
        is_deleted: mask.required(&mut f, "is_deleted", is_deleted),
        meta_bytes_max: limits.meta_bytes_max,
    };
    f.finish((target, edit))
}

/// Converts a soft delete of an event.
pub(crate) fn soft_delete_event(
    request: pb::SoftDeleteEventRequest,
    editor: Editor,
) -> Result<EventTarget, Invalid> {
    let pb::SoftDeleteEventRequest {
        event_id,
        spirit_id,
        expected_revision,
    } = request;
    let mut f = Fields::default();
    let target = event_target(&mut f, &event_id, spirit_id, expected_revision, editor);
    f.finish(target)
}

/// Converts a restore of an event, which has the same fields as a soft delete.
pub(crate) fn restore_event(
    request: pb::RestoreEventRequest,
    editor: Editor,
) -> Result<EventTarget, Invalid> {
    let pb::RestoreEventRequest {
        event_id,
        spirit_id,
        expected_revision,
    } = request;
    let request = pb::SoftDeleteEventRequest {
        event_id,
        spirit_id,
        expected_revision,
    };
    soft_delete_event(request, editor)
}

fn event_target(
    f: &mut Fields,
    event_id: &str,
    spirit_id: Option<String>,
    revision: Option<i64>,
    editor: Editor,
) -> EventTarget {
    EventTarget {
        id: EventId(f.uuid("event_id", event_id)),
        scope: editor
            .scope
            .narrow(spirit_id.map(|text| SpiritId(f.uuid("spirit_id", &text)))),
        expected_revision: expected_revision(f, revision),
        changed_by: editor.key_prefix,
    }
}
