//! Places in JSON text, by which errors name fields.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::{self, Display};

use serde::de::Error;

use super::long_integers::long_integers;

/// The state of reading one text.
pub(super) struct Context {
    /// The bits of the doubles that stand for integers that are too long.
    long_integers: HashSet<u64>,
    /// Path and rule of the first field that is refused.
    violation: RefCell<Option<(String, String)>>,
}

impl Context {
    pub(super) fn new(json: &[u8]) -> Self {
        Self {
            long_integers: long_integers(json),
            violation: RefCell::default(),
        }
    }

    /// Returns path and rule of the field that was refused, if one was.
    pub(super) fn into_violation(self) -> Option<(String, String)> {
        self.violation.into_inner()
    }
}

/// A place in the JSON, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    context: &'p Context,
    parent: Option<&'p Place<'p>>,
    name: Name<'p>,
}

#[derive(Clone, Copy)]
enum Name<'p> {
    Field(&'p str),
    Index(usize),
}

impl<'p> Place<'p> {
    /// Returns the place of the outermost object.
    pub(super) fn root(context: &'p Context) -> Self {
        Self {
            context,
            parent: None,
            name: Name::Field(""),
        }
    }

    pub(super) fn field(&'p self, name: &'p str) -> Self {
        Self {
            name: Name::Field(name),
            parent: Some(self),
            context: self.context,
        }
    }

    pub(super) fn index(&'p self, index: usize) -> Self {
        Self {
            name: Name::Index(index),
            parent: Some(self),
            context: self.context,
        }
    }

    /// Returns whether a double stands for an integer that is too long.
    pub(super) fn is_long_integer(&self, value: f64) -> bool {
        self.context.long_integers.contains(&value.abs().to_bits())
    }

    /// Records that the value at this place breaks a rule, and returns an error that ends the parsing.
    pub(super) fn refuse<E: Error>(&self, rule: impl Display) -> E {
        *self.context.violation.borrow_mut() = Some((self.to_string(), rule.to_string()));
        E::custom("refused")
    }
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        match self.name {
            Name::Field(name) if parent.parent.is_some() => write!(f, ".{name}"),
            Name::Field(name) => f.write_str(name),
            Name::Index(index) => write!(f, "[{index}]"),
        }
    }
}
