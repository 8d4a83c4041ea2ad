//! Edits: the fields that a caller changes, and their application to the stored value.

use super::access::SpiritScope;
use super::event::Event;
use super::ids::{EventId, SpiritId};
use super::invalid::Invalid;
use super::meta::{Meta, MetaChange};
use super::purge::Retention;
use super::refusal::Refusal;
use super::session::{Session, SessionFields};
use super::spirit::Spirit;

/// The change of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// Keeps the field.
    Keep,
    /// Sets the field to this value.
    Set(T),
}

impl<T: Clone + PartialEq> Change<T> {
    fn apply(&self, stored: &T) -> T {
        match self {
            Self::Keep => stored.clone(),
            Self::Set(value) => value.clone(),
        }
    }
}

/// Identifies the event to edit.
#[derive(Clone, Debug)]
pub struct EventTarget {
    pub id: EventId,
    /// The spirits that the event may belong to; an event of another spirit counts as unknown.
    pub scope: SpiritScope,
    pub expected_revision: Option<i64>,
    /// Prefix of the API key with which the edit is made, for the event's history.
    pub changed_by: Option<String>,
}

/// Identifies the spirit to edit.
#[derive(Clone, Copy, Debug)]
pub struct SpiritTarget {
    pub id: SpiritId,
    pub expected_revision: Option<i64>,
}

/// Changes to an event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventEdit {
    pub meta_summary: Change<Option<String>>,
    pub importance_score: Change<Option<f64>>,
    pub meta: Change<MetaChange>,
    pub role: Change<Option<String>>,
    pub author: Change<Option<String>>,
    pub is_deleted: Change<bool>,
    /// Maximum bytes of `meta` after a merge.
    pub meta_bytes_max: usize,
}

impl EventEdit {
    /// Returns an edit that soft-deletes or restores and changes nothing else.
    #[must_use]
    pub fn deletion(is_deleted: bool) -> Self {
        Self {
            meta_summary: Change::Keep,
            importance_score: Change::Keep,
            meta: Change::Keep,
            role: Change::Keep,
            author: Change::Keep,
            is_deleted: Change::Set(is_deleted),
            meta_bytes_max: usize::MAX,
        }
    }

    /// Returns the fields after the edit; `None` if the edit changes nothing. `event` must be in the FULL view.
    /// Fails if a merge makes `meta` too large.
    pub fn apply(&self, event: &Event) -> Result<Option<EventFields>, Invalid> {
        let stored = EventFields::of(event);
        let edited = EventFields {
            meta_summary: self.meta_summary.apply(&stored.meta_summary),
            importance_score: self.importance_score.apply(&stored.importance_score),
            meta: change_meta(&stored.meta, &self.meta, self.meta_bytes_max)?,
            role: self.role.apply(&stored.role),
            author: self.author.apply(&stored.author),
            is_deleted: self.is_deleted.apply(&stored.is_deleted),
        };
        Ok((edited != stored).then_some(edited))
    }
}

/// The mutable fields of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventFields {
    pub meta_summary: Option<String>,
    pub importance_score: Option<f64>,
    pub meta: Meta,
    pub role: Option<String>,
    pub author: Option<String>,
    pub is_deleted: bool,
}

impl EventFields {
    /// Returns the mutable fields of an event in the FULL view.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            meta_summary: event.meta_summary.clone(),
            importance_score: event.importance_score,
            meta: event.meta.clone().unwrap_or_else(Meta::empty),
            role: event.role.clone(),
            author: event.author.clone(),
            is_deleted: event.deleted_at.is_some(),
        }
    }
}

/// Changes to a spirit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiritEdit {
    pub name: Change<String>,
    pub description: Change<Option<String>>,
    pub meta: Change<MetaChange>,
    pub is_deleted: Change<bool>,
    pub retention: Change<Retention>,
    /// Maximum bytes of `meta` after a merge.
    pub meta_bytes_max: usize,
}

impl SpiritEdit {
    /// Returns an edit that soft-deletes or restores and changes nothing else.
    #[must_use]
    pub fn deletion(is_deleted: bool) -> Self {
        Self {
            name: Change::Keep,
            description: Change::Keep,
            meta: Change::Keep,
            is_deleted: Change::Set(is_deleted),
            retention: Change::Keep,
            meta_bytes_max: usize::MAX,
        }
    }

    /// Returns the fields after the edit; `None` if it changes nothing. Fails if a merge makes `meta` too large.
    pub fn apply(&self, spirit: &Spirit) -> Result<Option<SpiritFields>, Invalid> {
        let stored = SpiritFields::of(spirit);
        let edited = SpiritFields {
            name: self.name.apply(&stored.name),
            description: self.description.apply(&stored.description),
            meta: change_meta(&stored.meta, &self.meta, self.meta_bytes_max)?,
            is_deleted: self.is_deleted.apply(&stored.is_deleted),
            retention: self.retention.apply(&stored.retention),
        };
        Ok((edited != stored).then_some(edited))
    }
}

/// The mutable fields of a spirit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiritFields {
    pub name: String,
    pub description: Option<String>,
    pub meta: Meta,
    pub is_deleted: bool,
    pub retention: Retention,
}

impl SpiritFields {
    fn of(spirit: &Spirit) -> Self {
        Self {
            name: spirit.name.clone(),
            description: spirit.description.clone(),
            meta: spirit.meta.clone(),
            is_deleted: spirit.deleted_at.is_some(),
            retention: spirit.retention,
        }
    }
}

/// Identifies the session to edit.
#[derive(Clone, Debug)]
pub struct SessionTarget {
    pub spirit_id: SpiritId,
    pub session_id: String,
    pub expected_revision: Option<i64>,
}

/// Changes to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEdit {
    pub title: Change<Option<String>>,
    pub owner: Change<Option<String>>,
    /// `None` removes it.
    pub meta: Change<Option<MetaChange>>,
    /// Maximum bytes of `meta` after a merge.
    pub meta_bytes_max: usize,
}

impl SessionEdit {
    /// Returns the fields after the edit; `None` if it changes nothing. Fails if a merge makes `meta` too large.
    pub fn apply(&self, session: &Session) -> Result<Option<SessionFields>, Invalid> {
        let Session {
            title, owner, meta, ..
        } = session;
        let edited = SessionFields {
            title: self.title.apply(title),
            owner: self.owner.apply(owner),
            meta: match &self.meta {
                Change::Keep => meta.clone(),
                Change::Set(None) => None,
                Change::Set(Some(change)) => {
                    let stored = meta.clone().unwrap_or_else(Meta::empty);
                    let changed = change_meta(&stored, &Change::Set(change.clone()), self.meta_bytes_max)?;
                    Some(changed)
                }
            },
        };
        let is_changed = edited.title != *title || edited.owner != *owner || edited.meta != *meta;
        Ok(is_changed.then_some(edited))
    }
}

/// Fails if the caller expects a revision other than the stored one.
pub fn check_revision(expected: Option<i64>, actual: i64) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != actual => Err(Refusal::RevisionMismatch { expected, actual }),
        _ => Ok(()),
    }
}

/// Applies a change to `meta`. Returns the stored text if the result is the same JSON, so that comparing the texts
/// tells whether `meta` changed.
fn change_meta(stored: &Meta, change: &Change<MetaChange>, bytes_max: usize) -> Result<Meta, Invalid> {
    let Change::Set(change) = change else {
        return Ok(stored.clone());
    };
    let changed = stored.apply(change, bytes_max)?;
    Ok(if changed.is_same_json(stored) {
        stored.clone()
    } else {
        changed
    })
}
