//! Finds what JSON can express and the service cannot store: half of a surrogate pair, and U+0000.

use std::fmt::Write as _;

/// Characters of an escape `\uXXXX`.
const ESCAPE_LEN: usize = 6;
const REPLACEMENT: &str = "\\ufffd";

/// A JSON text in which lone surrogates and U+0000 are replaced by U+FFFD.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repaired {
    pub(super) text: String,
    pub(super) surrogates: u64,
    pub(super) nulls: u64,
}

impl Repaired {
    /// Describes the characters that were replaced.
    pub(super) fn description(&self) -> String {
        let mut text = String::new();
        if self.surrogates > 0 {
            let _ = write!(text, "half of a surrogate pair");
        }
        if self.nulls > 0 {
            let and = if text.is_empty() { "" } else { " and " };
            let _ = write!(text, "{and}the character U+0000");
        }
        text
    }
}

/// Returns the repaired text, or `None` if nothing needs a repair. Other text is not changed, nor is its length.
pub(super) fn repaired(json: &str) -> Option<Repaired> {
    let mut repaired: Option<Repaired> = None;
    let mut at = 0;
    while let Some(found) = json[at..].find('\\') {
        let escape = at + found;
        let (len, damage) = inspect(json, escape);
        if let Some(damage) = damage {
            let repaired = repaired.get_or_insert_with(|| Repaired {
                text: json.to_owned(),
                surrogates: 0,
                nulls: 0,
            });
            repaired
                .text
                .replace_range(escape..escape + ESCAPE_LEN, REPLACEMENT);
            match damage {
                Damage::Surrogate => repaired.surrogates += 1,
                Damage::Null => repaired.nulls += 1,
            }
        }
        at = escape + len;
    }
    repaired
}

enum Damage {
    Surrogate,
    Null,
}

/// Returns the length of the escape at `at`, and what is wrong with it. A pair of surrogates is one escape.
fn inspect(json: &str, at: usize) -> (usize, Option<Damage>) {
    match code(json, at) {
        // A character after the backslash may have several bytes in text that is not JSON.
        None => (1 + json[at + 1..].chars().next().map_or(0, char::len_utf8), None),
        Some(0) => (ESCAPE_LEN, Some(Damage::Null)),
        Some(0xD800..=0xDBFF) => match code(json, at + ESCAPE_LEN) {
            Some(0xDC00..=0xDFFF) => (2 * ESCAPE_LEN, None),
            _ => (ESCAPE_LEN, Some(Damage::Surrogate)),
        },
        Some(0xDC00..=0xDFFF) => (ESCAPE_LEN, Some(Damage::Surrogate)),
        Some(_) => (ESCAPE_LEN, None),
    }
}

/// Returns the code unit of the escape `\uXXXX` at `at`.
fn code(json: &str, at: usize) -> Option<u16> {
    let digits = json.get(at..at + ESCAPE_LEN)?.strip_prefix("\\u")?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lone_surrogates_and_nulls_are_replaced() {
        for (json, expected, counts) in [
            (r#""\ud83d\u2026 x""#, r#""\ufffd\u2026 x""#, (1, 0)),
            (r#""ELF\u0000\u0001""#, r#""ELF\ufffd\u0001""#, (0, 1)),
            (r#""\uDC00\uD800""#, r#""\ufffd\ufffd""#, (2, 0)),
            (r#""\uD83D\uD83D\uDC18""#, r#""\ufffd\uD83D\uDC18""#, (1, 0)),
            (r#""\\\u0000\\u0000""#, r#""\\\ufffd\\u0000""#, (0, 1)),
        ] {
            let repaired = repaired(json).expect(json);
            assert_eq!((repaired.surrogates, repaired.nulls), counts, "{json}");
            assert_eq!(repaired.text, expected);
        }
        for json in [
            r#""\ud83d\udc18 \\u0000 \\ud83d é""#,
            "",
            "\\",
            "\\é",
            r"\u12",
            "\\u00é0",
        ] {
            assert_eq!(repaired(json), None, "{json}");
        }
    }
}
