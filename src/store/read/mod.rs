//! Reads: single events, pages of events, their changes, counts, sessions and spirits.
//!
//! A [`Reader`] belongs to one call or one stream. It reads from the standby if the call allows that and the
//! standby is fresh, and from the primary otherwise.

pub(super) mod changes;
pub(super) mod event_pages;
pub(super) mod get_event;
pub(super) mod json_path;
pub(super) mod list_events;
pub(super) mod long_values;
pub(super) mod page_rows;
pub(super) mod purges;
pub(super) mod session_pages;
pub(super) mod sessions;
pub(super) mod spirits;

use std::sync::Arc;

use sqlx::FromRow;
use sqlx::postgres::PgRow;

use get_event::GetBatcher;

use super::pg::error::StoreError;
use super::pg::metrics::StandbyRead;
use super::pg::pool::ConnectionPool;
use super::pg::session::{Statement, duplicate};
use super::pg::standby::Standby;

/// The freshness that a read needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The read may lag behind the primary, up to the configured maximum.
    #[default]
    Eventual,
    /// The read returns everything that was acknowledged before it began.
    Strong,
}

/// Creates the readers of calls and streams. Cheap to clone.
#[derive(Clone)]
pub(super) struct ReadRouter {
    primary: ConnectionPool,
    gets: GetBatcher,
    standby: Option<StandbyReads>,
}

/// The standby and the batcher of its single-event reads.
#[derive(Clone)]
struct StandbyReads {
    server: Arc<Standby>,
    gets: GetBatcher,
}

/// Runs the reads of one call or one stream. It switches from the standby to the primary at most once and
/// never back, so that a later read never returns an older state than an earlier one.
pub struct Reader {
    primary: ConnectionPool,
    gets: GetBatcher,
    standby: Option<StandbyReads>,
}

/// How long a statement may run.
#[derive(Clone, Copy)]
enum Weight {
    Light,
    /// Possibly for seconds: it reads more rows than it returns.
    Heavy,
}

impl Weight {
    async fn run<Row>(
        self,
        pool: &ConnectionPool,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        match self {
            Self::Light => pool.all(statement).await,
            Self::Heavy => pool.all_heavy(statement).await,
        }
    }
}

impl ReadRouter {
    /// Starts the batchers of single-event reads.
    pub(super) fn start(primary: ConnectionPool, standby: Option<Arc<Standby>>) -> Self {
        Self {
            gets: GetBatcher::start(&primary),
            standby: standby.map(|server| StandbyReads {
                gets: GetBatcher::start(&server.connections),
                server,
            }),
            primary,
        }
    }

    /// Returns a reader. Without a standby every read is strong.
    pub(super) fn reader(&self, consistency: Consistency) -> Reader {
        Reader {
            primary: self.primary.clone(),
            gets: self.gets.clone(),
            standby: match consistency {
                Consistency::Eventual => self.standby.clone(),
                Consistency::Strong => None,
            },
        }
    }

    /// Returns a reader of the primary.
    pub(super) fn primary(&self) -> Reader {
        self.reader(Consistency::Strong)
    }
}

impl Reader {
    /// Runs a statement and returns all its rows. If the standby fails (a conflict with recovery, an outage,
    /// a missing migration), the statement is run again on the primary.
    pub(super) async fn all<Row>(&mut self, statement: Statement<'_, Row>) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        self.run(statement, Weight::Light).await
    }

    /// Like [`all`](Self::all), for a statement that may run for long.
    pub(super) async fn all_heavy<Row>(
        &mut self,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        self.run(statement, Weight::Heavy).await
    }

    async fn run<Row>(
        &mut self,
        statement: Statement<'_, Row>,
        weight: Weight,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let Some(standby) = self.standby() else {
            return weight.run(&self.primary, statement).await;
        };
        let (statement, copy) = duplicate(statement)?;
        let rows = weight.run(&standby.server.connections, statement);
        let rows = standby.server.answer(rows).await;
        match self.accept(&standby.server, rows) {
            Some(rows) => rows,
            None => weight.run(&self.primary, copy).await,
        }
    }

    /// Runs a statement that returns at most one row and returns the row.
    pub(super) async fn optional<Row>(
        &mut self,
        statement: Statement<'_, Row>,
    ) -> Result<Option<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        Ok(self.all(statement).await?.into_iter().next())
    }

    /// Runs a statement that always returns one row and returns the row.
    pub(super) async fn one<Row>(&mut self, statement: Statement<'_, Row>) -> Result<Row, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let row = self.optional(statement).await?;
        row.ok_or_else(|| StoreError::Bug("a statement returned no row".to_owned()))
    }

    /// Returns the standby if the reader still uses it. Switches to the primary if the standby is not fresh.
    fn standby(&mut self) -> Option<StandbyReads> {
        let standby = self.standby.as_ref()?;
        if !standby.server.is_fresh() {
            standby.server.count(StandbyRead::Lagging);
            self.standby = None;
        }
        self.standby.clone()
    }

    /// Returns the result of a read on the standby; `None` if it failed and the primary may succeed. The
    /// reader then uses the primary from now on.
    fn accept<T>(
        &mut self,
        standby: &Standby,
        result: Result<T, StoreError>,
    ) -> Option<Result<T, StoreError>> {
        match result {
            Err(error @ (StoreError::Unavailable(_) | StoreError::PoolExhausted | StoreError::Bug(_))) => {
                tracing::debug!(%error, "a read from the standby failed, reading from the primary");
                standby.count(StandbyRead::Failed);
                self.standby = None;
                None
            }
            result => {
                standby.count(StandbyRead::Served);
                Some(result)
            }
        }
    }

    /// Switches to the primary, because the standby does not have the data and may not have replayed it yet.
    /// Returns false if the reader already used the primary.
    pub(super) fn leave_standby(&mut self) -> bool {
        let left = self.standby.take();
        if let Some(standby) = &left {
            standby.server.count(StandbyRead::Missed);
        }
        left.is_some()
    }
}
