//! Cursors: opaque texts that encode a position in the results of a query.
//!
//! A cursor is URL-safe base64 of version, query hash, position and checksum. It decodes only for the version
//! and the query that it was made for. It is not signed: a client can forge any position, but nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::Time;
use super::change::ChangePosition;
use super::event::Position;
use super::filter::{QueryHash, start_of_year};
use super::ids::SpiritId;
use super::purge::PurgePosition;

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Bytes of a cursor before base64, if its position contains no text.
const ENCODED_BYTES: usize = 64;

/// The text is not a cursor of this query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a token of this query: its filter, order or RPC differ, or it is damaged; start again without it"
)]
pub struct InvalidCursor;

/// A position that a cursor can hold.
pub trait CursorPosition: Sized {
    /// Appends the position to a cursor's bytes.
    fn write(&self, bytes: &mut Vec<u8>);
    /// Parses the bytes of [`write`](Self::write); `None` for any other bytes.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// Encodes a position in the results of a query as a cursor.
pub fn encode(query: QueryHash, position: &impl CursorPosition) -> String {
    let mut bytes = Vec::with_capacity(ENCODED_BYTES);
    bytes.push(VERSION);
    bytes.extend(query.0);
    position.write(&mut bytes);
    let checksum = checksum(&bytes);
    bytes.extend(checksum);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes a cursor of this query to its position.
pub fn decode<P: CursorPosition>(query: QueryHash, cursor: &str) -> Result<P, InvalidCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| InvalidCursor)?;
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(InvalidCursor)?;
    if *sum != checksum(body) {
        return Err(InvalidCursor);
    }
    let position = body
        .strip_prefix(&[VERSION])
        .and_then(|body| body.strip_prefix(&query.0))
        .ok_or(InvalidCursor)?;
    P::read(position).ok_or(InvalidCursor)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::digest(bytes);
    std::array::from_fn(|i| digest[i])
}

impl CursorPosition for Position {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.occurred_at.timestamp_micros().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (occurred_at, rest) = read_time(bytes)?;
        let sequence = i64::from_be_bytes(rest.try_into().ok()?);
        Some(Self {
            occurred_at,
            sequence,
        })
    }
}

/// The phase of a `StreamSessionEvents` stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Sends stored events in replay order.
    Replay,
    /// Sends new events in sequence order.
    Live,
}

/// A position in a `StreamSessionEvents` stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStreamPosition {
    pub phase: Phase,
    /// Position of the last event sent, or a position before the first event if none was sent.
    pub position: Position,
    /// Replay: the spirit's `last_sequence` when the replay started. Live: the highest sequence examined.
    pub bound: i64,
}

impl Phase {
    fn code(self) -> u8 {
        match self {
            Self::Replay => 1,
            Self::Live => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Replay, Self::Live]
            .into_iter()
            .find(|phase| phase.code() == code)
    }
}

impl CursorPosition for SessionStreamPosition {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.phase.code());
        bytes.extend(self.bound.to_be_bytes());
        self.position.write(bytes);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (phase, rest) = bytes.split_first()?;
        let (bound, rest) = rest.split_first_chunk()?;
        Some(Self {
            phase: Phase::from_code(*phase)?,
            position: Position::read(rest)?,
            bound: i64::from_be_bytes(*bound),
        })
    }
}

/// A position in a list of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionListPosition {
    /// `None` for sessions without live events, which come last.
    pub active_minute: Option<Time>,
    pub session_id: String,
}

impl CursorPosition for SessionListPosition {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self.active_minute.is_some()));
        if let Some(minute) = self.active_minute {
            bytes.extend(minute.timestamp_micros().to_be_bytes());
        }
        bytes.extend(self.session_id.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (active_minute, rest) = match bytes.split_first()? {
            (0, rest) => (None, rest),
            (1, rest) => read_time(rest).map(|(minute, rest)| (Some(minute), rest))?,
            _ => return None,
        };
        Some(Self {
            active_minute,
            session_id: read_text(rest)?,
        })
    }
}

impl CursorPosition for ChangePosition {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.spirit_id.0.as_bytes());
        bytes.extend(self.change.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (spirit_id, change) = bytes.split_first_chunk()?;
        Some(Self {
            spirit_id: SpiritId(Uuid::from_bytes(*spirit_id)),
            change: i64::from_be_bytes(change.try_into().ok()?),
        })
    }
}

impl CursorPosition for PurgePosition {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.started_at.timestamp_micros().to_be_bytes());
        bytes.extend(self.id.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (started_at, rest) = read_time(bytes)?;
        Some(Self {
            started_at,
            id: Uuid::from_slice(rest).ok()?,
        })
    }
}

/// A position in a list of spirits, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestSpiritPosition {
    pub created_at: Time,
    pub id: SpiritId,
}

impl CursorPosition for NewestSpiritPosition {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.created_at.timestamp_micros().to_be_bytes());
        bytes.extend(self.id.0.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (created_at, rest) = read_time(bytes)?;
        Some(Self {
            created_at,
            id: SpiritId(Uuid::from_slice(rest).ok()?),
        })
    }
}

/// A position in a list of spirits ordered by folded name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSpiritPosition {
    pub name_folded: String,
    pub id: SpiritId,
}

impl CursorPosition for NamedSpiritPosition {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.id.0.as_bytes());
        bytes.extend(self.name_folded.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        Some(Self {
            name_folded: read_text(rest)?,
            id: SpiritId(Uuid::from_bytes(*id)),
        })
    }
}

/// Parses a time from the start of year 1 to the start of year 10000, both included.
fn read_time(bytes: &[u8]) -> Option<(Time, &[u8])> {
    let (micros, rest) = bytes.split_first_chunk()?;
    let time = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros))?;
    (start_of_year(1)..=start_of_year(10_000))
        .contains(&time)
        .then_some((time, rest))
}

/// Parses text without U+0000, which the database rejects.
fn read_text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str) -> QueryHash {
        QueryHash::of(name, &[])
    }

    proptest! {
        #[test]
        fn a_cursor_decodes_to_its_position(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000, sequence: i64, bound: i64) {
            let position = Position { occurred_at: DateTime::from_timestamp_micros(micros).expect("in range"), sequence };
            let in_stream = SessionStreamPosition { phase: Phase::Replay, position, bound };
            prop_assert_eq!(decode(query("a"), &encode(query("a"), &position)), Ok(position));
            prop_assert_eq!(decode(query("a"), &encode(query("a"), &in_stream)), Ok(in_stream));
        }

        #[test]
        fn a_cursor_of_another_query_is_rejected(sequence: i64) {
            let position = Position { occurred_at: DateTime::UNIX_EPOCH, sequence };
            prop_assert_eq!(decode::<Position>(query("b"), &encode(query("a"), &position)), Err(InvalidCursor));
        }

        #[test]
        fn a_damaged_cursor_is_rejected(sequence: i64, at: prop::sample::Index, with in "[A-Za-z0-9_-]") {
            let cursor = encode(query("a"), &Position { occurred_at: DateTime::UNIX_EPOCH, sequence });
            let at = at.index(cursor.len());
            prop_assert_eq!(decode::<Position>(query("a"), &cursor[..at]), Err(InvalidCursor));
            let flipped = format!("{}{with}{}", &cursor[..at], &cursor[at + 1..]);
            prop_assume!(flipped != cursor);
            prop_assert_eq!(decode::<Position>(query("a"), &flipped), Err(InvalidCursor));
        }

        #[test]
        fn random_text_is_rejected(text in ".{0,200}") {
            prop_assert_eq!(decode::<SessionListPosition>(query("a"), &text), Err(InvalidCursor));
        }
    }
}
