//! Cancels statements whose caller has gone away, which frees their connection and saves work.
//!
//! The backend to signal is found by its unique `application_name`. Its process id is not reliable: behind a
//! pooler the backend may run another client's statement by the time of the cancel.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;

use super::error::ends_connection;
use super::pool::ConnectionPool;
use super::session::PgSession;

/// Time for a statement to end by itself before it is cancelled. Most statements end sooner than a cancel
/// could reach them, and when many callers go away at once, their cancels must not queue for the one
/// connection that sends them.
const GRACE: Duration = Duration::from_millis(50);
/// Longest time between two cancels of a statement; the time starts at the grace and doubles.
const PAUSE_MAX: Duration = Duration::from_secs(1);

const CANCEL: &str = "
    select pg_cancel_backend(pid)
    from pg_stat_activity
    where application_name = $1
    and state <> 'idle'";

/// Returns an `application_name` that no other connection has.
pub(super) fn unique_name(options: &PgConnectOptions) -> String {
    let base = options.get_application_name().unwrap_or_default();
    format!("{base} {:08x}", fastrand::u32(..))
}

/// Waits for the end of a session's statement, and cancels it if it does not end soon. Returns whether the
/// session can run another statement.
///
/// When a cancel returns, PostgreSQL has signalled the backend. A backend drops a signal that finds it without a
/// statement, so the signal cannot hit a later statement.
pub(super) async fn end_statement(session: &mut PgSession, name: &str, canceller: &ConnectionPool) -> bool {
    cancel_until_ended(wait_until_idle(session), name, canceller).await
}

/// Waits for the end of a transaction behind a pooler, and cancels its statement if it does not end soon. A
/// cancel that comes too late can hit the next statement that the pooler runs on that backend; that statement
/// fails with an error that its client can retry.
pub(super) async fn end_transaction(transaction: impl Future, name: &str, canceller: &ConnectionPool) {
    cancel_until_ended(transaction, name, canceller).await;
}

/// Sends cancels until the statement has ended. One can be too early: a statement that has not reached its backend
/// yet, or still waits for one at a pooler, is not cancelled by it.
async fn cancel_until_ended<T>(ended: impl Future<Output = T>, name: &str, canceller: &ConnectionPool) -> T {
    let mut ended = pin!(ended);
    let mut pause = GRACE;
    loop {
        if let Ok(result) = timeout(pause, &mut ended).await {
            return result;
        }
        send_cancel(name, canceller).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Boxed because the future is recursive: behind a pooler, the statement that cancels can be cancelled too.
fn send_cancel<'s>(name: &'s str, canceller: &'s ConnectionPool) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        let cancelled = canceller
            .all(sqlx::query_as::<_, (bool,)>(CANCEL).bind(name))
            .await;
        if let Err(error) = cancelled {
            tracing::debug!(%error, "could not cancel a statement; waiting for its end");
        }
    })
}

/// Pings until a ping succeeds: the errors of an unfinished statement arrive before the reply to a ping.
/// Returns whether the session can run another statement.
async fn wait_until_idle(session: &mut PgSession) -> bool {
    loop {
        match session.ping().await {
            Ok(()) => return true,
            Err(sqlx::Error::Database(error)) if !ends_connection(error.as_ref()) => {}
            Err(_) => return false,
        }
    }
}
