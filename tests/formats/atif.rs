//! Trajectories of the Agent Trajectory Interchange Format.

use elephantasm_events::formats::export::to_atif;
use elephantasm_events::formats::{Event, Format, FormatError, Options, Record};
use serde_json::{Map, Value, json};

use super::{assert_in_order, convert, events, lines, options, sessions};

const DOCUMENT: &str = include_str!("files/atif.json");

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Exports the events of a session with the meta of the session.
fn export(records: &[Record], session: &str) -> Value {
    let events: Vec<Event> = events(records)
        .into_iter()
        .filter(|event| event.session_id.as_deref() == Some(session))
        .collect();
    let meta: Map<String, Value> = sessions(records)
        .into_iter()
        .filter(|update| update.session_id == session)
        .flat_map(|update| update.meta)
        .collect();
    value(&to_atif(session, &meta, &events).to_string())
}

#[test]
fn steps_become_events_with_results_after_their_calls() {
    let records = convert(Format::Atif, options(), [DOCUMENT]);
    let events = events(&records);
    assert_eq!(
        lines(&events),
        [
            "system system - - You bake.",
            "message.in user - - Bake this:\ntwice",
            "thought assistant baker - Two loaves, in parallel.",
            r#"tool.call assistant baker b1 {"grams":500,"oven":0.1,"lot":12345678901234567890}"#,
            "tool.call assistant baker b2 {}",
            "tool.result tool bake b2 done",
            "tool.result tool bake b1 ",
            "tool.result tool bake b1 ",
            "message.out assistant baker - Both are done.",
            "system system - - oven off",
            "tool.result tool - - 20 degrees",
            "message.out assistant baker - ",
            "message.in user - - Taste it.",
            "message.out assistant taster - Good.",
        ]
    );
    assert_in_order(&events[..12]);
    assert_eq!(events[2].meta["usage"]["input_tokens"], 90);
    assert_eq!(events[2].meta["model"], "oven-xl");
    assert_eq!(
        events[8].meta["model"], "oven-large",
        "the default of the trajectory"
    );
    assert_eq!(events[13].session_id.as_deref(), Some("run-7/tr-7-taster"));
    assert_eq!(events[13].meta["agent_path"], json!(["baker", "taster"]));
}

#[test]
fn an_imported_trajectory_is_exported_as_it_was() {
    let records = convert(Format::Atif, options(), [DOCUMENT]);
    let mut expected = value(DOCUMENT);
    let subagent = expected["subagent_trajectories"][0].take();
    expected
        .as_object_mut()
        .expect("an object")
        .remove("subagent_trajectories");
    assert_eq!(export(&records, "run-7"), expected);
    assert_eq!(export(&records, "run-7/tr-7-taster"), subagent);
}

#[test]
fn events_of_other_sources_become_steps_of_which_results_belong_to_their_calls() {
    let records = convert(
        Format::ClaudeCode,
        options(),
        include_str!("files/claude-code.jsonl").lines(),
    );
    let exported = export(&records, "cc-1");
    let steps = exported["steps"].as_array().expect("steps");
    let summary: Vec<String> = steps
        .iter()
        .map(|step| {
            let count = |list: &Value| list.as_array().map_or(0, Vec::len);
            let (calls, results) = (count(&step["tool_calls"]), count(&step["observation"]["results"]));
            format!(
                "{} {} {calls} {results}",
                step["step_id"],
                step["source"].as_str().expect("a source")
            )
        })
        .collect();
    assert_eq!(
        summary,
        [
            "1 user 0 0",
            "2 agent 2 2",
            "3 user 0 0",
            "4 agent 0 0",
            "5 system 0 0",
            "6 system 0 0",
            "7 system 0 0",
            "8 system 0 0",
            "9 system 0 0",
        ]
    );
    assert_eq!(steps[1]["reasoning_content"], "The rounding looks wrong.");
    assert_eq!(
        steps[1]["metrics"],
        json!({"prompt_tokens": 120, "completion_tokens": 9})
    );
    assert_eq!(steps[1]["observation"]["results"][0]["extra"]["is_error"], true);
    assert_eq!(exported["agent"]["model_name"], "claude-test-1");
}

#[test]
fn documents_of_other_formats_are_refused() {
    for document in ["[]", r#"{"schema_version":"ATIF-v1.7"}"#, "7"] {
        let mut converter = elephantasm_events::formats::Converter::new(Format::Atif, Options::default());
        let error = converter.convert_text(document).expect_err("no trajectory");
        assert!(
            matches!(error, FormatError::NotThisFormat(_)),
            "{document}: {error}"
        );
    }
}
