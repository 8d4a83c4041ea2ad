//! The faults that the summary of an import lists.

use serde_json::{Value, json};

use super::super::record::Record;
use super::fault::{Fault, Position};

/// Number of faults that are listed; the others are counted.
const LISTED_MAX: usize = 1_000;

/// Faults with their places. Empty unless the summary is wanted as JSON.
#[derive(Debug, Default)]
pub(super) struct ListedFaults {
    is_wanted: bool,
    values: Vec<Value>,
    not_listed: u64,
}

impl ListedFaults {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, path: &str, at: Position, fault: &Fault) {
        if !self.is_wanted {
            return;
        }
        if self.values.len() == LISTED_MAX {
            self.not_listed += 1;
            return;
        }
        let record = Record::of([
            ("path", Some(json!(path))),
            ("line", Some(json!(at.line))),
            ("element", at.element.map(Value::from)),
            ("kind", Some(json!(fault.kind))),
            ("message", Some(json!(fault.text))),
            ("event_id", fault.event_id.clone().map(Value::from)),
        ]);
        self.values.push(record.into());
    }

    pub(super) fn values(&self) -> Vec<Value> {
        self.values.clone()
    }

    pub(super) fn not_listed(&self) -> u64 {
        self.not_listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_the_others_are_counted() {
        let mut listed = ListedFaults::new(true);
        let fault = Fault::new("different", "not stored").of_event("e");
        for line in 1..=1_002 {
            listed.add("a", Position { line, element: None }, &fault);
        }
        assert_eq!((listed.values().len(), listed.not_listed()), (LISTED_MAX, 2));
        assert_eq!(
            listed.values()[0],
            json!({"path": "a", "line": 1, "kind": "different", "message": "not stored", "event_id": "e"})
        );
        let mut unwanted = ListedFaults::new(false);
        let at = Position {
            line: 1,
            element: None,
        };
        unwanted.add("a", at, &fault);
        assert_eq!((unwanted.values().len(), unwanted.not_listed()), (0, 0));
    }
}
