//! Parses the JSON text of an event, an object with the fields of `CreateEventRequest`.

use std::borrow::Cow;

use prost_types::Struct;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::fault::Fault;
use super::keys::KeyDeriver;
use super::repair::repaired;
use super::{meta, time, transcript};
use crate::formats::json::Json;
use crate::formats::text_and_parts;
use crate::grpc::pb::{CreateEventRequest, EventView, OnDuplicate};

/// The fields of an event, not parsed yet. `null` is the same as absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    spirit_id: Option<&'a RawValue>,
    event_type: Option<&'a RawValue>,
    /// Unlike other fields, `null` is content: none.
    #[serde(borrow, default, deserialize_with = "present")]
    content: Option<&'a RawValue>,
    meta_summary: Option<&'a RawValue>,
    occurred_at: Option<&'a RawValue>,
    session_id: Option<&'a RawValue>,
    role: Option<&'a RawValue>,
    author: Option<&'a RawValue>,
    meta: Option<&'a RawValue>,
    source_uri: Option<&'a RawValue>,
    dedupe_key: Option<&'a RawValue>,
    importance_score: Option<&'a RawValue>,
    on_duplicate: Option<&'a RawValue>,
    expected_last_sequence: Option<&'a RawValue>,
    expected_session_last_sequence: Option<&'a RawValue>,

    // The fields that `export` and `replay --json` print and only the service sets.
    id: Option<&'a RawValue>,
    #[serde(rename = "sequence")]
    _sequence: Option<IgnoredAny>,
    content_bytes: Option<IgnoredAny>,
    #[serde(rename = "revision")]
    _revision: Option<IgnoredAny>,
    is_deleted: Option<bool>,
    #[serde(rename = "deleted_at")]
    _deleted_at: Option<IgnoredAny>,
    #[serde(rename = "created_at")]
    _created_at: Option<IgnoredAny>,
    #[serde(rename = "updated_at")]
    _updated_at: Option<IgnoredAny>,
    #[serde(rename = "cursor")]
    _cursor: Option<IgnoredAny>,
}

/// Flags that make an import accept more than exact events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leniency {
    /// Replace lone surrogates and U+0000 by U+FFFD.
    pub(super) repair: bool,
    /// Read times without a zone as UTC.
    pub(super) assume_utc: bool,
}

/// An event that can be sent.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) request: CreateEventRequest,
    /// Characters that were replaced.
    pub(super) repaired: u64,
    /// Number of values in `meta`.
    pub(super) values: usize,
    /// Whether the time is that of the import, because the source has none.
    pub(super) is_time_assumed: bool,
    /// Whether the event is soft-deleted once it is stored.
    pub(super) is_deleted: bool,
}

/// The JSON text of a record.
#[derive(Debug)]
pub(super) struct RecordText<'a> {
    pub(super) json: Cow<'a, str>,
    /// The text before its repair.
    original: &'a str,
    /// Characters that were replaced.
    pub(super) repaired: u64,
}

impl<'a> RecordText<'a> {
    /// Returns the text, or `None` for a blank line.
    pub(super) fn of(record: &'a [u8], leniency: Leniency) -> Result<Option<Self>, Fault> {
        let text = std::str::from_utf8(record).map_err(|_| Fault::new("not UTF-8", "is not valid UTF-8"))?;
        let text = text.trim().trim_start_matches('\u{feff}').trim_start();
        if text.is_empty() {
            return Ok(None);
        }
        let Some(repaired) = repaired(text) else {
            return Ok(Some(Self {
                json: Cow::Borrowed(text),
                original: text,
                repaired: 0,
            }));
        };
        if !leniency.repair {
            let found = repaired.description();
            let text = format!("holds {found}, which cannot be stored; --repair replaces it by U+FFFD");
            return Err(Fault::new(found, text));
        }
        Ok(Some(Self {
            repaired: repaired.surrogates + repaired.nulls,
            json: Cow::Owned(repaired.text),
            original: text,
        }))
    }
}

