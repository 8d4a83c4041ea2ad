//! The codec of the generated services. Before it decodes a request, it estimates the memory of the decoded
//! form and rejects a request that would take too much.
//!
//! In Protobuf a few bytes can encode a large value: an empty item of a list takes two bytes on the wire and a
//! whole struct in memory. A scan of the bytes adds up what decoding would allocate.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::LazyLock;

use prost::encoding::{WireType, decode_key, decode_varint};
use prost::{Message, Name};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::pb::FILE_DESCRIPTOR_SET;
use super::status::ApiError;

/// Maximum estimated memory of a decoded request. A request within the other limits stays far below it.
const DECODED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Estimated memory of a message without its fields: twice its size, because a list of messages that outgrows
/// its allocation exists twice while it is copied.
const MESSAGE_BYTES: usize = 96;
/// Estimated memory of each field that a message type defines, likewise twice its size.
const FIELD_BYTES: usize = 48;
/// Estimated memory of a string or bytes value beside its content.
const TEXT_BYTES: usize = 40;
/// Depth at which prost stops decoding.
const DEPTH_MAX: usize = 100;

/// Encodes and decodes messages with prost; requests are scanned first.
#[derive(Clone, Copy, Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

/// The decoder of a [`BoundedCodec`].
#[derive(Clone, Debug)]
pub struct BoundedDecoder<U> {
    inner: ProstDecoder<U>,
}

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder {
            inner: ProstDecoder::new(BufferSettings::default()),
        }
    }
}

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use bytes::Buf as _;
        // A message arrives in one contiguous buffer. Replies are decoded by clients only.
        if U::NAME.ends_with("Request") {
            check(&U::full_name(), buffer.chunk())?;
        }
        self.inner.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Fails if the decoded message would take more than [`DECODED_BYTES_MAX`]. `message` is its full type name.
fn check(message: &str, bytes: &[u8]) -> Result<(), ApiError> {
    let Some(&index) = LAYOUT.by_name.get(message) else {
        return Ok(());
    };
    let mut left = DECODED_BYTES_MAX;
    if scan(bytes, index, 0, &mut left) == Scan::TooLarge {
        return Err(ApiError::MessageTooLarge(format!(
            "the request would take more than {DECODED_BYTES_MAX} bytes when decoded; send it in parts"
        )));
    }
    Ok(())
}

/// The result of a scan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    Done,
    /// The bytes are not a valid message; decoding reports the error.
    Malformed,
    TooLarge,
}

/// Subtracts the estimated memory of a message's fields, recursively, from `left`. `message` is the index of
/// its type in [`LAYOUT`].
fn scan(mut bytes: &[u8], message: usize, depth: usize, left: &mut usize) -> Scan {
    while !bytes.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut bytes) else {
            return Scan::Malformed;
        };
        let skipped = match wire_type {
            WireType::Varint => {
                if decode_varint(&mut bytes).is_err() {
                    return Scan::Malformed;
                }
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => {
                let length = decode_varint(&mut bytes)
                    .ok()
                    .and_then(|length| usize::try_from(length).ok());
                let Some(field) = length.and_then(|length| bytes.get(..length)) else {
                    return Scan::Malformed;
                };
                let child = LAYOUT.messages[message].children.get(&tag).copied();
                let cost = child.map_or(TEXT_BYTES, |child| LAYOUT.messages[child].bytes);
                let Some(rest) = left.checked_sub(cost) else {
                    return Scan::TooLarge;
                };
                *left = rest;
                if let Some(child) = child
                    && depth < DEPTH_MAX
                {
                    match scan(field, child, depth + 1, left) {
                        Scan::Done => {}
                        stopped => return stopped,
                    }
                }
                field.len()
            }
            WireType::StartGroup | WireType::EndGroup => return Scan::Malformed,
        };
        let Some(rest) = bytes.get(skipped..) else {
            return Scan::Malformed;
        };
        bytes = rest;
    }
    Scan::Done
}

/// The memory of each message type, and the message types of its fields.
struct Layout {
    /// Indexes in `messages` by full name of the message type.
    by_name: HashMap<String, usize>,
    messages: Vec<MessageLayout>,
}

