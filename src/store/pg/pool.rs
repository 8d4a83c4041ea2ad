//! The connection pool for reads, edits and deletions. A call runs one statement, or one transaction.
//!
//! sqlx's own pool pings a connection at each acquire and each release, which makes a read three round trips.
//! This pool pings only connections that were idle for a while. When the future of a running statement is
//! dropped, a task cancels the statement and returns the connection to the pool. Behind a transaction pooler,
//! the whole statement runs in a task.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use super::cancel;
use super::error::{StoreError, unanswered};
use super::fair_semaphore::{FairPermit, FairSemaphore, Tenant};
use super::lease::{Lease, LeaseState};
use super::session::{Connector, PgSession, Statement, into_static};
use super::spans;
use super::turns::{Turn, Turns};
use crate::domain::ids::SpiritId;

/// A connection that was idle for longer is pinged before use.
pub(in crate::store) const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// A connection that is older is closed instead of reused, which bounds the memory of its backend.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// Connect timeout, unless callers wait longer. It applies whether or not a caller still waits for the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Added to PostgreSQL's statement timeout to get the client-side timeout, so that a healthy database reports
/// the timeout first.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// A bounded connection pool. Cheap to clone.
#[derive(Clone)]
pub(in crate::store) struct ConnectionPool(Arc<PoolInner>);

/// The usage of a pool, for metrics.
pub(in crate::store) struct PoolUsage {
    pub(in crate::store) in_use: usize,
    pub(in crate::store) idle: usize,
    pub(in crate::store) max: usize,
    /// Statements that wait for a connection.
    pub(in crate::store) waiting: usize,
    /// Statements that timed out waiting, since the start.
    pub(in crate::store) refusals: u64,
}

/// The state that the clones of a pool and its leases share.
pub(super) struct PoolInner {
    connector: Connector,
    pub(super) acquire_timeout: Duration,
    /// Client-side timeout of a statement.
    pub(super) answer_timeout: Duration,
    max: usize,
    permits: FairSemaphore,
    /// Half of the permits, for statements that may run for long.
    heavy_permits: FairSemaphore,
    turns: Arc<Turns>,
    /// Statements that wait for a turn or a permit.
    waiting: AtomicUsize,
    /// Statements that timed out waiting for a permit.
    refusals: AtomicU64,
    /// The most recently used connection is last.
    idle: Mutex<Vec<PooledConnection>>,
    closed: AtomicBool,
    /// The pool on which abandoned statements are cancelled; without it they run to their end.
    pub(super) canceller: Option<ConnectionPool>,
}

/// A connection of the pool, idle or leased.
pub(super) struct PooledConnection {
    pub(super) session: PgSession,
    /// The unique `application_name` of the connection.
    pub(super) name: String,
    created: Instant,
    last_used: Instant,
}

impl ConnectionPool {
    /// Creates a pool of at most `max` connections, which are opened on demand. Abandoned statements are
    /// cancelled on a connection of `canceller`, if given.
    pub(in crate::store) fn new(
        connector: Connector,
        max: u32,
        acquire_timeout: Duration,
        canceller: Option<Self>,
    ) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Self(Arc::new(PoolInner {
            answer_timeout: connector.statement_timeout().saturating_add(ANSWER_GRACE),
            connector,
            acquire_timeout,
            max,
            permits: FairSemaphore::new(max),
            heavy_permits: FairSemaphore::new((max / 2).max(1)),
            turns: Arc::default(),
            waiting: AtomicUsize::new(0),
            refusals: AtomicU64::new(0),
            idle: Mutex::default(),
            closed: AtomicBool::new(false),
            canceller,
        }))
    }

    /// Runs a statement and returns all its rows.
    pub(in crate::store) async fn all<Row>(
        &self,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let (statement, span) = spans::traced(statement)?;
        let mut lease = self.lease().await?;
        if lease.session()?.is_transaction_pooled() {
            let statement = into_static(statement)?;
            return lease.all_in_task(statement).instrument(span).await;
        }
        Ok(lease.all(statement).instrument(span).await?)
    }

    /// Like [`all`](Self::all), for a statement that may run for long. At most half of the connections run such
    /// statements at the same time, so that they cannot delay all others.
    pub(in crate::store) async fn all_heavy<Row>(
        &self,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let deadline = Instant::now() + self.0.acquire_timeout;
        let _permit = self.0.acquire_permit(&self.0.heavy_permits, deadline).await?;
        self.all(statement).await
    }

    /// Runs statements that begin and end a transaction. They continue in a task, so a caller that goes away leaves no
    /// transaction open: the running statement is cancelled. After an error the transaction is rolled back. Transactions
    /// wait for the lock of the spirit, so they take [turns](Self::turn), and at most half of the connections run them or
    /// [heavy](Self::all_heavy) statements.
    pub(in crate::store) async fn transaction<T, Run>(
        &self,
        spirit_id: SpiritId,
        run: Run,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: for<'s> FnOnce(&'s mut PgSession) -> BoxFuture<'s, Result<T, StoreError>> + Send + 'static,
    {
        let _turn = self.turn(spirit_id).await?;
        let deadline = Instant::now() + self.0.acquire_timeout;
        let _permit = self.0.acquire_permit(&self.0.heavy_permits, deadline).await?;
        self.lease().await?.transaction(run).await
    }

    /// Waits until an edit of the spirit may take a connection to wait for the spirit's lock. Waits as long as a statement
    /// may wait for the lock.
    pub(in crate::store) async fn turn(&self, spirit_id: SpiritId) -> Result<Turn, StoreError> {
        let _waiting = Waiting::new(&self.0.waiting);
        let turn = timeout(self.0.answer_timeout, self.0.turns.take(spirit_id)).await;
        turn.map_err(|_| StoreError::TimedOut)
    }

    /// Runs a statement that returns at most one row and returns the row.
    pub(in crate::store) async fn optional<Row>(
        &self,
        statement: Statement<'_, Row>,
    ) -> Result<Option<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        Ok(self.all(statement).await?.into_iter().next())
    }

    /// Runs a statement that always returns one row and returns the row.
    pub(in crate::store) async fn one<Row>(&self, statement: Statement<'_, Row>) -> Result<Row, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let row = self.optional(statement).await?;
        row.ok_or_else(|| StoreError::Bug("a statement returned no row".to_owned()))
    }

    /// Returns whether the database is distributed.
    pub(in crate::store) fn is_sharded(&self) -> bool {
        self.0.connector.is_sharded()
    }

    /// Returns the size limit of the pool.
    pub(super) fn max(&self) -> usize {
        self.0.max
    }

    /// Returns the current usage of the pool.
    pub(in crate::store) fn usage(&self) -> PoolUsage {
        let pool = &self.0;
        PoolUsage {
            in_use: pool.permits.in_use(),
            idle: pool.idle.lock().len(),
            max: pool.max,
            waiting: pool.waiting.load(Ordering::Relaxed),
            refusals: pool.refusals.load(Ordering::Relaxed),
        }
    }

    /// Closes the idle connections now and the leased ones when their leases end.
    pub(in crate::store) async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        let idle = std::mem::take(&mut *self.0.idle.lock());
        for connection in idle {
            if let Err(error) = connection.session.close().await {
                tracing::debug!(%error, "could not close a connection cleanly");
            }
        }
    }

    /// Leases a connection, which is returned to the pool when the lease is dropped.
    pub(super) async fn lease(&self) -> Result<Lease, StoreError> {
        let pool = Arc::clone(&self.0);
        if pool.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closing);
        }
        let deadline = Instant::now() + pool.acquire_timeout;
        let permit = pool.acquire_permit(&pool.permits, deadline).await?;
        if let Some(connection) = pool.take_recently_used() {
            return Ok(Lease::new(pool, connection, permit, LeaseState::Busy));
        }
        // A task opens the connection, which goes to the pool if the caller has gone away. Otherwise callers
        // whose deadlines are shorter than a connect would cause an endless series of attempts.
        let task = tokio::spawn(async move {
            let connection = pool.take_or_connect().await?;
            Ok::<_, sqlx::Error>(Lease::new(pool, connection, permit, LeaseState::Ready))
        });
        let joined = timeout_at(deadline, task).await.map_err(|_| connect_timeout())?;
        let mut lease = joined.map_err(unanswered)??;
        lease.set_state(LeaseState::Busy);
        Ok(lease)
    }
}

