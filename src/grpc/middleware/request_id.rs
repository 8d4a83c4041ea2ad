//! The ids that identify a call in logs: its request id, and the id of its trace.

use http::{HeaderMap, HeaderValue};

/// The header of the request id, in requests and replies.
pub(super) const REQUEST_ID: &str = "x-request-id";
const TRACE_PARENT: &str = "traceparent";
/// Maximum number of characters of a request id that a caller sends.
const REQUEST_ID_MAX: usize = 128;

/// Returns the caller's request id, or a new one if it is missing, too long or not visible ASCII.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(new_request_id)
}

/// Returns a request id of 64 random bits, as hex digits.
fn new_request_id() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(fastrand::u64(..).to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 0xf)];
    }
    HeaderValue::from_bytes(&digits).expect("hex digits are visible ASCII")
}

/// Returns the trace id of the caller's `traceparent`, 32 hex digits. The W3C header consists of version, trace
/// id, span id and flags, separated by hyphens.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let parent = headers.get(TRACE_PARENT)?.to_str().ok()?;
    let id = parent.get(3..35)?;
    let is_id = id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && id.bytes().any(|digit| digit != b'0')).then(|| id.to_owned())
}
