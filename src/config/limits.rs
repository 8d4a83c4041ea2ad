//! Settings of the limits of events.

use clap::Args;

use super::RARELY_NEEDED;

/// Limits of an event.
#[derive(Args, Clone, Debug)]
pub struct EventLimitArgs {
    /// Bytes of an event's content
    #[arg(long, env = "EVENTS_MAX_CONTENT_BYTES", value_name = "BYTES", default_value_t = 1024 * 1024, value_parser = clap::value_parser!(u32).range(1..=268_435_456), help_heading = RARELY_NEEDED)]
    pub max_content_bytes: u32,

    /// Bytes of an event's `meta` as compact JSON
    #[arg(long, env = "EVENTS_MAX_META_BYTES", value_name = "BYTES", default_value_t = 64 * 1024, value_parser = clap::value_parser!(u32).range(2..=16_777_216), help_heading = RARELY_NEEDED)]
    pub max_meta_bytes: u32,
}
