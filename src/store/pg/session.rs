//! How the store reaches its database: connections, and how a statement on one gets its settings.
//!
//! On a connection of our own the settings stand on the connection, and statements are prepared on it
//! once. Behind a pooler in transaction mode a connection has another server in each transaction:
//! settings go with each transaction, statements have no name, and each stands in a transaction, since
//! preparing and executing are two round trips.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::QueryAs;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Execute as _, FromRow, PgConnection, Postgres,
    SqlStr,
};
use tokio::time::timeout;

/// The setting, in milliseconds.
pub(in crate::store) const STATEMENT_TIMEOUT: &str = "statement_timeout";
/// In which a connection that lives answers a ping.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The way to the database.
#[derive(Clone)]
pub(in crate::store) struct Connector {
    connect: PgConnectOptions,
    /// Opens a transaction; with the settings, where the connection cannot have them.
    begin: Arc<str>,
    is_shared: bool,
    /// Names and values.
    settings: Vec<(&'static str, String)>,
}

/// A connection made by a [`Connector`].
pub(in crate::store) struct PgSession {
    connection: PgConnection,
    begin: Arc<str>,
    is_shared: bool,
    in_transaction: bool,
}

pub(in crate::store) type Statement<'q, Row> = QueryAs<'q, Postgres, Row, PgArguments>;

impl Connector {
    /// To PostgreSQL itself, or through a pooler that behaves so.
    pub(in crate::store) fn own(connect: PgConnectOptions) -> Self {
        Self {
            // Values travel in binary form, and poolers refuse parameters that they do not know.
            connect: connect.extra_float_digits(None),
            begin: "begin;".into(),
            is_shared: false,
            settings: Vec::new(),
        }
    }

    /// Through a pooler in transaction mode.
    pub(in crate::store) fn shared(connect: PgConnectOptions) -> Self {
        Self {
            is_shared: true,
            ..Self::own(connect)
        }
    }

    /// The same with these settings; a value is a word or a number.
    pub(in crate::store) fn with<const N: usize>(mut self, settings: [(&'static str, &str); N]) -> Self {
        if self.is_shared {
            let mut begin = self.begin.to_string();
            for (name, value) in settings {
                write!(begin, "set local {name} = {value};").expect("writing to a String cannot fail");
            }
            self.begin = begin.into();
        } else {
            self.connect = self.connect.options(settings);
        }
        let settings = settings.map(|(name, value)| (name, value.to_owned()));
        self.settings.extend(settings);
        self
    }

    /// Whether the connections go through a pooler in transaction mode.
    pub(in crate::store) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Names and values of the settings.
    pub(in crate::store) fn settings(&self) -> &[(&'static str, String)] {
        &self.settings
    }

    /// The database's own limit of a statement.
    pub(in crate::store) fn statement_timeout(&self) -> Duration {
        let mut newest_first = self.settings.iter().rev();
        newest_first
            .find(|(name, _)| *name == STATEMENT_TIMEOUT)
            .and_then(|(_, millis)| millis.parse().ok())
            .map_or(Duration::MAX, Duration::from_millis)
    }

    /// How to connect, for what manages its connections by itself.
    pub(in crate::store) fn options(&self) -> &PgConnectOptions {
        &self.connect
    }

    pub(in crate::store) async fn connect(&self) -> Result<PgSession, sqlx::Error> {
        self.open(&self.connect).await
    }

    /// Under a name by which the database knows the connection.
    pub(in crate::store) async fn connect_as(&self, name: &str) -> Result<PgSession, sqlx::Error> {
        self.open(&self.connect.clone().application_name(name)).await
    }

    async fn open(&self, connect: &PgConnectOptions) -> Result<PgSession, sqlx::Error> {
        Ok(PgSession {
            connection: connect.connect().await?,
            begin: Arc::clone(&self.begin),
            is_shared: self.is_shared,
            in_transaction: false,
        })
    }
}

impl PgSession {
    /// Whether a statement of its own needs a transaction, in a task that nobody cancels.
    pub(in crate::store) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether a transaction of [`begin`](Self::begin) has not ended, so that the connection is of no use.
    pub(in crate::store) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Makes ready for a statement of its own; a round trip where the connection is shared.
    pub(in crate::store) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        if self.is_shared {
            self.open_transaction().await?;
        }
        Ok(())
    }

    /// All rows of a statement of its own, committed; after [`begin`](Self::begin).
    pub(in crate::store) async fn all<Row>(
        &mut self,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, sqlx::Error>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        if !self.is_shared {
            return statement.fetch_all(&mut self.connection).await;
        }
        let rows = statement.persistent(false).fetch_all(&mut self.connection).await;
        let end = if rows.is_ok() { "commit" } else { "rollback" };
        let ended = sqlx::raw_sql(end).execute(&mut self.connection).await;
        self.in_transaction = ended.is_err();
        match (rows, ended) {
            (Ok(_), Err(error)) => Err(error),
            (rows, _) => rows,
        }
    }

    async fn open_transaction(&mut self) -> Result<(), sqlx::Error> {
        self.in_transaction = true;
        let begin = AssertSqlSafe(Arc::clone(&self.begin));
        sqlx::raw_sql(begin).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Opens a transaction and ends it, in two messages.
    pub(in crate::store) async fn try_transaction(&mut self) -> Result<(), sqlx::Error> {
        self.open_transaction().await?;
        sqlx::raw_sql("rollback").execute(&mut self.connection).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Opens a transaction: goes before its first statement in one message of the simple protocol.
    pub(in crate::store) fn opening(&self) -> String {
        self.begin.to_string()
    }

    /// Whether a prepared statement is still there in the next transaction.
    pub(in crate::store) fn names_statements(&self) -> bool {
        !self.is_shared
    }

    /// The connection itself, in a transaction that was opened by hand.
    pub(in crate::store) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(in crate::store) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        self.connection.ping().await
    }

    /// Whether it answers soon; to be asked while nothing runs on it.
    pub(in crate::store) async fn lives(&mut self) -> bool {
        let answer = timeout(ANSWERS_WITHIN, self.ping()).await;
        matches!(answer, Ok(Ok(())))
    }

    pub(in crate::store) async fn close(self) -> Result<(), sqlx::Error> {
        self.connection.close().await
    }
}

/// The statement without what it borrowed, which its arguments have copied.
pub(in crate::store) fn detached<Row>(
    statement: Statement<'_, Row>,
) -> Result<Statement<'static, Row>, sqlx::Error>
where
    Row: for<'r> FromRow<'r, PgRow> + Send,
{
    let (sql, arguments) = parts(statement)?;
    Ok(sqlx::query_as_with(sql, arguments))
}

/// The statement and a copy of it, for another connection.
pub(in crate::store) fn twice<Row>(
    statement: Statement<'_, Row>,
) -> Result<(Statement<'static, Row>, Statement<'static, Row>), sqlx::Error>
where
    Row: for<'r> FromRow<'r, PgRow> + Send,
{
    let (sql, arguments) = parts(statement)?;
    let copy = sqlx::query_as_with(sql.clone(), arguments.clone());
    Ok((sqlx::query_as_with(sql, arguments), copy))
}

fn parts<Row>(mut statement: Statement<'_, Row>) -> Result<(SqlStr, PgArguments), sqlx::Error>
where
    Row: for<'r> FromRow<'r, PgRow> + Send,
{
    let arguments = statement.take_arguments().map_err(sqlx::Error::Encode)?;
    Ok((statement.sql(), arguments.unwrap_or_default()))
}
