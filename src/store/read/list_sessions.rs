//! Lists sessions: the events of a spirit that are not soft-deleted, grouped by `session_id`.

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};

use super::Reader;
use crate::domain::cursor::SessionListPosition;
use crate::domain::filter::start_of_year;
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;

/// A session. Count and times are those of its events that are not soft-deleted.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Session {
    pub session_id: String,
    pub event_count: i64,
    pub first_occurred_at: DateTime<Utc>,
    pub last_occurred_at: DateTime<Utc>,
    /// The highest sequence of its events, soft-deleted ones included.
    pub last_sequence: i64,
}

/// A page of sessions.
#[derive(Debug)]
pub struct SessionPage {
    pub sessions: Vec<Session>,
    /// Whether more sessions follow.
    pub more: bool,
}

pub(in crate::store) const LIST_SESSIONS: &str = include_str!("list_sessions.sql");

impl Reader {
    /// Returns a page of a spirit's sessions, most recently active first, ties by `session_id`.
    pub async fn list_sessions(
        &mut self,
        spirit_id: SpiritId,
        after: Option<SessionListPosition>,
        size: usize,
    ) -> Result<SessionPage, StoreError> {
        let after = after.unwrap_or_else(|| SessionListPosition {
            last_occurred_at: start_of_year(10_000),
            session_id: String::new(),
        });
        let statement = sqlx::query_as::<_, Session>(LIST_SESSIONS)
            .bind(spirit_id.0)
            .bind(after.last_occurred_at)
            .bind(after.session_id)
            .bind(i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1));
        let mut sessions = self.all_heavy(statement).await?;
        let more = sessions.len() > size;
        sessions.truncate(size);
        Ok(SessionPage { sessions, more })
    }
}