#[derive(Default)]
struct MessageLayout {
    bytes: usize,
    /// Indexes in [`Layout::messages`] of the types of fields that are messages, by field number.
    children: HashMap<u32, usize>,
}

static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a descriptor set");
    let mut all = Vec::new();
    for file in &set.file {
        for message in &file.message_type {
            collect(file.package(), message, &mut all);
        }
    }
    let by_name: HashMap<String, usize> = all
        .iter()
        .enumerate()
        .map(|(index, (name, _))| (name.clone(), index))
        .collect();
    let messages = all
        .iter()
        .map(|(_, message)| MessageLayout {
            bytes: MESSAGE_BYTES + FIELD_BYTES * values(message),
            children: message
                .field
                .iter()
                .filter(|field| field.r#type() == Type::Message)
                .filter_map(|field| {
                    let child = by_name.get(field.type_name().trim_start_matches('.'))?;
                    Some((u32::try_from(field.number()).ok()?, *child))
                })
                .collect(),
        })
        .collect();
    Layout { by_name, messages }
});

/// Returns how many values a message has at most: of the fields of a oneof it has one.
fn values(message: &DescriptorProto) -> usize {
    let single = message.field.iter().filter(|field| field.oneof_index.is_none());
    single.count() + message.oneof_decl.len()
}

fn collect<'d>(scope: &str, message: &'d DescriptorProto, all: &mut Vec<(String, &'d DescriptorProto)>) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, all);
    }
    all.push((name, message));
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct, Value};

    use super::*;
    use crate::grpc::pb::{BatchCreateEventsRequest, CreateEventRequest};

    fn batch(requests: Vec<CreateEventRequest>) -> Result<(), ApiError> {
        let request = BatchCreateEventsRequest {
            requests,
            ..BatchCreateEventsRequest::default()
        };
        check(&BatchCreateEventsRequest::full_name(), &request.encode_to_vec())
    }

    fn list_of(kind: Kind, count: usize) -> Value {
        let values = vec![Value { kind: Some(kind) }; count];
        Value {
            kind: Some(Kind::ListValue(ListValue { values })),
        }
    }

    #[test]
    fn a_request_within_the_limits_of_the_contract_passes() {
        let full = CreateEventRequest {
            spirit_id: "0189d5e4-7b4a-7cc1-9c3e-2f5a6b7c8d9e".to_owned(),
            event_type: "message.in".to_owned(),
            content: Some("x".repeat(2_000)),
            ..CreateEventRequest::default()
        };
        assert!(batch(vec![full; 1_000]).is_ok());
    }

    #[test]
    fn a_batch_full_of_numbers_in_meta_passes() {
        let request = CreateEventRequest {
            meta: Some(Struct {
                fields: [("embedding".to_owned(), list_of(Kind::NumberValue(0.5), 4_500))].into(),
            }),
            ..CreateEventRequest::default()
        };
        let bytes = request.encoded_len();
        assert!(batch(vec![request; 4 * 1024 * 1024 / bytes]).is_ok());
    }

    #[test]
    fn a_batch_of_a_million_empty_items_is_rejected() {
        assert!(matches!(
            batch(vec![CreateEventRequest::default(); 1_000_000]),
            Err(ApiError::MessageTooLarge(_))
        ));
    }

    #[test]
    fn a_list_of_a_million_nulls_in_meta_is_rejected() {
        let list = list_of(Kind::NullValue(0), 900_000);
        let request = CreateEventRequest {
            meta: Some(Struct {
                fields: [("a".to_owned(), list)].into(),
            }),
            ..CreateEventRequest::default()
        };
        let checked = check(&CreateEventRequest::full_name(), &request.encode_to_vec());
        assert!(matches!(checked, Err(ApiError::MessageTooLarge(_))));
    }

    #[test]
    fn malformed_bytes_are_left_to_the_decoder() {
        for bytes in [&[0xff][..], &[0x0a, 0x7f], &[0x0b], &[0x0d, 1]] {
            assert!(check(&CreateEventRequest::full_name(), bytes).is_ok());
        }
    }
}
