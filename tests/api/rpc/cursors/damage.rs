//! Damaged page tokens and cursors.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// The token with another version and a valid checksum, as a server of another version would encode it.
pub fn with_version(token: &str, version: u8) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let body = bytes.len() - 4;
    bytes[0] = version;
    let checksum = Sha256::digest(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum[..4]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Invalid variants of a token, each with a description of the damage.
pub fn damaged(token: &str) -> Vec<(String, String)> {
    let mut damaged: Vec<(String, String)> = [0, 2, 255]
        .map(|version| (format!("version {version}"), with_version(token, version)))
        .into();
    for at in 0..token.len() {
        let (head, tail) = token.split_at(at);
        let replacement = if tail.starts_with('A') { 'B' } else { 'A' };
        damaged.push((
            format!("flipped at {at}"),
            format!("{head}{replacement}{}", &tail[1..]),
        ));
        if at > 0 {
            damaged.push((format!("cut at {at}"), head.to_owned()));
        }
    }
    for garbage in ["A", "AA", "AAAA", "=", "==", " ", "\n", "\0", "🐘"] {
        damaged.push((format!("{garbage:?} appended"), format!("{token}{garbage}")));
        damaged.push((format!("{garbage:?} prepended"), format!("{garbage}{token}")));
    }
    damaged.push(("repeated".to_owned(), token.repeat(2)));
    damaged.push((
        "a non-canonical encoding of the same bytes".to_owned(),
        non_canonical(token),
    ));
    damaged
}

/// The token with other values in the unused bits of its last base64 character.
fn non_canonical(token: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (head, last) = token.split_at(token.len() - 1);
    let next = ALPHABET.find(last).unwrap() + 1;
    assert!(
        !token.len().is_multiple_of(4),
        "the last character must have unused bits"
    );
    format!("{head}{}", &ALPHABET[next..=next])
}
