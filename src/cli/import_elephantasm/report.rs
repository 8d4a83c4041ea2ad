//! Counts what a move has done, shows its progress on stderr and prints the report.

use std::collections::BTreeMap;

use indicatif::ProgressBar;
use uuid::Uuid;

use super::super::import::fault::{Fault, FaultReport};
use super::super::output::Output;
use super::super::printable::printable;
use super::super::progress::{Progress, styled};
use super::convert::Changes;
use crate::domain::ids::EventId;
use crate::store::{Moved, SpiritState};

const DROPPED_KEY: &str = "dedupe_key of an earlier event → none";

#[derive(Debug, Default)]
struct Counts {
    moved: u64,
    existing: u64,
    left_out: u64,
}

pub(super) struct Report {
    spirits: Counts,
    events: Counts,
    /// Soft-deleted events that were moved.
    deleted: u64,
    /// Number of rows that were changed, by rule.
    changes: BTreeMap<&'static str, u64>,
    /// Tables and columns that are not moved.
    passed_over: Vec<String>,
    faults: FaultReport,
    progress: Progress,
}

impl Report {
    pub(super) fn new(events: u64, passed_over: Vec<String>) -> Self {
        let bar = styled(
            ProgressBar::new(events),
            "{msg} {bar:20} {pos} of {len}, {eta} left",
        );
        Self {
            spirits: Counts::default(),
            events: Counts::default(),
            deleted: 0,
            changes: BTreeMap::new(),
            passed_over,
            faults: FaultReport::new(bar.clone()),
            progress: Progress::new(bar),
        }
    }

    pub(super) fn count_spirit(&mut self, id: Uuid, state: SpiritState, changes: &Changes) {
        match state {
            SpiritState::Stored => {
                self.spirits.moved += 1;
                self.count_changes(changes);
            }
            SpiritState::Existing => self.spirits.existing += 1,
            SpiritState::Purged => {
                let text = "it or events of it were purged here, and its events must not return";
                self.leave_out_spirit(id, Fault::new("purged", text));
            }
        }
    }

    pub(super) fn leave_out_spirit(&mut self, id: Uuid, fault: Fault) {
        self.spirits.left_out += 1;
        self.faults.fault("", format_args!("spirit {id}"), fault);
    }

    pub(super) fn leave_out_event(&mut self, id: Uuid, fault: Fault) {
        self.count_event_of_left_out_spirit();
        self.faults.fault("", format_args!("event {id}"), fault);
    }

    pub(super) fn count_event_of_left_out_spirit(&mut self) {
        self.events.left_out += 1;
        self.show_progress(1);
    }

    /// Counts the events of a step: the id of each, whether it is soft-deleted, and its changes.
    pub(super) fn count_events(&mut self, moved: &Moved, events: Vec<(EventId, bool, Changes)>) {
        let count = events.len();
        for (id, is_deleted, changes) in events {
            if moved.stored.contains(&id) {
                self.events.moved += 1;
                self.deleted += u64::from(is_deleted);
                self.count_changes(&changes);
            } else {
                self.events.existing += 1;
            }
        }
        if moved.dropped_keys > 0 {
            *self.changes.entry(DROPPED_KEY).or_default() += moved.dropped_keys;
        }
        self.show_progress(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn count_changes(&mut self, changes: &Changes) {
        for rule in changes {
            *self.changes.entry(*rule).or_default() += 1;
        }
    }

    fn show_progress(&mut self, events: u64) {
        let bar = self.progress.bar();
        bar.inc(events);
        let (done, total) = (bar.position(), bar.length().unwrap_or_default());
        if self.progress.is_due() {
            let text = format!(
                "events moved {}, {:.0} events/s",
                self.events.moved,
                self.progress.rate(done)
            );
            self.progress.show(&text, &format!("; {done} of {total}"));
        }
    }

    /// Returns whether every row is stored.
    pub(super) fn is_complete(&self) -> bool {
        self.spirits.left_out == 0 && self.events.left_out == 0
    }

    /// Prints the counts to stdout.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        self.progress.bar().finish_and_clear();
        self.faults.finish();
        let mut out = Output::new();
        let Counts {
            moved,
            existing,
            left_out,
        } = self.spirits;
        out.line(&format!(
            "spirits: moved {moved}, already there {existing}, left out {left_out}"
        ))?;
        let Counts {
            moved,
            existing,
            left_out,
        } = self.events;
        out.line(&format!(
            "events: moved {moved} (of them soft-deleted {}), already there {existing}, left out {left_out}; {:.1} s",
            self.deleted,
            self.progress.elapsed().as_secs_f64()
        ))?;
        for (rule, count) in &self.changes {
            out.line(&format!("changed: {count} × {rule}"))?;
        }
        if !self.passed_over.is_empty() {
            out.line(&format!("not moved: {}", printable(&self.passed_over.join(", "))))?;
        }
        out.finish()
    }
}
