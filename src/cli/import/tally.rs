//! Counts the outcomes of an import, in the order of the lines, and prints faults and progress.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use super::fault::{Fault, FaultReport, Position, SHOWN_MAX};
use super::sources::Source;

/// Interval of progress lines where stderr is not a terminal, and of changes of the progress bar's text where it is.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
const BAR_INTERVAL: Duration = Duration::from_millis(100);

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

#[derive(Debug, Default)]
struct Counts {
    created: u64,
    duplicates: u64,
    different: u64,
    bad: u64,
    repaired: u64,
    /// Sources that were not read, or not to their end.
    broken: u64,
    /// Changes of the title or `meta` of a session.
    sessions: u64,
}

/// The state of a source whose first lines are all bad.
#[derive(Default)]
struct Unproven {
    /// Faults that are not printed yet.
    held: Vec<(Position, Fault)>,
    stopped: bool,
}

pub(super) struct Tally {
    counts: Counts,
    /// Names of the sources in messages; empty for a single source.
    labels: Vec<String>,
    /// The current sources that have had no good line.
    unproven: HashMap<usize, Unproven>,
    /// The last source that has had a good line.
    proven: Option<usize>,
    /// Number of skipped parts of transcripts by kind.
    skipped: BTreeMap<String, u64>,
    /// Number of sources by the format of transcripts that was recognised.
    formats: BTreeMap<&'static str, u64>,
    report: FaultReport,
    progress: ProgressBar,
    dry_run: bool,
    started: Instant,
    reported: Instant,
}

impl Tally {
    pub(super) fn new(sources: &[Source], progress: ProgressBar, dry_run: bool) -> Self {
        let label = |source: &Source| match sources.len() {
            1 => String::new(),
            _ => source.path.clone(),
        };
        Self {
            counts: Counts::default(),
            labels: sources.iter().map(label).collect(),
            unproven: HashMap::new(),
            proven: None,
            skipped: BTreeMap::new(),
            formats: BTreeMap::new(),
            report: FaultReport::new(progress.clone()),
            progress,
            dry_run,
            started: Instant::now(),
            reported: Instant::now(),
        }
    }

    /// Counts the outcome of the next line of a source.
    pub(super) fn count(&mut self, source: usize, at: Position, outcome: Outcome) -> Verdict {
        let fault = match outcome {
            Outcome::Bad(fault) => return self.bad(source, at, fault),
            Outcome::Different(fault) => {
                self.counts.duplicates += 1;
                self.counts.different += 1;
                Some(fault)
            }
            Outcome::Duplicate => {
                self.counts.duplicates += 1;
                None
            }
            Outcome::Created => {
                self.counts.created += 1;
                None
            }
        };
        self.prove(source);
        if let Some(fault) = fault {
            self.report.fault(&self.labels[source], at, fault);
        }
        self.show_progress();
        Verdict::Continue
    }

    /// Counts characters that were replaced.
    pub(super) fn repaired(&mut self, characters: u64) {
        self.counts.repaired += characters;
    }

    /// Counts a change of a session.
    pub(super) fn session(&mut self, source: usize) {
        self.counts.sessions += 1;
        self.prove(source);
    }

    /// Counts a part of a transcript that is not stored.
    pub(super) fn skipped(&mut self, kind: String) {
        *self.skipped.entry(kind).or_default() += 1;
    }

    /// Counts a source by the format that was recognised.
    pub(super) fn format(&mut self, name: &'static str) {
        *self.formats.entry(name).or_default() += 1;
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
        self.counts.bad += 1;
        if self.proven == Some(source) {
            self.report.fault(&self.labels[source], at, fault);
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
        let text = format!(
            "none of the first {SHOWN_MAX} lines is an event, so the rest is not read; {at} {}",
            fault.text
        );
        self.report.say(&self.labels[source], &text);
        Verdict::Stop
    }

    /// Prints the faults that were held back until the source had a good line.
    fn prove(&mut self, source: usize) {
        if self.proven == Some(source) {
            return;
        }
        self.proven = Some(source);
        self.end(source);
    }

    /// Ends a source.
    pub(super) fn end(&mut self, source: usize) {
        let held = self.unproven.remove(&source).unwrap_or_default().held;
        for (at, fault) in held {
            self.report.fault(&self.labels[source], at, fault);
        }
    }

    /// Counts a source that is not read, or not to its end.
    pub(super) fn broken(&mut self, source: usize, text: &str) {
        self.counts.broken += 1;
        self.report.say(&self.labels[source], text);
    }

    pub(super) fn note(&self, text: &str) {
        self.report.say("", text);
    }

    /// Prints the counts of the faults that were not printed, and removes the progress bar.
    pub(super) fn finish(&self) {
        self.progress.finish_and_clear();
        self.report.finish();
        let list = |entries: Vec<String>| entries.join(", ");
        if !self.formats.is_empty() {
            let files = |(name, count)| format!("{name} ({count})");
            self.note(&format!(
                "formats found: {}",
                list(self.formats.iter().map(files).collect())
            ));
        }
        if !self.skipped.is_empty() {
            let kinds = |(kind, count)| format!("{count} × {kind}");
            self.note(&format!(
                "skipped: {}",
                list(self.skipped.iter().map(kinds).collect())
            ));
        }
    }

    /// Returns true if every line is stored as it is.
    pub(super) fn is_complete(&self) -> bool {
        self.counts.bad == 0 && self.counts.different == 0 && self.counts.broken == 0
    }

    pub(super) fn summary(&self) -> String {
        let Counts {
            created,
            duplicates,
            different,
            bad,
            repaired,
            broken,
            sessions,
        } = self.counts;
        let mut text = if self.dry_run {
            format!("events {created}, bad lines {bad}")
        } else {
            format!(
                "created {created}, duplicates {duplicates} (of them different {different}), bad lines {bad}"
            )
        };
        let skipped: u64 = self.skipped.values().sum();
        for (name, count) in [("sessions set", sessions), ("parts skipped", skipped)] {
            if count > 0 {
                text = format!("{text}, {name} {count}");
            }
        }
        if repaired > 0 {
            text = format!("{text}, characters replaced {repaired}");
        }
        if broken > 0 {
            text = format!("{text}, unreadable files {broken}");
        }
        let seconds = self.started.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // a rate for people
        let rate = (created + duplicates) as f64 / seconds.max(0.001);
        format!("{text}; {seconds:.1} s, {rate:.0} events/s")
    }

    fn show_progress(&mut self) {
        let is_bar = !self.progress.is_hidden();
        let interval = if is_bar { BAR_INTERVAL } else { LINE_INTERVAL };
        if self.reported.elapsed() < interval {
            return;
        }
        self.reported = Instant::now();
        if is_bar {
            self.progress.set_message(self.summary());
        } else {
            eprintln!("{}{}", self.summary(), self.bytes_read());
        }
    }

    /// Returns the bytes that were read, and the time left if their total is known.
    fn bytes_read(&self) -> String {
        let read = self.progress.position();
        let Some(total) = self.progress.length().filter(|total| *total > 0 && read > 0) else {
            return format!("; {} read", HumanBytes(read));
        };
        #[allow(clippy::cast_precision_loss)] // an estimate for people
        let left = self
            .started
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
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{msg} {bar:20} {bytes} of {total_bytes}, {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{msg} {spinner} {bytes}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
