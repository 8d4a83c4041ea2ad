//! The framing of messages that gRPC and the streams of Connect share: a byte of flags, the length in four bytes, and
//! the message.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::grpc::MessageError;

/// Bytes before each message.
pub(super) const PREFIX_BYTES: usize = 5;
/// The flag of a compressed message.
pub(super) const COMPRESSED: u8 = 1;

/// Returns the bytes before a message.
pub(super) fn prefix(flags: u8, length: usize) -> Result<[u8; PREFIX_BYTES], MessageError> {
    let length = u32::try_from(length).map_err(|_| MessageError::TooLarge(u32::MAX as usize))?;
    let [a, b, c, d] = length.to_be_bytes();
    Ok([flags, a, b, c, d])
}

/// Reads the bytes before a message: the flags and the length.
pub(super) fn parse_prefix(bytes: &[u8]) -> Option<(u8, usize)> {
    let [flags, length @ ..] = *bytes.first_chunk::<PREFIX_BYTES>()?;
    Some((flags, usize::try_from(u32::from_be_bytes(length)).ok()?))
}

/// Takes the first message, with its flags, if it is complete. Fails if it is larger than `max` bytes.
pub(super) fn take(buffer: &mut BytesMut, max: usize) -> Result<Option<(u8, Bytes)>, MessageError> {
    let Some((flags, length)) = parse_prefix(buffer) else {
        return Ok(None);
    };
    if length > max {
        return Err(MessageError::TooLarge(max));
    }
    if buffer.len() < PREFIX_BYTES + length {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some((flags, buffer.split_to(length).freeze())))
}
