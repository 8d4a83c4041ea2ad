//! Events to a trajectory in the Agent Trajectory Interchange Format.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::atif::USAGE;
use super::super::json::{Fields, Json};
use super::super::parts::restore;
use super::super::record::{Event, event_type};
use super::super::time;
use super::{arguments, exported, parts};

/// Version of trajectories that were not imported as such.
const VERSION: &str = "ATIF-v1.7";
/// Keys of `meta.source` that belong to the step or mark how it was written.
const STEP_MARKS: [&str; 9] = [
    "step",
    "timestamp",
    "model_name",
    "metrics",
    "tool_calls",
    "observation",
    "has_results",
    "call",
    "result",
];

/// Returns a trajectory with the events of a session, in their order. `session_meta` is the `meta` of the session, which
/// contains the header of an imported trajectory.
///
/// A trajectory that was imported is the same again, but for numbers that a double cannot hold and for parts that were
/// omitted or moved. Other events become steps: a thought, a message and calls that follow each other are a step of the
/// agent, results belong to the step of their call, and everything else is a step of the user or the system.
#[must_use]
pub fn to_atif(session_id: &str, session_meta: &Map<String, Value>, events: &[Event]) -> Json {
    let mut steps = Steps::default();
    for event in exported(events) {
        steps.add(event);
    }
    let mut document = header(session_id, session_meta, events);
    let steps = steps
        .steps
        .into_iter()
        .enumerate()
        .map(|(index, step)| step.into_json(index + 1));
    document.set("steps", Json::Array(steps.collect()));
    Json::Object(document)
}

fn header(session_id: &str, session_meta: &Map<String, Value>, events: &[Event]) -> Fields {
    if let Some(Json::Object(imported)) = session_meta.get("source").cloned().map(Json::from)
        && imported
            .str("schema_version")
            .is_some_and(|version| version.starts_with("ATIF"))
    {
        return imported;
    }
    let answers = events
        .iter()
        .filter(|event| event.event_type == event_type::MESSAGE_OUT);
    let name = answers.clone().find_map(|event| event.author.clone());
    let mut agent = Fields::from([
        ("name", Json::text(name.unwrap_or_else(|| "unknown".to_owned()))),
        ("version", Json::text("unknown")),
    ]);
    let model = events.iter().find_map(|event| event.meta_str("model"));
    agent.set_some("model_name", model.map(Json::text));
    Fields::from([
        ("schema_version", Json::text(VERSION)),
        ("session_id", Json::text(session_id)),
        ("agent", Json::Object(agent)),
    ])
}

#[derive(Default)]
struct Steps {
    steps: Vec<Step>,
    /// The step of each call.
    calls: HashMap<String, usize>,
}

#[derive(Default)]
struct Step {
    source: &'static str,
    /// The imported step that the events belong to.
    imported: Option<Value>,
    timestamp: Option<Json>,
    model: Option<Json>,
    message: Option<Json>,
    reasoning: Option<String>,
    calls: Option<Vec<Json>>,
    results: Option<Vec<Json>>,
    metrics: Option<Fields>,
    /// Further fields of an imported step.
    fields: Fields,
    extra: Fields,
}

impl Steps {
    fn add(&mut self, event: &Event) {
        let call_id = event.meta_str("tool_call_id");
        let is_result = event.event_type == event_type::TOOL_RESULT;
        let of_call = call_id
            .filter(|_| is_result)
            .and_then(|id| self.calls.get(id))
            .copied();
        let index = match of_call {
            Some(index) => index,
            None if self.steps.last().is_some_and(|step| step.accepts(event)) => self.steps.len() - 1,
            None => {
                self.steps.push(Step::begin(event));
                self.steps.len() - 1
            }
        };
        if let (false, Some(id)) = (is_result, call_id) {
            self.calls.insert(id.to_owned(), index);
        }
        self.steps[index].add(event);
    }
}

