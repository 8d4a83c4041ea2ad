//! Writes messages as JSON.

use std::io::{self, Write};

use prost_reflect::prost_types::Any;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Serializer;
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

use crate::gateway::schema;
use crate::grpc::MessageError;

/// Magnitude up to which integral doubles are exact.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0; // 2^53

/// Converts an encoded message to JSON.
pub(in crate::gateway) fn json_of_message(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
) -> Result<Vec<u8>, MessageError> {
    let unwritable = |error: &dyn std::error::Error| MessageError::Unwritable(error.to_string());
    let message = DynamicMessage::decode(descriptor.clone(), bytes).map_err(|error| unwritable(&error))?;
    let mut json = Vec::with_capacity(bytes.len() * 2);
    let mut serializer = Serializer::with_formatter(&mut json, IntegralFormatter);
    message
        .serialize_with_options(&mut serializer, &SerializeOptions::new())
        .map_err(|error| unwritable(&error))?;
    Ok(json)
}

/// Converts a message of a known type to JSON.
pub(in crate::gateway) fn json_of_any(any: &Any) -> Option<Box<RawValue>> {
    let (_, full_name) = any.type_url.rsplit_once('/')?;
    let json = json_of_message(&schema::message(full_name)?, &any.value).ok()?;
    RawValue::from_string(String::from_utf8(json).ok()?).ok()
}

/// Writes integral doubles without a fraction, as `1` and not `1.0`: a `Struct` has doubles only, and callers send
/// integers.
struct IntegralFormatter;

impl Formatter for IntegralFormatter {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        #[allow(clippy::cast_possible_truncation)] // within ±2^53 and integral
        if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
            write!(writer, "{}", value as i64)
        } else {
            serde_json::ser::CompactFormatter.write_f64(writer, value)
        }
    }
}
