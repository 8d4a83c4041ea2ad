//! Walks over the events that a purge selects. A page of a walk starts where the one before ended, so that it does not
//! read again what the purge has removed.

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use super::statements::{STEP_BYTES, STEP_ROWS_MAX};
use super::walk_statements::{WALK_DELETED, WALK_IDS, WALK_SEQUENCES, WALK_SESSIONS, WALKED_ROWS_MAX};
use crate::domain::Time;
use crate::domain::filter::start_of_year;
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::transaction::fetch_all;

/// The events of a walk.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// All events, or those of an author, or those that were created before a time.
    Sequences {
        author: Option<String>,
        created_until: Option<Time>,
    },
    /// The events that were soft-deleted before a time.
    Deleted { until: Time },
    /// The events of these sessions.
    Sessions(Vec<String>),
    /// These events.
    Ids(Vec<Uuid>),
}

/// A walk over events of a spirit up to a sequence.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) spirit_id: SpiritId,
    pub(super) scope: Scope,
    /// The highest sequence.
    bound: i64,
    /// The position after which the next page starts, as far as the scope needs it.
    sequence: i64,
    deleted_at: Time,
    session_id: String,
    is_done: bool,
}

/// A page of a walk.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) candidates: Vec<Candidate>,
    /// The number of events that were read, 0 for a full page.
    walked: i64,
    /// The position of the last event that was read; `None` if there was none, and for a full page.
    end: Option<(i64, Option<Time>)>,
}

/// An event that a step may purge.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) sequence: i64,
    session_id: Option<String>,
    deleted_at: Option<Time>,
    /// Bytes of the event and of its former values.
    bytes: i64,
    /// The number of changes that have former values of the event.
    entries: i64,
}

#[derive(FromRow)]
struct WalkRow {
    walked: Option<i64>,
    end_sequence: Option<i64>,
    end_deleted_at: Option<DateTime<Utc>>,
    sequence: Option<i64>,
    session_id: Option<String>,
    deleted_at: Option<DateTime<Utc>>,
    bytes: Option<i32>,
    entries: Option<i64>,
    entry_bytes: Option<i64>,
}

impl Walk {
    pub(super) fn new(spirit_id: SpiritId, scope: Scope, bound: i64) -> Self {
        Self {
            spirit_id,
            scope,
            bound,
            sequence: 0,
            deleted_at: start_of_year(1),
            session_id: String::new(),
            is_done: false,
        }
    }

    /// Returns whether the walk has read all its events.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Returns the author of the events, if the walk selects by it.
    pub(super) fn author(&self) -> Option<&str> {
        match &self.scope {
            Scope::Sequences { author, .. } => author.as_deref(),
            _ => None,
        }
    }

    /// Returns the time before which the events were soft-deleted, if the walk selects by it.
    pub(super) fn deleted_until(&self) -> Option<Time> {
        match self.scope {
            Scope::Deleted { until } => Some(until),
            _ => None,
        }
    }

    /// Reads the next page.
    pub(super) async fn page(&self, session: &mut PgSession) -> Result<Page, StoreError> {
        let statement = |sql| {
            sqlx::query_as::<_, WalkRow>(sql)
                .bind(self.spirit_id.0)
                .bind(self.sequence)
                .bind(self.bound)
        };
        let statement = match &self.scope {
            Scope::Sequences {
                author,
                created_until,
            } => statement(WALK_SEQUENCES).bind(author).bind(created_until),
            Scope::Deleted { until } => statement(WALK_DELETED).bind(self.deleted_at).bind(until),
            Scope::Sessions(session_ids) => statement(WALK_SESSIONS).bind(session_ids).bind(&self.session_id),
            Scope::Ids(ids) => statement(WALK_IDS).bind(ids),
        };
        let rows = fetch_all(session, statement).await?;
        let first = rows.first();
        Ok(Page {
            walked: first.and_then(|row| row.walked).unwrap_or(0),
            end: first.and_then(|row| Some((row.end_sequence?, row.end_deleted_at))),
            candidates: rows.into_iter().filter_map(Candidate::of_row).collect(),
        })
    }

    /// Moves the walk behind the first `taken` candidates of its page, or to the end of the page after all of them.
    pub(super) fn advance(&mut self, page: &Page, taken: usize) {
        let is_cut = taken < page.candidates.len() || number(page.candidates.len()) >= STEP_ROWS_MAX;
        if let (true, Some(last)) = (is_cut, page.candidates[..taken].last()) {
            self.sequence = last.sequence;
            self.deleted_at = last.deleted_at.unwrap_or(self.deleted_at);
            if let (Scope::Sessions(session_ids), Some(session_id)) = (&mut self.scope, &last.session_id) {
                session_ids.retain(|id| id >= session_id);
                self.session_id.clone_from(session_id);
            }
            return;
        }
        match (&self.scope, page.end) {
            (Scope::Sequences { .. } | Scope::Deleted { .. }, Some((sequence, deleted_at)))
                if page.walked >= WALKED_ROWS_MAX =>
            {
                self.sequence = sequence;
                self.deleted_at = deleted_at.unwrap_or(self.deleted_at);
            }
            _ => self.is_done = true,
        }
    }
}

impl Page {
    /// Returns the number of candidates that a step may purge: at least one, unless the first has more former values
    /// than a step may clear.
    pub(super) fn within_budget(&self) -> usize {
        let (mut rows, mut bytes) = (0, 0);
        for (index, candidate) in self.candidates.iter().enumerate() {
            rows += 1 + candidate.entries;
            bytes += candidate.bytes;
            let is_alone = index == 0 && candidate.entries == 0;
            if !is_alone && (rows > STEP_ROWS_MAX || bytes > STEP_BYTES) {
                return index;
            }
        }
        self.candidates.len()
    }

    /// Returns whether the page is full of events that are not selected.
    pub(super) fn is_full_of_others(&self) -> bool {
        self.candidates.is_empty() && self.walked >= WALKED_ROWS_MAX
    }
}

impl Candidate {
    fn of_row(row: WalkRow) -> Option<Self> {
        Some(Self {
            sequence: row.sequence?,
            session_id: row.session_id,
            deleted_at: row.deleted_at,
            bytes: i64::from(row.bytes?) + row.entry_bytes.unwrap_or(0),
            entries: row.entries.unwrap_or(0),
        })
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
