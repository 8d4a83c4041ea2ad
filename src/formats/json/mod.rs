//! JSON values that keep numbers as they are written and fields in their order.
//!
//! `serde_json::Value` stores a number outside the range of 64-bit integers as a double, which rounds it. A transcript
//! contains ids and arguments of tools that must not change, so [`Json`] keeps the text of each number.

mod number;
mod parse;

use std::fmt;

use serde_json::{Map, Value};

pub use self::parse::ParseError;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// A number as it is written.
    Number(String),
    String(String),
    Array(Vec<Json>),
    Object(Fields),
}

/// The fields of a JSON object in their order, each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(String, Json)>);

impl Json {
    /// Parses JSON text. An object with two fields of one name is an error.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    /// Returns the text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the fields of an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Fields> {
        match self {
            Self::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// Returns the elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the field of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.as_object()?.get(name)
    }

    /// Returns the depth of nested objects and arrays, 0 for other values.
    #[must_use]
    pub fn levels(&self) -> usize {
        let inner = match self {
            Self::Array(items) => items.iter().map(Self::levels).max(),
            Self::Object(fields) => fields.iter().map(|(_, value)| value.levels()).max(),
            _ => return 0,
        };
        1 + inner.unwrap_or(0)
    }

    /// Converts the value to one whose numbers are exact as doubles: all others become strings.
    #[must_use]
    pub fn into_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Number(text) => number::exact(&text).map_or(Value::String(text), Value::Number),
            Self::String(text) => Value::String(text),
            Self::Array(items) => Value::Array(items.into_iter().map(Self::into_value).collect()),
            Self::Object(fields) => Value::Object(fields.into_map()),
        }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::String(text) => text.is_empty(),
            Self::Array(items) => items.is_empty(),
            Self::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => Self::Number(number.to_string()),
            Value::String(text) => Self::String(text),
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Value::Object(map) => Self::Object(
                map.into_iter()
                    .map(|(name, value)| (name, value.into()))
                    .collect(),
            ),
        }
    }
}

/// Formats the value as compact JSON.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(text) => f.write_str(text),
            Self::String(text) => write_string(f, text),
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    f.write_str(if index > 0 { "," } else { "" })?;
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Self::Object(fields) => write!(f, "{fields}"),
        }
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            write_string(f, name)?;
            write!(f, ":{value}")?;
        }
        f.write_str("}")
    }
}

fn write_string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}

impl Fields {
    /// Returns the value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value)
    }

    /// Returns the text of a field that is a string.
    #[must_use]
    pub fn str(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// Returns the fields in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a field. A new one is appended.
    pub fn set(&mut self, name: &str, value: Json) {
        match self.0.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Converts the fields as [`Json::into_value`] does.
    #[must_use]
    pub fn into_map(self) -> Map<String, Value> {
        self.0
            .into_iter()
            .map(|(name, value)| (name, value.into_value()))
            .collect()
    }

    /// Sets a field unless the value is absent.
    pub(super) fn set_some(&mut self, name: &str, value: Option<Json>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Removes and returns a field.
    pub(super) fn take(&mut self, name: &str) -> Option<Json> {
        let index = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.remove(index).1)
    }

    /// Removes and returns the text of a field. A field that is no string stays.
    pub(super) fn take_text(&mut self, name: &str) -> Option<String> {
        self.str(name)?;
        match self.take(name) {
            Some(Json::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Removes and returns the elements of a field. A field that is no array stays.
    pub(super) fn take_array(&mut self, name: &str) -> Option<Vec<Json>> {
        self.get(name)?.as_array()?;
        match self.take(name) {
            Some(Json::Array(items)) => Some(items),
            _ => None,
        }
    }

    /// Removes and returns the fields of a field. A field that is no object stays.
    pub(super) fn take_object(&mut self, name: &str) -> Option<Self> {
        self.get(name)?.as_object()?;
        match self.take(name) {
            Some(Json::Object(fields)) => Some(fields),
            _ => None,
        }
    }

    /// Returns the object in a field, which is created if it is absent or something else.
    pub(super) fn object(&mut self, name: &str) -> &mut Self {
        if self.get(name).and_then(Json::as_object).is_none() {
            self.set(name, Json::Object(Self::default()));
        }
        let entry = self.0.iter_mut().find(|(field, _)| field == name);
        match entry {
            Some((_, Json::Object(fields))) => fields,
            _ => unreachable!("the field was set to an object"),
        }
    }

    /// Sets all fields of `other`; objects in both are merged.
    pub(super) fn merge(&mut self, other: Self) {
        for (name, value) in other.0 {
            match value {
                Json::Object(inner) if self.get(&name).is_some_and(|old| old.as_object().is_some()) => {
                    self.object(&name).merge(inner);
                }
                value => self.set(&name, value),
            }
        }
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = (&str, &mut Json)> {
        self.0.iter_mut().map(|(name, value)| (name.as_str(), value))
    }

    /// Appends a field without looking for one of the same name.
    fn push(&mut self, name: String, value: Json) {
        self.0.push((name, value));
    }
}

impl FromIterator<(String, Json)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Json)>>(fields: I) -> Self {
        let mut collected = Self::default();
        for (name, value) in fields {
            collected.set(&name, value);
        }
        collected
    }
}

impl<const N: usize> From<[(&str, Json); N]> for Fields {
    fn from(fields: [(&str, Json); N]) -> Self {
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}
