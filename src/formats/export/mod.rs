//! Events of one session to a transcript.

mod atif;
mod openai;

pub use self::atif::to_atif;
pub use self::openai::to_openai;

use super::json::Json;
use super::record::Event;

/// Returns the events of a transcript: those that contain an oversized part of another event are left out.
fn exported(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| event.source("moved_from").is_none())
}

/// Returns the parts of an event's message.
fn parts(event: &Event) -> Option<Json> {
    event.meta.get("parts").cloned().map(Json::from)
}

/// Returns the arguments of a call as JSON, or its content as text.
fn arguments(event: &Event) -> Json {
    Json::parse(&event.content).unwrap_or_else(|_| Json::text(&event.content))
}
