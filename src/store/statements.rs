//! The statements that read and write the service's tables, and a few others, by name. Tests prepare each of
//! them on the migrated schema and check its columns and, where it matters, its plan.

use super::keys;
use super::live::{notifier, page};
use super::pg::{migrate, standby};
use super::read::{get_event, list_events, list_sessions, spirits};
use super::write::{self, dedupe_keys, fast_path, flush};

/// Names and texts of the statements.
pub const STATEMENTS: &[(&str, &str)] = &[
    ("list_events/spirit/oldest/full", list_events::PAGES[0]),
    ("list_events/spirit/oldest/basic", list_events::PAGES[1]),
    ("list_events/spirit/newest/full", list_events::PAGES[2]),
    ("list_events/spirit/newest/basic", list_events::PAGES[3]),
    ("list_events/type/oldest/full", list_events::PAGES[4]),
    ("list_events/type/oldest/basic", list_events::PAGES[5]),
    ("list_events/type/newest/full", list_events::PAGES[6]),
    ("list_events/type/newest/basic", list_events::PAGES[7]),
    ("list_events/session/oldest/full", list_events::PAGES[8]),
    ("list_events/session/oldest/basic", list_events::PAGES[9]),
    ("list_events/session/newest/full", list_events::PAGES[10]),
    ("list_events/session/newest/basic", list_events::PAGES[11]),
    ("count_events/spirit", list_events::COUNTS[0]),
    ("count_events/type", list_events::COUNTS[1]),
    ("count_events/session", list_events::COUNTS[2]),
    ("nth_from_end", list_events::NTH_FROM_END),
    ("get_event", get_event::GET),
    ("get_events_basic", get_event::GET_BASIC),
    ("list_sessions", list_sessions::LIST_SESSIONS),
    ("live/spirit/full", page::SPIRIT_FULL),
    ("live/spirit/basic", page::SPIRIT_BASIC),
    ("live/session/full", page::SESSION_FULL),
    ("live/session/basic", page::SESSION_BASIC),
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
    ("ingest/insert", flush::INSERT_EVENTS),
    ("ingest/fast_path", fast_path::FAST_PATH),
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