impl Step {
    fn begin(event: &Event) -> Self {
        let imported = event.source("step").cloned();
        let timestamp = match (&imported, event.source("timestamp")) {
            (Some(_), Some(Value::Null)) => None,
            (Some(_), Some(text)) => Some(Json::from(text.clone())),
            _ => event.occurred_at.map(|at| Json::String(time::format(at))),
        };
        let model = match &imported {
            Some(_) => event.source("model_name").cloned().map(Json::from),
            None => event.meta_str("model").map(Json::text),
        };
        let source = match event.event_type.as_str() {
            event_type::THOUGHT | event_type::MESSAGE_OUT | event_type::TOOL_CALL => "agent",
            event_type::MESSAGE_IN => "user",
            _ => "system",
        };
        Self {
            source,
            timestamp,
            model: model.filter(|_| source == "agent"),
            imported,
            ..Self::default()
        }
    }

    /// Returns whether the event belongs to this step, which is the last one.
    fn accepts(&self, event: &Event) -> bool {
        if self.imported.is_some() || event.source("step").is_some() {
            return self.imported.as_ref() == event.source("step");
        }
        match event.event_type.as_str() {
            event_type::THOUGHT => {
                self.is_open() && self.reasoning.is_none() && self.message.is_none() && self.calls.is_none()
            }
            event_type::MESSAGE_OUT => self.is_open() && self.message.is_none() && self.calls.is_none(),
            event_type::TOOL_CALL => self.is_open(),
            _ => false,
        }
    }

    fn is_open(&self) -> bool {
        self.source == "agent" && self.results.is_none()
    }

    fn add(&mut self, event: &Event) {
        match event.event_type.as_str() {
            event_type::THOUGHT => self.reasoning = Some(event.content.clone()),
            event_type::TOOL_CALL => self.calls.get_or_insert_default().push(call(event)),
            event_type::TOOL_RESULT => {
                let has_results = event.source("has_results") != Some(&Value::Bool(false));
                let result = has_results.then(|| self.result(event));
                self.results.get_or_insert_default().extend(result);
            }
            kind => {
                self.message = Some(self.content(event));
                if self.imported.is_none() && matches!(kind, event_type::ERROR | event_type::COMPACTION) {
                    self.extra.set("event_type", Json::text(kind));
                }
            }
        }
        self.add_source(event);
    }

    /// Takes what an event tells about its whole step.
    fn add_source(&mut self, event: &Event) {
        if let Some(Json::Object(usage)) = event.meta.get("usage").cloned().map(Json::from)
            && self.source == "agent"
        {
            self.metrics.get_or_insert_default().merge(metrics(usage));
        }
        if self.imported.is_none() {
            return;
        }
        let Some(Json::Object(source)) = event.meta.get("source").cloned().map(Json::from) else {
            return;
        };
        if source.get("tool_calls").is_some() {
            self.calls.get_or_insert_default();
        }
        if let Some(Json::Object(rest)) = source.get("metrics") {
            self.metrics.get_or_insert_default().merge(rest.clone());
        }
        for (name, value) in source.iter().filter(|(name, _)| !STEP_MARKS.contains(name)) {
            self.fields.set(name, value.clone());
        }
    }

    /// Returns the content as text, or as parts if all of them are parts of ATIF. Other parts become `extra.parts`.
    fn content(&mut self, event: &Event) -> Json {
        match parts(event) {
            Some(parts) if self.imported.is_some() || are_atif(&parts) => {
                restore(&event.content, Some(&parts))
            }
            Some(parts) => {
                self.extra.set("parts", parts);
                Json::text(&event.content)
            }
            None => Json::text(&event.content),
        }
    }

