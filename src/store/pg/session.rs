//! Database sessions: connects to PostgreSQL and applies the store's PostgreSQL settings to statements.
//!
//! On a dedicated connection, settings are sent once at connect and statements are prepared once. Behind a pooler
//! in transaction mode, each transaction may run on another backend. There, settings are sent with each
//! transaction, statements are unnamed, and each statement has a transaction of its own, because it is prepared
//! and executed in two round trips.

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

/// Name of the PostgreSQL setting of the statement timeout, whose value is in milliseconds.
pub(in crate::store) const STATEMENT_TIMEOUT: &str = "statement_timeout";
/// Ping timeout; a connection that does not answer in time counts as dead.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A statement that has not run yet.
pub(in crate::store) type Statement<'q, Row> = QueryAs<'q, Postgres, Row, PgArguments>;

/// Opens database sessions with the store's settings.
#[derive(Clone)]
pub(in crate::store) struct Connector {
    options: PgConnectOptions,
    /// SQL that begins a transaction. Includes the settings if they cannot be sent at connect.
    begin: Arc<str>,
    is_transaction_pooled: bool,
    is_sharded: bool,
    /// Names and values of the PostgreSQL settings.
    settings: Vec<(&'static str, String)>,
}

/// A database session, opened by a [`Connector`].
pub(in crate::store) struct PgSession {
    connection: PgConnection,
    begin: Arc<str>,
    is_transaction_pooled: bool,
    is_sharded: bool,
    is_tcp: bool,
    in_transaction: bool,
}

impl Connector {
    /// Creates a connector to PostgreSQL itself, or to a pooler that gives each client a dedicated backend.
    pub(in crate::store) fn dedicated(options: PgConnectOptions) -> Self {
        Self {
            // Not needed, since values are sent in binary form, and poolers refuse unknown startup parameters.
            options: options.extra_float_digits(None),
            begin: "begin;".into(),
            is_transaction_pooled: false,
            is_sharded: false,
            settings: Vec::new(),
        }
    }

    /// Creates a connector to a pooler in transaction mode.
    pub(in crate::store) fn transaction_pooled(options: PgConnectOptions) -> Self {
        Self {
            is_transaction_pooled: true,
            ..Self::dedicated(options)
        }
    }

    /// Makes the connector one to a distributed database.
    pub(in crate::store) fn sharded(self) -> Self {
        Self {
            is_sharded: true,
            ..self
        }
    }

