//! Trajectories in the Agent Trajectory Interchange Format, versions 1.0 to 1.8: one document with steps.

use super::FormatError;
use super::json::{Fields, Json};
use super::message::{Calls, Message, argument_text, call_meta, source, source_of};
use super::output::{Id, Output};
use super::record::event_type;

/// The fields of `metrics` and the keys of `usage` that they become.
pub(super) const USAGE: [(&str, &str); 4] = [
    ("prompt_tokens", "input_tokens"),
    ("completion_tokens", "output_tokens"),
    ("cached_tokens", "cached_input_tokens"),
    ("cost_usd", "cost_usd"),
];

#[derive(Debug, Default)]
pub(super) struct Atif {
    /// Number of documents so far.
    documents: u64,
}

/// The parts of a trajectory that all of its events need.
struct Trajectory {
    session: String,
    /// Identifies the document in dedupe keys.
    id: String,
    agent_path: Option<Json>,
    agent: Option<String>,
    model: Option<String>,
    calls: Calls,
}

impl Atif {
    pub(super) fn convert(&mut self, out: &mut Output, document: Json) -> Result<(), FormatError> {
        self.documents += 1;
        let position = format!("{}#{}", out.source(), self.documents);
        let Json::Object(document) = document else {
            return Err(FormatError::NotThisFormat("an ATIF trajectory is a JSON object"));
        };
        if document
            .get("steps")
            .is_none_or(|steps| steps.as_array().is_none())
        {
            return Err(FormatError::NotThisFormat(
                "an ATIF trajectory has an array of steps",
            ));
        }
        let session = document
            .str("session_id")
            .or(document.str("trajectory_id"))
            .unwrap_or(&position);
        let session = session.to_owned();
        push_trajectory(out, document, session, &position, &[])
    }
}

/// Adds a trajectory, and those of its subagents as sessions of their own.
fn push_trajectory(
    out: &mut Output,
    mut document: Fields,
    session: String,
    position: &str,
    parents: &[Json],
) -> Result<(), FormatError> {
    let steps = document.take_array("steps").unwrap_or_default();
    let subagents = document.take_array("subagent_trajectories").unwrap_or_default();
    let agent = document.get("agent");
    let text = |name| {
        agent
            .and_then(|agent| agent.get(name))
            .and_then(Json::as_str)
            .map(str::to_owned)
    };
    let name = text("name");
    let path: Vec<Json> = parents
        .iter()
        .cloned()
        .chain(name.as_ref().map(Json::text))
        .collect();
    let mut trajectory = Trajectory {
        id: document.str("trajectory_id").unwrap_or(position).to_owned(),
        agent_path: (!parents.is_empty()).then(|| Json::Array(path.clone())),
        model: text("model_name"),
        agent: name,
        session,
        calls: Calls::default(),
    };
    out.begin(
        &trajectory.session,
        Id::Position(format!("{}/header", trajectory.id)),
        None,
    );
    out.update_session(None, source(document));
    let first_time = steps
        .iter()
        .find_map(|step| step.get("timestamp").filter(|time| !time.is_empty()))
        .cloned();
    for (index, step) in steps.into_iter().enumerate() {
        trajectory.push_step(out, step, index, first_time.as_ref())?;
    }
    for (index, subagent) in subagents.into_iter().enumerate() {
        let Json::Object(subagent) = subagent else {
            out.unknown("subagent trajectory", subagent, Fields::default())?;
            continue;
        };
        let position = format!("{}/{index}", trajectory.id);
        let own = subagent
            .str("session_id")
            .filter(|id| *id != trajectory.session)
            .map(str::to_owned);
        let inner = subagent
            .str("trajectory_id")
            .map_or_else(|| index.to_string(), str::to_owned);
        let session = own.unwrap_or_else(|| format!("{}/{inner}", trajectory.session));
        push_trajectory(out, subagent, session, &position, &path)?;
    }
    Ok(())
}

impl Trajectory {
    fn push_step(
        &mut self,
        out: &mut Output,
        step: Json,
        index: usize,
        first_time: Option<&Json>,
    ) -> Result<(), FormatError> {
        let Json::Object(mut step) = step else {
            return out.unknown("step", step, Fields::default());
        };
        let ordinal = step
            .get("step_id")
            .map_or_else(|| (index + 1).to_string(), Json::to_string);
        let time = step.take("timestamp");
        let known_time = time.as_ref().or(first_time).cloned();
        let id = Id::Position(format!("{}/{ordinal}", self.id));
        out.begin(&self.session, id, known_time.as_ref());
        let kind = step.str("source").unwrap_or_default();
        let Some(mut message) = Message::by_role(if kind == "agent" { "assistant" } else { kind }) else {
            let kind = format!("step of source {kind}");
            return out.unknown(&kind, Json::Object(step), Fields::default());
        };
        step.take("source");
        message
            .common
            .object("source")
            .set("step", step.take("step_id").unwrap_or(Json::Number(ordinal)));
        message.common.set_some("agent_path", self.agent_path.clone());
        message
            .first
            .object("source")
            .set("timestamp", time.unwrap_or(Json::Null));
        if message.text_type == event_type::MESSAGE_OUT {
            self.agent_fields(&mut step, &mut message);
        }
        self.push_parts(out, step, &mut message)
    }