    fn into_json(self, id: usize) -> Json {
        let mut step = Fields::from([("step_id", Json::Number(id.to_string()))]);
        step.set_some("timestamp", self.timestamp);
        step.set("source", Json::text(self.source));
        step.set_some("model_name", self.model);
        step.set("message", self.message.unwrap_or_else(|| Json::text("")));
        step.set_some("reasoning_content", self.reasoning.map(Json::String));
        step.set_some("tool_calls", self.calls.map(Json::Array));
        let observation = self
            .results
            .map(|results| Fields::from([("results", Json::Array(results))]));
        step.set_some("observation", observation.map(Json::Object));
        step.set_some("metrics", self.metrics.map(Json::Object));
        step.merge(self.fields);
        if !self.extra.is_empty() {
            step.object("extra").merge(self.extra);
        }
        Json::Object(step)
    }

    fn result(&self, event: &Event) -> Json {
        let mut result = Fields::default();
        let call_id = event.meta_str("tool_call_id");
        result.set_some(
            "source_call_id",
            call_id.filter(|_| self.source == "agent").map(Json::text),
        );
        let mut imported = match event.source("result").cloned().map(Json::from) {
            Some(Json::Object(fields)) => fields,
            _ => Fields::default(),
        };
        if imported.take("has_content").is_none() {
            let parts = parts(event).filter(|parts| self.imported.is_some() || are_atif(parts));
            result.set("content", restore(&event.content, parts.as_ref()));
        }
        result.merge(imported);
        if self.imported.is_none() && event.meta.get("is_error") == Some(&Value::Bool(true)) {
            result.object("extra").set("is_error", Json::Bool(true));
        }
        Json::Object(result)
    }
}

fn call(event: &Event) -> Json {
    let mut call = Fields::default();
    call.set(
        "tool_call_id",
        Json::text(event.meta_str("tool_call_id").unwrap_or_default()),
    );
    call.set(
        "function_name",
        Json::text(event.meta_str("tool_name").unwrap_or_default()),
    );
    let mut imported = match event.source("call").cloned().map(Json::from) {
        Some(Json::Object(fields)) if event.source("step").is_some() => fields,
        _ => Fields::default(),
    };
    let arguments = match (imported.take("arguments_are_text"), arguments(event)) {
        (Some(Json::Bool(true)), _) => Json::text(&event.content),
        (Some(_), value) => value,
        (None, value @ Json::Object(_)) => value,
        // The format allows objects only.
        (None, value) => Json::Object(Fields::from([("input", value)])),
    };
    call.set("arguments", arguments);
    call.merge(imported);
    Json::Object(call)
}

/// Returns the metrics of a usage. Keys that ATIF lacks go into `extra`.
fn metrics(mut usage: Fields) -> Fields {
    let mut metrics = Fields::default();
    // Anthropic counts cached tokens beside the input, ATIF as a part of it.
    let cached = ["cache_read_input_tokens", "cache_creation_input_tokens"]
        .map(|name| usage.get(name).and_then(count).unwrap_or(0));
    if let (Some(input), true) = (usage.get("input_tokens").and_then(count), cached != [0, 0]) {
        usage.set(
            "input_tokens",
            Json::Number(
                input
                    .saturating_add(cached[0])
                    .saturating_add(cached[1])
                    .to_string(),
            ),
        );
        metrics.set("cached_tokens", Json::Number(cached[0].to_string()));
    }
    for (name, key) in USAGE {
        metrics.set_some(name, usage.take(key));
    }
    if !usage.is_empty() {
        metrics.set("extra", Json::Object(usage));
    }
    metrics
}

fn count(value: &Json) -> Option<u64> {
    match value {
        Json::Number(text) => text.parse().ok(),
        _ => None,
    }
}

/// Returns whether all parts have the form of ATIF: text, or an image or audio with a path.
fn are_atif(parts: &Json) -> bool {
    parts.as_array().is_some_and(|parts| {
        parts
            .iter()
            .all(|part| match part.get("type").and_then(Json::as_str) {
                Some("text") => true,
                Some("image" | "audio") => part.get("source").and_then(|source| source.get("path")).is_some(),
                _ => false,
            })
    })
}
