//! Converts `meta` from JSON text to a `Struct` without changing a value: a number that a double cannot hold and a
//! repeated key are faults.

use std::fmt;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fault::Fault;
use crate::domain::limits::META_LEVELS_MAX;

/// Number of values above which a `meta` is refused. A request with as many exceeds the server's limit of memory.
const VALUES_MAX: usize = 500_000;

/// Converts a JSON object. `values` is the number of values that were converted.
pub(in crate::cli) fn object(raw: &RawValue, values: &mut usize) -> Result<Struct, Fault> {
    match value(raw, 1, values) {
        Ok(Value {
            kind: Some(Kind::StructValue(object)),
        }) => Ok(object),
        Ok(_) => Err(Fault::new("field of a wrong type", "meta must be a JSON object")),
        Err(error) => Err(error.fault()),
    }
}

/// A fault in a value of `meta`.
struct MetaFault {
    /// Path from `meta`, such as `.ids[3]`.
    path: String,
    kind: &'static str,
    text: String,
}

impl MetaFault {
    fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            kind,
            text: text.into(),
        }
    }

    fn below(mut self, step: &str) -> Self {
        self.path.insert_str(0, step);
        self
    }

    fn fault(self) -> Fault {
        Fault::new(self.kind, format!("meta{} {}", self.path, self.text))
    }
}

fn value(raw: &RawValue, level: usize, values: &mut usize) -> Result<Value, MetaFault> {
    *values += 1;
    if *values > VALUES_MAX {
        return Err(MetaFault::new(
            "large meta",
            format!("has more than {VALUES_MAX} values"),
        ));
    }
    let text = raw.get();
    let kind = match text.as_bytes().first() {
        Some(b'n') => Kind::NullValue(0),
        Some(b't') => Kind::BoolValue(true),
        Some(b'f') => Kind::BoolValue(false),
        Some(b'"') => Kind::StringValue(serde_json::from_str(text).map_err(|error| malformed(&error))?),
        Some(b'{' | b'[') if level > META_LEVELS_MAX => {
            return Err(MetaFault::new(
                "deep meta",
                format!("is below {META_LEVELS_MAX} levels"),
            ));
        }
        Some(b'{' | b'[') => match serde_json::from_str(text).map_err(|error| malformed(&error))? {
            Parts::Object(entries) => Kind::StructValue(fields(entries, level, values)?),
            Parts::Array(items) => Kind::ListValue(list(items, level, values)?),
        },
        _ => Kind::NumberValue(number(text)?),
    };
    Ok(Value { kind: Some(kind) })
}

fn malformed(error: &serde_json::Error) -> MetaFault {
    MetaFault::new("not JSON", error.to_string())
}

fn fields(entries: Vec<(String, &RawValue)>, level: usize, values: &mut usize) -> Result<Struct, MetaFault> {
    let mut object = Struct::default();
    for (key, raw) in entries {
        let step = |fault: MetaFault| fault.below(&format!(".{key}"));
        let value = value(raw, level + 1, values).map_err(step)?;
        if object.fields.contains_key(&key) {
            let repeated = MetaFault::new("duplicate key", "is given twice: duplicate keys in an object");
            return Err(step(repeated));
        }
        object.fields.insert(key, value);
    }
    Ok(object)
}

fn list(items: Vec<&RawValue>, level: usize, values: &mut usize) -> Result<ListValue, MetaFault> {
    let convert = |(index, raw): (usize, &RawValue)| {
        value(raw, level + 1, values).map_err(|fault| fault.below(&format!("[{index}]")))
    };
    let values = items
        .into_iter()
        .enumerate()
        .map(convert)
        .collect::<Result<_, _>>()?;
    Ok(ListValue { values })
}

