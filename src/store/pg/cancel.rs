//! Ends the statement that a caller left behind, so that its connection is soon free and the database
//! does no work that nobody waits for.
//!
//! The backend is found by the name that the connection alone has. Its process id would not do: behind
//! a pooler it may serve somebody else by now.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;

use super::error::ends_connection;
use super::pool::ConnectionPool;
use super::session::PgSession;

/// Most statements end by themselves sooner than they could be cancelled; a flood of callers that go away
/// must not queue for the one connection that cancels.
const GRACE: Duration = Duration::from_millis(50);

const CANCEL: &str = "
    select pg_cancel_backend(pid)
    from pg_stat_activity
    where application_name = $1
    and state <> 'idle'";

/// A name that no other connection has.
pub(super) fn new_name(connect: &PgConnectOptions) -> String {
    let base = connect.get_application_name().unwrap_or_default();
    format!("{base} {:08x}", fastrand::u32(..))
}

/// Ends what the connection of this name runs. It is over when this returns, and whether the connection
/// can be used for another statement is what is returned.
pub(super) async fn cancel(session: &mut PgSession, name: &str, by: &ConnectionPool) -> bool {
    if let Ok(usable) = timeout(GRACE, settle(session)).await {
        return usable;
    }
    signal(name, by).await;
    // The signal has been sent when the cancel is answered, so the backend gets it before the next ping and
    // it cannot meet a later statement.
    settle(session).await
}

/// Lets a transaction behind a pooler end, cancelled if it does not end soon. A cancel that comes a moment too
/// late meets whatever the pooler has its server do next; that fails and can be tried again.
pub(super) async fn unless_it_ends(run: &mut (impl Future + Unpin), name: &str, by: &ConnectionPool) {
    if timeout(GRACE, &mut *run).await.is_err() {
        signal(name, by).await;
        run.await;
    }
}

/// Boxed, since a statement behind a pooler may have to signal itself.
fn signal<'s>(name: &'s str, by: &'s ConnectionPool) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        let cancelled = by.all(sqlx::query_as::<_, (bool,)>(CANCEL).bind(name)).await;
        if let Err(error) = cancelled {
            tracing::debug!(%error, "a statement could not be cancelled, waiting for its end");
        }
    })
}

/// Waits for the end of what runs: its errors come first, then the answer to a ping.
async fn settle(session: &mut PgSession) -> bool {
    loop {
        match session.ping().await {
            Ok(()) => return true,
            Err(sqlx::Error::Database(error)) if !ends_connection(error.as_ref()) => {}
            Err(_) => return false,
        }
    }
}
