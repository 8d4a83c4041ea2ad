//! Counts the outcomes of an import, in the order of the lines, and prints faults and progress.

use std::collections::HashMap;

use indicatif::{HumanBytes, HumanDuration, ProgressBar};

use super::super::progress::{Progress, styled};
use super::fault::{Fault, FaultReport, Position, SHOWN_MAX};
use super::files::Files;
use super::listed::ListedFaults;
use super::sources::Source;
use super::summary::Summary;

/// The outcome of a line.
pub(super) enum Outcome {
    Created,
    Duplicate,
    /// The dedupe key is taken by an event with other content.
    Different(Fault),
    Bad(Fault),
}

/// Whether to go on with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Continue,
    /// None of its first lines is an event.
    Stop,
}

/// The state of a source whose first lines are all bad.
#[derive(Default)]
struct Unproven {
    /// Faults that are not printed yet.
    held: Vec<(Position, Fault)>,
    stopped: bool,
}

pub(super) struct Tally {
    files: Files,
    /// Sources that were not read, or not to their end.
    broken: u64,
    /// Whether messages about a source name it.
    is_labelled: bool,
    /// The current sources that have had no good line.
    unproven: HashMap<usize, Unproven>,
    /// The last source that has had a good line.
    proven: Option<usize>,
    /// The formats that sources without a good line look like.
    guesses: HashMap<usize, String>,
    report: FaultReport,
    listed: ListedFaults,
    progress: Progress,
    dry_run: bool,
    /// The format of files in which no transcript was recognised.
    format: &'static str,
}

/// Options of a tally.
#[derive(Clone, Copy, Debug)]
pub(super) struct TallyOptions {
    pub(super) dry_run: bool,
    /// Whether the summary lists the faults.
    pub(super) lists_faults: bool,
    pub(super) is_labelled: bool,
    pub(super) format: &'static str,
}

impl Tally {
    pub(super) fn new(progress: ProgressBar, options: TallyOptions) -> Self {
        Self {
            files: Files::default(),
            broken: 0,
            is_labelled: options.is_labelled,
            unproven: HashMap::new(),
            proven: None,
            guesses: HashMap::new(),
            report: FaultReport::new(progress.clone()),
            listed: ListedFaults::new(options.lists_faults),
            progress: Progress::new(progress),
            dry_run: options.dry_run,
            format: options.format,
        }
    }

    /// Begins with sources, of which some may have been read before.
    pub(super) fn begin(&mut self, sources: &[Source]) {
        self.files.begin(sources);
        self.unproven.clear();
        self.proven = None;
        self.guesses.clear();
    }

    /// Counts the outcome of the next line of a source.
    pub(super) fn count(&mut self, source: usize, at: Position, outcome: Outcome) -> Verdict {
        let counts = &mut self.files.of_mut(source).counts;
        let fault = match outcome {
            Outcome::Bad(fault) => return self.bad(source, at, fault),
            Outcome::Different(fault) => {
                counts.duplicates += 1;
                counts.different += 1;
                Some(fault)
            }
            Outcome::Duplicate => {
                counts.duplicates += 1;
                None
            }
            Outcome::Created => {
                counts.created += 1;
                None
            }
        };
        self.prove(source);
        if let Some(fault) = fault {
            self.fault(source, at, fault);
        }
        self.show_progress();
        Verdict::Continue
    }

    /// Takes note of an event that this process has stored before.
    pub(super) fn known(&mut self, source: usize) {
        self.prove(source);
    }

    /// Counts characters of a source that were replaced.
    pub(super) fn repaired(&mut self, source: usize, characters: u64) {
        self.files.of_mut(source).counts.repaired += characters;
    }

    /// Counts a change of a session.
    pub(super) fn session(&mut self, source: usize) {
        self.files.of_mut(source).counts.sessions += 1;
        self.prove(source);
    }

    /// Counts a part of a transcript that is not stored.
    pub(super) fn skipped(&mut self, source: usize, kind: String) {
        *self.files.of_mut(source).skipped.entry(kind).or_default() += 1;
    }

    /// Takes note of the format that was recognised in a source.
    pub(super) fn format(&mut self, source: usize, name: &'static str) {
        self.files.of_mut(source).format = Some(name);
    }

    /// Returns the name of a source in messages; empty for a single source.
    fn label(&self, source: usize) -> String {
        if self.is_labelled {
            self.files.of(source).path.clone()
        } else {
            String::new()
        }
    }

    /// Reports a fault.
    fn fault(&mut self, source: usize, at: Position, fault: Fault) {
        self.listed.add(&self.files.of(source).path, at, &fault);
        self.report.fault(&self.label(source), at, fault);
    }

