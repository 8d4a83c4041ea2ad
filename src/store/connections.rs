//! The connections for reads and edits, each statement on one of them.
//!
//! sqlx's own pool asks the database whether a connection lives, at each take and each return: three
//! round trips for a read of one. Here only a connection that was idle for a while is asked. One whose
//! statement was dropped by its caller goes to a task that cancels the statement and gives it back.

mod cancel;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::QueryAs;
use sqlx::{ConnectOptions as _, Connection as _, FromRow, PgConnection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::StoreError;

/// A connection that was idle for longer is asked whether it lives.
pub(super) const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// A connection that is older is not used again, so that backends do not grow for ever.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A bounded number of connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    connect: PgConnectOptions,
    acquire_timeout: Duration,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Held>>,
    closed: AtomicBool,
    /// For cancelling statements; without it those left behind run to their end.
    canceller: Option<Connections>,
}

struct Held {
    connection: PgConnection,
    /// As the database knows it.
    name: String,
    made: Instant,
    used: Instant,
}

/// A connection in use; goes back when it is dropped.
struct Lease {
    home: Arc<Shared>,
    held: Option<Held>,
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

type Query<'q, Row> = QueryAs<'q, Postgres, Row, PgArguments>;

impl Connections {
    /// At most so many, made as they are needed. Statements that are left behind are cancelled by another
    /// one's, if there is one.
    pub(super) fn new(
        connect: PgConnectOptions,
        max: u32,
        acquire_timeout: Duration,
        canceller: Option<Self>,
    ) -> Self {
        Self(Arc::new(Shared {
            connect,
            acquire_timeout,
            free: Arc::new(Semaphore::new(usize::try_from(max).unwrap_or(usize::MAX))),
            idle: Mutex::default(),
            closed: AtomicBool::new(false),
            canceller,
        }))
    }

    /// All rows of a statement.
    pub(super) async fn all<Row>(&self, query: Query<'_, Row>) -> Result<Vec<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let mut lease = self.lease().await?;
        let rows = query.fetch_all(lease.connection()?).await;
        Ok(lease.end(rows)?)
    }

    /// The row of a statement that gives one or none.
    pub(super) async fn optional<Row>(&self, query: Query<'_, Row>) -> Result<Option<Row>, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        Ok(self.all(query).await?.into_iter().next())
    }

    /// The row of a statement that always gives one.
    pub(super) async fn one<Row>(&self, query: Query<'_, Row>) -> Result<Row, StoreError>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let row = self.optional(query).await?;
        row.ok_or_else(|| StoreError::Bug("a statement gave no row".to_owned()))
    }

    /// Closes those that are idle, and the others when they come back.
    pub(super) async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        let idle = std::mem::take(&mut *self.0.lock());
        for held in idle {
            if let Err(error) = held.connection.close().await {
                tracing::debug!(%error, "a connection did not close in order");
            }
        }
    }

    async fn lease(&self) -> Result<Lease, StoreError> {
        let home = Arc::clone(&self.0);
        if home.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closing);
        }
        let deadline = Instant::now() + home.acquire_timeout;
        let late = || StoreError::Unavailable("no connection was free in time".to_owned());
        let permit = timeout_at(deadline, Arc::clone(&home.free).acquire_owned())
            .await
            .map_err(|_| late())?
            .map_err(|_| StoreError::Closing)?;
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
        let mut lease = made.map_err(|_| StoreError::Closing)??;
        lease.state = State::Busy;
        Ok(lease)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        // Every change under the lock is a single step, so a poisoned one is still whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that was used a moment ago, if there is one.
    fn trusted(&self) -> Option<Held> {
        self.lock().pop_if(|held| held.used.elapsed() < TRUSTED_FOR)
    }

    async fn take(&self) -> Result<Held, sqlx::Error> {
        loop {
            let idle = self.lock().pop();
            let Some(mut held) = idle else { break };
            if held.used.elapsed() < TRUSTED_FOR || held.connection.ping().await.is_ok() {
                return Ok(held);
            }
        }
        let now = Instant::now();
        let name = cancel::new_name(&self.connect);
        let connect = self.connect.clone().application_name(&name);
        Ok(Held {
            connection: connect.connect().await?,
            name,
            made: now,
            used: now,
        })
    }

    /// Ends a statement that was left behind, or waits for its end; whether the connection is good for
    /// another.
    async fn free(&self, held: &mut Held) -> bool {
        match &self.canceller {
            Some(canceller) => cancel::cancel(&mut held.connection, &held.name, canceller).await,
            None => held.connection.ping().await.is_ok(),
        }
    }

    fn put(&self, mut held: Held) {
        held.used = Instant::now();
        if !self.closed.load(Ordering::Acquire) && held.made.elapsed() < LIFETIME {
            self.lock().push(held);
        }
    }
}

impl Lease {
    fn new(home: Arc<Shared>, held: Held, permit: OwnedSemaphorePermit, state: State) -> Self {
        Self {
            home,
            held: Some(held),
            state,
            permit: Some(permit),
        }
    }

    fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        let held = self.held.as_mut();
        held.map(|held| &mut held.connection)
            .ok_or_else(|| StoreError::Bug("a lease without a connection".to_owned()))
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

/// Whether the server closes the connection after this error: it is shutting down or was told to.
fn ends_connection(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code.starts_with("57P"))
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
