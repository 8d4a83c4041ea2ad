//! Collects the results of a conversion: assigns times and dedupe keys, and keeps `meta` within its limits.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use super::json::{Fields, Json};
use super::message::source;
use super::meta::{Fitted, fit};
use super::record::{Event, Record, SessionUpdate, event_type};
use super::{FormatError, Options, time};

/// Maximum number of characters of session ids, authors and titles.
const NAME_CHARS_MAX: usize = 255;
/// Bytes of the hash in a dedupe key.
const HASH_BYTES: usize = 16;
/// Number of sessions whose last time is remembered.
const SESSIONS_MAX: usize = 10_000;

/// Identifies a record of the source in dedupe keys.
#[derive(Clone, Debug, Default)]
pub(super) enum Id {
    /// An id that the source gave to the record.
    Own(String),
    /// The position of the record. The content of the event is part of the key.
    Position(String),
    #[default]
    Unknown,
}

/// An event before it has a time and a dedupe key.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) event_type: &'static str,
    pub(super) role: Option<&'static str>,
    pub(super) author: Option<String>,
    pub(super) content: String,
    pub(super) meta: Fields,
}

pub(super) struct Output {
    /// The first part of dedupe keys.
    prefix: &'static str,
    options: Options,
    session: String,
    id: Id,
    time: Option<DateTime<Utc>>,
    time_text: Option<String>,
    /// Number of events of the current record.
    events: u64,
    /// Time of the last event of each session, and whether it is assumed.
    last: HashMap<String, (DateTime<Utc>, bool)>,
    records: Vec<Record>,
    skipped: BTreeMap<String, u64>,
}

impl Output {
    pub(super) fn new(prefix: &'static str, options: Options) -> Self {
        Self {
            prefix,
            options,
            session: String::new(),
            id: Id::default(),
            time: None,
            time_text: None,
            events: 0,
            last: HashMap::new(),
            records: Vec::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Starts a record: sets the session, the id and the time of the events that follow.
    pub(super) fn begin(&mut self, session: &str, id: Id, time: Option<&Json>) {
        self.session = self.session_id(session);
        self.id = id;
        self.time = time.and_then(time::parse);
        self.time_text = time.filter(|time| !time.is_empty()).map(|time| match time {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        });
        self.events = 0;
    }

    /// Returns the id of a session after the option that replaces it and the limit of its length.
    pub(super) fn session_id(&self, session: &str) -> String {
        let session = self.options.session_id.as_deref().unwrap_or(session);
        if session.chars().count() <= NAME_CHARS_MAX {
            return session.to_owned();
        }
        let kept: String = session.chars().take(NAME_CHARS_MAX - 23).collect();
        format!("{kept}~{}", digest(&[session]))
    }

    pub(super) fn source(&self) -> &str {
        &self.options.source
    }

    /// Adds an event, and an event of type `system` for each value that does not fit into its `meta`.
    pub(super) fn push(&mut self, mut draft: Draft) {
        let (occurred_at, is_time_assumed) = self.next_time(&mut draft.meta).unzip();
        let Fitted {
            meta,
            moved,
            payloads,
        } = fit(draft.meta);
        let author = draft.author.filter(|author| !author.is_empty());
        let event = Event {
            dedupe_key: Some(self.next_key(draft.event_type, &draft.content)),
            event_type: draft.event_type.to_owned(),
            role: draft.role.map(str::to_owned),
            author: author.map(|author| clip(&author)),
            session_id: (!self.session.is_empty()).then(|| self.session.clone()),
            content: draft.content,
            meta: meta.into_map(),
            occurred_at,
            is_time_assumed: is_time_assumed.unwrap_or_default(),
        };
        self.records.push(Record::Event(Box::new(event)));
        self.push_moved(moved);
        for _ in 0..payloads {
            self.skip("binary payload");
        }
    }

    fn push_moved(&mut self, moved: Vec<(String, Json)>) {
        for (path, value) in moved {
            self.push(Draft {
                event_type: event_type::SYSTEM,
                content: value.to_string(),
                meta: source(Fields::from([("moved_from", Json::String(path))])),
                ..Draft::default()
            });
        }
    }

    /// Adds an event of type `system` that contains a record or a block of an unknown kind.
    pub(super) fn unknown(&mut self, kind: &str, value: Json, mut meta: Fields) -> Result<(), FormatError> {
        if self.options.strict {
            return Err(FormatError::Unknown { kind: clip(kind) });
        }
        meta.object("source").set("unknown", value);
        self.push(Draft {
            event_type: event_type::SYSTEM,
            meta,
            ..Draft::default()
        });
        Ok(())
    }

    /// Counts a part of the source that is in no event.
    pub(super) fn skip(&mut self, kind: &str) {
        let kind = clip(kind);
        *self.skipped.entry(kind.clone()).or_default() += 1;
        self.records.push(Record::Skipped { kind });
    }

    /// Adds a change of the current session. `meta` that exceeds the limits moves into events of type `system`.
    pub(super) fn update_session(&mut self, title: Option<&str>, mut meta: Fields) {
        let title = title.map(str::trim).filter(|title| !title.is_empty());
        if self.session.is_empty() || (title.is_none() && meta.is_empty()) {
            return;
        }
        if let Some(title) = title.filter(|title| title.chars().count() > NAME_CHARS_MAX) {
            meta.object("source").set("full_title", Json::text(title));
        }
        let Fitted { meta, moved, .. } = fit(meta);
        self.records.push(Record::Session(SessionUpdate {
            session_id: self.session.clone(),
            title: title.map(clip),
            meta: meta.into_map(),
        }));
        self.push_moved(moved);
    }

    pub(super) fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    pub(super) fn skipped(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }

    /// Returns the time of the next event: that of the record, but later than all events of the session before it.
    /// If the first event of a record cannot have the record's time, `meta.source.timestamp` keeps it.
    fn next_time(&mut self, meta: &mut Fields) -> Option<(DateTime<Utc>, bool)> {
        let after_last = self.last.get(&self.session).and_then(|(last, is_assumed)| {
            let after = last.checked_add_signed(TimeDelta::microseconds(1))?;
            Some((after, *is_assumed))
        });
        let start = self.options.start.map(|start| (start, true));
        let next = match (self.time, after_last) {
            (Some(time), Some((after, _))) if time < after => after_last,
            (Some(time), _) => Some((time, false)),
            (None, after) => after.or(start),
        };
        let time = next.map(|(time, _)| time);
        let is_changed = self.time.is_none() || self.time != time;
        if self.events == 0
            && is_changed
            && let Some(text) = self.time_text.take()
        {
            let source = meta.object("source");
            if source.get("timestamp").is_none() {
                source.set("timestamp", Json::String(text));
            }
        }
        if let Some(next) = next {
            if self.last.len() >= SESSIONS_MAX {
                self.last.clear();
            }
            self.last.insert(self.session.clone(), next);
        }
        next
    }

    fn next_key(&mut self, event_type: &str, content: &str) -> String {
        let ordinal = self.events.to_string();
        self.events += 1;
        let hash = match &self.id {
            Id::Own(id) => digest(&["id", &self.session, id, &ordinal]),
            Id::Position(id) => digest(&["position", &self.session, id, &ordinal, event_type, content]),
            Id::Unknown => digest(&["content", &self.session, &ordinal, event_type, content]),
        };
        format!("{}:{hash}", self.prefix)
    }
}

/// Returns a hash of the texts. The length of each is part of the hash.
pub(super) fn digest(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    URL_SAFE_NO_PAD.encode(&hash.finalize()[..HASH_BYTES])
}

fn clip(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).collect()
}
