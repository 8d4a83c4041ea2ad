//! Standard output of the commands: lines, records and lists, as text or as JSON lines.

use std::io::{self, BufWriter, Stdout, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use thiserror::Error;

use super::record::Record;
use super::table::{Column, Table};

/// The reader of standard output has gone away.
#[derive(Debug, Error)]
#[error("standard output is closed")]
pub(super) struct OutputClosed;

/// Buffered standard output. Its methods fail with [`OutputClosed`] once the reader has gone away.
pub(super) struct Output(BufWriter<Stdout>);

impl Output {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// Writes by a function.
    pub(super) fn write(
        &mut self,
        write: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        match write(&mut self.0) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            written => written.context("cannot write"),
        }
    }

    /// Writes a line, which must be printable.
    pub(super) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.write(|out| writeln!(out, "{line}"))
    }

    /// Writes a record: as a JSON line, or with a line for each field.
    pub(super) fn record(&mut self, record: &Record, json: bool) -> anyhow::Result<()> {
        self.write(|out| {
            if json {
                record.write_json(out)
            } else {
                record.write_text(out)
            }
        })
    }

    /// Flushes the buffer.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.write(BufWriter::flush)
    }
}

/// Prints one record.
pub(super) fn print_record(record: impl Into<Record>, json: bool) -> anyhow::Result<()> {
    let mut out = Output::new();
    out.record(&record.into(), json)?;
    out.finish()
}

/// Prints one line of text, or a record as JSON.
pub(super) fn print_line(line: &str, record: Record, json: bool) -> anyhow::Result<()> {
    if json {
        print_record(record, json)
    } else {
        print_text(line)
    }
}

/// Prints one line, which must be printable.
pub(super) fn print_text(line: &str) -> anyhow::Result<()> {
    let mut out = Output::new();
    out.line(line)?;
    out.finish()
}

/// Returns the exit code of a command that printed a report, which a reader that has gone away does not change.
pub(super) fn exit_code(printed: anyhow::Result<()>, is_complete: bool) -> anyhow::Result<ExitCode> {
    match printed {
        Err(error) if !error.is::<OutputClosed>() => Err(error),
        _ if is_complete => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// Prints items as JSON lines at once, or as the rows of a table at the end.
pub(super) struct Listing {
    out: Output,
    table: Option<Table>,
}

/// A row of a table.
pub(super) struct Row<const N: usize> {
    pub(super) cells: [String; N],
    /// Whether the row is less important than others, because its item is soft-deleted or revoked.
    pub(super) is_dimmed: bool,
}

impl Listing {
    pub(super) fn new(json: bool, columns: &[Column]) -> Self {
        Self {
            out: Output::new(),
            table: (!json).then(|| Table::new(columns)),
        }
    }

    /// Adds an item.
    pub(super) fn add<T: Into<Record>, const N: usize>(
        &mut self,
        item: T,
        row: impl FnOnce(&T) -> Row<N>,
    ) -> anyhow::Result<()> {
        match &mut self.table {
            Some(table) => {
                let Row { cells, is_dimmed } = row(&item);
                table.add(&cells, is_dimmed);
                Ok(())
            }
            None => self.out.record(&item.into(), true),
        }
    }

    /// Prints the table, if there is one, and flushes the output.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        for line in self.table.take().map(Table::lines).into_iter().flatten() {
            self.out.line(&line)?;
        }
        self.out.finish()
    }
}
