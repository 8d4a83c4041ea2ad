//! Opens a source: unpacks gzip and zstd, skips a byte-order mark and recognises what is no text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;
/// Bytes that recognise a format.
const MAGIC_LEN: usize = 8;
const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];
/// Formats that hold no lines, by their first bytes.
const OTHER_FORMATS: [(&[u8], &str); 9] = [
    (b"\xFF\xFE", "UTF-16; iconv -f UTF-16 -t UTF-8 converts it"),
    (b"\xFE\xFF", "UTF-16; iconv -f UTF-16 -t UTF-8 converts it"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"BZh", "packed with bzip2; unpack it first"),
    (b"\xFD7zXZ\0", "packed with xz; unpack it first"),
    (b"7z\xBC\xAF", "a 7z archive; unpack it first"),
    (b"SQLite f", "a SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF-", "a PDF document"),
];

/// The place of a source's bytes.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Stdin,
    File(PathBuf),
}

/// A source that cannot be read as text.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the file is {0}")]
    NoText(&'static str),
}

/// Opens a source. The bytes that are read of it are added to `progress`.
pub(super) fn open(origin: &Origin, progress: ProgressBar) -> Result<Box<dyn BufRead + Send>, OpenError> {
    let raw: Box<dyn Read + Send> = match origin {
        Origin::Stdin => Box::new(io::stdin()),
        Origin::File(path) => Box::new(File::open(path)?),
    };
    text(Box::new(progress.wrap_read(raw)))
}

fn text(raw: Box<dyn Read + Send>) -> Result<Box<dyn BufRead + Send>, OpenError> {
    let (head, packed) = peek(raw)?;
    let unpacked: Box<dyn Read + Send> = if head.starts_with(&[0x1F, 0x8B]) {
        Box::new(MultiGzDecoder::new(packed))
    } else if head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        Box::new(zstd::Decoder::with_buffer(packed)?)
    } else {
        packed
    };
    let (head, mut text) = peek(unpacked)?;
    if let Some((_, format)) = OTHER_FORMATS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(OpenError::NoText(format));
    }
    let first_line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    if first_line.contains(&0) {
        return Err(OpenError::NoText(
            "no text, or not UTF-8: it begins with bytes that are zero",
        ));
    }
    if head.starts_with(&BYTE_ORDER_MARK) {
        text.fill_buf()?;
        text.consume(BYTE_ORDER_MARK.len());
    }
    Ok(text)
}

type Buffered = BufReader<io::Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>>;

/// Reads the first bytes and returns them with a reader that starts at them again.
fn peek(mut input: Box<dyn Read + Send>) -> io::Result<(Vec<u8>, Box<Buffered>)> {
    let mut head = vec![0; MAGIC_LEN];
    let mut len = 0;
    while len < MAGIC_LEN {
        match input.read(&mut head[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(len);
    let whole = Cursor::new(head.clone()).chain(input);
    Ok((head, Box::new(BufReader::with_capacity(CHUNK, whole))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(bytes: Vec<u8>) -> Result<String, String> {
        let mut opened = text(Box::new(Cursor::new(bytes))).map_err(|error| error.to_string())?;
        let mut text = String::new();
        opened
            .read_to_string(&mut text)
            .map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("in memory");
        encoder.finish().expect("in memory")
    }

    #[test]
    fn text_is_unpacked_and_loses_its_byte_order_mark() {
        let packed = zstd::encode_all(&b"\xEF\xBB\xBFpacked"[..], 1).expect("in memory");
        for (bytes, expected) in [
            (Vec::new(), ""),
            (b"{}\n".to_vec(), "{}\n"),
            (b"\xEF\xBB\xBFmarked".to_vec(), "marked"),
            ([gzip("two "), gzip("members")].concat(), "two members"),
            ([packed.clone(), packed].concat(), "packed\u{feff}packed"),
        ] {
            assert_eq!(read(bytes).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn other_formats_are_named() {
        for (bytes, word) in [
            (&b"\xFF\xFE{\0\"\0"[..], "UTF-16"),
            (b"{\0\"\0a\0", "not UTF-8"),
            (b"PK\x03\x04....", "zip archive"),
            (b"\0\0\0\0", "no text"),
        ] {
            let error = read(bytes.to_vec()).expect_err("no text");
            assert!(error.contains(word), "{error}");
        }
        let mut cut = gzip("a text that is cut in its middle");
        cut.truncate(cut.len() / 2);
        assert!(read(cut).is_err());
    }
}
