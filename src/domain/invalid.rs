//! Violations of field rules. [`Fields`] collects all violations of a request while it is converted.

use std::fmt;

use super::ids::parse_uuid;
use super::limits::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use uuid::Uuid;

/// A field of a request that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Proto path, such as `requests[3].event_type`.
    pub field: String,
    /// The rule that is broken, as text for people.
    pub description: String,
}

/// The violations of a request; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} bad field(s), first {}: {}", .0.len(), .0[0].field, .0[0].description)]
pub struct Invalid(pub Vec<Violation>);

impl Invalid {
    /// Creates the error of a single field.
    pub fn field(field: impl Into<String>, description: impl fmt::Display) -> Self {
        Self(vec![Violation {
            field: field.into(),
            description: description.to_string(),
        }])
    }
}

/// Validates fields and collects violations.
///
/// A method that finds a violation records it and still returns a value, which [`Fields::finish`] discards.
#[derive(Debug, Default)]
pub struct Fields {
    prefix: String,
    violations: Vec<Violation>,
}

impl Fields {
    /// Creates a collector whose violations have this prefix before the field's path, such as `requests[3].`;
    /// empty at the top level.
    pub fn below(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            violations: Vec::new(),
        }
    }

    /// Returns the value, or all violations if there are any.
    pub fn finish<T>(self, value: T) -> Result<T, Invalid> {
        if self.violations.is_empty() {
            Ok(value)
        } else {
            Err(Invalid(self.violations))
        }
    }

    /// Returns the violations. At least one must have been recorded.
    #[must_use]
    pub fn into_invalid(self) -> Invalid {
        Invalid(self.violations)
    }

    /// Records a violation. Violations of the same field are joined.
    pub fn refuse(&mut self, field: &str, description: impl fmt::Display) {
        let field = format!("{}{field}", self.prefix);
        if let Some(existing) = self
            .violations
            .iter_mut()
            .find(|violation| violation.field == field)
        {
            existing.description = format!("{}; {description}", existing.description);
            return;
        }
        self.violations.push(Violation {
            field,
            description: description.to_string(),
        });
    }

    /// Adds the violations of a part that was validated separately.
    pub fn absorb(&mut self, invalid: Invalid) {
        self.violations.extend(invalid.0);
    }

    /// Validates a hyphenated UUID.
    pub fn uuid(&mut self, field: &str, text: &str) -> Uuid {
        if text.is_empty() {
            self.refuse(field, "is required: a hyphenated UUID");
        } else if let Some(uuid) = parse_uuid(text) {
            return uuid;
        } else {
            self.refuse(
                field,
                "must be a hyphenated UUID, such as 01890a5d-ac96-774b-bcce-b302099a8057",
            );
        }
        Uuid::nil()
    }

    /// Validates a text of 1 to `max` characters without U+0000.
    pub fn chars(&mut self, field: &str, text: String, max: usize) -> String {
        if text.is_empty() {
            self.refuse(field, format_args!("must have 1 to {max} characters, has 0"));
        } else if text.len() > max {
            let count = text.chars().count();
            if count > max {
                self.refuse(
                    field,
                    format_args!("must have 1 to {max} characters, has {count}"),
                );
            }
        }
        self.without_nul(field, text)
    }

    /// Validates a text of at most `max` bytes of UTF-8 without U+0000. It may be empty.
    pub fn bytes(&mut self, field: &str, text: String, max: usize) -> String {
        if text.len() > max {
            self.refuse(
                field,
                format_args!("must have at most {max} bytes, has {}", text.len()),
            );
        }
        self.without_nul(field, text)
    }

    fn without_nul(&mut self, field: &str, text: String) -> String {
        if text.contains('\0') {
            self.refuse(field, "must not contain U+0000");
        }
        text
    }

    /// Validates a number from 0.0 to 1.0; NaN is a violation.
    pub fn score(&mut self, field: &str, score: f64) -> f64 {
        if !(0.0..=1.0).contains(&score) {
            self.refuse(field, "must be a number from 0.0 to 1.0");
        }
        score + 0.0 // -0.0 becomes 0.0
    }

    /// Validates a number of at least `min`.
    pub fn at_least(&mut self, field: &str, number: i64, min: i64) -> i64 {
        if number < min {
            self.refuse(field, format_args!("must be {min} or more, is {number}"));
        }
        number
    }

    /// Validates a number of 0 or more.
    pub fn count(&mut self, field: &str, number: i32) -> i64 {
        self.at_least(field, i64::from(number), 0)
    }

    /// Validates the number of rows of a page; 0 = default.
    pub fn page_size(&mut self, field: &str, size: i32) -> usize {
        if !(0..=PAGE_SIZE_MAX).contains(&size) {
            self.refuse(
                field,
                format_args!("must be 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}; is {size}"),
            );
        }
        usize::try_from(if size == 0 { PAGE_SIZE_DEFAULT } else { size }).unwrap_or(0)
    }
}
