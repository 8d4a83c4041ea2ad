//! The connections for reads and edits, each statement on one of them.
//!
//! sqlx's own pool asks the database whether a connection lives, at each take and each return: three
//! round trips for a read of one. Here only a connection that was idle for a while is asked. One whose
//! statement was dropped by its caller goes to a task that cancels the statement and gives it back. Behind
//! a pooler in transaction mode the whole statement runs in a task.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::FromRow;
use sqlx::postgres::PgRow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use super::cancel;
use super::error::{StoreError, ends_connection, unanswered};
use super::session::{Connector, PgSession, Statement, detached};
use super::spans;

/// A connection that was idle for longer is asked whether it lives.
pub(in crate::store) const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// A connection that is older is not used again, so that backends do not grow for ever.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// In which one is made, or found dead, whether or not anybody still waits for it.
const MADE_WITHIN: Duration = Duration::from_secs(10);
/// What a statement has here beyond its limit in the database, so that a database that lives answers first.
const BEYOND: Duration = Duration::from_secs(5);

/// A bounded number of connections. Cheap to clone.
#[derive(Clone)]
pub(in crate::store) struct ConnectionPool(Arc<Shared>);

struct Shared {
    connector: Connector,
    acquire_timeout: Duration,
    /// In which a statement is answered.
    answer_limit: Duration,
    max: usize,
    free: Arc<Semaphore>,
    /// Statements that wait for a free one.
    waiting: AtomicUsize,
    idle: Mutex<Vec<PooledConnection>>,
    closed: AtomicBool,
    /// For cancelling statements; without it those left behind run to their end.
    canceller: Option<ConnectionPool>,
}

/// How many connections are in use, and how many might be.
pub(in crate::store) struct PoolUsage {
    pub(in crate::store) in_use: usize,
    pub(in crate::store) idle: usize,
    pub(in crate::store) max: usize,
    pub(in crate::store) waiting: usize,
}

struct PooledConnection {
    session: PgSession,
    /// As the database knows it.
    name: String,
    made: Instant,
    used: Instant,
}

/// A connection in use; goes back when it is dropped.
pub(in crate::store) struct Lease {
    home: Arc<Shared>,
    held: Option<PooledConnection>,
    state: State,
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A statement may be under way.
    Busy,
    /// Ready for the next statement.
    Ready,
    /// Not to be used again.
    Broken,
}

impl ConnectionPool {
    /// At most so many, made as they are needed. Statements that are left behind are cancelled by another
    /// one's, if there is one.
    pub(in crate::store) fn new(
        connector: Connector,
        max: u32,
        acquire_timeout: Duration,
        canceller: Option<Self>,
    ) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Self(Arc::new(Shared {
            answer_limit: connector.statement_timeout().saturating_add(BEYOND),
            connector,
            acquire_timeout,
            max,
            free: Arc::new(Semaphore::new(max)),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            closed: AtomicBool::new(false),
            canceller,
        }))
    }

    /// All rows of a statement.
    pub(in crate::store) async fn all<Row>(
        &self,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let (statement, span) = spans::traced(statement)?;
        let mut lease = self.lease().await?;
        if lease.session()?.is_shared() {
            return lease.in_task(detached(statement)?).instrument(span).await;
        }
        Ok(lease.all(statement).instrument(span).await?)
    }

    /// The row of a statement that gives one or none.
    pub(in crate::store) async fn optional<Row>(
        &self,
        statement: Statement<'_, Row>,
    ) -> Result<Option<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        Ok(self.all(statement).await?.into_iter().next())
    }

    /// The row of a statement that always gives one.
    pub(in crate::store) async fn one<Row>(&self, statement: Statement<'_, Row>) -> Result<Row, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let row = self.optional(statement).await?;
        row.ok_or_else(|| StoreError::Bug("a statement gave no row".to_owned()))
    }

    /// How many there are at the most.
    pub(in crate::store) fn max(&self) -> usize {
        self.0.max
    }

    pub(in crate::store) fn usage(&self) -> PoolUsage {
        let shared = &self.0;
        PoolUsage {
            in_use: shared.max.saturating_sub(shared.free.available_permits()),
            idle: shared.lock().len(),
            max: shared.max,
            waiting: shared.waiting.load(Ordering::Relaxed),
        }
    }

    /// Closes those that are idle, and the others when they come back.
    pub(in crate::store) async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        let idle = std::mem::take(&mut *self.0.lock());
        for held in idle {
            if let Err(error) = held.session.close().await {
                tracing::debug!(%error, "a connection did not close in order");
            }
        }
    }

    /// One of them, until it is dropped.
    pub(in crate::store) async fn lease(&self) -> Result<Lease, StoreError> {
        let home = Arc::clone(&self.0);
        if home.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closing);
        }
        let deadline = Instant::now() + home.acquire_timeout;
        let late = || StoreError::Unavailable("no connection was free in time".to_owned());
        let permit = if let Ok(permit) = Arc::clone(&home.free).try_acquire_owned() {
            permit
        } else {
            let _waiting = Waiting::new(&home.waiting);
            timeout_at(deadline, Arc::clone(&home.free).acquire_owned())
                .await
                .map_err(|_| late())?
                .map_err(|_| StoreError::Closing)?
        };
        if let Some(held) = home.trusted() {
            return Ok(Lease::new(home, held, permit, State::Busy));
        }
        // A task of its own, which gives the connection to the others when the caller has gone: callers that go
        // away sooner than one is made would have them made for ever.
        let made = tokio::spawn(async move {
            let held = home.take().await?;
            Ok::<_, sqlx::Error>(Lease::new(home, held, permit, State::Ready))
        });
        let made = timeout_at(deadline, made).await.map_err(|_| late())?;
        let mut lease = made.map_err(unanswered)??;
        lease.state = State::Busy;
        Ok(lease)
    }
}

