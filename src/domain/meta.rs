//! `meta`: free-form JSON objects of events and spirits, kept as text. The domain parses them only to merge or
//! compare them.

use serde_json::{Map, Value};

use super::invalid::Invalid;
use super::limits::META_LEVELS_MAX;

/// The notation in which the bytes of `meta` are counted.
pub const META_NOTATION: &str = "compact JSON with numbers written out";

/// A JSON object as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta(String);

/// A change of the stored `meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaChange {
    /// Replaces the stored object.
    Replace(Meta),
    /// Applies an RFC 7396 merge patch.
    MergePatch(Meta),
}

impl Meta {
    /// Returns the empty object.
    #[must_use]
    pub fn empty() -> Self {
        Self("{}".to_owned())
    }

    /// Wraps text that is known to be a JSON object: validated at the boundary, or read from the database.
    #[must_use]
    pub fn from_json(text: String) -> Self {
        Self(text)
    }

    /// Returns the JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Returns the number of bytes, white space aside, of the text that PostgreSQL returns once the object is
    /// stored. It differs from the given text in numbers: PostgreSQL prints 1e308 with 309 digits.
    #[must_use]
    pub fn printed_bytes(&self) -> usize {
        let mut rest = self.0.as_bytes();
        let mut bytes = 0;
        while let Some(first) = rest.first() {
            let length = match first {
                b'"' => string_length(rest),
                b'-' | b'0'..=b'9' => number_length(rest),
                _ => 1,
            };
            let (token, after) = rest.split_at(length);
            bytes += match first {
                b'-' | b'0'..=b'9' => printed_number_length(token),
                b' ' | b'\t' | b'\n' | b'\r' => 0,
                _ => length,
            };
            rest = after;
        }
        bytes
    }

    /// Returns whether both are the same JSON. The order of keys, white space and the notation of numbers do not
    /// count: PostgreSQL returns 1e17 with all its digits.
    #[must_use]
    pub fn is_same_json(&self, other: &Self) -> bool {
        self.0 == other.0 || same_fields(&self.parse(), &other.parse())
    }

    /// Returns the object after the change. Fails if the result of a merge exceeds the limits of `meta`.
    pub fn apply(&self, change: &MetaChange, bytes_max: usize) -> Result<Self, Invalid> {
        let patch = match change {
            MetaChange::Replace(meta) => return Ok(meta.clone()),
            MetaChange::MergePatch(patch) => patch,
        };
        let mut merged = Value::Object(self.parse());
        merge(&mut merged, Value::Object(patch.parse()));
        let edited = Self(merged.to_string());
        let bytes = edited.printed_bytes();
        if bytes > bytes_max {
            return Err(Invalid::field(
                "meta",
                format_args!(
                    "must have at most {bytes_max} bytes as {META_NOTATION}, has {bytes} after the merge"
                ),
            ));
        }
        if levels(&merged) > META_LEVELS_MAX {
            return Err(Invalid::field(
                "meta",
                format_args!("must have at most {META_LEVELS_MAX} levels, has more after the merge"),
            ));
        }
        Ok(edited)
    }

    fn parse(&self) -> Map<String, Value> {
        serde_json::from_str(&self.0).expect("meta is a JSON object by construction")
    }
}

/// Returns the length of the JSON string at the start of the text, quotes included.
fn string_length(json: &[u8]) -> usize {
    let mut length = 1;
    loop {
        match json.get(length) {
            None => return json.len(),
            Some(b'"') => return length + 1,
            Some(b'\\') => length += 2,
            Some(_) => length += 1,
        }
    }
}

/// Returns the length of the JSON number at the start of the text.
fn number_length(json: &[u8]) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    json.iter().position(|byte| !is_part(byte)).unwrap_or(json.len())
}

/// Returns the length of a JSON number without its exponent, as PostgreSQL's type numeric prints it.
fn printed_number_length(number: &[u8]) -> usize {
    let Some(mark) = number.iter().position(|byte| matches!(byte, b'e' | b'E')) else {
        return number.len();
    };
    let exponent: isize = std::str::from_utf8(&number[mark + 1..])
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0);
    let sign = usize::from(number.starts_with(b"-"));
    let digits = &number[sign..mark];
    let point = digits.iter().position(|byte| *byte == b'.');
    let integer = point.unwrap_or(digits.len());
    let fraction = point.map_or(0, |point| digits.len() - point - 1);
    // A positive exponent moves digits from the fraction to the integer and then appends zeros.
    let integer = integer.saturating_add_signed(exponent).max(1);
    let fraction = fraction.saturating_add_signed(exponent.saturating_neg());
    sign + integer + if fraction > 0 { 1 + fraction } else { 0 }
}

/// Merges the patch into the target as RFC 7396, section 2 defines it.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(&key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn same_fields(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .all(|(key, value)| other.get(key).is_some_and(|there| same_value(value, there)))
}

fn same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_value(one, other))
        }
        (Value::Object(one), Value::Object(other)) => same_fields(one, other),
        _ => one == other,
    }
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(levels).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(text: &str) -> Meta {
        Meta::from_json(text.to_owned())
    }

    #[test]
    fn merge_patch_follows_the_examples_of_rfc_7396() {
        // Appendix A, the rows whose target and patch are objects.
        for (target, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let merged = meta(target)
                .apply(&MetaChange::MergePatch(meta(patch)), 1024)
                .expect("within bounds");
            assert!(
                merged.is_same_json(&meta(expected)),
                "{target} + {patch} = {merged:?}"
            );
        }
    }

    #[test]
    fn a_merge_beyond_the_limits_is_rejected() {
        let long = meta(r#"{"a":"0123456789"}"#);
        let patch = MetaChange::MergePatch(meta(r#"{"b":"0123456789"}"#));
        assert!(long.apply(&patch, 35).is_ok());
        let Err(invalid) = long.apply(&patch, 34) else {
            panic!("35 bytes passed 34")
        };
        assert_eq!(invalid.0[0].field, "meta");
    }

    #[test]
    fn bytes_are_counted_with_exponents_written_out() {
        for (text, bytes) in [
            (r#"{"1e9":"2e9\\","a":[-3,0.25,true,null]}"#, 39),
            (r#"{"a":1e308}"#, 6 + 309),
            (r#"{"a":-1.5e+20}"#, 6 + 22),
            (r#"{"a":1.25e1}"#, 6 + 4),
            (r#"{"a":1e-7}"#, 6 + 9),
            (r#"{"a":-2.5e-324}"#, 6 + 328),
            (r#"{"a": [1, "x y"]}"#, 15),
        ] {
            assert_eq!(meta(text).printed_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn a_merge_is_bounded_by_numbers_written_out() {
        let stored = meta(r#"{"a":1e150}"#);
        let patch = |patch| MetaChange::MergePatch(meta(patch));
        assert!(stored.apply(&patch(r#"{"b":1e20}"#), 183).is_ok());
        assert!(stored.apply(&patch(r#"{"b":1e20}"#), 182).is_err());
    }

    #[test]
    fn comparison_ignores_key_order_white_space_and_number_notation() {
        for (one, other) in [
            (r#"{"a":1,"b":[1,2]}"#, r#"{"b": [1, 2], "a": 1}"#),
            (r#"{"a":[{"b":1e17}]}"#, r#"{"a":[{"b":100000000000000000}]}"#),
        ] {
            assert!(meta(one).is_same_json(&meta(other)), "{one} {other}");
        }
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#"{"a":[1]}"#, r#"{"a":[1,1]}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":2}}"#),
        ] {
            assert!(!meta(one).is_same_json(&meta(other)), "{one} {other}");
        }
    }
}