/// Parses the events of one source. An event without a dedupe key gets a derived one: from its id if it was exported, and
/// else from its text, unless it has the fields from which the server derives a key.
pub(super) struct EventParser {
    /// Empty if no spirit was looked up.
    spirit_id: String,
    leniency: Leniency,
    keys: KeyDeriver,
}

impl EventParser {
    pub(super) fn new(spirit_id: String, source: String, leniency: Leniency) -> Self {
        Self {
            keys: KeyDeriver::new(spirit_id.clone(), source),
            spirit_id,
            leniency,
        }
    }

    /// Returns the event of a record. A dedupe key is derived from the text before its repair.
    pub(super) fn parse(&mut self, record: &RecordText) -> Result<Parsed, Fault> {
        let json = record.json.as_ref();
        if !json.starts_with('{') {
            return Err(Fault::new("not a JSON object", "is not a JSON object"));
        }
        let fields: Fields = serde_json::from_str(json).map_err(|error| json_fault(&error))?;
        self.check_export(&fields)?;
        let mut values = 0;
        let occurred_at = match fields.occurred_at {
            Some(raw) => Some(time::timestamp(&time_text(raw)?, self.leniency.assume_utc)?),
            None => None,
        };
        let (content, parts) = content(fields.content)?;
        let mut request = CreateEventRequest {
            spirit_id: self.spirit_id.clone(),
            event_type: text("event_type", fields.event_type)?.unwrap_or_default(),
            content,
            meta_summary: text("meta_summary", fields.meta_summary)?,
            occurred_at,
            session_id: text("session_id", fields.session_id)?,
            role: text("role", fields.role)?,
            author: text("author", fields.author)?,
            meta: object(fields.meta, &mut values)?,
            source_uri: text("source_uri", fields.source_uri)?,
            dedupe_key: text("dedupe_key", fields.dedupe_key)?,
            importance_score: value("importance_score", fields.importance_score, "a number")?,
            on_duplicate: on_duplicate(fields.on_duplicate)?.into(),
            expected_last_sequence: value(
                "expected_last_sequence",
                fields.expected_last_sequence,
                "an integer",
            )?,
            expected_session_last_sequence: value(
                "expected_session_last_sequence",
                fields.expected_session_last_sequence,
                "an integer",
            )?,
            reply_view: EventView::Unspecified.into(),
        };
        if let Some(parts) = parts {
            values += parts.fields.len();
            request.meta.get_or_insert_default().fields.extend(parts.fields);
        }
        let server_derives = request.source_uri.is_some() && request.occurred_at.is_some();
        if request.dedupe_key.is_none() {
            request.dedupe_key = match text("id", fields.id)? {
                Some(id) => Some(self.keys.key_of_event(&id)),
                None if server_derives => None,
                None => Some(self.keys.key(record.original)),
            };
        }
        Ok(Parsed {
            request,
            repaired: record.repaired,
            values,
            is_time_assumed: false,
            is_deleted: fields.is_deleted.unwrap_or_default(),
        })
    }

    /// Checks that an event which was exported keeps its meaning: it may come from another spirit, but not without the
    /// rest of its content.
    fn check_export(&self, fields: &Fields) -> Result<(), Fault> {
        if fields.content_bytes.is_some() {
            let text = "has content_bytes: its content is only the beginning of the event's";
            return Err(Fault::new("cut content", text));
        }
        let spirit_id = text("spirit_id", fields.spirit_id)?;
        let is_foreign = spirit_id.is_some_and(|id| !id.eq_ignore_ascii_case(&self.spirit_id));
        if is_foreign && fields.id.is_none() && !self.spirit_id.is_empty() {
            return Err(Fault::new(
                "event of another spirit",
                "spirit_id is not the spirit of this import",
            ));
        }
        Ok(())
    }
}

