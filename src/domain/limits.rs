//! Bounds of the contract. Constants are part of the API; [`Limits`] an operator may set.

/// Characters of an event type.
pub const EVENT_TYPE_CHARS_MAX: usize = 100;
/// Characters of a session id.
pub const SESSION_ID_CHARS_MAX: usize = 255;
/// Characters of a role.
pub const ROLE_CHARS_MAX: usize = 50;
/// Characters of an author.
pub const AUTHOR_CHARS_MAX: usize = 255;
/// Characters of a source URI.
pub const SOURCE_URI_CHARS_MAX: usize = 2_048;
/// Characters of a dedupe key.
pub const DEDUPE_KEY_CHARS_MAX: usize = 255;
/// Characters of an ingest item's request id.
pub const REQUEST_ID_CHARS_MAX: usize = 64;
/// Characters of a spirit's name.
pub const NAME_CHARS_MAX: usize = 255;
/// Bytes of a summary.
pub const META_SUMMARY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a spirit's description.
pub const DESCRIPTION_BYTES_MAX: usize = 16 * 1024;
/// Nested objects and arrays in `meta`, the outermost object counted.
pub const META_LEVELS_MAX: usize = 24;
/// Values in one list of a filter.
pub const FILTER_VALUES_MAX: usize = 100;
/// Events of one batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Bytes of one batch request on the wire.
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Rows of a page when the caller names no size.
pub const PAGE_SIZE_DEFAULT: i32 = 50;
/// Rows of a page at the most.
pub const PAGE_SIZE_MAX: i32 = 200;
/// Bytes at which a page ends early.
pub const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Bounds that are settings.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of an event's content.
    pub content_bytes_max: usize,
    /// Bytes of `meta` as compact JSON.
    pub meta_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            content_bytes_max: 1024 * 1024,
            meta_bytes_max: 64 * 1024,
        }
    }
}
