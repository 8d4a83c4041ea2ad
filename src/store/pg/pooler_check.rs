//! Whether what stands between the store and PostgreSQL keeps its connections apart.
//!
//! A pooler in transaction mode that knows nothing of prepared statements loses them, or runs another
//! client's statement of the same name. Better not to serve than to give somebody else's rows.

use std::fmt::Write as _;

use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use super::error::chain;
use super::pool::{ConnectionPool, Lease};
use super::session::Connector;
use super::startup_error::StartupError;

/// How connections are tied to PostgreSQL server processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Separation {
    /// Each has a server process of its own.
    Own,
    /// They share server processes, and each finds its own statements or does without.
    Shared,
}

/// Connections that are checked, beside that of the probe.
const CONNECTIONS_MAX: usize = 3;
/// Times that all of them ask at once.
const ROUNDS: i32 = 3;
/// `SQLSTATE`s of a statement's name that is taken, and of one that is not there.
const LOST: [&str; 2] = ["42P05", "26000"];
/// How `PgBouncer` begins its refusal of what it does not know.
const REFUSED: &str = "unsupported startup parameter";
/// How it ends the connection of whoever opens a transaction, when it keeps none for one.
const NO_TRANSACTIONS: &str = "not allowed in statement pooling mode";

/// Makes sure that there are transactions and that connections keep their statements apart, or need not.
pub(in crate::store) async fn check_pooler(
    both: [&ConnectionPool; 2],
    connector: &Connector,
) -> Result<Separation, StartupError> {
    try_transaction(both[0]).await?;
    if connector.is_shared() {
        return Ok(Separation::Shared);
    }
    keep_apart(both, connector).await
}

/// Opens a transaction and ends it, on a connection that serves afterwards.
async fn try_transaction(connections: &ConnectionPool) -> Result<(), StartupError> {
    let lease = connections.lease().await;
    let mut lease = lease.map_err(|error| not_connected(error.to_string()))?;
    lease.try_transaction().await.map_err(|error| unfit(&error))
}

/// Lets several connections ask in turn and then all at once, each with a statement of its own that has the
/// same name on all. Takes a few milliseconds; the connections serve afterwards.
async fn keep_apart(both: [&ConnectionPool; 2], connector: &Connector) -> Result<Separation, StartupError> {
    let begun = Instant::now();
    let mut leases = Vec::new();
    for connections in both {
        for _ in 0..CONNECTIONS_MAX.min(connections.max()) {
            let lease = connections.lease().await;
            leases.push(lease.map_err(|error| not_connected(error.to_string()))?);
        }
    }
    let mut processes = Vec::new();
    for (lease, number) in leases.iter_mut().zip(0..) {
        processes.push(ask(lease, number, 0).await?);
    }
    for round in 1..=ROUNDS {
        let asked = leases.iter_mut().zip(0..);
        let answers = join_all(asked.map(|(lease, number)| ask(lease, number, round))).await;
        answers.into_iter().collect::<Result<Vec<i32>, _>>()?;
    }
    if let Some(lease) = leases.first_mut() {
        compare_settings(lease, connector.settings()).await?;
    }
    processes.sort_unstable();
    let is_shared = processes.windows(2).any(|pair| pair[0] == pair[1]);
    let separation = if is_shared {
        Separation::Shared
    } else {
        Separation::Own
    };
    tracing::debug!(?separation, elapsed = ?begun.elapsed(), "connections keep their statements");
    Ok(separation)
}

/// Says in the log which settings a pooler has dropped; nothing breaks without them, but much is slower and a
/// statement can run for ever.
async fn compare_settings(lease: &mut Lease, wanted: &[(&'static str, String)]) -> Result<(), StartupError> {
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let rows = lease
        .all(sqlx::query_as::<_, (String, String)>(SETTINGS).bind(names))
        .await;
    let rows = rows.map_err(|error| unfit(&error))?;
    let mut repair = String::new();
    for (name, value) in wanted {
        if !rows.iter().any(|(known, set)| known == name && set == value) {
            write!(repair, " alter role … set {name} = {value};").expect("writing to a String cannot fail");
        }
    }
    if !repair.is_empty() {
        tracing::warn!(
            repair = repair.trim(),
            "a pooler drops the settings of our connections; set them for the role, or start with --pooler transaction"
        );
    }
    Ok(())
}

const SETTINGS: &str = "select name, setting from pg_settings where name = any($1)";

/// The server process that answers.
async fn ask(lease: &mut Lease, number: i32, round: i32) -> Result<i32, StartupError> {
    let sql = AssertSqlSafe(format!("select pg_backend_pid(), {number}, $1::int4"));
    let rows = lease
        .all(sqlx::query_as::<_, (i32, i32, i32)>(sql).bind(round))
        .await;
    match rows.map_err(|error| unfit(&error))?.as_slice() {
        &[(process, answered, of_round)] if (answered, of_round) == (number, round) => Ok(process),
        _ => Err(StartupError::MixedUp("one got another's answer".to_owned())),
    }
}

fn unfit(error: &sqlx::Error) -> StartupError {
    use sqlx::Error as E;
    let is_mixed_up = match error {
        E::Database(database) => database.code().is_some_and(|code| LOST.contains(&&*code)),
        E::Protocol(_) | E::Decode(_) | E::ColumnDecode { .. } | E::ColumnIndexOutOfBounds { .. } => true,
        _ => false,
    };
    if is_mixed_up {
        StartupError::MixedUp(chain(error))
    } else {
        not_connected(chain(error))
    }
}

fn not_connected(cause: String) -> StartupError {
    if cause.contains(REFUSED) {
        StartupError::SettingsRefused(cause)
    } else if cause.contains(NO_TRANSACTIONS) {
        StartupError::NoTransactions(cause)
    } else {
        StartupError::Failed(cause)
    }
}
