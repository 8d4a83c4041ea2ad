//! The summary of an import: a line of text, or a JSON object.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::record::Record;
use super::files::{Counts, FileTally, Files};
use super::listed::ListedFaults;

/// The counts and findings of an import.
pub(super) struct Summary<'a> {
    pub(super) files: &'a Files,
    pub(super) faults: &'a ListedFaults,
    /// Number of files that were not read, or not to their end.
    pub(super) broken: u64,
    pub(super) dry_run: bool,
    /// The format of files in which no transcript was recognised.
    pub(super) format: &'static str,
    pub(super) elapsed: Duration,
}

/// Formats the counts in a line.
impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.files.totals();
        let Counts { created, bad, .. } = totals;
        if self.dry_run {
            write!(f, "events {created}, bad lines {bad}")?;
        } else {
            let Counts {
                duplicates,
                different,
                ..
            } = totals;
            write!(
                f,
                "created {created}, duplicates {duplicates} (of them different {different}), bad lines {bad}"
            )?;
        }
        let skipped = self.files.skipped().values().sum();
        for (name, count) in [
            ("sessions set", totals.sessions),
            ("parts skipped", skipped),
            ("characters replaced", totals.repaired),
            ("unreadable files", self.broken),
        ] {
            if count > 0 {
                write!(f, ", {name} {count}")?;
            }
        }
        let seconds = self.elapsed.as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // a rate for people
        let rate = (created + totals.duplicates) as f64 / seconds.max(0.001);
        write!(f, "; {seconds:.1} s, {rate:.0} events/s")
    }
}

impl Summary<'_> {
    /// Returns the summary as a record. `is_complete` tells whether every line is stored as it is.
    pub(super) fn record(&self, spirit_id: Option<&str>, is_complete: bool) -> Record {
        let skipped = self.files.skipped();
        let files: Vec<Value> = self.files.iter().map(|file| self.file(file)).collect();
        let mut record = Record::of([
            ("spirit_id", spirit_id.map(Value::from)),
            ("dry_run", Some(json!(self.dry_run))),
            ("is_complete", Some(json!(is_complete))),
        ]);
        for (name, count) in counts(&self.files.totals()) {
            record = record.with(name, count);
        }
        record
            .with("parts_skipped", skipped.values().sum::<u64>())
            .with("unreadable_files", self.broken)
            .with("seconds", self.elapsed.as_secs_f64())
            .with("skipped", json!(skipped))
            .with("files", files)
            .with("faults", self.faults.values())
            .with("faults_not_listed", self.faults.not_listed())
    }

    fn file(&self, file: &FileTally) -> Value {
        let has_events = file.counts.created + file.counts.duplicates > 0;
        let format = file.format.or(has_events.then_some(self.format));
        let mut record = Record::of([
            ("path", Some(json!(file.path))),
            ("format", format.map(Value::from)),
            ("error", file.error.clone().map(Value::from)),
        ]);
        for (name, count) in counts(&file.counts) {
            record = record.with(name, count);
        }
        record
            .with("parts_skipped", file.skipped.values().sum::<u64>())
            .into()
    }
}

/// Returns the counts by the names of their fields.
fn counts(counts: &Counts) -> [(&'static str, u64); 6] {
    [
        ("created", counts.created),
        ("duplicates", counts.duplicates),
        ("different", counts.different),
        ("bad_lines", counts.bad),
        ("sessions_set", counts.sessions),
        ("characters_replaced", counts.repaired),
    ]
}