/// Returns the double of a JSON number. An integer must be exact; the digits of a fraction may be rounded, as in every
/// JSON parser that reads doubles.
fn number(text: &str) -> Result<f64, MetaFault> {
    let refused = |rule: &str| {
        let shown: String = text.chars().take(40).collect();
        MetaFault::new(
            "number that a double cannot hold",
            format!("is {shown}, {rule}; send it as a string"),
        )
    };
    let double: f64 = text.parse().map_err(|_| refused("which is not a number"))?;
    if !double.is_finite() {
        return Err(refused("which is beyond the range of a double"));
    }
    let digits = text.split(['e', 'E']).next().unwrap_or(text);
    if double == 0.0 && digits.bytes().any(|b| matches!(b, b'1'..=b'9')) {
        return Err(refused("which is too close to zero for a double"));
    }
    let is_integer = !text.contains(['.', 'e', 'E']);
    if is_integer && format!("{double:.0}") != text {
        return Err(refused("which a double cannot hold exactly"));
    }
    Ok(double)
}

/// An object or array whose values are not parsed yet.
enum Parts<'a> {
    Object(Vec<(String, &'a RawValue)>),
    Array(Vec<&'a RawValue>),
}

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartsVisitor)
    }
}

struct PartsVisitor;

fn check<E: serde::de::Error>(values: usize) -> Result<(), E> {
    if values > VALUES_MAX {
        return Err(E::custom(format_args!("more than {VALUES_MAX} values")));
    }
    Ok(())
}

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = Parts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parts<'de>, A::Error> {
        let mut parts = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            parts.push(entry);
            check(parts.len()).map_err(A::Error::custom::<A::Error>)?;
        }
        Ok(Parts::Object(parts))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parts<'de>, A::Error> {
        let mut parts = Vec::new();
        while let Some(item) = items.next_element()? {
            parts.push(item);
            check(parts.len()).map_err(A::Error::custom::<A::Error>)?;
        }
        Ok(Parts::Array(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::object_of_struct;

    fn convert(json: &str) -> Result<String, String> {
        let raw: &RawValue = serde_json::from_str(json).expect("valid JSON");
        let object = object(raw, &mut 0).map_err(|fault| fault.text)?;
        Ok(object_of_struct(&object))
    }

    #[test]
    fn values_that_a_double_holds_survive() {
        for json in [
            "{}",
            r#"{"a":9007199254740992,"b":-9007199254740992,"c":0.1,"d":[true,false,null,"é\n🐘"],"e":{"f":{}}}"#,
        ] {
            assert_eq!(convert(json).as_deref(), Ok(json));
        }
        let written_out = r#"{"a":10000000000000000000000}"#; // 10²² is a double
        assert_eq!(convert(written_out).as_deref(), Ok(r#"{"a":1e+22}"#));
    }

    #[test]
    fn values_that_would_change_are_named_by_their_path() {
        for (json, words) in [
            (
                r#"{"a":{"id":1234567890123456789}}"#,
                ["meta.a.id", "send it as a string"],
            ),
            (r#"{"a":[0,9007199254740993]}"#, ["meta.a[1]", "exactly"]),
            (r#"{"a":123456789012345678901234567890}"#, ["meta.a", "exactly"]),
            (r#"{"a":1e400}"#, ["meta.a", "beyond the range"]),
            (r#"{"a":-1E999}"#, ["meta.a", "beyond the range"]),
            (r#"{"a":1e-400}"#, ["meta.a", "too close to zero"]),
            (r#"{"a":{"k":1,"k":2}}"#, ["meta.a.k", "duplicate key"]),
            (r"[1]", ["meta", "must be a JSON object"]),
        ] {
            let fault = convert(json).expect_err(json);
            assert!(words.iter().all(|word| fault.contains(word)), "{json}: {fault}");
        }
    }

    #[test]
    fn nested_and_large_values_end_in_a_fault() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(25), "}".repeat(25));
        assert!(convert(&deep).expect_err("too deep").contains("24 levels"));
        let large = format!(r#"{{"a":[0{}]}}"#, ",0".repeat(VALUES_MAX));
        assert!(convert(&large).expect_err("too large").contains("500000 values"));
    }
}
