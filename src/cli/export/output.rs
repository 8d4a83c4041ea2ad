//! The file of an export, packed by its name.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Level of zstd that packs faster than the server sends.
const ZSTD_LEVEL: i32 = 3;

/// A file or standard output.
pub(super) struct Output {
    writer: Writer,
    /// The file, to be synchronised.
    file: Option<File>,
}

type Raw = BufWriter<Box<dyn Write>>;

enum Writer {
    Plain(Raw),
    Gzip(GzEncoder<Raw>),
    Zstd(zstd::Encoder<'static, Raw>),
}

impl Output {
    /// Opens a file, standard output without one. An export that is continued is appended to the file; a packed one
    /// becomes a further part of it, which readers of gzip and zstd read as one text.
    pub(super) fn open(path: Option<&Path>, is_continued: bool) -> anyhow::Result<Self> {
        let Some(path) = path else {
            let raw: Raw = BufWriter::new(Box::new(io::stdout()));
            return Ok(Self {
                writer: Writer::Plain(raw),
                file: None,
            });
        };
        let shown = path.display();
        let file = open(path, is_continued).with_context(|| format!("cannot open {shown}"))?;
        let raw: Raw = BufWriter::new(Box::new(file.try_clone()?));
        let extension = path.extension().unwrap_or_default();
        let writer = if extension.eq_ignore_ascii_case("gz") {
            Writer::Gzip(GzEncoder::new(raw, Compression::default()))
        } else if extension.eq_ignore_ascii_case("zst") {
            Writer::Zstd(zstd::Encoder::new(raw, ZSTD_LEVEL)?)
        } else {
            if is_continued && !ends_with_line(&file)? {
                bail!(
                    "{shown} ends within a line; remove that part, and continue after the `sequence` of the last whole line"
                );
            }
            Writer::Plain(raw)
        };
        Ok(Self {
            writer,
            file: Some(file),
        })
    }

    /// Writes what remains and synchronises the file.
    pub(super) fn finish(self) -> io::Result<()> {
        let mut raw = match self.writer {
            Writer::Plain(raw) => raw,
            Writer::Gzip(encoder) => encoder.finish()?,
            Writer::Zstd(encoder) => encoder.finish()?,
        };
        raw.flush()?;
        match self.file {
            // A pipe or a device cannot be synchronised.
            Some(file) if file.metadata()?.is_file() => file.sync_all(),
            _ => Ok(()),
        }
    }
}

fn open(path: &Path, is_continued: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    if is_continued {
        options.read(true).append(true).create(true).open(path)
    } else {
        options.write(true).truncate(true).create(true).open(path)
    }
}

/// Returns whether a file is empty or ends with a line break.
fn ends_with_line(mut file: &File) -> io::Result<bool> {
    if !file.metadata()?.is_file() || file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Writer::Plain(raw) => raw.write(bytes),
            Writer::Gzip(encoder) => encoder.write(bytes),
            Writer::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::Plain(raw) => raw.flush(),
            Writer::Gzip(encoder) => encoder.flush(),
            Writer::Zstd(encoder) => encoder.flush(),
        }
    }
}
