//! Validates fields that several requests have.

use prost_types::Struct;

use crate::domain::invalid::Fields;
use crate::domain::meta::{META_NOTATION, Meta};
use crate::grpc::json::write_struct;

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

/// Converts an enum; a number that the proto does not define is a violation.
pub(super) fn enumeration<E: TryFrom<i32> + Default>(fields: &mut Fields, field: &str, number: i32) -> E {
    E::try_from(number).unwrap_or_else(|_| {
        fields.refuse(field, format_args!("must be a known enum value, is {number}"));
        E::default()
    })
}

/// Validates the offset of a list, which must not be combined with a page token.
pub(super) fn offset(fields: &mut Fields, offset: i32, page_token: &str) -> i64 {
    let offset = fields.count("offset", offset);
    if offset > 0 && !page_token.is_empty() {
        fields.refuse("offset", "must not be given together with page_token");
    }
    offset
}
