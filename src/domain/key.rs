//! API keys as text: `ek_`, a prefix that names the key, `_`, and the secret, both in hex digits.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::dedupe::hex;

const MARK: &str = "ek_";
const PREFIX_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
/// Characters of a key's name.
pub const KEY_NAME_CHARS_MAX: usize = 255;
/// Spirits that a key can be limited to.
pub const KEY_SPIRITS_MAX: usize = 1_000;

/// What the service keeps of a key, or reads from one that a caller shows. The secret is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDigest {
    /// Names the key, `ek_` included; no secret.
    pub prefix: String,
    /// Of the secret.
    pub sha256: [u8; 32],
}

/// A new key. Not `Debug`: it holds the secret.
pub struct GeneratedKey {
    /// To be shown once and forgotten.
    pub text: String,
    pub digest: KeyDigest,
}

impl GeneratedKey {
    /// A key with a random prefix and a secret of 256 random bits.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut prefix = [0; PREFIX_BYTES];
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut prefix)?;
        getrandom::fill(&mut secret)?;
        let prefix = format!("{MARK}{}", hex(&prefix));
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
    /// Reads a key as a caller shows it; `None` when it has not the form of one.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let (prefix, secret) = text.strip_prefix(MARK)?.split_once('_')?;
        bytes::<PREFIX_BYTES>(prefix)?;
        let secret = bytes::<SECRET_BYTES>(secret)?;
        Some(Self {
            prefix: format!("{MARK}{prefix}"),
            sha256: Sha256::digest(secret).into(),
        })
    }

    /// Whether both are of the same secret; takes as long wherever they differ.
    #[must_use]
    pub fn has_secret_of(&self, sha256: &[u8; 32]) -> bool {
        self.sha256.ct_eq(sha256).into()
    }
}

/// Reads lower-case hex digits of exactly so many bytes.
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
    fn a_key_is_read_as_what_was_made() {
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
    fn what_has_not_the_form_of_a_key_is_none() {
        let good = format!("ek_{}_{}", "0".repeat(12), "a".repeat(64));
        assert!(KeyDigest::of(&good).is_some());
        for (what, text) in [
            ("empty", String::new()),
            ("the mark alone", "ek_".to_owned()),
            ("no mark", good[3..].to_owned()),
            ("too short", good[..good.len() - 1].to_owned()),
            ("too long", format!("{good}a")),
            ("upper case", good.to_uppercase()),
            ("no digits", good.replace('a', "g")),
            ("a sign", good.replace("aa", "+a")),
            ("a short prefix", good.replacen('0', "", 1)),
            ("not ASCII", good.replace("aa", "é")),
            ("a space before", format!(" {good}")),
        ] {
            assert_eq!(KeyDigest::of(&text), None, "{what}");
        }
    }
}
