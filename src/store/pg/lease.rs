//! A lease of a pooled connection: it runs statements with timeouts and returns the connection to its pool when
//! it is dropped.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cancel;
use super::error::{StoreError, ends_connection, unanswered};
use super::fair_semaphore::FairPermit;
use super::pool::{PoolInner, PooledConnection, answer_timeout};
use super::session::{PgSession, Statement};

/// Number of statements of a transaction, each of which may take as long as the statement timeout.
const TRANSACTION_STATEMENTS_MAX: u32 = 8;

/// A connection in use, and the permit of the pool that belongs to it.
pub(super) struct Lease {
    pool: Arc<PoolInner>,
    /// `None` only while the lease is dropped.
    connection: Option<PooledConnection>,
    state: LeaseState,
    permit: Option<FairPermit>,
}

/// The state of a leased connection, which decides what happens to it when the lease is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseState {
    /// A statement may be running.
    Busy,
    /// Ready for the next statement.
    Ready,
    /// Must not be used again.
    Broken,
}

impl Lease {
    pub(super) fn new(
        pool: Arc<PoolInner>,
        connection: PooledConnection,
        permit: FairPermit,
        state: LeaseState,
    ) -> Self {
        Self {
            pool,
            connection: Some(connection),
            state,
            permit: Some(permit),
        }
    }

    /// Sets the state, for code that uses the session directly.
    pub(super) fn set_state(&mut self, state: LeaseState) {
        self.state = state;
    }

    /// Returns the database session of the connection.
    pub(super) fn session(&mut self) -> Result<&mut PgSession, sqlx::Error> {
        let connection = self.connection.as_mut();
        connection
            .map(|connection| &mut connection.session)
            .ok_or_else(|| sqlx::Error::InvalidArgument("a lease without a connection".to_owned()))
    }

    /// Runs a statement and returns all its rows.
    pub(super) async fn all<Row>(&mut self, statement: Statement<'_, Row>) -> Result<Vec<Row>, sqlx::Error>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        // PostgreSQL applies the statement timeout, which is shorter; this one is for a network that drops
        // packets silently.
        let limit = self.pool.answer_timeout;
        let rows = timeout(limit, self.session()?.all(statement)).await;
        self.record(rows.unwrap_or_else(|_| Err(answer_timeout())))
    }

    /// Runs a statement in a transaction of its own, in a task: if the future were dropped in the middle, the
    /// next statement on the connection would run inside the open transaction. When the caller goes away, the
    /// statement is cancelled.
    pub(super) async fn all_in_task<Row>(
        self,
        statement: Statement<'static, Row>,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        self.run_in_task(|lease: &mut Self| Box::pin(lease.all_in_transaction(statement)))
            .await
    }

    /// Runs statements that begin and end a transaction, in a task: if the future were dropped in the middle, the
    /// next statement on the connection would run inside the open transaction. When the caller goes away, the
    /// running statement is cancelled. After an error the connection is closed, which rolls the transaction back.
    pub(super) async fn transaction<T, Run>(self, run: Run) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: for<'s> FnOnce(&'s mut PgSession) -> BoxFuture<'s, Result<T, StoreError>> + Send + 'static,
    {
        self.run_in_task(|lease: &mut Self| {
            Box::pin(async move {
                lease.state = LeaseState::Broken;
                let limit = lease
                    .pool
                    .answer_timeout
                    .saturating_mul(TRANSACTION_STATEMENTS_MAX);
                let done = timeout(limit, run(lease.session()?)).await;
                let done = done.map_err(|_| answer_timeout())??;
                lease.state = LeaseState::Ready;
                Ok(done)
            })
        })
        .await
    }

    /// Runs code in a task. When the caller goes away, the running statement is cancelled.
    async fn run_in_task<T, Run>(mut self, run: Run) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: for<'l> FnOnce(&'l mut Self) -> BoxFuture<'l, Result<T, StoreError>> + Send + 'static,
    {
        let (mut caller, answer) = oneshot::channel();
        let pool = Arc::clone(&self.pool);
        let name = self.connection.as_ref().map(|connection| connection.name.clone());
        tokio::spawn(async move {
            let mut running = run(&mut self);
            let result = tokio::select! {
                result = &mut running => result,
                () = caller.closed() => {
                    if let (Some(canceller), Some(name)) = (&pool.canceller, &name) {
                        cancel::end_transaction(running, name, canceller).await;
                    }
                    return;
                }
            };
            if caller.send(result).is_err() {
                tracing::trace!("the caller of a statement has gone away");
            }
        });
        answer.await.map_err(unanswered)?
    }

    async fn all_in_transaction<Row>(
        &mut self,
        statement: Statement<'static, Row>,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        // This waits while the pooler has no free backend, so it has the timeout of waiting for a connection.
        let began = timeout(self.pool.acquire_timeout, self.session()?.begin_if_pooled()).await;
        self.record(began.unwrap_or(Err(sqlx::Error::PoolTimedOut)))?;
        Ok(self.all(statement).await?)
    }

    /// Begins a transaction and rolls it back.
    pub(super) async fn probe_transaction(&mut self) -> Result<(), sqlx::Error> {
        let limit = self.pool.acquire_timeout;
        let probed = timeout(limit, self.session()?.probe_transaction()).await;
        self.record(probed.unwrap_or(Err(sqlx::Error::PoolTimedOut)))
    }

    /// Sets the state after a statement and returns the statement's result.
    fn record<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.state = match &result {
            Ok(_) => LeaseState::Ready,
            Err(sqlx::Error::Database(error)) if !ends_connection(error.as_ref()) => LeaseState::Ready,
            Err(_) => LeaseState::Broken,
        };
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(mut connection), permit) = (self.connection.take(), self.permit.take()) else {
            return;
        };
        match self.state {
            LeaseState::Ready => self.pool.put_back(connection),
            LeaseState::Broken => {}
            LeaseState::Busy => {
                let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                    return;
                };
                let pool = Arc::clone(&self.pool);
                runtime.spawn(async move {
                    let limit = pool.acquire_timeout;
                    let ended = timeout(limit, pool.end_statement(&mut connection)).await;
                    if ended.unwrap_or(false) {
                        pool.put_back(connection);
                    }
                    drop(permit);
                });
            }
        }
    }
}
