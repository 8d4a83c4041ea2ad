//! Records in which minute sessions were last active.
//!
//! A writer remembers lower bounds of the active minutes that it has committed, so that most flushes change no session.
//! A bound holds while the spirit's activity epoch is unchanged: whatever may lower an active minute changes the
//! epoch. The bounds end with the connection, and when the database server behind it is another one, which may have
//! lost commits in a failover.

use std::collections::{BTreeMap, HashMap};

use const_format::concatcp;
use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::domain::event::NewEvent;
use crate::domain::ids::SpiritId;
use crate::domain::session::minute_of;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

/// The end of a statement that inserts sessions: moves the active minutes of existing sessions forward.
pub(super) const RAISE_ACTIVE_MINUTE: &str = "
    on conflict (spirit_id, session_id) do update
    set active_minute = excluded.active_minute
    where sessions.active_minute is null
    or sessions.active_minute < excluded.active_minute";

/// Records sessions: creates their rows, or moves their active minutes forward.
pub(in crate::store) const ACTIVATE_SESSIONS: &str = concatcp!(
    "insert into sessions (spirit_id, session_id, active_minute)
    select active.spirit_id, active.session_id, active.minute
    from unnest($1::uuid[], $2::text[], $3::timestamptz[]) as active (spirit_id, session_id, minute)",
    RAISE_ACTIVE_MINUTE
);

/// [`ACTIVATE_SESSIONS`] on a distributed database. The spirits, `$1`, are of one shard.
pub(in crate::store) const ACTIVATE_SESSIONS_SHARDED: &str = concatcp!(
    "insert into sessions (spirit_id, session_id, active_minute)
    select spirits.id, active.session_id, active.minute
    from spirits
    join unnest($1::uuid[], $2::text[], $3::timestamptz[]) as active (spirit_id, session_id, minute)
        on active.spirit_id = spirits.id
    where spirits.id = any($1)",
    RAISE_ACTIVE_MINUTE
);

/// Returns the statement that records sessions, for a database that is distributed or not.
pub(in crate::store) const fn activate_sessions_statement(is_sharded: bool) -> &'static str {
    if is_sharded {
        ACTIVATE_SESSIONS_SHARDED
    } else {
        ACTIVATE_SESSIONS
    }
}

/// Approximate bytes at which a generation of the cache is complete. A writer remembers two generations.
const GENERATION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Allowance for an entry of the cache beside its session id.
const ENTRY_BYTES: usize = 96;

/// The state of a spirit that decides whether remembered bounds hold.
#[derive(Clone, Copy, Debug, FromRow)]
pub(super) struct ActivityRow {
    /// `None` only if the row was changed by hand.
    pub(super) activity_epoch: Option<i64>,
    pub(super) server_started_at: DateTime<Utc>,
}

/// Returns a function that finds the activity of a spirit of a flush.
pub(super) fn activity_of(
    spirits: impl Iterator<Item = (Uuid, ActivityRow)>,
) -> impl Fn(SpiritId) -> Option<ActivityRow> {
    let by_spirit: HashMap<SpiritId, ActivityRow> =
        spirits.map(|(id, activity)| (SpiritId(id), activity)).collect();
    move |spirit_id| by_spirit.get(&spirit_id).copied()
}

/// The sessions that gain events in a flush, each with the minute of its newest new event, in the order of their keys.
pub(super) type ActiveSessions<'e> = BTreeMap<(SpiritId, &'e str), DateTime<Utc>>;

/// Returns the sessions of these events.
pub(super) fn active_sessions<'e>(events: impl IntoIterator<Item = &'e NewEvent>) -> ActiveSessions<'e> {
    let mut sessions = ActiveSessions::new();
    for event in events {
        if let Some(session_id) = &event.session_id {
            let minute = minute_of(event.occurred_at);
            let newest = sessions
                .entry((event.spirit_id, session_id.as_str()))
                .or_insert(minute);
            *newest = minute.max(*newest);
        }
    }
    sessions
}

/// Lower bounds of the active minutes of recently used sessions. When a generation is complete, it replaces the older
/// one.
#[derive(Debug, Default)]
pub(super) struct ActivityCache {
    server_started_at: Option<DateTime<Utc>>,
    recent: Generation,
    older: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    spirits: HashMap<SpiritId, SpiritActivity>,
    bytes: usize,
}

