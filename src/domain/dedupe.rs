//! Derives the dedupe key of an event that has a source but no dedupe key. Its form is part of the API.

use std::fmt::Write as _;

use chrono::Timelike as _;
use sha2::{Digest as _, Sha256};

use super::Time;
use super::ids::SpiritId;

const CONTENT_CHARS: usize = 100;
const KEY_BYTES: usize = 16;

/// Returns the first 32 hex digits of SHA-256 over
/// `spirit_id|event_type|first 100 code points of content|occurred_at|source_uri`, with the time as Python's
/// `datetime.isoformat()` formats it.
#[must_use]
pub fn derive(
    spirit_id: SpiritId,
    event_type: &str,
    content: &str,
    occurred_at: Time,
    source_uri: &str,
) -> String {
    let head = match content.char_indices().nth(CONTENT_CHARS) {
        Some((end, _)) => &content[..end],
        None => content,
    };
    let text = format!(
        "{spirit_id}|{event_type}|{head}|{}|{source_uri}",
        isoformat(occurred_at)
    );
    hex(&Sha256::digest(text)[..KEY_BYTES])
}

/// Formats bytes as lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
}

/// Formats a UTC time as Python's `datetime.isoformat()` does: with microseconds only if they are not zero.
fn isoformat(time: Time) -> String {
    let format = if time.nanosecond() / 1_000 == 0 {
        "%Y-%m-%dT%H:%M:%S+00:00"
    } else {
        "%Y-%m-%dT%H:%M:%S%.6f+00:00"
    };
    time.format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::ids::parse_uuid;
    use super::*;

    #[test]
    fn derived_keys_equal_those_computed_by_python() {
        // Computed with Python: hashlib.sha256("|".join([spirit_id, event_type, content[:100],
        // occurred_at.isoformat(), source_uri]).encode()).hexdigest()[:32]
        let spirit = SpiritId(parse_uuid("0189d5e4-7b4a-7cc1-9c3e-2f5a6b7c8d9e").expect("a UUID"));
        let at = |text: &str| Time::from(chrono::DateTime::parse_from_rfc3339(text).expect("a time"));
        let long = "ü".repeat(99) + "🐘tail";
        let beyond = "x".repeat(100) + "y";
        let three_bytes_each = "日".repeat(101);
        for (event_type, content, occurred_at, source_uri, expected) in [
            (
                "message.in",
                "hello",
                "2026-03-01T09:30:00Z",
                "chat://1",
                "4acfeac2df4f42b3ff055f3b9e7f5579",
            ),
            (
                "tool.result",
                "",
                "0001-01-01T00:00:00.000001Z",
                "tool://a|b",
                "546da99062d006716b81c98b39cb0d23",
            ),
            (
                "message.out",
                long.as_str(),
                "9999-12-31T23:59:59.999999Z",
                "s3://b/k",
                "416bf31af039a81afb398087f1924406",
            ),
            (
                "system",
                "half",
                "2024-02-29T12:00:00.500Z",
                "file:///x",
                "2e54d01935abb6832f4d972e9f27c922",
            ),
            (
                "tool.call",
                beyond.as_str(),
                "0999-12-31T23:59:59.000100Z",
                "a|b?c=é",
                "ef5927821fdb07eb73416f59690725fc",
            ),
            (
                "tool.call",
                &beyond[..100],
                "0999-12-31T23:59:59.000100Z",
                "a|b?c=é",
                "ef5927821fdb07eb73416f59690725fc",
            ),
            (
                "note",
                three_bytes_each.as_str(),
                "1969-12-31T23:59:59.999Z",
                "u",
                "a903d2a8dfa1e56be43560f1624038bc",
            ),
        ] {
            assert_eq!(
                derive(spirit, event_type, content, at(occurred_at), source_uri),
                expected
            );
        }
    }

    #[test]
    fn the_letter_case_of_the_spirit_id_does_not_change_the_key() {
        let key = |uuid: &str| {
            let spirit = SpiritId(parse_uuid(uuid).expect("a UUID"));
            derive(
                spirit,
                "message.in",
                "hello",
                Time::UNIX_EPOCH + chrono::TimeDelta::seconds(1_772_357_400),
                "chat://1",
            )
        };
        for uuid in [
            "0189d5e4-7b4a-7cc1-9c3e-2f5a6b7c8d9e",
            "0189D5E4-7B4A-7CC1-9C3E-2F5A6B7C8D9E",
        ] {
            assert_eq!(key(uuid), "4acfeac2df4f42b3ff055f3b9e7f5579");
        }
    }
}
