//! Converts `google.protobuf.Struct` to and from JSON text, without an intermediate `serde_json::Value`.

use std::collections::BTreeMap;
use std::fmt;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::domain::limits::META_LEVELS_MAX;

/// Magnitude up to which integral doubles are exact; they are written as integers.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0; // 2^53

/// Formats a `Struct` as compact JSON. The error is the rule that the value breaks.
pub(super) fn write_struct(value: &Struct) -> Result<String, String> {
    let mut json = Vec::new();
    write_fields(&value.fields, 1, &mut json)?;
    String::from_utf8(json).map_err(|_| "must be valid UTF-8".to_owned())
}

fn write_fields(fields: &BTreeMap<String, Value>, level: usize, json: &mut Vec<u8>) -> Result<(), String> {
    check_level(level)?;
    json.push(b'{');
    for (index, (key, value)) in fields.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_text(key, json)?;
        json.push(b':');
        write_value(value, level, json)?;
    }
    json.push(b'}');
    Ok(())
}

fn write_value(value: &Value, level: usize, json: &mut Vec<u8>) -> Result<(), String> {
    match &value.kind {
        None => return Err("must not contain a value without a kind".to_owned()),
        Some(Kind::NullValue(0)) => json.extend(b"null"),
        Some(Kind::NullValue(_)) => return Err("must not contain an unknown enum value".to_owned()),
        Some(Kind::BoolValue(true)) => json.extend(b"true"),
        Some(Kind::BoolValue(false)) => json.extend(b"false"),
        Some(Kind::NumberValue(number)) => write_number(*number, json)?,
        Some(Kind::StringValue(text)) => write_text(text, json)?,
        Some(Kind::StructValue(inner)) => write_fields(&inner.fields, level + 1, json)?,
        Some(Kind::ListValue(list)) => {
            check_level(level + 1)?;
            json.push(b'[');
            for (index, item) in list.values.iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                write_value(item, level + 1, json)?;
            }
            json.push(b']');
        }
    }
    Ok(())
}

fn write_number(number: f64, json: &mut Vec<u8>) -> Result<(), String> {
    if !number.is_finite() {
        return Err("must not contain NaN or Infinity".to_owned());
    }
    #[allow(clippy::cast_possible_truncation)] // within ±2^53 and integral
    let written = if number.fract() == 0.0 && number.abs() <= INTEGER_MAX {
        serde_json::to_writer(json, &(number as i64))
    } else {
        serde_json::to_writer(json, &number)
    };
    written.map_err(|error| error.to_string())
}

fn write_text(text: &str, json: &mut Vec<u8>) -> Result<(), String> {
    if text.contains('\0') {
        return Err("must not contain U+0000".to_owned());
    }
    serde_json::to_writer(json, text).map_err(|error| error.to_string())
}

fn check_level(level: usize) -> Result<(), String> {
    if level > META_LEVELS_MAX {
        return Err(format!("must have at most {META_LEVELS_MAX} levels"));
    }
    Ok(())
}

/// Formats a `Struct` as JSON. A value that the service does not accept (NaN, too many levels) becomes `{}`.
#[must_use]
pub fn object_of_struct(value: &Struct) -> String {
    write_struct(value).unwrap_or_else(|_| "{}".to_owned())
}

/// Parses a JSON object into a `Struct`.
pub(super) fn struct_of_object(json: &str) -> Result<Struct, serde_json::Error> {
    let JsonObject(value) = serde_json::from_str(json)?;
    Ok(value)
}

/// A JSON object that serde deserializes directly into a `Struct`.
#[derive(Clone, Debug)]
pub struct JsonObject(pub Struct);

impl<'de> Deserialize<'de> for JsonObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match AnyValue::deserialize(deserializer)?.0.kind {
            Some(Kind::StructValue(value)) => Ok(Self(value)),
            _ => Err(D::Error::custom("expected a JSON object")),
        }
    }
}

struct AnyValue(Value);

impl<'de> Deserialize<'de> for AnyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = deserializer.deserialize_any(KindVisitor)?;
        Ok(Self(Value { kind: Some(kind) }))
    }
}

struct KindVisitor;

#[allow(clippy::cast_precision_loss)] // a Struct has doubles only, as the contract states
impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::NullValue(0))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::BoolValue(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::NumberValue(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::NumberValue(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::NumberValue(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::StringValue(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::StringValue(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut values = Vec::new();
        while let Some(AnyValue(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Kind::ListValue(ListValue { values }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((key, AnyValue(value))) = entries.next_entry()? {
            fields.insert(key, value);
        }
        Ok(Kind::StructValue(Struct { fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_text_survives_a_round_trip() {
        for json in [
            "{}",
            r#"{"a":1,"b":-9007199254740992,"c":0.1,"d":1e+300,"e":[true,false,null,"x\n\"é🐘"],"f":{"g":{}}}"#,
        ] {
            let value = struct_of_object(json).expect("valid JSON");
            assert_eq!(write_struct(&value).as_deref(), Ok(json));
        }
    }

    #[test]
    fn a_double_with_all_its_digits_is_the_same_double() {
        let written_out = format!("{{\"a\":1{}}}", "0".repeat(300));
        assert_eq!(
            struct_of_object(&written_out).expect("valid"),
            struct_of_object(r#"{"a":1e300}"#).expect("valid")
        );
        let float = r#"{"a":0.30000000000000004}"#;
        assert_eq!(
            write_struct(&struct_of_object(float).expect("valid")).as_deref(),
            Ok(float)
        );
    }
}
