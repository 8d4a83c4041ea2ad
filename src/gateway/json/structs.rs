//! Reads JSON objects into the Protobuf encoding of `google.protobuf.Struct`.

use std::collections::HashSet;
use std::fmt;

use prost::encoding;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::place::Place;
use super::read::{encode_bytes, encode_text};

/// Magnitude up to which a double holds every integer.
const INTEGER_MAX: u64 = 1 << 53;

/// Encodes the fields of a `Struct`.
pub(super) struct StructFields<'f> {
    pub(super) place: Place<'f>,
    pub(super) out: &'f mut Vec<u8>,
}

impl<'de> Visitor<'de> for StructFields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = self.place.field(&key);
            if keys.contains(&key) {
                return Err(place.refuse("must not be given twice"));
            }
            let mut value = Vec::new();
            let out = &mut value;
            entries.next_value_seed(AnyValue { place, out })?;
            let mut entry = Vec::with_capacity(key.len() + value.len() + 8);
            encode_text(1, &key, &mut entry);
            encode_bytes(2, &value, &mut entry);
            encode_bytes(1, &entry, self.out);
            keys.insert(key);
        }
        Ok(())
    }
}

/// Encodes the fields of a `Value`.
struct AnyValue<'f> {
    place: Place<'f>,
    out: &'f mut Vec<u8>,
}

impl AnyValue<'_> {
    fn check_exact<E: Error>(&self, is_exact: bool) -> Result<(), E> {
        if is_exact {
            return Ok(());
        }
        let rule =
            "must be between -2^53 and 2^53, because numbers are stored as doubles; send a string instead";
        Err(self.place.refuse(rule))
    }
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        encoding::int32::encode(1, &0, self.out);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        encoding::bool::encode(4, &value, self.out);
        Ok(())
    }

    #[allow(clippy::cast_precision_loss)] // within ±2^53
    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.check_exact(value.unsigned_abs() <= INTEGER_MAX)?;
        self.visit_f64(value as f64)
    }

    #[allow(clippy::cast_precision_loss)] // within 2^53
    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.check_exact(value <= INTEGER_MAX)?;
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.check_exact(!self.place.is_long_integer(value))?;
        encoding::double::encode(2, &value, self.out);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        encode_text(3, text, self.out);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut list = Vec::new();
        let mut value = Vec::new();
        for index in 0.. {
            let item = AnyValue {
                place: self.place.index(index),
                out: &mut value,
            };
            if items.next_element_seed(item)?.is_none() {
                break;
            }
            encode_bytes(1, &value, &mut list);
            value.clear();
        }
        encode_bytes(6, &list, self.out);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<(), A::Error> {
        let mut fields = Vec::new();
        StructFields {
            place: self.place,
            out: &mut fields,
        }
        .visit_map(entries)?;
        encode_bytes(5, &fields, self.out);
        Ok(())
    }
}
