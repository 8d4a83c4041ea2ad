//! `UpdateEvent`, `SoftDeleteEvent` and `RestoreEvent`; update masks.

use prost_types::FieldMask;

use super::{enumeration, meta};
use crate::domain::access::SpiritScope;
use crate::domain::edit::{Change, EventEdit, EventTarget};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{AUTHOR_CHARS_MAX, Limits, META_SUMMARY_BYTES_MAX, ROLE_CHARS_MAX};
use crate::domain::meta::{Meta, MetaChange};
use crate::grpc::pb;

/// A caller's paths that an error shows, and characters of each.
const SHOWN_PATHS: usize = 3;
const SHOWN_PATH_CHARS: usize = 40;

/// Which fields an update writes.
pub(super) enum Mask {
    /// Those that are present.
    Present,
    /// Exactly these.
    Listed(Vec<String>),
}

impl Mask {
    pub(super) fn read(fields: &mut Fields, mask: Option<FieldMask>, mutable: &[&str]) -> Self {
        let paths = mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Self::Present;
        }
        let unknown: Vec<String> = paths
            .iter()
            .filter(|path| !mutable.contains(&path.as_str()))
            .take(SHOWN_PATHS)
            .map(|path| {
                let shown = path.chars().filter(|c| !c.is_control());
                format!("\"{}\"", shown.take(SHOWN_PATH_CHARS).collect::<String>())
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

    /// A field that may be cleared.
    pub(super) fn clearable<T>(&self, field: &str, value: Option<T>) -> Change<Option<T>> {
        match (self, value) {
            (Self::Present, Some(value)) => Change::Set(Some(value)),
            (Self::Listed(_), value) if self.lists(field) => Change::Set(value),
            _ => Change::Keep,
        }
    }

    /// A field that always has a value.
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

/// How an update changes meta.
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

pub(super) fn expected_revision(fields: &mut Fields, revision: Option<i64>) -> Option<i64> {
    revision.map(|revision| fields.at_least("expected_revision", revision, 1))
}

/// Reads an update of an event.
pub(crate) fn event_edit(
    request: pb::UpdateEventRequest,
    scope: &SpiritScope,
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
    let target = event_target(&mut f, &event_id, spirit_id, expected_revision, scope);
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

/// Reads which event a soft delete or restore means.
pub(crate) fn deletion(
    event_id: &str,
    spirit_id: Option<String>,
    expected_revision: Option<i64>,
    scope: &SpiritScope,
) -> Result<EventTarget, Invalid> {
    let mut f = Fields::default();
    let target = event_target(&mut f, event_id, spirit_id, expected_revision, scope);
    f.finish(target)
}

fn event_target(
    f: &mut Fields,
    event_id: &str,
    spirit_id: Option<String>,
    revision: Option<i64>,
    scope: &SpiritScope,
) -> EventTarget {
    EventTarget {
        id: EventId(f.uuid("event_id", event_id)),
        scope: scope.narrow(spirit_id.map(|text| SpiritId(f.uuid("spirit_id", &text)))),
        expected_revision: expected_revision(f, revision),
    }
}