/// Describes a fault of JSON without the list of all fields and without the line, which is always the first.
pub(super) fn json_fault(error: &serde_json::Error) -> Fault {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let text = text.split(", expected one of").next().unwrap_or(text);
    let kind = match error.classify() {
        serde_json::error::Category::Data if text.starts_with("unknown field") => "unknown field",
        serde_json::error::Category::Data if text.starts_with("duplicate field") => "duplicate key",
        serde_json::error::Category::Data => "field of a wrong type",
        _ => "not JSON",
    };
    let text = match kind {
        "not JSON" => format!("is not JSON: {text}"),
        "duplicate key" => format!("{text}: duplicate keys in an object"),
        _ => text.to_owned(),
    };
    Fault::new(kind, format!("{text} (column {})", error.column()))
}

/// Parses a field that is present.
fn value<T: DeserializeOwned>(name: &str, raw: Option<&RawValue>, what: &str) -> Result<Option<T>, Fault> {
    let Some(raw) = raw else { return Ok(None) };
    let value = serde_json::from_str(raw.get())
        .map_err(|_| Fault::new("field of a wrong type", format!("{name} must be {what}")))?;
    Ok(Some(value))
}

/// Accepts `null` as a value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Returns the content, and `meta` with its parts if it is a list that is not a single text.
fn content(raw: Option<&RawValue>) -> Result<(Option<String>, Option<Struct>), Fault> {
    let Some(raw) = raw else {
        return Ok((None, None));
    };
    match raw.get().as_bytes().first() {
        Some(b'n') => Ok((Some(String::new()), None)),
        Some(b'[') => {
            let parts = Json::parse(raw.get())
                .map_err(|error| Fault::new("not JSON", format!("content is not JSON: {error}")))?;
            let (text, meta) = text_and_parts(parts);
            let meta = (!meta.is_empty()).then(|| transcript::object(meta)).transpose()?;
            Ok((Some(text), meta))
        }
        _ => Ok((value("content", Some(raw), "a text or a list of parts")?, None)),
    }
}

fn text(name: &str, raw: Option<&RawValue>) -> Result<Option<String>, Fault> {
    value(name, raw, "a text")
}

fn object(raw: Option<&RawValue>, values: &mut usize) -> Result<Option<Struct>, Fault> {
    raw.map(|raw| meta::object(raw, values)).transpose()
}

/// Returns the text of a time. An epoch number may be a number or a text.
fn time_text(raw: &RawValue) -> Result<String, Fault> {
    if raw.get().starts_with('"') {
        return Ok(text("occurred_at", Some(raw))?.unwrap_or_default());
    }
    Ok(raw.get().to_owned())
}

