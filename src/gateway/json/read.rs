//! Reads JSON into the Protobuf encoding of a message.
//!
//! The JSON is encoded while it is parsed, without an intermediate value, so a request takes about the memory of its
//! text, whatever it contains.

use std::fmt;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use bytes::Bytes;
use chrono::DateTime;
use prost::encoding::{self, WireType};
use prost_reflect::prost_types::{Duration, FieldMask};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::place::{Context, Place};
use super::structs::StructFields;
use crate::grpc::{MessageError, timestamp_of};

/// Encodes the message that a JSON object describes.
///
/// # Errors
/// When the text is not JSON, or a field is unknown or has a value of another type; the error names the field.
pub(in crate::gateway) fn message_of_json(
    descriptor: &MessageDescriptor,
    json: &[u8],
) -> Result<Bytes, MessageError> {
    let context = Context::new(json);
    let place = Place::root(&context);
    let mut out = Vec::with_capacity(json.len());
    let fields = Fields {
        descriptor,
        place,
        out: &mut out,
    };
    let mut text = serde_json::Deserializer::from_slice(json);
    match text.deserialize_map(fields).and_then(|()| text.end()) {
        Ok(()) => Ok(out.into()),
        Err(error) => Err(match context.into_violation() {
            Some((field, rule)) => MessageError::Field(field, rule),
            None => MessageError::Undecodable(format!("not the JSON of a request: {error}")),
        }),
    }
}

/// Encodes the fields of a message.
struct Fields<'f> {
    descriptor: &'f MessageDescriptor,
    place: Place<'f>,
    out: &'f mut Vec<u8>,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the fields of {}", self.descriptor.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut numbers: Vec<u32> = Vec::new();
        let mut oneofs: Vec<OneofDescriptor> = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            let by_json_name = self.descriptor.get_field_by_json_name(&name);
            let Some(field) = by_json_name.or_else(|| self.descriptor.get_field_by_name(&name)) else {
                let rule = format_args!("is not a field of {}", self.descriptor.name());
                return Err(self.place.field(&name).refuse(rule));
            };
            let place = self.place.field(field.name());
            if numbers.contains(&field.number()) {
                return Err(place.refuse("must not be given twice"));
            }
            numbers.push(field.number());
            let value = FieldValue {
                field: &field,
                is_item: false,
                place,
                out: self.out,
            };
            let is_set = entries.next_value_seed(value)?;
            if let Some(oneof) = field.containing_oneof().filter(|_| is_set) {
                if oneofs.contains(&oneof) {
                    return Err(place.refuse(format_args!("must be the only one of {}", oneof.name())));
                }
                oneofs.push(oneof);
            }
        }
        Ok(())
    }
}

