//! Which server a read goes to: the standby while it is good for that, else the primary.

use std::sync::Arc;

use sqlx::FromRow;
use sqlx::postgres::PgRow;

use crate::store::pg::pool::ConnectionPool;
use crate::store::read::get_event::Gets;
use crate::store::pg::session::{Statement, twice};
use crate::store::pg::metrics::StandbyRead;
use crate::store::pg::standby::Standby;
use crate::store::pg::error::StoreError;
use crate::store::Store;

/// How new a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It may lag behind the primary, within the bound that is set.
    #[default]
    Eventual,
    /// It sees everything that was acknowledged before it began.
    Strong,
}

/// The way of one read, or of one stream's pages. It leads from the standby to the primary and not back, so
/// that what was read later is never older.
pub struct Reader {
    pub(super) primary: ConnectionPool,
    pub(super) gets: Gets,
    standby: Option<Arc<Standby>>,
}

impl Store {
    /// A way to read. Where there is no standby every read is strong.
    #[must_use]
    pub fn reader(&self, consistency: Consistency) -> Reader {
        let standby = match consistency {
            Consistency::Eventual => self.standby.clone(),
            Consistency::Strong => None,
        };
        Reader {
            primary: self.connections.clone(),
            gets: self.gets.clone(),
            standby,
        }
    }

    /// What the primary says.
    pub(super) fn primary(&self) -> Reader {
        self.reader(Consistency::Strong)
    }
}

impl Reader {
    /// All rows of a statement. What the standby cannot answer is asked of the primary: a statement that
    /// replication got in the way of, a server that is away, a schema that has not come yet.
    pub(super) async fn all<Row>(&mut self, statement: Statement<'_, Row>) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let Some(standby) = self.standby() else {
            return self.primary.all(statement).await;
        };
        let (statement, again) = twice(statement)?;
        let rows = standby.answer(standby.connections.all(statement)).await;
        match self.unless_elsewhere(&standby, rows) {
            Some(rows) => rows,
            None => self.primary.all(again).await,
        }
    }

    /// The row of a statement that gives one or none.
    pub(super) async fn optional<Row>(
        &mut self,
        statement: Statement<'_, Row>,
    ) -> Result<Option<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        Ok(self.all(statement).await?.into_iter().next())
    }

    /// The row of a statement that always gives one.
    pub(super) async fn one<Row>(&mut self, statement: Statement<'_, Row>) -> Result<Row, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let row = self.optional(statement).await?;
        row.ok_or_else(|| StoreError::Bug("a statement gave no row".to_owned()))
    }

    /// The standby, as long as it may be read.
    pub(super) fn standby(&mut self) -> Option<Arc<Standby>> {
        let standby = self.standby.as_ref()?;
        if !standby.is_fresh() {
            standby.count(StandbyRead::Lagging);
            self.standby = None;
        }
        self.standby.clone()
    }

    /// What the standby answered; `None` when the primary is to be asked, now and from now on.
    pub(super) fn unless_elsewhere<T>(
        &mut self,
        standby: &Standby,
        answer: Result<T, StoreError>,
    ) -> Option<Result<T, StoreError>> {
        match answer {
            Err(error @ (StoreError::Unavailable(_) | StoreError::Bug(_))) => {
                tracing::debug!(%error, "the standby did not answer, asking the primary");
                standby.count(StandbyRead::Failed);
                self.standby = None;
                None
            }
            answer => {
                standby.count(StandbyRead::Served);
                Some(answer)
            }
        }
    }

    /// Goes on with the primary, which may know what the standby does not know yet; whether that is a change.
    pub(super) fn leave_standby(&mut self) -> bool {
        let left = self.standby.take();
        if let Some(standby) = &left {
            standby.count(StandbyRead::Missed);
        }
        left.is_some()
    }
}
