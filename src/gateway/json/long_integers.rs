//! Finds integers in JSON text that are too long for any integer type.
//!
//! serde reads them as doubles, so they cannot be told from numbers such as `1e300` afterwards.

use std::collections::HashSet;

/// Digits of the longest integers that serde reads as integers.
const DIGITS_MAX: usize = 19;

/// Returns the magnitudes of the integers with more than [`DIGITS_MAX`] digits and without fraction and exponent, as
/// bits of doubles.
pub(super) fn long_integers(json: &[u8]) -> HashSet<u64> {
    let mut found = HashSet::new();
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at),
            b'0'..=b'9' => {
                let end = end_of_number(json, at);
                let number = &json[at..end];
                if number.len() > DIGITS_MAX && number.iter().all(u8::is_ascii_digit) {
                    let value = std::str::from_utf8(number)
                        .ok()
                        .and_then(|text| text.parse().ok());
                    found.extend(value.map(f64::to_bits));
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    found
}

fn end_of_string(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

fn end_of_number(json: &[u8], start: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let length = json[start..].iter().position(|byte| !is_part(byte));
    length.map_or(json.len(), |length| start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_integers_outside_of_strings_are_found() {
        let json = br#"{"a":"\"11111111111111111111","b":1e300,"c":0.11111111111111111111,"d":[-111111111111111111111]}"#;
        assert_eq!(
            long_integers(json),
            [111_111_111_111_111_111_111_f64.to_bits()].into()
        );
        assert!(long_integers(b"9999999999999999999").is_empty());
        assert!(long_integers(b"\"1").is_empty());
    }
}
