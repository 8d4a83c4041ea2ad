//! Parses the lines of an import, JSON objects with the fields of `CreateEventRequest`.

use std::collections::HashMap;

use chrono::DateTime;
use prost_types::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::domain::dedupe::hex;
use crate::grpc::JsonObject;
use crate::grpc::pb::{CreateEventRequest, EventView, OnDuplicate};

/// Bytes of the hash that identifies a line.
const HASH_BYTES: usize = 16;

/// The fields of a line. `null` is the same as absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    spirit_id: Option<String>,
    event_type: Option<String>,
    content: Option<String>,
    meta_summary: Option<String>,
    occurred_at: Option<String>,
    session_id: Option<String>,
    role: Option<String>,
    author: Option<String>,
    meta: Option<JsonObject>,
    source_uri: Option<String>,
    dedupe_key: Option<String>,
    importance_score: Option<f64>,
    on_duplicate: Option<String>,
    expected_last_sequence: Option<i64>,
    expected_session_last_sequence: Option<i64>,
}

/// Parses lines. A line that has neither a dedupe key nor the fields from which the server derives one gets a
/// dedupe key derived from its text, so that an import can be repeated.
pub(super) struct LineParser {
    spirit_id: String,
    /// Number of occurrences of each line that gets a derived dedupe key, by hash.
    seen: HashMap<[u8; HASH_BYTES], u64>,
}

impl LineParser {
    pub(super) fn new(spirit_id: String) -> Self {
        Self {
            spirit_id,
            seen: HashMap::new(),
        }
    }

    /// Returns the request of a line, or `None` for a blank line. The error is a message for the user.
    pub(super) fn parse(&mut self, line: &[u8]) -> Result<Option<CreateEventRequest>, String> {
        let text = std::str::from_utf8(line)
            .map_err(|_| "is not valid UTF-8".to_owned())?
            .trim();
        if text.is_empty() {
            return Ok(None);
        }
        let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if line
            .spirit_id
            .as_ref()
            .is_some_and(|id| !id.eq_ignore_ascii_case(&self.spirit_id))
        {
            return Err("spirit_id is not the spirit of this import".to_owned());
        }
        let has_dedupe_key =
            line.dedupe_key.is_some() || (line.source_uri.is_some() && line.occurred_at.is_some());
        let dedupe_key = if has_dedupe_key {
            line.dedupe_key
        } else {
            Some(self.derive_dedupe_key(text))
        };
        let on_duplicate = match line.on_duplicate {
            None => OnDuplicate::ReturnExisting,
            Some(name) => OnDuplicate::from_str_name(&name).ok_or_else(|| {
                format!(
                    "on_duplicate must be ON_DUPLICATE_REJECT or ON_DUPLICATE_RETURN_EXISTING, is \"{name}\""
                )
            })?,
        };
        Ok(Some(CreateEventRequest {
            spirit_id: self.spirit_id.clone(),
            event_type: line.event_type.unwrap_or_default(),
            content: line.content,
            meta_summary: line.meta_summary,
            occurred_at: line.occurred_at.as_deref().map(timestamp).transpose()?,
            session_id: line.session_id,
            role: line.role,
            author: line.author,
            meta: line.meta.map(|JsonObject(value)| value),
            source_uri: line.source_uri,
            dedupe_key,
            importance_score: line.importance_score,
            on_duplicate: on_duplicate.into(),
            expected_last_sequence: line.expected_last_sequence,
            expected_session_last_sequence: line.expected_session_last_sequence,
            reply_view: EventView::Unspecified.into(),
        }))
    }

    /// Returns a dedupe key derived from the spirit, the line and its ordinal among equal lines.
    fn derive_dedupe_key(&mut self, text: &str) -> String {
        let hash: [u8; HASH_BYTES] = std::array::from_fn({
            let digest = Sha256::digest(text);
            move |i| digest[i]
        });
        let ordinal = self.seen.entry(hash).or_default();
        *ordinal += 1;
        let digest = Sha256::digest(format!("{}|{ordinal}|{text}", self.spirit_id));
        format!("import:{}", hex(&digest[..HASH_BYTES]))
    }
}

fn timestamp(text: &str) -> Result<Timestamp, String> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|error| format!("occurred_at must be a time such as 2025-10-17T14:23:15Z: {error}"))?;
    Ok(Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(parser: &mut LineParser, line: &str) -> CreateEventRequest {
        parser
            .parse(line.as_bytes())
            .expect("a good line")
            .expect("not blank")
    }

    #[test]
    fn equal_lines_get_distinct_dedupe_keys_which_are_the_same_in_the_next_run() {
        let lines = [
            r#"{"event_type":"a","content":"x"}"#,
            r#"{"event_type":"a","content":"x"}"#,
        ];
        let keys = || {
            let mut parser = LineParser::new("s".to_owned());
            lines.map(|line| parse(&mut parser, line).dedupe_key)
        };
        let [first, second] = keys();
        assert!(first.is_some() && first != second);
        assert_eq!(keys(), [first, second]);
    }

    #[test]
    fn a_line_with_a_dedupe_key_or_with_source_uri_and_time_gets_no_derived_dedupe_key() {
        let mut parser = LineParser::new("s".to_owned());
        let sourced = r#"{"event_type":"a","content":"","source_uri":"u","occurred_at":"2025-01-01T00:00:00Z","role":null}"#;
        assert_eq!(parse(&mut parser, sourced).dedupe_key, None);
        let keyed = r#"{"event_type":"a","content":"","dedupe_key":"k"}"#;
        assert_eq!(parse(&mut parser, keyed).dedupe_key.as_deref(), Some("k"));
    }

    #[test]
    fn the_error_of_a_bad_line_names_the_fault() {
        let mut parser = LineParser::new("s".to_owned());
        for (line, word) in [
            ("{", "EOF"),
            (r#"{"event_typ":"a"}"#, "event_typ"),
            (r#"{"occurred_at":"yesterday"}"#, "occurred_at"),
            (r#"{"on_duplicate":"MAYBE"}"#, "on_duplicate"),
            (r#"{"spirit_id":"other"}"#, "spirit_id"),
        ] {
            let fault = parser.parse(line.as_bytes()).expect_err("a bad line");
            assert!(fault.contains(word), "{line}: {fault}");
        }
    }
}
