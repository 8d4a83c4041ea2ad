//! Conditions on events, as options.

use clap::Args;
use prost_types::{Struct, Timestamp};

use super::meta::object;
use super::times::time;
use crate::grpc::pb::EventFilter;

/// Conditions that must all hold.
#[derive(Args, Clone, Debug)]
pub(super) struct FilterArgs {
    /// Only events of this type; can be repeated
    #[arg(long = "type", value_name = "TYPE")]
    event_types: Vec<String>,

    /// Only events of this role; can be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,

    /// Only events of this author; can be repeated
    #[arg(long = "author", value_name = "AUTHOR")]
    authors: Vec<String>,

    /// Only events with this importance or more, 0 to 1
    #[arg(long, value_name = "SCORE")]
    min_importance: Option<f64>,

    /// Only events that occurred at this time or later, such as 2026-03-01T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,

    /// Only events that occurred before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,

    /// Only events whose meta contains this JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    meta_contains: Option<Struct>,

    /// Only events whose meta satisfies this SQL/JSON path predicate, such as `$.n >= 3`
    #[arg(long, value_name = "PATH")]
    meta_matches: Option<String>,
}

impl FilterArgs {
    pub(super) fn filter(self, include_deleted: bool) -> EventFilter {
        EventFilter {
            event_types: self.event_types,
            roles: self.roles,
            authors: self.authors,
            min_importance: self.min_importance,
            occurred_from: self.from,
            occurred_until: self.until,
            meta_contains: self.meta_contains,
            meta_matches: self.meta_matches,
            include_deleted,
        }
    }
}