    /// Adds PostgreSQL settings. Values are not quoted, so each has to be a single word or a number.
    pub(in crate::store) fn with_settings<const N: usize>(
        mut self,
        settings: [(&'static str, &str); N],
    ) -> Self {
        if self.is_transaction_pooled {
            let mut begin = self.begin.to_string();
            for (name, value) in settings {
                write!(begin, "set local {name} = {value};").expect("writing to a String cannot fail");
            }
            self.begin = begin.into();
        } else {
            self.options = self.options.options(settings);
        }
        let settings = settings.map(|(name, value)| (name, value.to_owned()));
        self.settings.extend(settings);
        self
    }

    /// Returns whether connections go through a pooler in transaction mode.
    pub(in crate::store) fn is_transaction_pooled(&self) -> bool {
        self.is_transaction_pooled
    }

    /// Returns whether the database is distributed.
    pub(in crate::store) fn is_sharded(&self) -> bool {
        self.is_sharded
    }

    /// Returns whether connections are TCP connections, not those of a Unix domain socket.
    fn is_tcp(&self) -> bool {
        self.options.get_socket().is_none() && !self.options.get_host().starts_with('/')
    }

    /// Returns the names and values of the settings.
    pub(in crate::store) fn settings(&self) -> &[(&'static str, String)] {
        &self.settings
    }

    /// Returns the statement timeout that PostgreSQL applies.
    pub(in crate::store) fn statement_timeout(&self) -> Duration {
        let mut newest_first = self.settings.iter().rev();
        newest_first
            .find(|(name, _)| *name == STATEMENT_TIMEOUT)
            .and_then(|(_, millis)| millis.parse().ok())
            .map_or(Duration::MAX, Duration::from_millis)
    }

    /// Returns the connect options, for code that manages its own connections.
    pub(in crate::store) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Opens a session.
    pub(in crate::store) async fn connect(&self) -> Result<PgSession, sqlx::Error> {
        self.open(&self.options).await
    }

    /// Opens a session under this `application_name`, which `pg_stat_activity` shows.
    pub(in crate::store) async fn connect_with_name(&self, name: &str) -> Result<PgSession, sqlx::Error> {
        self.open(&self.options.clone().application_name(name)).await
    }

    async fn open(&self, options: &PgConnectOptions) -> Result<PgSession, sqlx::Error> {
        Ok(PgSession {
            connection: options.connect().await?,
            begin: Arc::clone(&self.begin),
            is_transaction_pooled: self.is_transaction_pooled,
            is_sharded: self.is_sharded,
            is_tcp: self.is_tcp(),
            in_transaction: false,
        })
    }
}

impl PgSession {
    /// Returns whether the session goes through a pooler in transaction mode. A single statement then needs a
    /// transaction, and has to run in a task that no caller can cancel.
    pub(in crate::store) fn is_transaction_pooled(&self) -> bool {
        self.is_transaction_pooled
    }

    /// Returns whether the database is distributed. Statements then read one shard each, and change one table.
    pub(in crate::store) fn is_sharded(&self) -> bool {
        self.is_sharded
    }

    /// Returns whether large inserts are `COPY`: not on shards, and not over TCP, where sqlx 0.9.0 leaves Nagle's algorithm on
    /// (<https://github.com/transact-rs/sqlx/issues/4335>). The end of the rows would wait until PostgreSQL has acknowledged
    /// the last of them, which it delays by 40 ms.
    pub(in crate::store) fn may_copy(&self) -> bool {
        !self.is_sharded && !self.is_tcp
    }

    /// Returns whether a transaction that this type began is still open, so that the session must not be reused.
    pub(in crate::store) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Begins the transaction of a single statement, in one round trip, behind a transaction pooler. Does nothing
    /// on a dedicated connection.
    pub(in crate::store) async fn begin_if_pooled(&mut self) -> Result<(), sqlx::Error> {
        if self.is_transaction_pooled {
            self.begin().await?;
        }
        Ok(())
    }

    /// Runs a single statement, commits it and returns all its rows. [`begin_if_pooled`](Self::begin_if_pooled)
    /// has to be called before.
    pub(in crate::store) async fn all<Row>(
        &mut self,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, sqlx::Error>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        if !self.is_transaction_pooled {
            // A pooler that tracks prepared statements may run the round trips of an unnamed one on two connections.
            debug_assert!(
                sqlx::Execute::persistent(&statement),
                "an unnamed statement has no transaction"
            );
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

    /// Begins a transaction and rolls it back, in two round trips.
    pub(in crate::store) async fn probe_transaction(&mut self) -> Result<(), sqlx::Error> {
        self.begin().await?;
        sqlx::raw_sql("rollback").execute(&mut self.connection).await?;
        self.in_transaction = false;
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.in_transaction = true;
        let begin = AssertSqlSafe(Arc::clone(&self.begin));
        sqlx::raw_sql(begin).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Returns the SQL that begins a transaction, to be sent with the transaction's first statement in one
    /// message of the simple query protocol. [`is_in_transaction`](Self::is_in_transaction) does not cover such a
    /// transaction.
    pub(in crate::store) fn begin_sql(&self) -> String {
        self.begin.to_string()
    }

    /// Returns whether statements stay prepared after their transaction.
    pub(in crate::store) fn keeps_prepared_statements(&self) -> bool {
        !self.is_transaction_pooled
    }

    /// Returns the connection, for a transaction that was begun with [`begin_sql`](Self::begin_sql).
    pub(in crate::store) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Sends a ping and waits for the reply, without a timeout.
    pub(in crate::store) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        self.connection.ping().await
    }

    /// Returns whether the session answers a ping in time. No statement may be running on it.
    pub(in crate::store) async fn is_alive(&mut self) -> bool {
        let answer = timeout(PING_TIMEOUT, self.ping()).await;
        matches!(answer, Ok(Ok(())))
    }

    /// Closes the connection.
    pub(in crate::store) async fn close(self) -> Result<(), sqlx::Error> {
        self.connection.close().await
    }
}

/// Returns the statement with a static lifetime. Its arguments already own copies of the bound values.
pub(in crate::store) fn into_static<Row>(
    statement: Statement<'_, Row>,
) -> Result<Statement<'static, Row>, sqlx::Error>
where
    Row: for<'r> FromRow<'r, PgRow> + Send,
{
    let (sql, arguments) = into_parts(statement)?;
    Ok(sqlx::query_as_with(sql, arguments))
}

/// Returns the statement and a copy of it, so that it can be run on two connections.
pub(in crate::store) fn duplicate<Row>(
    statement: Statement<'_, Row>,
) -> Result<(Statement<'static, Row>, Statement<'static, Row>), sqlx::Error>
where
    Row: for<'r> FromRow<'r, PgRow> + Send,
{
    let (sql, arguments) = into_parts(statement)?;
    let copy = sqlx::query_as_with(sql.clone(), arguments.clone());
    Ok((sqlx::query_as_with(sql, arguments), copy))
}

fn into_parts<Row>(mut statement: Statement<'_, Row>) -> Result<(SqlStr, PgArguments), sqlx::Error>
where
    Row: for<'r> FromRow<'r, PgRow> + Send,
{
    let arguments = statement.take_arguments().map_err(sqlx::Error::Encode)?;
    Ok((statement.sql(), arguments.unwrap_or_default()))
}