#[derive(Debug)]
struct SpiritActivity {
    epoch: i64,
    minutes: HashMap<String, DateTime<Utc>>,
}

impl ActivityCache {
    /// Returns the start time of the server for which the bounds hold.
    pub(super) fn server_started_at(&self) -> Option<DateTime<Utc>> {
        self.server_started_at
    }

    /// Returns the epoch under which the active minute of the session is at least `minute`, if that is known.
    pub(super) fn epoch_of(
        &self,
        spirit_id: SpiritId,
        session_id: &str,
        minute: DateTime<Utc>,
    ) -> Option<i64> {
        let is_bound = |activity: &&SpiritActivity| {
            activity
                .minutes
                .get(session_id)
                .is_some_and(|bound| *bound >= minute)
        };
        let recent = self.recent.spirits.get(&spirit_id);
        let known = recent.filter(is_bound).or_else(|| {
            let older = self.older.spirits.get(&spirit_id).filter(is_bound)?;
            // Bounds of an earlier epoch no longer hold.
            recent
                .is_none_or(|recent| recent.epoch == older.epoch)
                .then_some(older)
        })?;
        Some(known.epoch)
    }

    /// Returns the sessions that have to be recorded, given the state of their spirits under their locks.
    pub(super) fn unknown<'e>(
        &self,
        sessions: &ActiveSessions<'e>,
        row: impl Fn(SpiritId) -> Option<ActivityRow>,
    ) -> ActiveSessions<'e> {
        let is_known = |spirit_id: SpiritId, session_id: &str, minute: DateTime<Utc>| {
            let epoch = self.epoch_of(spirit_id, session_id, minute)?;
            let row = row(spirit_id)?;
            Some(row.activity_epoch == Some(epoch) && Some(row.server_started_at) == self.server_started_at)
        };
        let unknown = sessions.iter().filter(|&(&(spirit_id, session_id), &minute)| {
            !is_known(spirit_id, session_id, minute).unwrap_or_default()
        });
        unknown.map(|(session, minute)| (*session, *minute)).collect()
    }

    /// Remembers the active minutes of sessions after the commit of their events, given the state of their spirits in
    /// that transaction.
    pub(super) fn remember(
        &mut self,
        sessions: &ActiveSessions<'_>,
        row: impl Fn(SpiritId) -> Option<ActivityRow>,
    ) {
        for (&(spirit_id, session_id), &minute) in sessions {
            let Some(row) = row(spirit_id) else { continue };
            let Some(epoch) = row.activity_epoch else { continue };
            if self.server_started_at != Some(row.server_started_at) {
                *self = Self {
                    server_started_at: Some(row.server_started_at),
                    ..Self::default()
                };
            }
            self.recent.remember(spirit_id, epoch, session_id, minute);
            if self.recent.bytes >= GENERATION_BYTES_MAX {
                self.older = std::mem::take(&mut self.recent);
            }
        }
    }
}

impl Generation {
    fn remember(&mut self, spirit_id: SpiritId, epoch: i64, session_id: &str, minute: DateTime<Utc>) {
        let activity = self.spirits.entry(spirit_id).or_insert_with(|| SpiritActivity {
            epoch,
            minutes: HashMap::new(),
        });
        // The bytes of forgotten bounds still count, so that deletions cannot make the generation grow without end.
        if activity.epoch != epoch {
            activity.epoch = epoch;
            activity.minutes = HashMap::new();
        }
        if let Some(bound) = activity.minutes.get_mut(session_id) {
            *bound = minute.max(*bound);
        } else {
            activity.minutes.insert(session_id.to_owned(), minute);
            self.bytes += session_id.len() + ENTRY_BYTES;
        }
    }
}

/// One array for each column of the sessions to record.
pub(super) fn columns<'e>(sessions: &ActiveSessions<'e>) -> (Vec<Uuid>, Vec<&'e str>, Vec<DateTime<Utc>>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (&(spirit_id, session_id), &minute) in sessions {
        columns.0.push(spirit_id.0);
        columns.1.push(session_id);
        columns.2.push(minute);
    }
    columns
}

