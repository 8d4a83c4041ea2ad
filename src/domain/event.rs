//! Events, from the request to create one to the stored event and its position.

use super::Time;
use super::dedupe;
use super::ids::{EventId, SpiritId};
use super::meta::Meta;

/// A stored event. [`content`](Self::content) and [`meta`](Self::meta) are `None` in the BASIC view only.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: EventId,
    pub spirit_id: SpiritId,
    pub sequence: i64,
    pub event_type: String,
    pub meta_summary: Option<String>,
    pub content: Option<String>,
    /// Bytes of the whole content, if `content` is only its beginning.
    pub content_bytes: Option<i64>,
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

/// An event to be created, every field within its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    pub id: EventId,
    pub spirit_id: SpiritId,
    pub event_type: String,
    pub meta_summary: Option<String>,
    pub content: String,
    pub occurred_at: Time,
    /// Whether the caller gave `occurred_at`. Only then is it compared with that of an existing event.
    pub occurred_at_given: bool,
    pub session_id: Option<String>,
    pub role: Option<String>,
    pub author: Option<String>,
    pub meta: Meta,
    pub source_uri: Option<String>,
    /// The dedupe key that the caller gave, or the derived one; see [`NewEvent::derive_dedupe_key`].
    pub dedupe_key: Option<String>,
    pub importance_score: Option<f64>,
    pub on_duplicate: OnDuplicate,
    /// The spirit's `last_sequence` that the create requires; `None` = any.
    pub expected_last_sequence: Option<i64>,
    /// The last sequence of the session that the create requires; `None` = any. Only with a session.
    pub expected_session_last_sequence: Option<i64>,
    /// The view of the event in the reply to a create that is not part of a batch or an ingest stream.
    pub reply_view: View,
}

impl NewEvent {
    /// Sets a derived dedupe key if the event has a source but no dedupe key.
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

    /// Returns the event as stored under this sequence at this time.
    #[must_use]
    pub fn stored(self, sequence: i64, now: Time) -> Event {
        Event {
            id: self.id,
            spirit_id: self.spirit_id,
            sequence,
            event_type: self.event_type,
            meta_summary: self.meta_summary,
            content: Some(self.content),
            content_bytes: None,
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

    /// Returns the approximate memory of the event in bytes.
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

/// The action of a create whose dedupe key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// Refuses the create.
    Reject,
    /// Returns the existing event.
    ReturnExisting,
}

/// Whether the items of a request are stored together or independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// All items are stored, or none.
    Atomic,
    /// Each item is stored or refused by itself.
    Partial,
}

/// The result of a create.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// The event was stored.
    New(Box<Event>),
    /// An event with the same dedupe key exists.
    Duplicate {
        /// The existing event.
        id: EventId,
        /// The spirit of the existing event.
        spirit_id: SpiritId,
        /// The sequence of the existing event.
        sequence: i64,
        /// Whether the existing event differs from the request in type, content, session or source, or in
        /// `occurred_at` if the caller gave one.
        different: bool,
    },
}

/// The fields of an event that a read returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// All fields.
    Full,
    /// All fields except content and meta.
    Basic,
    /// All fields, with content cut to at most this number of bytes, 1 or more.
    Cut(i32),
}

/// The order of a list of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Feed order: (`occurred_at`, sequence) descending.
    NewestFirst,
    /// Replay order: (`occurred_at`, sequence) ascending.
    OldestFirst,
    /// Order of commits: sequence ascending.
    Sequence,
    /// Sequence descending.
    SequenceDesc,
}

impl Order {
    /// Returns the name that goes into the hash of a query.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NewestFirst => "newest_first",
            Self::OldestFirst => "oldest_first",
            Self::Sequence => "sequence",
            Self::SequenceDesc => "sequence_desc",
        }
    }

    /// Returns whether events are ordered by their sequence alone.
    #[must_use]
    pub fn is_by_sequence(self) -> bool {
        matches!(self, Self::Sequence | Self::SequenceDesc)
    }

    /// Returns whether the newest or last event comes first.
    #[must_use]
    pub fn is_descending(self) -> bool {
        matches!(self, Self::NewestFirst | Self::SequenceDesc)
    }
}

/// The position of an event in every order; an order by sequence ignores the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub occurred_at: Time,
    pub sequence: i64,
}

impl Event {
    /// Removes the fields that the BASIC view does not have.
    #[must_use]
    pub fn into_basic(self) -> Self {
        Self {
            content: None,
            meta: None,
            ..self
        }
    }

    /// Cuts content that is longer than `bytes_max` at the border of a code point. `bytes` is the length of the whole
    /// content, of which the event may have the beginning only, or nothing yet.
    pub fn cut_content(&mut self, bytes_max: usize, bytes: usize) {
        if bytes <= bytes_max {
            return;
        }
        self.content_bytes = i64::try_from(bytes).ok();
        if let Some(content) = &mut self.content {
            content.truncate(content.floor_char_boundary(bytes_max));
            content.shrink_to_fit();
        }
    }

    /// Returns the position of the event in replay and feed order.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            occurred_at: self.occurred_at,
            sequence: self.sequence,
        }
    }

    /// Returns the bytes of content, meta and summary.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let meta = self.meta.as_ref().map(Meta::as_json);
        [self.content.as_deref(), meta, self.meta_summary.as_deref()]
            .into_iter()
            .flatten()
            .map(str::len)
            .sum()
    }
}
