//! Reads sessions: one, or a page.

use const_format::formatcp;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Reader;
use super::session_pages::{COUNTS, FILTERED, LAST_EVENT, LAST_LIVE_EVENT, PLAIN, SESSION_COLUMNS};
use crate::domain::cursor::SessionListPosition;
use crate::domain::filter::start_of_year;
use crate::domain::ids::SpiritId;
use crate::domain::meta::Meta;
use crate::domain::session::{Session, SessionFilter, minute_of};
use crate::domain::spirit::fold_name;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::Statement;

/// Maximum number of sessions that a filtered page scans.
const SESSIONS_SCANNED_MAX: i64 = 10_000;

/// A request for a page of sessions.
#[derive(Clone, Debug)]
pub struct SessionQuery {
    pub spirit_id: SpiritId,
    pub filter: SessionFilter,
    pub with_counts: bool,
    /// The position after which the page starts; `None` = at the beginning.
    pub after: Option<SessionListPosition>,
    /// Maximum number of sessions in the page.
    pub size: usize,
}

/// A page of sessions.
#[derive(Debug)]
pub struct SessionPage {
    pub sessions: Vec<Session>,
    /// The position after which the next page starts; `None` if no session follows.
    pub next: Option<SessionListPosition>,
}

/// A range of the order of sessions, as an index of the statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    SameMinute,
    EarlierMinutes,
    WithoutLiveEvents,
}

/// Returns the session with this id of this spirit.
pub(in crate::store) const GET: &str = formatcp!(
    "select
         row.spirit_id, row.session_id, row.active_minute, row.title, row.owner, row.meta, row.revision,
         row.updated_at, counts.event_count, counts.first_occurred_at, live.occurred_at as last_occurred_at,
         coalesce(last.sequence, 0) as last_sequence, 1::bigint as found
     from (
         select {SESSION_COLUMNS}
         from sessions
         where spirit_id = $1
         and session_id = $2
     ) as row
     cross join lateral ({COUNTS}) as counts
     left join lateral ({LAST_LIVE_EVENT}) as live on true
     left join lateral ({LAST_EVENT}) as last on true"
);

impl Reader {
    /// Returns a session; `None` if it has no event and nothing was set for it. A session that the standby does not
    /// have is read from the primary.
    pub async fn get_session(
        &mut self,
        spirit_id: SpiritId,
        session_id: &str,
    ) -> Result<Option<Session>, StoreError> {
        let statement = || {
            sqlx::query_as::<_, SessionRow>(GET)
                .bind(spirit_id.0)
                .bind(session_id.to_owned())
        };
        let mut row = self.all_heavy(statement()).await?.pop();
        if row.is_none() && self.leave_standby() {
            row = self.all_heavy(statement()).await?.pop();
        }
        let exists = |row: &SessionRow| row.last_sequence > 0 || row.revision > 0;
        Ok(row.filter(exists).map(|row| row.into_session(true)))
    }

    /// Runs a statement that may count the events of its sessions, which takes long for long sessions.
    async fn counted<Row>(
        &mut self,
        statement: Statement<'_, Row>,
        counts: bool,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        if counts {
            self.all_heavy(statement).await
        } else {
            self.all(statement).await
        }
    }

