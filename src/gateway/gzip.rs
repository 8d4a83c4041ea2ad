//! Compression of single messages with gzip, the only encoding that the server knows.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::grpc::MessageError;

/// Name of the encoding in headers.
pub(super) const GZIP: &str = "gzip";
/// Name of no encoding in headers.
pub(super) const IDENTITY: &str = "identity";
/// Size from which replies are compressed. Below it a reply fits into a few packets, so compression would cost more
/// time than it saves.
pub(super) const COMPRESSED_BYTES_MIN: usize = 4 * 1024;

/// Decompresses a message. Ends with an error as soon as the result exceeds `max` bytes.
pub(super) fn decompress(bytes: &[u8], max: usize) -> Result<Bytes, MessageError> {
    let mut decompressed = Vec::new();
    // One byte more than allowed shows that the message is too large.
    let read = GzDecoder::new(bytes)
        .take(max as u64 + 1)
        .read_to_end(&mut decompressed);
    if decompressed.len() > max {
        return Err(MessageError::TooLarge(max));
    }
    match read {
        Ok(_) => Ok(decompressed.into()),
        Err(error) => Err(MessageError::Undecodable(format!("not gzip: {error}"))),
    }
}

/// Compresses a message; `None` if that does not make it smaller.
pub(super) fn compress(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    let compressed = encoder.finish().ok()?;
    (compressed.len() < bytes.len()).then(|| compressed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let bomb = compress(&vec![0; 1024 * 1024]).expect("zeros are compressible");
        assert!(bomb.len() < 10_000);
        assert!(matches!(
            decompress(&bomb, 1_000),
            Err(MessageError::TooLarge(1_000))
        ));
        assert_eq!(decompress(&bomb, 1024 * 1024).expect("fits").len(), 1024 * 1024);
    }

    #[test]
    fn truncated_input_is_refused() {
        let whole = compress(&[7; 10_000]).expect("compressible");
        let cut = decompress(&whole[..whole.len() - 4], 20_000);
        assert!(matches!(cut, Err(MessageError::Undecodable(_))));
        assert!(matches!(decompress(b"", 10), Err(MessageError::Undecodable(_))));
    }
}
