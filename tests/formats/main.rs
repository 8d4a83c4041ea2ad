//! Conversion of transcripts to events and back. The files are written for these tests.

mod anthropic;
mod atif;
mod claude_code;
mod codex;
mod conversion;
mod detection;
mod openai;
mod properties;

use elephantasm_events::formats::{Converter, Event, Format, Options, Record, SessionUpdate};

/// Converts the records and returns all results. Every record must be valid.
fn convert<'a>(format: Format, options: Options, records: impl IntoIterator<Item = &'a str>) -> Vec<Record> {
    let mut converter = Converter::new(format, options);
    let mut results = Vec::new();
    for record in records {
        results.extend(converter.convert_text(record).expect("a valid record"));
    }
    results.extend(converter.finish());
    results
}

fn options() -> Options {
    Options {
        source: "file".to_owned(),
        ..Options::default()
    }
}

fn events(records: &[Record]) -> Vec<Event> {
    let event = |record: &Record| match record {
        Record::Event(event) => Some((**event).clone()),
        _ => None,
    };
    records.iter().filter_map(event).collect()
}

fn sessions(records: &[Record]) -> Vec<SessionUpdate> {
    let session = |record: &Record| match record {
        Record::Session(session) => Some(session.clone()),
        _ => None,
    };
    records.iter().filter_map(session).collect()
}

fn skipped(records: &[Record]) -> Vec<&str> {
    fn kind(record: &Record) -> Option<&str> {
        match record {
            Record::Skipped { kind } => Some(kind),
            _ => None,
        }
    }
    records.iter().filter_map(kind).collect()
}

/// Returns a line for each event: type, role, author, call id and content.
fn lines(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| {
        let call = event.meta_str("tool_call_id").unwrap_or("-");
        let (role, author) = (
            event.role.as_deref().unwrap_or("-"),
            event.author.as_deref().unwrap_or("-"),
        );
        format!("{} {role} {author} {call} {}", event.event_type, event.content)
    };
    events.iter().map(line).collect()
}

/// Checks that the events of each session have strictly increasing times.
fn assert_in_order(events: &[Event]) {
    for session in events.iter().map(|event| &event.session_id) {
        let times: Vec<_> = events
            .iter()
            .filter(|event| event.session_id == *session)
            .map(|event| event.occurred_at)
            .collect();
        assert!(
            times.windows(2).all(|pair| pair[0] < pair[1]),
            "{session:?}: {times:?}"
        );
    }
}
