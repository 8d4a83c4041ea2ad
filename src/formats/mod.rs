//! Transcripts of other tools to events, and events to transcripts.
//!
//! The module is pure: text in, values out. It imports no other module of this crate. [`Converter`] converts one record
//! at a time (a line of a JSON Lines file, or a document), so memory does not grow with the length of a file. The
//! properties that hold for every format:
//!
//! - Order: the events of a session have strictly increasing times in the order of the source, or no times at all.
//! - Repetition: dedupe keys depend on the source alone. A transcript that has grown yields the same keys for its
//!   beginning. Every conversion starts with the first record of a source.
//! - Completeness: every part of a record is in an event, in a session, or counted as skipped.
//!
//! docs/formats.md lists what maps to what. To read the code, start with [`Converter`], then `claude_code.rs`,
//! `codex.rs`, `atif.rs`, `openai.rs` or `anthropic.rs`, and `output.rs` for times and keys.

mod anthropic;
mod atif;
mod blocks;
mod claude_code;
mod codex;
mod detect;
pub mod export;
mod guess;
mod items;
pub mod json;
mod message;
mod meta;
mod openai;
mod output;
mod parts;
mod record;
mod time;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use self::json::{Fields, Json, ParseError};
use self::output::Output;
pub use self::record::{Event, Record, SessionUpdate, event_type};

/// The format of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    ClaudeCode,
    Codex,
    Atif,
    OpenAi,
    Anthropic,
}

impl Format {
    pub const ALL: [Self; 5] = [
        Self::ClaudeCode,
        Self::Codex,
        Self::Atif,
        Self::OpenAi,
        Self::Anthropic,
    ];

    /// Returns the name on the command line, which is also the first part of dedupe keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Atif => "atif",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// Recognises the format of a record: a line, an element of an array, or a document. Returns `None` for other JSON,
    /// among it lines with the fields of `CreateEventRequest`.
    #[must_use]
    pub fn detect(record: &Json) -> Option<Self> {
        detect::detect(record)
    }
}

/// Options of a conversion.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the source, such as a file name. It is part of session ids and dedupe keys where the source has no ids.
    pub source: String,
    /// Replaces the session ids of the source.
    pub session_id: Option<String>,
    /// Time of the first event of each session that has no times. Without it such events have no time.
    pub start: Option<DateTime<Utc>>,
    /// Makes unknown records errors.
    pub strict: bool,
}

/// Returns what a record looks like that is neither an event nor a record of a transcript, such as `CSV`; `None` for an
/// event and for JSON that is damaged.
#[must_use]
pub fn looks_like(record: &str) -> Option<String> {
    guess::guess(record)
}

/// Separates the text of a message's content, a string or a list of parts, from its other parts. Returns `meta` with the
/// field `parts`, empty if the content is a single text, and with large base64 omitted.
#[must_use]
pub fn text_and_parts(content: Json) -> (String, Map<String, Value>) {
    let flat = parts::flatten(content);
    let mut meta = Fields::default();
    meta.set_some("parts", flat.parts);
    meta::omit_payloads(&mut meta, &mut 0);
    (flat.text, meta.into_map())
}

/// An error of a conversion. It concerns one record; the next one can be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{0}")]
    Json(#[from] ParseError),
    #[error("unknown record: {kind}")]
    Unknown { kind: String },
    #[error("{0}")]
    NotThisFormat(&'static str),
}

/// Converts the records of one source, in their order.
pub struct Converter {
    state: State,
    out: Output,
}

enum State {
    ClaudeCode(claude_code::ClaudeCode),
    Codex(codex::Codex),
    Atif(atif::Atif),
    OpenAi(openai::OpenAi),
    Anthropic(anthropic::Anthropic),
}

impl Converter {
    #[must_use]
    pub fn new(format: Format, options: Options) -> Self {
        let state = match format {
            Format::ClaudeCode => State::ClaudeCode(claude_code::ClaudeCode::default()),
            Format::Codex => State::Codex(codex::Codex::default()),
            Format::Atif => State::Atif(atif::Atif::default()),
            Format::OpenAi => State::OpenAi(openai::OpenAi::default()),
            Format::Anthropic => State::Anthropic(anthropic::Anthropic::default()),
        };
        Self {
            state,
            out: Output::new(format.name(), options),
        }
    }

    /// Parses and converts a record.
    pub fn convert_text(&mut self, record: &str) -> Result<Vec<Record>, FormatError> {
        self.convert(Json::parse(record)?)
    }

    /// Converts a record. If it fails, nothing of the record is returned.
    pub fn convert(&mut self, record: Json) -> Result<Vec<Record>, FormatError> {
        let result = match &mut self.state {
            State::ClaudeCode(state) => state.convert(&mut self.out, record),
            State::Codex(state) => state.convert(&mut self.out, record),
            State::Atif(state) => state.convert(&mut self.out, record),
            State::OpenAi(state) => state.convert(&mut self.out, record),
            State::Anthropic(state) => state.convert(&mut self.out, record),
        };
        let records = self.out.take();
        result.map(|()| records)
    }

    /// Returns what remains after the last record.
    pub fn finish(&mut self) -> Vec<Record> {
        if let State::ClaudeCode(state) = &mut self.state {
            state.finish(&mut self.out);
        }
        self.out.take()
    }

    /// Returns the number of skipped parts by kind.
    #[must_use]
    pub fn skipped(&self) -> &BTreeMap<String, u64> {
        self.out.skipped()
    }
}
