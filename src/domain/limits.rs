//! Limits of requests and replies. The constants are part of the API; the operator can set [`Limits`].

/// Maximum number of characters of an event type.
pub const EVENT_TYPE_CHARS_MAX: usize = 100;
/// Maximum number of characters of a session id.
pub const SESSION_ID_CHARS_MAX: usize = 255;
/// Maximum number of characters of an event's role.
pub const ROLE_CHARS_MAX: usize = 50;
/// Maximum number of characters of an event's author.
pub const AUTHOR_CHARS_MAX: usize = 255;
/// Maximum number of characters of a session's title.
pub const TITLE_CHARS_MAX: usize = 255;
/// Maximum number of characters of a session's owner.
pub const OWNER_CHARS_MAX: usize = 255;
/// Maximum number of characters of a source URI.
pub const SOURCE_URI_CHARS_MAX: usize = 2_048;
/// Maximum number of characters of a dedupe key.
pub const DEDUPE_KEY_CHARS_MAX: usize = 255;
/// Maximum number of characters of the request id of an ingest item.
pub const REQUEST_ID_CHARS_MAX: usize = 64;
/// Maximum number of characters of a spirit's name.
pub const NAME_CHARS_MAX: usize = 255;
/// Maximum bytes of an event's summary.
pub const META_SUMMARY_BYTES_MAX: usize = 16 * 1024;
/// Maximum bytes of a spirit's description.
pub const DESCRIPTION_BYTES_MAX: usize = 16 * 1024;
/// Maximum depth of nested objects and arrays in `meta`, the outermost object included.
pub const META_LEVELS_MAX: usize = 24;
/// Maximum number of characters of a SQL/JSON path in a filter.
pub const JSON_PATH_CHARS_MAX: usize = 1_000;
/// Maximum depth of nested brackets in a SQL/JSON path.
pub const JSON_PATH_LEVELS_MAX: usize = 32;
/// Maximum factor by which one condition of a SQL/JSON path multiplies the values of `meta`. At 100, PostgreSQL needs up
/// to 400 MiB for a path and a `meta` that are made for this purpose.
pub const JSON_PATH_FAN_OUT_MAX: usize = 100;
/// Maximum number of values in one list of a filter.
pub const FILTER_VALUES_MAX: usize = 100;
/// Maximum number of events of a batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Maximum bytes of a batch request on the wire.
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Maximum bytes of the reply to a batch, which is the default limit of gRPC clients.
pub const BATCH_REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum number of events of one soft delete.
pub const DELETION_EVENTS_MAX: i64 = 100_000;
/// Maximum number of events of one entry of the change history.
pub const CHANGE_EVENTS_MAX: i64 = 1_000;
/// Default number of rows of a page.
pub const PAGE_SIZE_DEFAULT: i32 = 50;
/// Maximum number of rows of a page.
pub const PAGE_SIZE_MAX: i32 = 200;
/// Bytes after which a page of a list ends early.
pub const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Limits that the operator can set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum bytes of an event's content.
    pub content_bytes_max: usize,
    /// Maximum bytes of `meta` as compact JSON with numbers written out.
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
