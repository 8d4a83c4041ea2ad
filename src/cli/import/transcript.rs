//! Reads records as events or as transcripts of other tools, whichever the source contains.

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use prost_types::{Struct, Timestamp};
use serde_json::{Map, Value};

use super::fault::Fault;
use super::line::{EventParser, Leniency, Parsed, RecordText};
use super::session;
use crate::formats::json::Json;
use crate::formats::{Converter, Event, Format, FormatError, Options, Record};
use crate::grpc::JsonObject;
use crate::grpc::pb::{CreateEventRequest, OnDuplicate, UpdateSessionRequest};

/// The format of the sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatArg {
    /// Recognised by the first record of each source
    #[default]
    Auto,
    /// Events, as `export` and `replay --json` print them
    Jsonl,
    /// Session files of Claude Code
    ClaudeCode,
    /// Rollout files of Codex
    Codex,
    /// Trajectories in the Agent Trajectory Interchange Format
    Atif,
    /// OpenAI chat messages, responses and Conversations items
    Openai,
    /// Anthropic messages
    Anthropic,
}

impl FormatArg {
    /// Returns the name of the format of files in which no other one is recognised.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto | Self::Jsonl => "jsonl",
            Self::ClaudeCode => Format::ClaudeCode.name(),
            Self::Codex => Format::Codex.name(),
            Self::Atif => Format::Atif.name(),
            Self::Openai => Format::OpenAi.name(),
            Self::Anthropic => Format::Anthropic.name(),
        }
    }
}

/// The flags of an import that concern transcripts.
#[derive(Clone, Debug)]
pub(super) struct TranscriptOptions {
    pub(super) format: FormatArg,
    pub(super) session: Option<String>,
    pub(super) start: DateTime<Utc>,
    pub(super) strict: bool,
}

/// A result of a record.
pub(super) enum Item {
    Event(Box<Parsed>),
    Session(Box<UpdateSessionRequest>),
    Skipped(String),
    /// The format that was recognised.
    Format(&'static str),
}

/// Parses the records of one source.
pub(super) struct RecordParser {
    spirit_id: String,
    leniency: Leniency,
    options: TranscriptOptions,
    source: String,
    events: EventParser,
    state: State,
}

enum State {
    /// No record has been recognised yet.
    Undecided,
    Events,
    Transcript(Box<Converter>),
}

impl RecordParser {
    pub(super) fn new(
        spirit_id: String,
        source: String,
        leniency: Leniency,
        options: TranscriptOptions,
    ) -> Self {
        let mut parser = Self {
            events: EventParser::new(spirit_id.clone(), source.clone(), leniency),
            spirit_id,
            leniency,
            options,
            source,
            state: State::Undecided,
        };
        parser.state = match parser.options.format {
            FormatArg::Auto => State::Undecided,
            FormatArg::Jsonl => State::Events,
            FormatArg::ClaudeCode => parser.transcript(Format::ClaudeCode),
            FormatArg::Codex => parser.transcript(Format::Codex),
            FormatArg::Atif => parser.transcript(Format::Atif),
            FormatArg::Openai => parser.transcript(Format::OpenAi),
            FormatArg::Anthropic => parser.transcript(Format::Anthropic),
        };
        parser
    }

    /// Returns the results of a record, none for a blank line.
    pub(super) fn parse(&mut self, record: &[u8]) -> Result<Vec<Item>, Fault> {
        let Some(text) = RecordText::of(record, self.leniency)? else {
            return Ok(Vec::new());
        };
        let mut items = Vec::new();
        if matches!(self.state, State::Undecided) {
            let format = Json::parse(&text.json).ok().as_ref().and_then(Format::detect);
            if let Some(format) = format {
                items.push(Item::Format(format.name()));
                self.state = self.transcript(format);
            }
        }
        if let State::Transcript(converter) = &mut self.state {
            let records = converter.convert_text(&text.json).map_err(format_fault)?;
            items.extend(self.items(records, text.repaired)?);
            return Ok(items);
        }
        let item = if session::is_session(&text.json) {
            Item::Session(Box::new(session::parse(&text.json, &self.spirit_id)?))
        } else {
            Item::Event(Box::new(self.events.parse(&text)?))
        };
        if matches!(self.state, State::Undecided) {
            self.state = State::Events;
        }
        items.push(item);
        Ok(items)
    }

    /// Returns what remains after the last record.
    pub(super) fn finish(&mut self) -> Result<Vec<Item>, Fault> {
        match &mut self.state {
            State::Transcript(converter) => {
                let records = converter.finish();
                self.items(records, 0)
            }
            State::Undecided | State::Events => Ok(Vec::new()),
        }
    }

    fn transcript(&self, format: Format) -> State {
        let options = Options {
            source: self.source.clone(),
            session_id: self.options.session.clone(),
            start: Some(self.options.start),
            strict: self.options.strict,
        };
        State::Transcript(Box::new(Converter::new(format, options)))
    }

    fn items(&self, records: Vec<Record>, mut repaired: u64) -> Result<Vec<Item>, Fault> {
        let item = |record| match record {
            Record::Event(event) => {
                let mut parsed = self.request(*event)?;
                parsed.repaired = std::mem::take(&mut repaired);
                Ok(Item::Event(Box::new(parsed)))
            }
            Record::Session(update) => {
                let request = session::of_transcript(update, &self.spirit_id)?;
                Ok(Item::Session(Box::new(request)))
            }
            Record::Skipped { kind } => Ok(Item::Skipped(kind)),
        };
        records.into_iter().map(item).collect()
    }

    fn request(&self, event: Event) -> Result<Parsed, Fault> {
        let values = event.meta.values().map(count).sum();
        let request = CreateEventRequest {
            spirit_id: self.spirit_id.clone(),
            event_type: event.event_type,
            content: Some(event.content),
            occurred_at: event.occurred_at.map(timestamp),
            session_id: event.session_id,
            role: event.role,
            author: event.author,
            meta: (!event.meta.is_empty()).then(|| object(event.meta)).transpose()?,
            dedupe_key: event.dedupe_key,
            on_duplicate: OnDuplicate::ReturnExisting.into(),
            ..CreateEventRequest::default()
        };
        Ok(Parsed {
            request,
            repaired: 0,
            values,
            is_time_assumed: event.is_time_assumed,
            is_deleted: false,
        })
    }
}

/// Converts an object whose numbers a double holds.
pub(super) fn object(fields: Map<String, Value>) -> Result<Struct, Fault> {
    let JsonObject(object) = serde_json::from_value(Value::Object(fields))
        .map_err(|error| Fault::new("bad meta", format!("meta: {error}")))?;
    Ok(object)
}

/// Returns the number of values in a value.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

fn format_fault(error: FormatError) -> Fault {
    match error {
        FormatError::Json(error) => Fault::new("not JSON", format!("is not JSON: {error}")),
        FormatError::Unknown { kind } => {
            let text = format!("is or holds a record of the unknown type {kind}, which --strict refuses");
            Fault::new(format!("unknown {kind}"), text)
        }
        FormatError::NotThisFormat(rule) => {
            Fault::new("another format", format!("is in another format: {rule}"))
        }
    }
}
