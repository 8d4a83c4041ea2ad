//! Properties of all formats: keys, times, limits.

use chrono::{DateTime, Utc};
use elephantasm_events::formats::{Event, Format, Options};

use super::{assert_in_order, convert, events, options};

const CLAUDE: &str = include_str!("files/claude-code.jsonl");
const CODEX: &str = include_str!("files/codex.jsonl");
const CHAT: &str = include_str!("files/openai-chat.jsonl");

fn keys(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event.dedupe_key.as_deref().expect("a key"))
        .collect()
}

#[test]
fn a_transcript_that_has_grown_keeps_the_keys_of_its_beginning() {
    for (format, file) in [
        (Format::ClaudeCode, CLAUDE),
        (Format::Codex, CODEX),
        (Format::OpenAi, CHAT),
    ] {
        let count = file.lines().count();
        let all = events(&convert(format, options(), file.lines()));
        let beginning = events(&convert(format, options(), file.lines().take(count - 1)));
        assert_eq!(keys(&all)[..beginning.len()], keys(&beginning));
        let mut distinct = keys(&all);
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
    }
    let shorter = CHAT
        .lines()
        .next()
        .expect("a line")
        .replace(r#",{"role":"assistant","content":null,"refusal":"No more."}"#, "");
    let beginning = events(&convert(Format::OpenAi, options(), [shorter.as_str()]));
    let all = events(&convert(Format::OpenAi, options(), CHAT.lines()));
    assert_eq!(keys(&all)[..8], keys(&beginning));
}

#[test]
fn equal_conversations_of_two_files_have_different_keys_unless_the_source_has_ids() {
    let convert_as = |format, file: &'static str, source: &str| {
        let options = Options {
            source: source.to_owned(),
            ..Options::default()
        };
        events(&convert(format, options, file.lines()))
    };
    let (one, other) = (
        convert_as(Format::OpenAi, CHAT, "day1"),
        convert_as(Format::OpenAi, CHAT, "day2"),
    );
    assert!(keys(&one)[..9].iter().all(|key| !keys(&other).contains(key)));
    let (one, other) = (
        convert_as(Format::Codex, CODEX, "a"),
        convert_as(Format::Codex, CODEX, "b"),
    );
    assert_eq!(keys(&one), keys(&other));
}

#[test]
fn a_start_gives_times_to_a_source_without_times() {
    let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
    let options = Options {
        start: Some(start),
        session_id: Some("mine".to_owned()),
        ..options()
    };
    let events = events(&convert(Format::OpenAi, options, CHAT.lines()));
    assert_eq!(events[0].occurred_at, Some(start));
    assert!(events[0].is_time_assumed && !events[9].is_time_assumed);
    assert_in_order(&events);
    assert!(
        events
            .iter()
            .all(|event| event.session_id.as_deref() == Some("mine"))
    );
}

#[test]
fn numbers_beyond_a_double_stay_exact_in_content_and_become_text_in_meta() {
    let record = r#"{"role":"assistant","content":null,"chat":{"id":-10012345678901234567,"n":9007199254740993,"f":1e999,"k":0.25},"tool_calls":[{"id":"c","type":"custom","custom":{"name":"f","input":{"b":9007199254740993,"a":1.10}}}]}"#;
    let events = events(&convert(Format::OpenAi, options(), [record]));
    assert_eq!(events[0].content, r#"{"b":9007199254740993,"a":1.10}"#);
    let chat = events[0].source("chat").expect("kept").to_string();
    assert_eq!(
        chat,
        r#"{"f":"1e999","id":"-10012345678901234567","k":0.25,"n":"9007199254740993"}"#
    );
}

#[test]
fn what_meta_cannot_hold_moves_into_an_event_of_its_own() {
    let long = "word ".repeat(20_000);
    let record = format!(r#"{{"type":"hologram","uuid":"u","sessionId":"s","beam":"{long}","small":1}}"#);
    let events = events(&convert(Format::ClaudeCode, options(), [record.as_str()]));
    assert_eq!(events.len(), 2);
    assert_eq!(
        events[1].source("moved_from").expect("the path"),
        "source.unknown"
    );
    assert!(events[1].content.contains(&long));
}

#[test]
fn long_session_ids_are_shortened_to_distinct_ones() {
    let session = |end: &str| {
        let id = format!("{}{end}", "s".repeat(300));
        let record = format!(r#"{{"type":"user","sessionId":"{id}","message":{{"content":"x"}}}}"#);
        events(&convert(Format::ClaudeCode, options(), [record.as_str()]))[0]
            .session_id
            .clone()
            .expect("an id")
    };
    assert_eq!(session("a").chars().count(), 255);
    assert_ne!(session("a"), session("b"));
}
