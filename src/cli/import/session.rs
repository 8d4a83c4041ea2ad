//! Changes of sessions: lines `{"session": …}` of exports, and the titles and `meta` of transcripts.

use prost_types::Struct;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::fault::Fault;
use super::line::json_fault;
use super::meta;
use super::transcript::object;
use crate::formats::SessionUpdate;
use crate::grpc::pb::{MetaMode, UpdateSessionRequest};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    session: Fields<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    session_id: String,
    title: Option<String>,
    owner: Option<String>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,

    // The fields that `session get --json` prints and only the service sets.
    #[serde(rename = "spirit_id")]
    _spirit_id: Option<IgnoredAny>,
    #[serde(rename = "event_count")]
    _event_count: Option<IgnoredAny>,
    #[serde(rename = "first_occurred_at")]
    _first_occurred_at: Option<IgnoredAny>,
    #[serde(rename = "last_occurred_at")]
    _last_occurred_at: Option<IgnoredAny>,
    #[serde(rename = "last_sequence")]
    _last_sequence: Option<IgnoredAny>,
    #[serde(rename = "revision")]
    _revision: Option<IgnoredAny>,
    #[serde(rename = "updated_at")]
    _updated_at: Option<IgnoredAny>,
}

/// Returns whether the JSON of a record is a session and not an event.
pub(super) fn is_session(json: &str) -> bool {
    let first = json.strip_prefix('{').map(str::trim_start);
    first.is_some_and(|first| first.starts_with("\"session\""))
}

/// Parses a session of an export, of which the fields that it has are set. Its `meta` replaces that of the session.
pub(super) fn parse(json: &str, spirit_id: &str) -> Result<UpdateSessionRequest, Fault> {
    let Line { session } = serde_json::from_str(json).map_err(|error| json_fault(&error))?;
    let meta = session.meta.map(|raw| meta::object(raw, &mut 0)).transpose()?;
    Ok(UpdateSessionRequest {
        owner: session.owner,
        meta_mode: MetaMode::Replace.into(),
        ..request(spirit_id, session.session_id, session.title, meta)
    })
}

/// Returns the change that a transcript makes. Its `meta` is merged with that of the session.
pub(super) fn of_transcript(update: SessionUpdate, spirit_id: &str) -> Result<UpdateSessionRequest, Fault> {
    let meta = (!update.meta.is_empty())
        .then(|| object(update.meta))
        .transpose()?;
    Ok(UpdateSessionRequest {
        meta_mode: MetaMode::MergePatch.into(),
        ..request(spirit_id, update.session_id, update.title, meta)
    })
}

fn request(
    spirit_id: &str,
    session_id: String,
    title: Option<String>,
    meta: Option<Struct>,
) -> UpdateSessionRequest {
    UpdateSessionRequest {
        spirit_id: spirit_id.to_owned(),
        session_id,
        title,
        meta,
        ..UpdateSessionRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_line_sets_what_it_has() {
        let line = r#"{ "session": {"session_id":"s","title":"T","owner":null,"meta":{"n":1},"revision":3}}"#;
        assert!(is_session(line) && !is_session(r#"{"session_id":"s"}"#));
        let request = parse(line, "spirit").expect("a session");
        assert_eq!((request.session_id.as_str(), request.title()), ("s", "T"));
        assert_eq!(
            (request.owner.as_deref(), request.meta_mode()),
            (None, MetaMode::Replace)
        );
        assert_eq!(request.meta.map(|meta| meta.fields.len()), Some(1));
    }

    #[test]
    fn a_session_line_that_is_wrong_is_a_fault() {
        for (line, word) in [
            (r#"{"session":{}}"#, "session_id"),
            (
                r#"{"session":{"session_id":"s","name":"n"}}"#,
                "unknown field `name`",
            ),
            (
                r#"{"session":{"session_id":"s"},"content":""}"#,
                "unknown field `content`",
            ),
            (
                r#"{"session":{"session_id":"s","meta":{"id":9007199254740993}}}"#,
                "meta.id",
            ),
        ] {
            let fault = parse(line, "spirit").expect_err(line);
            assert!(fault.text.contains(word), "{line}: {}", fault.text);
        }
    }
}