/// Encodes the value of a field, its number included. Returns false for null, which stands for an absent field.
struct FieldValue<'f> {
    field: &'f FieldDescriptor,
    /// Whether the value is an item of a repeated field.
    is_item: bool,
    place: Place<'f>,
    out: &'f mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl FieldValue<'_> {
    fn mismatch<E: Error>(&self) -> E {
        if self.field.is_list() && !self.is_item {
            return self.place.refuse("must be a list");
        }
        self.place.refuse(match self.field.kind() {
            Kind::String => "must be a string",
            Kind::Bytes => "must be a string in base64",
            Kind::Bool => "must be true or false",
            Kind::Double | Kind::Float => "must be a number",
            Kind::Enum(_) => "must be the name of a value of its enum",
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => "must be a time such as \"2026-01-02T03:04:05Z\"",
                "google.protobuf.Duration" => "must be a duration such as \"3.5s\"",
                "google.protobuf.FieldMask" => "must be field names, separated by commas",
                _ => "must be an object",
            },
            Kind::Int32 | Kind::Uint32 => "must be an integer of 32 bits",
            _ => "must be an integer of 64 bits, as a number or a string",
        })
    }

    /// Fails if a single value stands for a list.
    fn check_single<E: Error>(&self) -> Result<(), E> {
        if self.field.is_list() && !self.is_item {
            return Err(self.mismatch());
        }
        Ok(())
    }

    fn integer<E: Error>(self, value: i128) -> Result<bool, E> {
        self.check_single()?;
        let tag = self.field.number();
        match self.field.kind() {
            Kind::Int32 | Kind::Enum(_) if let Ok(value) = value.try_into() => {
                encoding::int32::encode(tag, &value, self.out);
            }
            Kind::Int64 if let Ok(value) = value.try_into() => {
                encoding::int64::encode(tag, &value, self.out);
            }
            Kind::Uint32 if let Ok(value) = value.try_into() => {
                encoding::uint32::encode(tag, &value, self.out);
            }
            Kind::Uint64 if let Ok(value) = value.try_into() => {
                encoding::uint64::encode(tag, &value, self.out);
            }
            #[allow(clippy::cast_precision_loss)] // a JSON number may have more digits than a double
            Kind::Double => encoding::double::encode(tag, &(value as f64), self.out),
            _ => return Err(self.mismatch()),
        }
        Ok(true)
    }

    /// Encodes a text whose field is not a string.
    fn parsed<E: Error>(self, text: &str) -> Result<bool, E> {
        let tag = self.field.number();
        match self.field.kind() {
            Kind::Enum(values) => match values.get_value_by_name(text) {
                Some(value) => encoding::int32::encode(tag, &value.number(), self.out),
                None => return Err(self.mismatch()),
            },
            Kind::Bytes => match BASE64_STANDARD
                .decode(text)
                .or_else(|_| BASE64_URL_SAFE.decode(text))
            {
                Ok(bytes) => encoding::bytes::encode(tag, &bytes, self.out),
                Err(_) => return Err(self.mismatch()),
            },
            Kind::Double => match text.parse::<f64>() {
                Ok(value) => encoding::double::encode(tag, &value, self.out),
                Err(_) => return Err(self.mismatch()),
            },
            Kind::Message(message) => return self.well_known(message.full_name(), text),
            Kind::Bool => return Err(self.mismatch()),
            _ => match text.parse() {
                Ok(value) => return self.integer(value),
                Err(_) => return Err(self.mismatch()),
            },
        }
        Ok(true)
    }

    /// Encodes a message of a type whose JSON form is a string.
    fn well_known<E: Error>(self, full_name: &str, text: &str) -> Result<bool, E> {
        let tag = self.field.number();
        match full_name {
            "google.protobuf.Timestamp" => match DateTime::parse_from_rfc3339(text) {
                Ok(time) => encoding::message::encode(tag, &timestamp_of(time.to_utc()), self.out),
                Err(_) => return Err(self.mismatch()),
            },
            "google.protobuf.Duration" => match text.parse::<Duration>() {
                Ok(duration) => encoding::message::encode(tag, &duration, self.out),
                Err(_) => return Err(self.mismatch()),
            },
            "google.protobuf.FieldMask" => {
                let paths = text.split(',').filter(|path| !path.is_empty());
                let mask = FieldMask {
                    paths: paths.map(snake_case).collect(),
                };
                encoding::message::encode(tag, &mask, self.out);
            }
            _ => return Err(self.mismatch()),
        }
        Ok(true)
    }
}

impl<'de> Visitor<'de> for FieldValue<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        if self.is_item {
            return Err(self.mismatch());
        }
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        self.check_single()?;
        if self.field.kind() != Kind::Bool {
            return Err(self.mismatch());
        }
        encoding::bool::encode(self.field.number(), &value, self.out);
        Ok(true)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        self.integer(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        self.integer(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        self.check_single()?;
        if self.field.kind() == Kind::Double {
            encoding::double::encode(self.field.number(), &value, self.out);
            return Ok(true);
        }
        if value.fract() != 0.0 {
            return Err(self.mismatch());
        }
        #[allow(clippy::cast_possible_truncation)] // saturates beyond every integer field
        self.integer(value as i128)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        self.check_single()?;
        if self.field.kind() != Kind::String {
            return self.parsed(text);
        }
        encode_text(self.field.number(), text, self.out);
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        if !self.field.is_list() || self.is_item {
            return Err(self.mismatch());
        }
        for index in 0.. {
            let item = FieldValue {
                field: self.field,
                is_item: true,
                place: self.place.index(index),
                out: self.out,
            };
            if items.next_element_seed(item)?.is_none() {
                break;
            }
        }
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<bool, A::Error> {
        self.check_single()?;
        let Kind::Message(message) = self.field.kind() else {
            return Err(self.mismatch());
        };
        let mut bytes = Vec::new();
        match message.full_name() {
            "google.protobuf.Struct" => StructFields {
                place: self.place,
                out: &mut bytes,
            }
            .visit_map(entries)?,
            "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask" => {
                return Err(self.mismatch());
            }
            _ => Fields {
                descriptor: &message,
                place: self.place,
                out: &mut bytes,
            }
            .visit_map(entries)?,
        }
        encode_bytes(self.field.number(), &bytes, self.out);
        Ok(true)
    }
}

/// Encodes a string field.
pub(super) fn encode_text(tag: u32, text: &str, out: &mut Vec<u8>) {
    encode_bytes(tag, text.as_bytes(), out);
}

/// Encodes a field of bytes, or of a message that is encoded already.
pub(super) fn encode_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Converts a path of a field mask from the form of JSON to that of Protobuf.
fn snake_case(path: &str) -> String {
    let mut snake = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