/// Counts a statement while it waits; it may be dropped at any time.
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<PooledConnection>> {
        // Every change under the lock is a single step, so a poisoned one is still whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that was used a moment ago, if there is one.
    fn trusted(&self) -> Option<PooledConnection> {
        self.lock().pop_if(|held| held.used.elapsed() < TRUSTED_FOR)
    }

    async fn take(&self) -> Result<PooledConnection, sqlx::Error> {
        loop {
            let idle = self.lock().pop();
            let Some(mut held) = idle else { break };
            if held.used.elapsed() < TRUSTED_FOR || held.session.lives().await {
                return Ok(held);
            }
            // To wait for the silence of each that was idle for longer would take too long.
            self.lock().retain(|other| other.used > held.used);
        }
        let now = Instant::now();
        let name = cancel::new_name(self.connector.options());
        let session = timeout(MADE_WITHIN, self.connector.connect_as(&name)).await;
        Ok(PooledConnection {
            session: session.unwrap_or_else(|_| Err(silence()))?,
            name,
            made: now,
            used: now,
        })
    }

    /// Ends a statement that was left behind, or waits for its end; whether the connection is good for
    /// another.
    async fn free(&self, held: &mut PooledConnection) -> bool {
        match &self.canceller {
            Some(canceller) => cancel::cancel(&mut held.session, &held.name, canceller).await,
            None => held.session.ping().await.is_ok(),
        }
    }

    fn put(&self, mut held: PooledConnection) {
        held.used = Instant::now();
        let is_good = !held.session.is_in_transaction() && held.made.elapsed() < LIFETIME;
        if is_good && !self.closed.load(Ordering::Acquire) {
            self.lock().push(held);
        }
    }
}

impl Lease {
    fn new(home: Arc<Shared>, held: PooledConnection, permit: OwnedSemaphorePermit, state: State) -> Self {
        Self {
            home,
            held: Some(held),
            state,
            permit: Some(permit),
        }
    }

    /// All rows of a statement.
    pub(in crate::store) async fn all<Row>(
        &mut self,
        statement: Statement<'_, Row>,
    ) -> Result<Vec<Row>, sqlx::Error>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        // The database ends it sooner, if it can be heard; a network that swallows everything does not say so.
        let limit = self.home.answer_limit;
        let rows = timeout(limit, self.session()?.all(statement)).await;
        self.end(rows.unwrap_or_else(|_| Err(silence())))
    }

    /// Opens a transaction and ends it.
    pub(in crate::store) async fn try_transaction(&mut self) -> Result<(), sqlx::Error> {
        let limit = self.home.acquire_timeout;
        let ended = timeout(limit, self.session()?.try_transaction()).await;
        self.end(ended.unwrap_or(Err(sqlx::Error::PoolTimedOut)))
    }

    /// Runs a statement in a transaction, in a task: were it dropped half-way, the next statement on the
    /// connection would find itself in the transaction. When its caller goes it is cancelled.
    async fn in_task<Row>(self, statement: Statement<'static, Row>) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    {
        let (mut caller, answer) = oneshot::channel();
        let home = Arc::clone(&self.home);
        let name = self.held.as_ref().map(|held| held.name.clone());
        tokio::spawn(async move {
            let mut run = std::pin::pin!(self.in_transaction(statement));
            let result = tokio::select! {
                result = &mut run => result,
                () = caller.closed() => {
                    if let (Some(canceller), Some(name)) = (&home.canceller, &name) {
                        cancel::unless_it_ends(&mut run, name, canceller).await;
                    }
                    return;
                }
            };
            if caller.send(result).is_err() {
                tracing::trace!("a caller has gone");
            }
        });
        answer.await.map_err(unanswered)?
    }

    async fn in_transaction<Row>(mut self, statement: Statement<'static, Row>) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        // Where the pooler has no server free, this waits as for a connection.
        let begun = timeout(self.home.acquire_timeout, self.session()?.begin()).await;
        let begun = begun.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        self.end(begun)?;
        Ok(self.all(statement).await?)
    }

    fn session(&mut self) -> Result<&mut PgSession, sqlx::Error> {
        let held = self.held.as_mut();
        held.map(|held| &mut held.session)
            .ok_or_else(|| sqlx::Error::InvalidArgument("a lease without a connection".to_owned()))
    }

    /// Takes note of how the statement ended.
    fn end<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.state = match &result {
            Ok(_) => State::Ready,
            Err(sqlx::Error::Database(error)) if !ends_connection(error.as_ref()) => State::Ready,
            Err(_) => State::Broken,
        };
        result
    }
}

/// Nothing came in time.
fn silence() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the database does not answer").into()
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(mut held), permit) = (self.held.take(), self.permit.take()) else {
            return;
        };
        match self.state {
            State::Ready => self.home.put(held),
            State::Broken => {}
            State::Busy => {
                let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                    return;
                };
                let home = Arc::clone(&self.home);
                runtime.spawn(async move {
                    let limit = home.acquire_timeout;
                    if timeout(limit, home.free(&mut held)).await.unwrap_or(false) {
                        home.put(held);
                    }
                    drop(permit);
                });
            }
        }
    }
}
