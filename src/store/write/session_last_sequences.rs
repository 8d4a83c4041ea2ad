//! Finds the last sequences of the sessions for which items of a flush expect one.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::Instrument as _;
use uuid::Uuid;

use super::division::Division;
use crate::domain::event::NewEvent;
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

pub(in crate::store) const SESSION_LAST_SEQUENCES: &str = include_str!("session_last_sequences.sql");
pub(in crate::store) const SESSION_LAST_SEQUENCES_SHARDED: &str =
    include_str!("session_last_sequences_sharded.sql");

/// Returns the statement for a database that is distributed or not.
pub(super) const fn session_last_sequences(is_sharded: bool) -> &'static str {
    if is_sharded {
        SESSION_LAST_SEQUENCES_SHARDED
    } else {
        SESSION_LAST_SEQUENCES
    }
}

/// Returns the last sequence of each session for which an item expects one; 0 if the session has no event.
pub(super) async fn read_session_last_sequences<'j>(
    session: &mut PgSession,
    division: &Division,
    items: impl Iterator<Item = &'j Arc<NewEvent>>,
) -> Result<HashMap<(SpiritId, String), i64>, StoreError> {
    let mut sequences: HashMap<(SpiritId, String), i64> = items
        .filter(|item| item.expected_session_last_sequence.is_some())
        .filter_map(|item| Some(((item.spirit_id, item.session_id.clone()?), 0)))
        .collect();
    if sequences.is_empty() {
        return Ok(sequences);
    }
    let statement = session_last_sequences(session.is_sharded());
    let mut found: Vec<(Uuid, String, i64)> = Vec::new();
    for sessions in division.by_shard(sequences.keys(), |(spirit_id, _)| *spirit_id) {
        let (spirit_ids, session_ids): (Vec<Uuid>, Vec<&str>) = sessions
            .into_iter()
            .map(|(spirit_id, session_id)| (spirit_id.0, session_id.as_str()))
            .unzip();
        let rows = sqlx::query_as(statement)
            .bind(spirit_ids)
            .bind(session_ids)
            .persistent(session.keeps_prepared_statements())
            .fetch_all(session.connection())
            .instrument(spans::statement(statement))
            .await?;
        found.extend(rows);
    }
    let found = found.into_iter();
    sequences
        .extend(found.map(|(spirit_id, session_id, sequence)| ((SpiritId(spirit_id), session_id), sequence)));
    Ok(sequences)
}
