//! Entry points of the fuzz targets in `fuzz/`, which call the conversions without a server. Unit tests run them
//! on the corpus.

use chrono::Utc;
use prost::Message;
use tonic::Status;

use super::status::ApiError;
use super::{convert, pb};
use crate::domain::access::{Editor, SpiritScope};
use crate::domain::change::ChangePosition;
use crate::domain::cursor::{
    CursorPosition, NamedSpiritPosition, NewestSpiritPosition, Phase, SessionListPosition,
    SessionStreamPosition, decode, encode,
};
use crate::domain::event::{NewEvent, Position};
use crate::domain::filter::{QueryHash, start_of_year};
use crate::domain::limits::Limits;
use crate::store::{PageStart, ReplayStart};

const LIMITS: Limits = Limits {
    content_bytes_max: 1024 * 1024,
    meta_bytes_max: 64 * 1024,
};
/// Maximum size of an error's message and details, which clients must be able to accept.
const ERROR_BYTES_MAX: usize = 6 * 1024;

/// Decodes the bytes as every type of request. Asserts that each request is accepted, or refused with an error
/// that clients can receive; that an accepted event, as the API returns it, is accepted again; and that a query
/// accepts its own tokens.
pub fn requests(bytes: &[u8]) {
    let scope = &SpiritScope::All;
    if let Some(event) = read(bytes, |r| convert::new_event(r, String::new(), &LIMITS)) {
        assert_accepted_as_returned(event);
    }
    read(bytes, |r| convert::batch(r, &LIMITS));
    read(bytes, |r| convert::ingest(r, &LIMITS).event);
    read(bytes, |r| convert::get_event(r, scope));
    read(bytes, |r| convert::event_edit(r, editor(), &LIMITS));
    read(bytes, |r| convert::watch(r, &LIMITS));
    read(bytes, |r| convert::count(r, &LIMITS));
    read(bytes, |r| convert::soft_delete_event(r, editor()));
    read(bytes, |r| convert::restore_event(r, editor()));
    if let Some((_, hash)) = read(bytes, |r| convert::list(r, &LIMITS)) {
        assert_list_accepts_its_token(bytes, hash);
    }
    if let Some((_, hash)) = read(bytes, |r| convert::replay(r, &LIMITS)) {
        assert_replay_accepts_its_cursor(bytes, hash);
    }
    read(bytes, |r| convert::deletion(r, None, &LIMITS));
    read(bytes, |r| convert::restoration(r, None));
    read(bytes, |r| convert::list_event_changes(r, scope));
    read(bytes, convert::watch_changes);
    read(bytes, |r| convert::event_purge(r, editor()));
    read(bytes, |r| convert::spirit_purge(r, editor()));
    read(bytes, |r| convert::list_purges(r, scope));
    read(bytes, |r| convert::list_sessions(r, &LIMITS));
    read(bytes, convert::get_session);
    read(bytes, |r| convert::session_edit(r, &LIMITS));
    read(bytes, |r| convert::new_spirit(r, &LIMITS));
    read(bytes, convert::get_spirit);
    read(bytes, |r| convert::list_spirits(r, SpiritScope::All));
    read(bytes, |r| convert::spirit_edit(r, &LIMITS));
    read(bytes, convert::soft_delete_spirit);
    read(bytes, convert::restore_spirit);
}

/// Decodes the bytes as cursors and as positions in cursors. Asserts that a cursor that decodes is the only
/// encoding of its position, does not decode for another query, and does not decode with a character changed.
pub fn tokens(bytes: &[u8]) {
    assert_canonical_or_invalid(&String::from_utf8_lossy(bytes));
    assert_canonical_or_invalid(&encode(query(), &Bytes(bytes)));
    let [index, letter, position @ ..] = bytes else {
        return;
    };
    let mut damaged = encode(query(), &Bytes(position)).into_bytes();
    let index = usize::from(*index) % damaged.len();
    if damaged[index] != *letter {
        damaged[index] = *letter;
        let damaged = String::from_utf8_lossy(&damaged);
        assert!(decode::<Bytes>(query(), &damaged).is_err(), "{damaged}");
    }
}

/// Decodes and converts a request; `None` if the bytes are not such a request or it is refused.
fn read<M, T, E>(bytes: &[u8], convert: impl FnOnce(M) -> Result<T, E>) -> Option<T>
where
    M: Message + Default,
    E: Into<ApiError>,
{
    let error = match convert(M::decode(bytes).ok()?) {
        Ok(accepted) => return Some(accepted),
        Err(error) => error.into(),
    };
    let status = Status::from(error);
    assert!(!status.message().is_empty(), "{status:?}");
    assert!(
        status.message().len() + status.details().len() < ERROR_BYTES_MAX,
        "{status:?}"
    );
    None
}

