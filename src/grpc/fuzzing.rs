//! What the fuzzers of `fuzz/` call with bytes that nobody meant. Here, so that they reach conversions without a
//! server; and in tests, which give them the corpus.

use chrono::Utc;
use prost::Message;
use tonic::Status;

use super::status::ApiError;
use super::{convert, pb};
use crate::domain::access::SpiritScope;
use crate::domain::cursor::{
    NamedSpiritPlace, NewestSpiritPlace, Phase, Place, ReplayPlace, SessionPlace, decode, encode,
};
use crate::domain::event::{NewEvent, Position};
use crate::domain::filter::{QueryHash, start_of_year};
use crate::domain::limits::Limits;
use crate::store::{PageStart, ReplayStart};

const LIMITS: Limits = Limits {
    content_bytes_max: 1024 * 1024,
    meta_bytes_max: 64 * 1024,
};
/// Bytes of all that an error says, which clients must be able to take.
const ERROR_BYTES_MAX: usize = 6 * 1024;

/// Reads the bytes as every request that there is. Each is accepted, or refused in a form that reaches its
/// caller; what is accepted as an event is accepted again as it is shown, and a query takes its own tokens.
pub fn requests(bytes: &[u8]) {
    let everywhere = &SpiritScope::All;
    if let Some(event) = read(bytes, |r| convert::new_event(r, String::new(), &LIMITS)) {
        is_accepted_as_shown(event);
    }
    read(bytes, |r| convert::batch(r, &LIMITS));
    read(bytes, |r| convert::ingest(r, &LIMITS).event);
    read(bytes, |r| convert::get_event(r, everywhere));
    read(bytes, |r| convert::event_edit(r, everywhere, &LIMITS));
    read(bytes, |r| convert::watch(r, &LIMITS));
    read(bytes, |r| convert::count(r, &LIMITS));
    read(bytes, |r: pb::SoftDeleteEventRequest| {
        convert::deletion(&r.event_id, r.spirit_id, r.expected_revision, everywhere)
    });
    if let Some((_, hash)) = read(bytes, |r| convert::list(r, &LIMITS)) {
        list_takes_its_token(bytes, hash);
    }
    if let Some((_, hash)) = read(bytes, |r| convert::replay(r, &LIMITS)) {
        replay_takes_its_cursor(bytes, hash);
    }
    read(bytes, |r| convert::list_sessions(&r));
    read(bytes, |r| convert::spirit::new_spirit(r, &LIMITS));
    read(bytes, |r| convert::spirit::get_spirit(&r));
    read(bytes, |r| convert::spirit::list_spirits(r, SpiritScope::All));
    read(bytes, |r| convert::spirit::spirit_edit(r, &LIMITS));
}

/// Reads the bytes as tokens and as the places in them. One that decodes is the only text for its place, and is
/// of no other query; with a letter changed it is none.
pub fn tokens(bytes: &[u8]) {
    is_whole_or_none(&String::from_utf8_lossy(bytes));
    is_whole_or_none(&encode(query(), &Bytes(bytes)));
    let [at, letter, place @ ..] = bytes else { return };
    let mut damaged = encode(query(), &Bytes(place)).into_bytes();
    let at = usize::from(*at) % damaged.len();
    if damaged[at] != *letter {
        damaged[at] = *letter;
        let damaged = String::from_utf8_lossy(&damaged);
        assert!(decode::<Bytes>(query(), &damaged).is_err(), "{damaged}");
    }
}

/// What the bytes are as a request, if they are one and it is accepted.
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

fn is_accepted_as_shown(event: NewEvent) {
    let now = Utc::now();
    let id = event.id;
    let shown = convert::event(event.stored(1, now));
    let request = shown.clone();
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
    let again = convert::new_event(request, String::new(), &LIMITS).expect("what is shown is accepted");
    let again = NewEvent { id, ..again };
    assert_eq!(convert::event(again.stored(1, now)), shown);
}

fn position() -> Position {
    Position {
        occurred_at: start_of_year(2_000),
        sequence: 7,
    }
}

fn list_takes_its_token(bytes: &[u8], hash: QueryHash) {
    let request = pb::ListEventsRequest {
        page_token: encode(hash, &position()),
        offset: 0,
        ..pb::ListEventsRequest::decode(bytes).unwrap_or_default()
    };
    match convert::list(request, &LIMITS) {
        Ok((query, again)) => {
            assert_eq!(again, hash);
            assert!(matches!(query.start, PageStart::After(place) if place == position()));
        }
        Err(error) => panic!("a list refuses its own token: {error}"),
    }
}

fn replay_takes_its_cursor(bytes: &[u8], hash: QueryHash) {
    use pb::stream_session_events_request::Start;
    let place = ReplayPlace {
        phase: Phase::Live,
        position: position(),
        bound: 9,
    };
    let request = pb::StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(encode(hash, &place))),
        ..pb::StreamSessionEventsRequest::decode(bytes).unwrap_or_default()
    };
    match convert::replay(request, &LIMITS) {
        Ok((replay, again)) => {
            assert_eq!(again, hash);
            assert!(matches!(replay.start, ReplayStart::After(after) if after == place));
        }
        Err(error) => panic!("a replay refuses its own cursor: {error}"),
    }
}

fn query() -> QueryHash {
    QueryHash::of("fuzzing", &[])
}

/// Any bytes where a place stands.
struct Bytes<'b>(&'b [u8]);

impl Place for Bytes<'_> {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0);
    }

    fn read(_: &[u8]) -> Option<Self> {
        Some(Self(&[]))
    }
}

fn is_whole_or_none(text: &str) {
    as_place::<Position>(text);
    as_place::<ReplayPlace>(text);
    as_place::<SessionPlace>(text);
    as_place::<NewestSpiritPlace>(text);
    as_place::<NamedSpiritPlace>(text);
}

fn as_place<P: Place>(text: &str) {
    if let Ok(place) = decode::<P>(query(), text) {
        assert_eq!(encode(query(), &place), text);
        let other = QueryHash::of("other", &[]);
        assert!(decode::<P>(other, text).is_err(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{requests, tokens};

    fn replay(corpus: &str, with: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/corpus")
            .join(corpus);
        let mut count = 0;
        for file in fs::read_dir(corpus).expect("the corpus") {
            with(&fs::read(file.expect("a file").path()).expect("a file of the corpus"));
            count += 1;
        }
        assert!(count >= 10, "{count} files");
    }

    #[test]
    fn the_corpus_of_requests_is_accepted_or_refused_as_it_should_be() {
        replay("requests", requests);
    }

    #[test]
    fn the_corpus_of_tokens_decodes_to_its_own_text_or_not_at_all() {
        replay("tokens", tokens);
    }
}
