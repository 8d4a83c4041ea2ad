//! Any JSON in any place of a transcript: no panic, nothing lost, limits kept, times in order.

use elephantasm_events::formats::{Converter, Event, Format, Record};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{assert_in_order, options};

const KINDS: [&str; 30] = [
    "text",
    "thinking",
    "tool_use",
    "tool_result",
    "image",
    "input_text",
    "output_text",
    "refusal",
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "mcp_call",
    "image_generation_call",
    "compaction",
    "user",
    "assistant",
    "system",
    "summary",
    "response_item",
    "session_meta",
    "compacted",
    "agent_message",
    "chat.completion",
    "response",
    "list",
    "agent",
    "tool",
    "odd",
];
const NAMES: [&str; 40] = [
    "type",
    "role",
    "content",
    "text",
    "thinking",
    "id",
    "name",
    "input",
    "tool_use_id",
    "is_error",
    "messages",
    "message",
    "payload",
    "output",
    "summary",
    "tool_calls",
    "function",
    "arguments",
    "call_id",
    "steps",
    "source",
    "observation",
    "results",
    "metrics",
    "agent",
    "usage",
    "sessionId",
    "uuid",
    "timestamp",
    "model",
    "data",
    "items",
    "refusal",
    "toolUseResult",
    "subagent_trajectories",
    "choices",
    "info",
    "action",
    "step_id",
    "odd",
];

/// Texts that are found again in the results because each has a number that occurs once.
fn marked_text() -> impl Strategy<Value = Value> {
    (0..1_000_000u32, "[ a-zäß\"\\\\]{0,8}").prop_map(|(mark, rest)| json!(format!("mark{mark}x{rest}")))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => marked_text(),
        3 => prop::sample::select(KINDS.to_vec()).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(json!("2026-01-01T00:00:00Z")),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let name = prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned);
        let object = prop::collection::hash_map(name, inner.clone(), 0..7);
        let kind = prop::sample::select(KINDS.to_vec());
        prop_oneof![
            1 => prop::collection::vec(inner, 0..4).prop_map(Value::from),
            3 => (object, kind).prop_map(|(fields, kind)| {
                let mut object: serde_json::Map<String, Value> = fields.into_iter().collect();
                object.insert("type".to_owned(), kind.into());
                object.into()
            }),
        ]
    })
}

/// Records whose frame is right, so that the content is converted.
fn records(format: Format, inner: &Value) -> Vec<Value> {
    let role = |role: &str| json!({"role": role, "content": inner.clone()});
    match format {
        Format::ClaudeCode => ["user", "assistant"]
            .map(|kind| json!({"type": kind, "uuid": kind, "sessionId": "s", "message": role(kind)}))
            .into(),
        Format::Codex => ["response_item", "event_msg", "session_meta"]
            .map(|kind| json!({"type": kind, "timestamp": "2026-01-01T00:00:00Z", "payload": inner.clone()}))
            .into(),
        Format::Atif => {
            let step = json!({"step_id": 1, "source": "agent", "message": inner.clone(), "tool_calls": [inner.clone()],
                "observation": {"results": [inner.clone()]}});
            vec![json!({"schema_version": "ATIF-v1.8", "steps": [step, inner.clone()]})]
        }
        Format::OpenAi => vec![
            json!({"messages": [role("user"), role("tool"), inner.clone()]}),
            json!({"output": [inner.clone()]}),
        ],
        Format::Anthropic => vec![json!({"messages": [role("user"), role("assistant"), inner.clone()]})],
    }
}

fn marks(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.starts_with("mark") => {
            found.push(text.split('x').next().unwrap_or_default().to_owned() + "x");
        }
        Value::Array(items) => items.iter().for_each(|item| marks(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| marks(value, found)),
        _ => {}
    }
}

fn assert_within_limits(event: &Event) {
    let meta = Value::Object(event.meta.clone());
    assert!(meta.to_string().len() <= 64 * 1024);
    assert!((1..=100).contains(&event.event_type.chars().count()));
    for name in [&event.session_id, &event.author, &event.dedupe_key]
        .into_iter()
        .flatten()
    {
        assert!((1..=255).contains(&name.chars().count()), "{name}");
    }
}

fn check(format: Format, records: Vec<Value>) {
    let mut converter = Converter::new(format, options());
    for record in records {
        let mut results = match converter.convert_text(&record.to_string()) {
            Ok(results) => results,
            Err(error) => {
                assert_eq!(format, Format::Atif, "{error}");
                continue;
            }
        };
        results.extend(converter.finish());
        let mut text = String::new();
        let mut events = Vec::new();
        let mut skipped = 0;
        for result in &results {
            match result {
                Record::Event(event) => {
                    assert_within_limits(event);
                    let meta = Value::Object(event.meta.clone());
                    text.extend([format!("{} {event:?} {meta}", event.content)]);
                    events.push((**event).clone());
                }
                Record::Session(session) => text.extend([format!("{session:?}")]),
                Record::Skipped { .. } => skipped += 1,
            }
        }
        let mut wanted = Vec::new();
        marks(&record, &mut wanted);
        let lost: Vec<_> = wanted
            .iter()
            .filter(|mark| !text.contains(mark.as_str()))
            .collect();
        assert!(
            lost.is_empty() || skipped > 0,
            "{lost:?} of {record} lost in {results:#?}"
        );
        if events.iter().all(|event| event.occurred_at.is_some()) {
            assert_in_order(&events);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_is_lost_and_no_limit_is_exceeded(inner in any_json()) {
        for format in Format::ALL {
            check(format, records(format, &inner));
            check(format, vec![inner.clone()]);
        }
    }

    #[test]
    fn text_that_is_not_json_is_an_error(text in "[\\[\\]{}\",:0-9a-z\\\\.eE+ -]{0,40}") {
        let is_json = serde_json::from_str::<Value>(&text);
        let parsed = elephantasm_events::formats::json::Json::parse(&text);
        match (is_json, parsed) {
            (Ok(value), Ok(json)) => {
                let printed: Value = serde_json::from_str(&json.to_string()).expect("JSON");
                prop_assert_eq!(printed, value);
            }
            (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("duplicate"), "{}: {}", text, error),
            (Err(error), Ok(_)) => prop_assert!(error.to_string().contains("out of range"), "{}: {}", text, error),
            (Err(_), Err(_)) => {}
        }
    }
}
