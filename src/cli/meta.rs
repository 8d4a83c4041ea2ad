//! Values of options that are JSON objects, and the parts of an update.

use clap::Args;
use prost_types::{FieldMask, Struct};
use serde_json::value::RawValue;

use super::import::exact_object;
use crate::grpc::pb::MetaMode;

/// Parses a JSON object without changing a value: integers that a double cannot hold and repeated keys are refused.
pub(super) fn object(text: &str) -> Result<Struct, String> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
    exact_object(raw, &mut 0).map_err(|fault| fault.text)
}

/// A change of `meta`.
#[derive(Args, Clone, Debug)]
#[group(id = "meta_change", multiple = false)]
pub(super) struct MetaArgs {
    /// Meta, a JSON object that replaces the stored one
    #[arg(long, value_name = "JSON", value_parser = object)]
    meta: Option<Struct>,

    /// Changes of the stored meta, as a JSON Merge Patch: null removes a key
    #[arg(long, value_name = "JSON", value_parser = object)]
    merge_meta: Option<Struct>,
}

impl MetaArgs {
    /// Returns the value, if one is given, and how it is applied.
    pub(super) fn change(self) -> (Option<Struct>, MetaMode) {
        match (self.meta, self.merge_meta) {
            (meta, None) => (meta, MetaMode::Replace),
            (_, patch) => (patch, MetaMode::MergePatch),
        }
    }
}

/// Returns a mask of the fields that are given. A field of the mask that has no value is removed.
pub(super) fn mask<const N: usize>(fields: [(&str, bool); N]) -> FieldMask {
    let given = fields.into_iter().filter(|(_, is_given)| *is_given);
    FieldMask {
        paths: given.map(|(path, _)| path.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::object_of_struct;

    #[test]
    fn an_object_keeps_its_values_and_everything_else_is_refused() {
        let json = r#"{"a":[1,-2.5,null],"b":{}}"#;
        assert_eq!(
            object(json).map(|meta| object_of_struct(&meta)).as_deref(),
            Ok(json)
        );
        for (json, words) in [
            ("[1]", "must be a JSON object"),
            ("null", "must be a JSON object"),
            ("{", "EOF"),
            (r#"{}, "title": "x""#, "trailing"),
            (r#"{"id":9007199254740993}"#, "meta.id"),
            (r#"{"a":{"key":1,"key":1}}"#, "meta.a.key is given twice"),
        ] {
            let error = object(json).expect_err(json);
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