    /// Returns a page of a spirit's sessions, most recently active first.
    pub async fn list_sessions(&mut self, query: &SessionQuery) -> Result<SessionPage, StoreError> {
        let mut page = SessionPage {
            sessions: Vec::new(),
            next: None,
        };
        let mut scanned = 0;
        for (range, minute, after) in ranges(query) {
            let place = Place { range, minute, after };
            let (rows, end) = self
                .range_page(query, &place, page.sessions.len(), scanned)
                .await?;
            let found = rows.first().map_or(0, |row| row.found);
            let room = query.size - page.sessions.len();
            let kept = room.min(rows.len());
            for row in rows.into_iter().take(room) {
                page.sessions.push(row.into_session(query.with_counts));
            }
            if usize::try_from(found).unwrap_or(usize::MAX) > kept {
                page.next = page.sessions.last().map(Session::position);
                return Ok(page);
            }
            if let Some(end) = end {
                scanned += end.scanned;
                if scanned >= SESSIONS_SCANNED_MAX {
                    page.next = Some(end.position());
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    /// Returns the sessions of a range for which the page has room, and one more if it exists; and the end of the scan
    /// if the page is filtered and has room for more.
    async fn range_page(
        &mut self,
        query: &SessionQuery,
        place: &Place<'_>,
        held: usize,
        scanned: i64,
    ) -> Result<(Vec<SessionRow>, Option<ScanEnd>), StoreError> {
        let filter = &query.filter;
        let limit = i64::try_from(query.size - held)
            .unwrap_or(i64::MAX)
            .saturating_add(1);
        let by_owner = usize::from(filter.owner.is_some());
        if !filter.is_selective() {
            let sql = PLAIN[by_owner][place.range as usize];
            let statement = bind_place(sqlx::query_as::<_, SessionRow>(sql), query, place)
                .bind(limit)
                .bind(query.with_counts);
            let statement = match &filter.owner {
                Some(owner) => statement.bind(owner),
                None => statement,
            };
            return Ok((self.counted(statement, query.with_counts).await?, None));
        }
        let sql = FILTERED[by_owner][place.range as usize];
        let statement = bind_place(sqlx::query_as::<_, FilteredRow>(sql), query, place)
            .bind(limit)
            .bind(query.with_counts)
            .bind(&filter.owner)
            .bind(&filter.session_id_prefix)
            .bind(filter.title_contains.as_deref().map(fold_name))
            .bind(filter.meta_contains.as_ref().map(Meta::as_json))
            .bind(filter.active_from)
            .bind(filter.active_until)
            .bind(SESSIONS_SCANNED_MAX - scanned);
        let mut rows = self.all_heavy(statement).await?;
        let end = rows.first_mut().and_then(FilteredRow::end);
        let mut rows: Vec<SessionRow> = rows.into_iter().map(|row| row.session).collect();
        rows.retain(|row| row.found > 0);
        Ok((rows, end))
    }
}

/// The place in the order at which the scan of a range starts.
struct Place<'q> {
    range: Range,
    minute: DateTime<Utc>,
    after: &'q str,
}

/// Binds `$1` to `$4`.
fn bind_place<'q, Row>(
    statement: Statement<'q, Row>,
    query: &'q SessionQuery,
    place: &Place<'q>,
) -> Statement<'q, Row> {
    let lowest = query
        .filter
        .active_from
        .map_or_else(|| start_of_year(1), minute_of);
    statement
        .bind(query.spirit_id.0)
        .bind(place.minute)
        .bind(place.after)
        .bind(lowest)
}

/// Returns the ranges of the page, in order, each with the minute and the session after which it starts.
fn ranges(query: &SessionQuery) -> Vec<(Range, DateTime<Utc>, &str)> {
    let end = start_of_year(10_000);
    let filter = &query.filter;
    let has_empty = filter.include_empty && filter.active_from.is_none() && filter.active_until.is_none();
    let mut ranges = Vec::new();
    let mut after_empty = "";
    match &query.after {
        Some(SessionListPosition {
            active_minute: None,
            session_id,
        }) => after_empty = session_id,
        Some(SessionListPosition {
            active_minute: Some(minute),
            session_id,
        }) => {
            ranges.push((Range::SameMinute, *minute, session_id.as_str()));
            ranges.push((Range::EarlierMinutes, *minute, ""));
        }
        None => {
            let newest = filter.active_until.map(minute_of);
            if let Some(minute) = newest {
                ranges.push((Range::SameMinute, minute, ""));
            }
            ranges.push((Range::EarlierMinutes, newest.unwrap_or(end), ""));
        }
    }
    if has_empty {
        ranges.push((Range::WithoutLiveEvents, end, after_empty));
    }
    ranges
}

/// A row of a page, and the number of rows found, of which the page may contain fewer.
#[derive(Debug, FromRow)]
struct SessionRow {
    spirit_id: Uuid,
    session_id: String,
    active_minute: Option<DateTime<Utc>>,
    title: Option<String>,
    owner: Option<String>,
    meta: Option<String>,
    revision: i64,
    updated_at: Option<DateTime<Utc>>,
    event_count: i64,
    first_occurred_at: Option<DateTime<Utc>>,
    last_occurred_at: Option<DateTime<Utc>>,
    last_sequence: i64,
    found: i64,
}

impl SessionRow {
    fn into_session(self, with_counts: bool) -> Session {
        Session {
            spirit_id: SpiritId(self.spirit_id),
            session_id: self.session_id,
            active_minute: self.active_minute,
            event_count: with_counts.then_some(self.event_count),
            first_occurred_at: self.first_occurred_at,
            last_occurred_at: self.last_occurred_at,
            last_sequence: self.last_sequence,
            title: self.title,
            owner: self.owner,
            meta: self.meta.map(Meta::from_json),
            revision: self.revision,
            updated_at: self.updated_at,
        }
    }
}

/// A row of a filtered page. If the page has room for more, each row has the end of the scan; a page without sessions has
/// one row, in which nothing was found.
#[derive(Debug, FromRow)]
struct FilteredRow {
    #[sqlx(flatten)]
    session: SessionRow,
    scanned: Option<i64>,
    end_session_id: Option<String>,
    end_active_minute: Option<DateTime<Utc>>,
}

/// The last session that a filtered page scanned, and the number of scanned sessions.
#[derive(Debug)]
struct ScanEnd {
    session_id: String,
    active_minute: Option<DateTime<Utc>>,
    scanned: i64,
}

impl FilteredRow {
    fn end(&mut self) -> Option<ScanEnd> {
        Some(ScanEnd {
            session_id: self.end_session_id.take()?,
            active_minute: self.end_active_minute,
            scanned: self.scanned?,
        })
    }
}

impl ScanEnd {
    fn position(self) -> SessionListPosition {
        SessionListPosition {
            active_minute: self.active_minute,
            session_id: self.session_id,
        }
    }
}