impl PoolInner {
    /// Waits for the right to use one of the connections, shared fairly among tenants.
    async fn acquire_permit(
        &self,
        permits: &FairSemaphore,
        deadline: Instant,
    ) -> Result<FairPermit, StoreError> {
        let tenant = Tenant::current();
        if let Some(permit) = permits.try_acquire(tenant) {
            return Ok(permit);
        }
        let _waiting = Waiting::new(&self.waiting);
        let acquired = timeout_at(deadline, permits.acquire(tenant)).await;
        acquired.map_err(|_| {
            self.refusals.fetch_add(1, Ordering::Relaxed);
            StoreError::PoolExhausted
        })
    }

    /// Takes the most recently used connection if it can be used without a ping.
    fn take_recently_used(&self) -> Option<PooledConnection> {
        self.idle
            .lock()
            .pop_if(|connection| connection.last_used.elapsed() < PING_AFTER_IDLE)
    }

    /// Takes an idle connection that is alive, or opens a new one.
    async fn take_or_connect(&self) -> Result<PooledConnection, sqlx::Error> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(mut connection) = idle else { break };
            if connection.last_used.elapsed() < PING_AFTER_IDLE || connection.session.is_alive().await {
                return Ok(connection);
            }
            // Connections that were idle for longer are closed without a ping: a ping timeout for each would
            // take too long.
            let dead_since = connection.last_used;
            self.idle.lock().retain(|other| other.last_used > dead_since);
        }
        let now = Instant::now();
        let name = cancel::unique_name(self.connector.options());
        let limit = self.acquire_timeout.max(CONNECT_TIMEOUT);
        let session = timeout(limit, self.connector.connect_with_name(&name)).await;
        Ok(PooledConnection {
            session: session.unwrap_or_else(|_| Err(answer_timeout()))?,
            name,
            created: now,
            last_used: now,
        })
    }

    /// Cancels an abandoned statement, or waits for its end. Returns whether the connection can run another
    /// statement.
    pub(super) async fn end_statement(&self, connection: &mut PooledConnection) -> bool {
        match &self.canceller {
            Some(canceller) => {
                cancel::end_statement(&mut connection.session, &connection.name, canceller).await
            }
            None => connection.session.ping().await.is_ok(),
        }
    }

    /// Returns a connection to the pool; closes it if it is old or inside a transaction, or if the pool is
    /// closed.
    pub(super) fn put_back(&self, mut connection: PooledConnection) {
        connection.last_used = Instant::now();
        let is_reusable = !connection.session.is_in_transaction() && connection.created.elapsed() < AGE_MAX;
        if is_reusable && !self.closed.load(Ordering::Acquire) {
            self.idle.lock().push(connection);
        }
    }
}

/// Counts a waiting statement until it is dropped.
struct Waiting<'c>(&'c AtomicUsize);

impl<'c> Waiting<'c> {
    fn new(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn connect_timeout() -> StoreError {
    StoreError::Unavailable("timed out opening a connection".to_owned())
}

/// Returns the error for a database that did not answer in time.
pub(super) fn answer_timeout() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time").into()
}