    fn agent_fields(&self, step: &mut Fields, message: &mut Message) {
        message.author.clone_from(&self.agent);
        let model = step.take_text("model_name");
        if let Some(model) = model.as_ref().or(self.model.as_ref()) {
            message.common.set("model", Json::text(model));
        }
        let source = message.first.object("source");
        source.set_some("model_name", model.map(Json::String));
        let Some(mut metrics) = step.take_object("metrics") else {
            return;
        };
        let mut usage = Fields::default();
        for (name, key) in USAGE {
            usage.set_some(key, metrics.take(name));
        }
        source.set("metrics", Json::Object(metrics));
        if !usage.is_empty() {
            message.first.set("usage", Json::Object(usage));
        }
    }

    /// Adds the events of a step: the thought, the message, the calls and their results.
    fn push_parts(
        &mut self,
        out: &mut Output,
        mut step: Fields,
        message: &mut Message,
    ) -> Result<(), FormatError> {
        let reasoning = step.take_text("reasoning_content");
        let content = step.take("message").unwrap_or(Json::Null);
        let calls = step.take_array("tool_calls");
        let observation = step.take_object("observation");
        let is_silent = content == Json::text("")
            && (calls.as_ref().is_some_and(|calls| !calls.is_empty()) || reasoning.is_some());
        let source_fields = message.first.object("source");
        if calls.as_ref().is_some_and(Vec::is_empty) {
            source_fields.set("tool_calls", Json::Array(Vec::new()));
        }
        source_fields.merge(step);
        if let Some(reasoning) = reasoning {
            message.push(out, event_type::THOUGHT, reasoning, Fields::default());
        }
        if !is_silent {
            message.push_content(out, message.text_type, content, Fields::default());
        }
        for call in calls.into_iter().flatten() {
            self.push_call(out, message, call)?;
        }
        match observation {
            Some(observation) => self.push_observation(out, message, observation),
            None => Ok(()),
        }
    }

    fn push_call(&mut self, out: &mut Output, message: &mut Message, call: Json) -> Result<(), FormatError> {
        let Json::Object(mut call) = call else {
            return out.unknown("tool call", call, message.meta(Fields::default()));
        };
        let id = call.take_text("tool_call_id");
        let tool = call.take_text("function_name");
        if let (Some(id), Some(tool)) = (&id, &tool) {
            self.calls.insert(id, tool);
        }
        let arguments = call.take("arguments");
        let mut meta = call_meta(id.as_deref(), tool.as_deref());
        if arguments
            .as_ref()
            .is_none_or(|arguments| arguments.as_object().is_none())
        {
            // Text in a call is usually JSON. This mark tells it apart when the trajectory is restored.
            call.set(
                "arguments_are_text",
                Json::Bool(arguments.as_ref().is_some_and(|value| value.as_str().is_some())),
            );
        }
        meta.merge(source_of(Some("call"), call));
        message.push(
            out,
            event_type::TOOL_CALL,
            arguments.map(argument_text).unwrap_or_default(),
            meta,
        );
        Ok(())
    }

    fn push_observation(
        &self,
        out: &mut Output,
        message: &mut Message,
        mut observation: Fields,
    ) -> Result<(), FormatError> {
        let results = observation.take_array("results").unwrap_or_default();
        if !observation.is_empty() {
            message
                .first
                .object("source")
                .set("observation", Json::Object(observation));
        }
        if results.is_empty() {
            let meta = source(Fields::from([("has_results", Json::Bool(false))]));
            message.push_result(out, Json::Null, meta);
        }
        for result in results {
            let Json::Object(mut result) = result else {
                out.unknown("observation result", result, message.meta(Fields::default()))?;
                continue;
            };
            let id = result.take_text("source_call_id");
            let content = result.take("content");
            let mut meta = self.calls.result_meta(id.as_deref());
            if content.as_ref().is_none_or(|content| *content == Json::Null) {
                result.set("has_content", Json::Bool(false));
            }
            meta.merge(source_of(Some("result"), result));
            message.push_result(out, content.unwrap_or(Json::Null), meta);
        }
        Ok(())
    }
}
