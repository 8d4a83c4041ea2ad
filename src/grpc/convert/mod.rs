//! Requests into domain types, under the rules of the contract, and domain types into replies.
//!
//! Every message is destructured exhaustively: a new field does not compile until it is handled.
//! Nothing further in checks a value again.

mod create;
mod edit;
mod outbound;
mod read;
pub(super) mod spirit;
pub mod timestamp;

use prost_types::Struct;

use super::json::write_struct;
use crate::domain::invalid::Fields;
use crate::domain::meta::Meta;

pub(super) use create::{Batch, IngestItem, batch, ingest, new_event};
pub(super) use edit::{deletion, event_edit};
pub(super) use outbound::{
    batch_result, create_response, event, outcome, receipt, session, spirit as spirit_message,
};
pub(super) use read::{count, get_event, list, list_sessions, replay, watch};

/// Reads a `Struct` under the bounds of meta.
fn meta(fields: &mut Fields, field: &str, value: &Struct, bytes_max: usize) -> Meta {
    match write_struct(value) {
        Ok(json) if json.len() > bytes_max => fields.refuse(
            field,
            format_args!(
                "must have at most {bytes_max} bytes as compact JSON, has {}",
                json.len()
            ),
        ),
        Ok(json) => return Meta::from_json(json),
        Err(rule) => fields.refuse(field, rule),
    }
    Meta::empty()
}

/// Reads an enum; numbers that the proto does not know are refused.
fn enumeration<E: TryFrom<i32> + Default>(fields: &mut Fields, field: &str, number: i32) -> E {
    E::try_from(number).unwrap_or_else(|_| {
        fields.refuse(field, format_args!("must be a known enum value, is {number}"));
        E::default()
    })
}