/// Records the sessions in the open transaction of the database session. The spirits have to be locked, and on a distributed
/// database of one shard.
pub(super) async fn activate_sessions(
    session: &mut PgSession,
    sessions: &ActiveSessions<'_>,
) -> Result<(), sqlx::Error> {
    if sessions.is_empty() {
        return Ok(());
    }
    let statement = activate_sessions_statement(session.is_sharded());
    let (spirit_ids, session_ids, minutes) = columns(sessions);
    sqlx::query(statement)
        .bind(spirit_ids)
        .bind(session_ids)
        .bind(minutes)
        .persistent(session.keeps_prepared_statements())
        .execute(session.connection())
        .instrument(spans::statement(statement))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn minute(number: i64) -> DateTime<Utc> {
        START + chrono::TimeDelta::minutes(number)
    }

    /// The state of every spirit.
    fn row(epoch: i64, server: i64) -> impl Fn(SpiritId) -> Option<ActivityRow> {
        let row = ActivityRow {
            activity_epoch: Some(epoch),
            server_started_at: minute(server),
        };
        move |_| Some(row)
    }

    fn sessions<'e>(spirit_id: SpiritId, entries: &[(&'e str, i64)]) -> ActiveSessions<'e> {
        let entries = entries
            .iter()
            .map(|(id, number)| ((spirit_id, *id), minute(*number)));
        entries.collect()
    }

    #[test]
    fn a_bound_holds_for_its_minute_and_those_before_under_its_epoch_and_server() {
        let spirit_id = SpiritId::generate();
        let mut cache = ActivityCache::default();
        cache.remember(&sessions(spirit_id, &[("a", 5), ("b", 7)]), row(1, 0));
        cache.remember(&sessions(spirit_id, &[("a", 3)]), row(1, 0));
        assert_eq!(cache.epoch_of(spirit_id, "a", minute(5)), Some(1));
        assert_eq!(cache.epoch_of(spirit_id, "a", minute(6)), None);
        assert_eq!(cache.epoch_of(spirit_id, "c", minute(1)), None);
        let wanted = sessions(spirit_id, &[("a", 5), ("b", 8), ("c", 1)]);
        let unknown = sessions(spirit_id, &[("b", 8), ("c", 1)]);
        assert_eq!(cache.unknown(&wanted, row(1, 0)), unknown);
        assert_eq!(cache.unknown(&wanted, row(2, 0)), wanted, "another epoch");
        assert_eq!(cache.unknown(&wanted, row(1, 9)), wanted, "another server");

        cache.remember(&sessions(spirit_id, &[("b", 1)]), row(2, 0));
        assert_eq!(cache.epoch_of(spirit_id, "a", minute(1)), None);
        assert_eq!(cache.epoch_of(spirit_id, "b", minute(1)), Some(2));
        cache.remember(&sessions(SpiritId::generate(), &[("x", 1)]), row(2, 9));
        assert_eq!(cache.epoch_of(spirit_id, "b", minute(1)), None, "another server");
    }

    #[test]
    fn two_generations_are_remembered_and_an_older_epoch_is_not_mixed_with_a_newer_one() {
        let spirit_id = SpiritId::generate();
        let ids: Vec<String> = (0..3 * GENERATION_BYTES_MAX / ENTRY_BYTES)
            .map(|n| n.to_string())
            .collect();
        let mut cache = ActivityCache::default();
        for id in &ids {
            cache.remember(&sessions(spirit_id, &[(id, 1)]), row(1, 0));
        }
        assert_eq!(cache.epoch_of(spirit_id, &ids[0], minute(1)), None);
        let is_known = |id: &&String| cache.epoch_of(spirit_id, id, minute(1)).is_some();
        let known = ids.iter().filter(is_known).count();
        assert!(
            known * ENTRY_BYTES >= GENERATION_BYTES_MAX / 2,
            "{known} of {}",
            ids.len()
        );
        assert!(
            known * ENTRY_BYTES <= 2 * GENERATION_BYTES_MAX,
            "{known} of {}",
            ids.len()
        );

        let last = ids.last().map_or("", String::as_str);
        cache.older = std::mem::take(&mut cache.recent);
        cache.remember(&sessions(spirit_id, &[("new", 1)]), row(2, 0));
        assert_eq!(cache.epoch_of(spirit_id, last, minute(1)), None);
        assert_eq!(cache.epoch_of(spirit_id, "new", minute(1)), Some(2));
    }
}
