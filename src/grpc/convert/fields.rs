//! Validates fields that several requests have.

use prost_types::Struct;

use crate::domain::event::View;
use crate::domain::invalid::Fields;
use crate::domain::json_path::check_levels;
use crate::domain::limits::JSON_PATH_CHARS_MAX;
use crate::domain::meta::{META_NOTATION, Meta};
use crate::grpc::json::write_struct;
use crate::grpc::pb;

/// Converts a `Struct` within the limits of `meta`.
pub(super) fn meta(fields: &mut Fields, field: &str, value: &Struct, bytes_max: usize) -> Meta {
    match write_struct(value) {
        Ok(json) => {
            let meta = Meta::from_json(json);
            let bytes = meta.printed_bytes();
            if bytes <= bytes_max {
                return meta;
            }
            fields.refuse(
                field,
                format_args!("must have at most {bytes_max} bytes as {META_NOTATION}, has {bytes}"),
            );
        }
        Err(rule) => fields.refuse(field, rule),
    }
    Meta::empty()
}

/// Validates the length and nesting of a SQL/JSON path.
pub(super) fn json_path(fields: &mut Fields, field: &str, path: String) -> String {
    let path = fields.chars(field, path, JSON_PATH_CHARS_MAX);
    if let Err(rule) = check_levels(&path) {
        fields.refuse(field, rule);
    }
    path
}

/// Converts an enum; a number that the proto does not define is a violation.
pub(super) fn enumeration<E: TryFrom<i32> + Default>(fields: &mut Fields, field: &str, number: i32) -> E {
    E::try_from(number).unwrap_or_else(|_| {
        fields.refuse(field, format_args!("must be a known enum value, is {number}"));
        E::default()
    })
}

/// Converts a view.
pub(super) fn view_of(fields: &mut Fields, field: &str, view: i32) -> View {
    match enumeration(fields, field, view) {
        pb::EventView::Unspecified | pb::EventView::Full => View::Full,
        pb::EventView::Basic => View::Basic,
    }
}

/// Converts a view and the length to which it cuts content.
pub(super) fn view_cut_to(fields: &mut Fields, view: i32, content_bytes_max: Option<i32>) -> View {
    let view = view_of(fields, "view", view);
    match (view, content_bytes_max_of(fields, content_bytes_max)) {
        (View::Full, Some(max)) => View::Cut(max),
        _ => view,
    }
}

/// Validates the length to which content is cut.
pub(super) fn content_bytes_max_of(fields: &mut Fields, max: Option<i32>) -> Option<i32> {
    if let Some(max) = max {
        fields.at_least("content_bytes_max", max.into(), 1);
    }
    max
}

/// Validates the offset of a list, which must not be combined with a page token.
pub(super) fn offset(fields: &mut Fields, offset: i32, page_token: &str) -> i64 {
    let offset = fields.count("offset", offset);
    if offset > 0 && !page_token.is_empty() {
        fields.refuse("offset", "must not be given together with page_token");
    }
    offset
}
