//! Faults of an import, and the report of them: the first in full, the others as counts by kind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use indicatif::ProgressBar;

use super::super::printable::printable;
use crate::domain::invalid::Invalid;

/// Number of faults that are printed in full.
pub(in crate::cli) const SHOWN_MAX: usize = 20;
/// Number of kinds that are counted separately.
const KINDS_MAX: usize = 50;
/// Number of characters of a kind and of a reason, which may quote the input.
const KIND_CHARS_MAX: usize = 100;
const TEXT_CHARS_MAX: usize = 500;

/// The reason why a line is not stored as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Fault {
    /// The kind under which faults are counted.
    pub(in crate::cli) kind: Cow<'static, str>,
    /// The reason in full.
    pub(in crate::cli) text: String,
    /// The stored event that has the dedupe key of the line.
    pub(in crate::cli) event_id: Option<String>,
}

impl Fault {
    pub(in crate::cli) fn new(kind: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Self {
            kind: cut(kind.into(), KIND_CHARS_MAX),
            text: cut(text.into().into(), TEXT_CHARS_MAX).into_owned(),
            event_id: None,
        }
    }

    /// Returns the fault with the stored event that has the dedupe key of the line.
    pub(in crate::cli) fn of_event(self, event_id: impl Into<String>) -> Self {
        Self {
            event_id: Some(event_id.into()),
            ..self
        }
    }
}

/// Returns the text up to a number of characters.
fn cut(text: Cow<'static, str>, chars_max: usize) -> Cow<'static, str> {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => text,
    }
}

/// Returns the fault of an event with these bad fields, each with the rule that it breaks.
pub(in crate::cli) fn bad_fields(violations: impl Iterator<Item = (String, String)>) -> Fault {
    let (fields, texts): (Vec<_>, Vec<_>) = violations
        .map(|(field, rule)| {
            let text = format!("{field} {rule}");
            (field, text)
        })
        .unzip();
    Fault::new(format!("bad {}", fields.join(", ")), texts.join("; "))
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Self {
        let violations = invalid.0.into_iter();
        bad_fields(violations.map(|violation| (violation.field, violation.description)))
    }
}

/// The position of an event in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Position {
    /// Line of its first byte, from 1.
    pub(in crate::cli) line: u64,
    /// Number of the event in a document that is not read by lines, from 1.
    pub(in crate::cli) element: Option<u64>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.element {
            None => write!(f, "line {}", self.line),
            Some(element) => write!(f, "element {element} (line {})", self.line),
        }
    }
}

/// Prints faults to stderr.
pub(in crate::cli) struct FaultReport {
    progress: ProgressBar,
    shown: usize,
    /// Number of faults by kind that were not printed.
    more: BTreeMap<Cow<'static, str>, u64>,
}

impl FaultReport {
    pub(in crate::cli) fn new(progress: ProgressBar) -> Self {
        Self {
            progress,
            shown: 0,
            more: BTreeMap::new(),
        }
    }

    /// Prints the fault, or counts it once [`SHOWN_MAX`] faults are printed. `label` is the file's name, empty for a
    /// single source.
    pub(in crate::cli) fn fault(&mut self, label: &str, at: impl fmt::Display, fault: Fault) {
        if self.shown < SHOWN_MAX {
            self.shown += 1;
            self.say(label, &format!("{at}: {}", fault.text));
            return;
        }
        let kind = if self.more.len() < KINDS_MAX || self.more.contains_key(&fault.kind) {
            fault.kind
        } else {
            Cow::Borrowed("of other kinds")
        };
        *self.more.entry(kind).or_default() += 1;
    }

    /// Prints a sentence about a source.
    pub(in crate::cli) fn say(&self, label: &str, text: &str) {
        let separator = if label.is_empty() { "" } else { ": " };
        self.print(&format!("{label}{separator}{text}"));
    }

    /// Prints the counts of the faults that were not printed in full.
    pub(in crate::cli) fn finish(&self) {
        let total: u64 = self.more.values().sum();
        if total == 0 {
            return;
        }
        let kinds: Vec<String> = self
            .more
            .iter()
            .map(|(kind, count)| format!("{count} × {kind}"))
            .collect();
        self.print(&format!("and {total} more: {}", kinds.join(", ")));
    }

    fn print(&self, text: &str) {
        let text = printable(text);
        self.progress.suspend(|| eprintln!("{text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_quotes_the_beginning_of_long_input() {
        let fault = Fault::new("é".repeat(101), "é".repeat(1_000_000));
        assert_eq!(*fault.kind, format!("{}…", "é".repeat(100)));
        assert_eq!(fault.text, format!("{}…", "é".repeat(500)));
        let short = Fault::new("kind", "é".repeat(500));
        assert_eq!((&*short.kind, short.text.chars().count()), ("kind", 500));
    }
}