fn assert_accepted_as_returned(event: NewEvent) {
    let now = Utc::now();
    let id = event.id;
    let returned = convert::event(event.stored(1, now));
    let request = returned.clone();
    let request = pb::CreateEventRequest {
        spirit_id: request.spirit_id.unwrap_or_default(),
        event_type: request.event_type.unwrap_or_default(),
        content: request.content,
        meta_summary: request.meta_summary,
        occurred_at: request.occurred_at,
        session_id: request.session_id,
        role: request.role,
        author: request.author,
        meta: request.meta,
        source_uri: request.source_uri,
        dedupe_key: request.dedupe_key,
        importance_score: request.importance_score,
        ..pb::CreateEventRequest::default()
    };
    let again = convert::new_event(request, String::new(), &LIMITS).expect("a returned event is accepted");
    let again = NewEvent { id, ..again };
    assert_eq!(convert::event(again.stored(1, now)), returned);
}

fn editor() -> Editor {
    Editor {
        scope: SpiritScope::All,
        key_prefix: None,
    }
}

fn position() -> Position {
    Position {
        occurred_at: start_of_year(2_000),
        sequence: 7,
    }
}

fn assert_list_accepts_its_token(bytes: &[u8], hash: QueryHash) {
    let request = pb::ListEventsRequest {
        page_token: encode(hash, &position()),
        offset: 0,
        ..pb::ListEventsRequest::decode(bytes).unwrap_or_default()
    };
    match convert::list(request, &LIMITS) {
        Ok((query, again)) => {
            assert_eq!(again, hash);
            assert!(matches!(query.start, PageStart::After(after) if after == position()));
        }
        Err(error) => panic!("a list refuses its own token: {error}"),
    }
}

fn assert_replay_accepts_its_cursor(bytes: &[u8], hash: QueryHash) {
    use pb::stream_session_events_request::Start;
    let position = SessionStreamPosition {
        phase: Phase::Live,
        position: position(),
        bound: 9,
    };
    let request = pb::StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(encode(hash, &position))),
        ..pb::StreamSessionEventsRequest::decode(bytes).unwrap_or_default()
    };
    match convert::replay(request, &LIMITS) {
        Ok((replay, again)) => {
            assert_eq!(again, hash);
            assert!(matches!(replay.start, ReplayStart::After(after) if after == position));
        }
        Err(error) => panic!("a replay refuses its own cursor: {error}"),
    }
}

fn query() -> QueryHash {
    QueryHash::of("fuzzing", &[])
}

/// Arbitrary bytes in place of a position.
struct Bytes<'b>(&'b [u8]);

impl CursorPosition for Bytes<'_> {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0);
    }

    fn read(_: &[u8]) -> Option<Self> {
        Some(Self(&[]))
    }
}

fn assert_canonical_or_invalid(text: &str) {
    assert_canonical_or_invalid_as::<Position>(text);
    assert_canonical_or_invalid_as::<SessionStreamPosition>(text);
    assert_canonical_or_invalid_as::<SessionListPosition>(text);
    assert_canonical_or_invalid_as::<ChangePosition>(text);
    assert_canonical_or_invalid_as::<NewestSpiritPosition>(text);
    assert_canonical_or_invalid_as::<NamedSpiritPosition>(text);
}

fn assert_canonical_or_invalid_as<P: CursorPosition>(text: &str) {
    if let Ok(position) = decode::<P>(query(), text) {
        assert_eq!(encode(query(), &position), text);
        let other = QueryHash::of("other", &[]);
        assert!(decode::<P>(other, text).is_err(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{requests, tokens};

    fn run(corpus: &str, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/corpus")
            .join(corpus);
        let mut count = 0;
        for file in fs::read_dir(corpus).expect("the corpus") {
            target(&fs::read(file.expect("a file").path()).expect("a file of the corpus"));
            count += 1;
        }
        assert!(count >= 10, "{count} files");
    }

    #[test]
    fn requests_of_the_corpus_are_accepted_or_refused_with_an_error_that_clients_can_receive() {
        run("requests", requests);
    }

    #[test]
    fn tokens_of_the_corpus_are_canonical_or_rejected() {
        run("tokens", tokens);
    }
}