fn on_duplicate(raw: Option<&RawValue>) -> Result<OnDuplicate, Fault> {
    match text("on_duplicate", raw)? {
        None => Ok(OnDuplicate::ReturnExisting),
        Some(name) => OnDuplicate::from_str_name(&name).ok_or_else(|| {
            let text = format!(
                "on_duplicate must be ON_DUPLICATE_REJECT or ON_DUPLICATE_RETURN_EXISTING, is \"{name}\""
            );
            Fault::new("on_duplicate", text)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str, repair: bool) -> Result<Parsed, String> {
        let leniency = Leniency {
            repair,
            assume_utc: false,
        };
        let mut parser = EventParser::new("s".to_owned(), "file".to_owned(), leniency);
        let text = RecordText::of(line.as_bytes(), leniency).map_err(|fault| fault.text)?;
        parser
            .parse(&text.expect("not blank"))
            .map_err(|fault| fault.text)
    }

    #[test]
    fn an_event_with_a_dedupe_key_or_with_source_uri_and_time_gets_no_derived_dedupe_key() {
        let sourced = r#"{"event_type":"a","content":"","source_uri":"u","occurred_at":"2025-01-01T00:00:00Z","role":null}"#;
        let key = |line: &str| parse(line, false).expect("an event").request.dedupe_key;
        assert_eq!(key(sourced), None);
        let keyed = r#"{"event_type":"a","content":"","dedupe_key":"k"}"#;
        assert_eq!(key(keyed).as_deref(), Some("k"));
        let plain = r#"{"event_type":"a","content":""}"#;
        assert!(key(plain).is_some());
        assert_eq!(key(plain), key(&format!("\u{feff} {plain}\t\r")), "trimmed");
    }

    #[test]
    fn the_fault_of_a_bad_line_names_it() {
        for (line, word) in [
            ("{", "is not JSON"),
            ("7", "is not a JSON object"),
            (r#"{"event_typ":"a"}"#, "unknown field `event_typ` (column"),
            (r#"{"content":"a","content":"b"}"#, "duplicate field `content`"),
            (r#"{"content":{}}"#, "content must be a text or a list of parts"),
            (r#"{"meta":{"k":1,"k":2}}"#, "meta.k"),
            (r#"{"occurred_at":"yesterday"}"#, "occurred_at"),
            (r#"{"occurred_at":true}"#, "occurred_at"),
            (r#"{"on_duplicate":"MAYBE"}"#, "on_duplicate"),
            (r#"{"spirit_id":"other"}"#, "spirit_id"),
            (r#"{"content":"\ud83d"}"#, "half of a surrogate pair"),
            (r#"{"content":"\u0000"}"#, "U+0000"),
            (r#"{"content_bytes":5}"#, "content_bytes"),
        ] {
            let fault = parse(line, false).expect_err("a bad line");
            assert!(fault.contains(word), "{line}: {fault}");
        }
    }

    #[test]
    fn content_may_be_null_or_a_list_of_parts() {
        let request = |line: &str| parse(line, false).expect("an event").request;
        assert_eq!(request(r#"{"content":null}"#).content.as_deref(), Some(""));
        assert_eq!(request("{}").content, None);
        let plain = request(r#"{"content":[{"type":"text","text":"hi"}]}"#);
        assert_eq!((plain.content.as_deref(), plain.meta), (Some("hi"), None));
        let mixed =
            request(r#"{"content":[{"type":"text","text":"hi"},{"type":"image","url":"u"}],"meta":{"a":1}}"#);
        assert_eq!(mixed.content.as_deref(), Some("hi"));
        let meta = crate::grpc::object_of_struct(&mixed.meta.expect("parts"));
        assert_eq!(
            meta,
            r#"{"a":1,"parts":[{"text_bytes":2,"type":"text"},{"type":"image","url":"u"}]}"#
        );
    }

    #[test]
    fn a_repaired_line_has_the_key_of_its_original_text() {
        let damaged = parse(r#"{"content":"a\ud83d"}"#, true).expect("an event");
        let replaced = parse(r#"{"content":"a\ufffd"}"#, true).expect("an event");
        assert_eq!(damaged.request.content.as_deref(), Some("a\u{fffd}"));
        assert_eq!((damaged.repaired, replaced.repaired), (1, 0));
        assert_ne!(damaged.request.dedupe_key, replaced.request.dedupe_key);
    }

    #[test]
    fn an_exported_event_is_an_event_of_any_spirit() {
        let exported = r#"{"id":"e","spirit_id":"other","sequence":7,"event_type":"a","content":"c","revision":1,
            "is_deleted":false,"created_at":"x","updated_at":"x","deleted_at":null,"cursor":"c"}"#;
        let parsed = parse(exported, false).expect("an event");
        assert_eq!(
            (parsed.request.spirit_id.as_str(), parsed.request.content()),
            ("s", "c")
        );
        let deleted = exported
            .replace("false", "true")
            .replace(r#""revision":1"#, r#""revision":2"#);
        let deleted = parse(&deleted, false).expect("an event");
        assert_eq!((parsed.is_deleted, deleted.is_deleted), (false, true));
        assert_eq!(
            deleted.request.dedupe_key, parsed.request.dedupe_key,
            "the key of its id"
        );
    }
}
