//! Events: what a caller gives, what is stored, what a create did.

use super::Time;
use super::dedupe;
use super::ids::{EventId, SpiritId};
use super::meta::Meta;

/// An event as stored. [`content`](Self::content) and [`meta`](Self::meta) are absent in the BASIC
/// view only.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: EventId,
    pub spirit_id: SpiritId,
    pub sequence: i64,
    pub event_type: String,
    pub meta_summary: Option<String>,
    pub content: Option<String>,
    pub occurred_at: Time,
    pub session_id: Option<String>,
    pub role: Option<String>,
    pub author: Option<String>,
    pub meta: Option<Meta>,
    pub source_uri: Option<String>,
    pub dedupe_key: Option<String>,
    pub importance_score: Option<f64>,
    pub revision: i64,
    pub deleted_at: Option<Time>,
    pub created_at: Time,
    pub updated_at: Time,
}

/// An event that a caller wants stored, every field within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    pub id: EventId,
    pub spirit_id: SpiritId,
    pub event_type: String,
    pub meta_summary: Option<String>,
    pub content: String,
    pub occurred_at: Time,
    /// Whether the caller gave `occurred_at`, so that it counts when duplicates are compared.
    pub occurred_at_given: bool,
    pub session_id: Option<String>,
    pub role: Option<String>,
    pub author: Option<String>,
    pub meta: Meta,
    pub source_uri: Option<String>,
    /// The caller's key or the derived one, see [`NewEvent::derive_dedupe_key`].
    pub dedupe_key: Option<String>,
    pub importance_score: Option<f64>,
    pub on_duplicate: OnDuplicate,
    pub expected_last_sequence: Option<i64>,
}

impl NewEvent {
    /// Fills in the key of an event that has a source but no key of its own.
    pub fn derive_dedupe_key(&mut self) {
        if let (None, Some(source_uri)) = (&self.dedupe_key, &self.source_uri) {
            self.dedupe_key = Some(dedupe::derive(
                self.spirit_id,
                &self.event_type,
                &self.content,
                self.occurred_at,
                source_uri,
            ));
        }
    }

    /// The event that storing this makes.
    #[must_use]
    pub fn stored(self, sequence: i64, now: Time) -> Event {
        Event {
            id: self.id,
            spirit_id: self.spirit_id,
            sequence,
            event_type: self.event_type,
            meta_summary: self.meta_summary,
            content: Some(self.content),
            occurred_at: self.occurred_at,
            session_id: self.session_id,
            role: self.role,
            author: self.author,
            meta: Some(self.meta),
            source_uri: self.source_uri,
            dedupe_key: self.dedupe_key,
            importance_score: self.importance_score,
            revision: 1,
            deleted_at: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Bytes it occupies while it waits to be stored, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = [
            &self.meta_summary,
            &self.session_id,
            &self.role,
            &self.author,
            &self.source_uri,
            &self.dedupe_key,
        ];
        size_of::<Self>()
            + self.event_type.len()
            + self.content.len()
            + self.meta.as_json().len()
            + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

/// What to do when the dedupe key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// Refuse the create.
    Reject,
    /// Answer with the stored event.
    ReturnExisting,
}

/// How the items of one request depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// All or nothing.
    Atomic,
    /// Each by itself.
    Partial,
}

/// What became of one create.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// It was stored.
    New(Box<Event>),
    /// An event with its key exists already.
    Duplicate {
        /// The stored event.
        id: EventId,
        /// Its owner.
        spirit_id: SpiritId,
        /// Its sequence.
        sequence: i64,
        /// Whether it differs from the request in what the caller gave.
        different: bool,
    },
}

/// How much of each event a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Everything.
    Full,
    /// All but content and meta.
    Basic,
}

/// Direction of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Feed order: (`occurred_at`, sequence) descending.
    NewestFirst,
    /// Replay order: (`occurred_at`, sequence) ascending.
    OldestFirst,
}

impl Order {
    /// Its name in what a cursor belongs to.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NewestFirst => "newest_first",
            Self::OldestFirst => "oldest_first",
        }
    }
}

/// Place of an event in replay and feed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub occurred_at: Time,
    pub sequence: i64,
}

impl Event {
    /// Its place in replay and feed order.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            occurred_at: self.occurred_at,
            sequence: self.sequence,
        }
    }
}
