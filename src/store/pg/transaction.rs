//! Statements of a transaction that runs in [`ConnectionPool::transaction`](super::pool::ConnectionPool::transaction).

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow};
use tracing::Instrument as _;

use super::error::StoreError;
use super::session::{PgSession, Statement};
use super::spans;

/// Begins the transaction.
pub(in crate::store) async fn begin(session: &mut PgSession) -> Result<(), StoreError> {
    let begin = AssertSqlSafe(session.begin_sql());
    sqlx::raw_sql(begin).execute(session.connection()).await?;
    Ok(())
}

/// Runs a statement of the open transaction that returns at most one row. It is planned anew each time, since a plan
/// made on a small table could use another index than on a large one.
pub(in crate::store) async fn optional<Row>(
    session: &mut PgSession,
    statement: Statement<'_, Row>,
) -> Result<Option<Row>, StoreError>
where
    Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let (statement, span) = spans::traced(statement)?;
    let row = statement.persistent(false).fetch_optional(session.connection());
    Ok(row.instrument(span).await?)
}

/// Like [`optional`], for a statement that returns any number of rows.
pub(in crate::store) async fn fetch_all<Row>(
    session: &mut PgSession,
    statement: Statement<'_, Row>,
) -> Result<Vec<Row>, StoreError>
where
    Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let (statement, span) = spans::traced(statement)?;
    let rows = statement.persistent(false).fetch_all(session.connection());
    Ok(rows.instrument(span).await?)
}

/// Commits the transaction.
pub(in crate::store) async fn commit(session: &mut PgSession) -> Result<(), StoreError> {
    sqlx::raw_sql("commit").execute(session.connection()).await?;
    Ok(())
}

/// Rolls the transaction back.
pub(in crate::store) async fn rollback(session: &mut PgSession) -> Result<(), StoreError> {
    sqlx::raw_sql("rollback").execute(session.connection()).await?;
    Ok(())
}
