//! The results of a conversion, and the event types and `meta` keys that all formats share.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

/// The values of `event_type`, as in docs/conventions.md.
pub mod event_type {
    pub const MESSAGE_IN: &str = "message.in";
    pub const MESSAGE_OUT: &str = "message.out";
    pub const THOUGHT: &str = "thought";
    pub const TOOL_CALL: &str = "tool.call";
    pub const TOOL_RESULT: &str = "tool.result";
    pub const SYSTEM: &str = "system";
    pub const ERROR: &str = "error";
    pub const COMPACTION: &str = "context.compaction";
}

/// An event of a transcript, with the fields of `CreateEventRequest` that a transcript has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub event_type: String,
    pub role: Option<String>,
    pub author: Option<String>,
    pub session_id: Option<String>,
    pub content: String,
    /// Every number in it is exact as a double.
    pub meta: Map<String, Value>,
    /// `None` if the transcript has no times and [`Options::start`](super::Options::start) is not set.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Whether the time follows from `Options::start` and not from the transcript.
    pub is_time_assumed: bool,
    /// The same each time the transcript is converted, also after it has grown at its end.
    pub dedupe_key: Option<String>,
}

/// A change of a session's title or `meta`.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionUpdate {
    pub session_id: String,
    /// At most 255 characters; `None` leaves the title as it is.
    pub title: Option<String>,
    /// A merge patch; empty leaves `meta` as it is.
    pub meta: Map<String, Value>,
}

/// A result of a conversion.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Event(Box<Event>),
    Session(SessionUpdate),
    /// A part of the source that is neither in an event nor in a session.
    Skipped {
        /// The type of the skipped part, such as `file-history-snapshot`.
        kind: String,
    },
}

impl Event {
    /// Returns the text of a field of `meta`.
    #[must_use]
    pub fn meta_str(&self, name: &str) -> Option<&str> {
        self.meta.get(name)?.as_str()
    }

    /// Returns a field of `meta.source`.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&Value> {
        self.meta.get("source")?.get(name)
    }
}