    /// Counts a bad line. It is not printed before a good one, so that a file of another kind costs one sentence.
    fn bad(&mut self, source: usize, at: Position, fault: Fault) -> Verdict {
        if self
            .unproven
            .get(&source)
            .is_some_and(|unproven| unproven.stopped)
        {
            return Verdict::Stop; // read ahead
        }
        self.files.of_mut(source).counts.bad += 1;
        if self.proven == Some(source) {
            self.fault(source, at, fault);
            self.show_progress();
            return Verdict::Continue;
        }
        let unproven = self.unproven.entry(source).or_default();
        unproven.held.push((at, fault));
        if unproven.held.len() < SHOWN_MAX {
            return Verdict::Continue;
        }
        unproven.stopped = true;
        let (at, fault) = unproven.held.swap_remove(0);
        unproven.held = Vec::new();
        let guess = self.guesses.remove(&source);
        let guess = guess.map_or_else(String::new, |guess| format!("; it looks like {guess}"));
        let text = format!(
            "none of the first {SHOWN_MAX} lines is an event, so the rest is not read; {at} {}{guess}",
            fault.text
        );
        self.report.say(&self.label(source), &text);
        self.files.of_mut(source).error = Some(text);
        Verdict::Stop
    }

    /// Prints the faults that were held back until the source had a good line.
    fn prove(&mut self, source: usize) {
        if self.proven == Some(source) {
            return;
        }
        self.proven = Some(source);
        self.guesses.remove(&source);
        self.end(source);
    }

    /// Ends a source.
    pub(super) fn end(&mut self, source: usize) {
        let held = self.unproven.remove(&source).unwrap_or_default().held;
        for (at, fault) in held {
            self.fault(source, at, fault);
        }
        if let Some(guess) = self.guesses.remove(&source) {
            self.report
                .say(&self.label(source), &format!("the file looks like {guess}"));
        }
    }

    /// Takes note of what a source looks like that has had no good line.
    pub(super) fn looks_like(&mut self, source: usize, guess: String) {
        if self.proven != Some(source) {
            self.guesses.insert(source, guess);
        }
    }

    /// Counts a source that is not read, or not to its end.
    pub(super) fn broken(&mut self, source: usize, text: &str) {
        self.broken += 1;
        self.report.say(&self.label(source), text);
        self.files.of_mut(source).error = Some(text.to_owned());
    }

    pub(super) fn note(&self, text: &str) {
        self.report.say("", text);
    }

    /// Prints the counts of the faults that were not printed, and removes the progress bar.
    pub(super) fn finish(&self) {
        self.progress.bar().finish_and_clear();
        self.report.finish();
        let (formats, skipped) = (self.files.formats(), self.files.skipped());
        let list = |entries: Vec<String>| entries.join(", ");
        if !formats.is_empty() {
            let files = |(name, count)| format!("{name} ({count})");
            self.note(&format!(
                "formats found: {}",
                list(formats.iter().map(files).collect())
            ));
        }
        if !skipped.is_empty() {
            let kinds = |(kind, count)| format!("{count} × {kind}");
            self.note(&format!("skipped: {}", list(skipped.iter().map(kinds).collect())));
        }
    }

    /// Returns true if every line is stored as it is.
    pub(super) fn is_complete(&self) -> bool {
        let totals = self.files.totals();
        totals.bad == 0 && totals.different == 0 && self.broken == 0
    }

    pub(super) fn summary(&self) -> Summary<'_> {
        Summary {
            files: &self.files,
            faults: &self.listed,
            broken: self.broken,
            dry_run: self.dry_run,
            format: self.format,
            elapsed: self.progress.elapsed(),
        }
    }

    fn show_progress(&mut self) {
        if self.progress.is_due() {
            self.progress
                .show(&self.summary().to_string(), &self.bytes_read());
        }
    }

    /// Returns the bytes that were read, and the time left if their total is known.
    fn bytes_read(&self) -> String {
        let bar = self.progress.bar();
        let read = bar.position();
        let Some(total) = bar.length().filter(|total| *total > 0 && read > 0) else {
            return format!("; {} read", HumanBytes(read));
        };
        #[allow(clippy::cast_precision_loss)] // an estimate for people
        let left = self
            .progress
            .elapsed()
            .mul_f64(total.saturating_sub(read) as f64 / read as f64);
        format!(
            "; {} of {}, {} left",
            HumanBytes(read),
            HumanBytes(total),
            HumanDuration(left)
        )
    }
}

/// Returns a progress bar, or a spinner if the size of a source is not known. indicatif draws only on a terminal.
pub(super) fn progress(sources: &[Source]) -> ProgressBar {
    let bytes = sources.iter().map(|source| source.bytes).sum::<Option<u64>>();
    match bytes {
        Some(bytes) => styled(
            ProgressBar::new(bytes),
            "{msg} {bar:20} {bytes} of {total_bytes}, {eta} left",
        ),
        None => styled(ProgressBar::new_spinner(), "{msg} {spinner} {bytes}"),
    }
}
