//! The text form of API keys: `ek_`, an identifier, `_`, and a secret. Identifier and secret are hex digits;
//! `ek_` and the identifier together are the key's prefix, by which it is looked up.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::dedupe::hex;

const KEY_START: &str = "ek_";
const PREFIX_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
/// Maximum number of characters of an API key's name.
pub const KEY_NAME_CHARS_MAX: usize = 255;
/// Maximum number of spirits that an API key can be limited to.
pub const KEY_SPIRITS_MAX: usize = 1_000;

/// The prefix of an API key and the hash of its secret: the parts of the key that the service stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDigest {
    /// `ek_` and the identifier. Not secret.
    pub prefix: String,
    /// SHA-256 of the secret's bytes.
    pub sha256: [u8; 32],
}

/// A new API key. Not `Debug`, because it contains the secret.
pub struct GeneratedKey {
    /// The full text of the key; shown to the operator once and not stored.
    pub text: String,
    pub digest: KeyDigest,
}

impl GeneratedKey {
    /// Generates a key with a random identifier and a secret of 256 random bits.
    ///
    /// # Errors
    /// If the operating system provides no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut prefix = [0; PREFIX_BYTES];
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut prefix)?;
        getrandom::fill(&mut secret)?;
        let prefix = format!("{KEY_START}{}", hex(&prefix));
        Ok(Self {
            text: format!("{prefix}_{}", hex(&secret)),
            digest: KeyDigest {
                prefix,
                sha256: Sha256::digest(secret).into(),
            },
        })
    }
}

impl KeyDigest {
    /// Parses the text of an API key; `None` if it does not have the form of one.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let (prefix, secret) = text.strip_prefix(KEY_START)?.split_once('_')?;
        bytes::<PREFIX_BYTES>(prefix)?;
        let secret = bytes::<SECRET_BYTES>(secret)?;
        Some(Self {
            prefix: format!("{KEY_START}{prefix}"),
            sha256: Sha256::digest(secret).into(),
        })
    }

    /// Compares the hash of the secret with another hash, in constant time.
    #[must_use]
    pub fn has_secret_of(&self, sha256: &[u8; 32]) -> bool {
        self.sha256.ct_eq(sha256).into()
    }
}

/// Parses lower-case hex digits of exactly `N` bytes.
fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if hex.len() != 2 * N || !hex.as_bytes().iter().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{GeneratedKey, KeyDigest};

    #[test]
    fn a_generated_key_parses_to_its_digest() {
        let made = GeneratedKey::generate().unwrap_or_else(|error| panic!("{error}"));
        let other = GeneratedKey::generate().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(KeyDigest::of(&made.text), Some(made.digest.clone()));
        assert!(made.digest.has_secret_of(&made.digest.sha256));
        assert!(!made.digest.has_secret_of(&other.digest.sha256));
        assert_ne!(made.digest.prefix, other.digest.prefix);
        let text = format!("{:?}", made.digest);
        let (_, secret) = made.text.rsplit_once('_').expect("a secret");
        assert!(!text.contains(secret) && made.text.starts_with(&made.digest.prefix));
    }

    #[test]
    fn text_without_the_form_of_a_key_is_rejected() {
        let good = format!("ek_{}_{}", "0".repeat(12), "a".repeat(64));
        assert!(KeyDigest::of(&good).is_some());
        for (case, text) in [
            ("empty", String::new()),
            ("`ek_` alone", "ek_".to_owned()),
            ("no `ek_`", good[3..].to_owned()),
            ("too short", good[..good.len() - 1].to_owned()),
            ("too long", format!("{good}a")),
            ("upper case", good.to_uppercase()),
            ("no digits", good.replace('a', "g")),
            ("a sign", good.replace("aa", "+a")),
            ("a short prefix", good.replacen('0', "", 1)),
            ("not ASCII", good.replace("aa", "é")),
            ("a space before", format!(" {good}")),
        ] {
            assert_eq!(KeyDigest::of(&text), None, "{case}");
        }
    }
}
