//! The statements that read and write the service's tables, and a few others, by name. Tests prepare each of
//! them on the migrated schema and check its columns and, where it matters, its plan.

use super::keys;
use super::live::{notifier, page};
use super::pg::{migrate, standby};
use super::read::list_events::{FILTERED_PAGES, FILTERED_SEQUENCE_PAGES, PLAIN_PAGES, PLAIN_SEQUENCE_PAGES};
use super::read::{get_event, list_events, list_sessions, page_rows, spirits};
use super::write::{self, copy_events, copy_path, dedupe_keys, fast_path, flush, session_last_sequences};

/// Names and texts of the statements.
pub const STATEMENTS: &[(&str, &str)] = &[
    ("list_events/spirit/oldest/full", FILTERED_PAGES[0]),
    ("list_events/spirit/oldest/basic", FILTERED_PAGES[1]),
    ("list_events/spirit/newest/full", FILTERED_PAGES[2]),
    ("list_events/spirit/newest/basic", FILTERED_PAGES[3]),
    ("list_events/type/oldest/full", FILTERED_PAGES[4]),
    ("list_events/type/oldest/basic", FILTERED_PAGES[5]),
    ("list_events/type/newest/full", FILTERED_PAGES[6]),
    ("list_events/type/newest/basic", FILTERED_PAGES[7]),
    ("list_events/session/oldest/full", FILTERED_PAGES[8]),
    ("list_events/session/oldest/basic", FILTERED_PAGES[9]),
    ("list_events/session/newest/full", FILTERED_PAGES[10]),
    ("list_events/session/newest/basic", FILTERED_PAGES[11]),
    ("list_events/spirit/oldest/full/plain", PLAIN_PAGES[0]),
    ("list_events/spirit/oldest/basic/plain", PLAIN_PAGES[1]),
    ("list_events/spirit/newest/full/plain", PLAIN_PAGES[2]),
    ("list_events/spirit/newest/basic/plain", PLAIN_PAGES[3]),
    ("list_events/type/oldest/full/plain", PLAIN_PAGES[4]),
    ("list_events/type/oldest/basic/plain", PLAIN_PAGES[5]),
    ("list_events/type/newest/full/plain", PLAIN_PAGES[6]),
    ("list_events/type/newest/basic/plain", PLAIN_PAGES[7]),
    ("list_events/session/oldest/full/plain", PLAIN_PAGES[8]),
    ("list_events/session/oldest/basic/plain", PLAIN_PAGES[9]),
    ("list_events/session/newest/full/plain", PLAIN_PAGES[10]),
    ("list_events/session/newest/basic/plain", PLAIN_PAGES[11]),
    (
        "list_events_by_sequence/spirit/forwards/full",
        FILTERED_SEQUENCE_PAGES[0],
    ),
    (
        "list_events_by_sequence/spirit/forwards/basic",
        FILTERED_SEQUENCE_PAGES[1],
    ),
    (
        "list_events_by_sequence/spirit/backwards/full",
        FILTERED_SEQUENCE_PAGES[2],
    ),
    (
        "list_events_by_sequence/spirit/backwards/basic",
        FILTERED_SEQUENCE_PAGES[3],
    ),
    (
        "list_events_by_sequence/session/forwards/full",
        FILTERED_SEQUENCE_PAGES[4],
    ),
    (
        "list_events_by_sequence/session/forwards/basic",
        FILTERED_SEQUENCE_PAGES[5],
    ),
    (
        "list_events_by_sequence/session/backwards/full",
        FILTERED_SEQUENCE_PAGES[6],
    ),
    (
        "list_events_by_sequence/session/backwards/basic",
        FILTERED_SEQUENCE_PAGES[7],
    ),
    (
        "list_events_by_sequence/spirit/forwards/full/plain",
        PLAIN_SEQUENCE_PAGES[0],
    ),
    (
        "list_events_by_sequence/spirit/forwards/basic/plain",
        PLAIN_SEQUENCE_PAGES[1],
    ),
    (
        "list_events_by_sequence/spirit/backwards/full/plain",
        PLAIN_SEQUENCE_PAGES[2],
    ),
    (
        "list_events_by_sequence/spirit/backwards/basic/plain",
        PLAIN_SEQUENCE_PAGES[3],
    ),
    (
        "list_events_by_sequence/session/forwards/full/plain",
        PLAIN_SEQUENCE_PAGES[4],
    ),
    (
        "list_events_by_sequence/session/forwards/basic/plain",
        PLAIN_SEQUENCE_PAGES[5],
    ),
    (
        "list_events_by_sequence/session/backwards/full/plain",
        PLAIN_SEQUENCE_PAGES[6],
    ),
    (
        "list_events_by_sequence/session/backwards/basic/plain",
        PLAIN_SEQUENCE_PAGES[7],
    ),
    ("long_values/full", page_rows::LONG_FULL),
    ("long_values/basic", page_rows::LONG_BASIC),
    ("count_events/spirit", list_events::COUNTS[0]),
    ("count_events/type", list_events::COUNTS[1]),
    ("count_events/session", list_events::COUNTS[2]),
    ("nth_from_end/replay", list_events::NTH_FROM_END[0]),
    ("nth_from_end/sequence", list_events::NTH_FROM_END[1]),
    ("get_event", get_event::GET),
    ("get_events_basic", get_event::GET_BASIC),
    ("list_sessions", list_sessions::LIST_SESSIONS),
    ("live/spirit/full", page::FILTERED[0]),
    ("live/spirit/basic", page::FILTERED[1]),
    ("live/session/full", page::FILTERED[2]),
    ("live/session/basic", page::FILTERED[3]),
    ("live/spirit/full/plain", page::PLAIN[0]),
    ("live/spirit/basic/plain", page::PLAIN[1]),
    ("live/session/full/plain", page::PLAIN[2]),
    ("live/session/basic/plain", page::PLAIN[3]),
    ("live/notify", notifier::NOTIFY),
    ("live/poll", notifier::POLL),
    ("create_spirit", write::INSERT_SPIRIT),
    ("get_spirit", spirits::GET),
    ("list_spirits/newest", spirits::LIST_NEWEST[0]),
    ("list_spirits/newest/listed", spirits::LIST_NEWEST[1]),
    ("list_spirits/named", spirits::LIST_NAMED[0]),
    ("list_spirits/named/listed", spirits::LIST_NAMED[1]),
    ("count_spirits", spirits::COUNT),
    ("count_spirits/listed", spirits::COUNT_LISTED),
    ("last_sequence", spirits::LAST_SEQUENCE),
    ("update_event", write::UPDATE_EVENT),
    ("update_spirit", write::UPDATE_SPIRIT),
    ("ingest/lock", flush::LOCK_SPIRITS),
    ("ingest/wait", flush::WAIT_FOR_SPIRIT),
    ("ingest/spirits", flush::READ_SPIRITS),
    ("ingest/dedupe_keys", dedupe_keys::DEDUPE_KEYS),
    (
        "ingest/session_last_sequences",
        session_last_sequences::SESSION_LAST_SEQUENCES,
    ),
    ("ingest/insert", flush::INSERT_EVENTS),
    ("ingest/fast_path", fast_path::FAST_PATH),
    ("ingest/advance_free", copy_path::ADVANCE_FREE_SPIRITS),
    ("ingest/copy", copy_events::COPY_EVENTS),
    ("ingest/advance", flush::ADVANCE_SPIRITS),
    ("migrate/versions", migrate::APPLIED_MIGRATIONS),
    ("keys/create", keys::INSERT),
    ("keys/list", keys::LIST),
    ("keys/revoke", keys::REVOKE),
    ("keys/find", keys::FIND),
    ("keys/live", keys::LIVE),
    ("keys/any_exists", keys::KEY_EXISTS),
    ("standby/primary", standby::PRIMARY_POSITION),
    ("standby/standby", standby::STANDBY_POSITION),
];
