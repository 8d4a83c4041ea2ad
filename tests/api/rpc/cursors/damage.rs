//! Tokens that were tampered with.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// The token as an honest server of another version would have made it.
pub fn of_version(token: &str, version: u8) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let body = bytes.len() - 4;
    bytes[0] = version;
    let checksum = Sha256::digest(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum[..4]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What is no token any more, each by what was done to it.
pub fn damaged(token: &str) -> Vec<(String, String)> {
    let mut damaged: Vec<(String, String)> = [0, 2, 255]
        .map(|version| (format!("version {version}"), of_version(token, version)))
        .into();
    for at in 0..token.len() {
        let (head, tail) = token.split_at(at);
        let with = if tail.starts_with('A') { 'B' } else { 'A' };
        damaged.push((format!("flipped at {at}"), format!("{head}{with}{}", &tail[1..])));
        if at > 0 {
            damaged.push((format!("cut at {at}"), head.to_owned()));
        }
    }
    for garbage in ["A", "AA", "AAAA", "=", "==", " ", "\n", "\0", "🐘"] {
        damaged.push((format!("{garbage:?} behind"), format!("{token}{garbage}")));
        damaged.push((format!("{garbage:?} before"), format!("{garbage}{token}")));
    }
    damaged.push(("twice".to_owned(), token.repeat(2)));
    damaged.push((
        "of the same bytes in another spelling".to_owned(),
        other_spelling(token),
    ));
    damaged
}

/// Other bits in the part of the last letter that no byte needs.
fn other_spelling(token: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (head, last) = token.split_at(token.len() - 1);
    let next = ALPHABET.find(last).unwrap() + 1;
    assert!(
        !token.len().is_multiple_of(4),
        "the last letter has bits to spare"
    );
    format!("{head}{}", &ALPHABET[next..=next])
}
