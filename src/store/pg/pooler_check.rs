//! Checks whether a pooler between the store and PostgreSQL mixes up prepared statements.
//!
//! A pooler in transaction mode without support for prepared statements loses them, or runs another client's
//! statement of the same name. The service then does not start, because it would return wrong rows.

use std::fmt::Write as _;

use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use super::error::chain;
use super::lease::Lease;
use super::pool::ConnectionPool;
use super::session::Connector;
use super::startup_error::StartupError;

/// Connections checked per pool.
const CONNECTIONS_MAX: usize = 3;
/// Number of rounds in which all connections run their statement concurrently.
const ROUNDS: i32 = 3;
/// `SQLSTATE`s of a prepared statement whose name is taken, and of a prepared statement that does not exist.
const STATEMENT_LOST: [&str; 2] = ["42P05", "26000"];
/// Start of `PgBouncer`'s error for an unknown startup parameter.
const SETTINGS_REFUSED: &str = "unsupported startup parameter";
/// Part of `PgBouncer`'s error for a transaction in statement mode, after which it closes the connection.
const NO_TRANSACTIONS: &str = "not allowed in statement pooling mode";

const SETTINGS: &str = "select name, setting from pg_settings where name = any($1)";

/// The mapping of connections to PostgreSQL server processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backends {
    /// Each connection has a process of its own.
    Dedicated,
    /// Connections share processes. Either the pooler keeps their prepared statements apart, or they use none.
    Shared,
}

/// Checks that transactions work, and that each connection finds its own prepared statements if it uses them.
pub(super) async fn check_pooler(
    pools: [&ConnectionPool; 2],
    connector: &Connector,
) -> Result<Backends, StartupError> {
    probe_transaction(pools[0]).await?;
    if connector.is_transaction_pooled() {
        return Ok(Backends::Shared);
    }
    check_prepared_statements(pools, connector).await
}

/// Begins a transaction and rolls it back; the connection goes back to the pool.
async fn probe_transaction(pool: &ConnectionPool) -> Result<(), StartupError> {
    let mut lease = lease(pool).await?;
    lease
        .probe_transaction()
        .await
        .map_err(|error| statement_failure(&error))
}

/// Runs a statement on several connections, first in turn and then concurrently. The statement differs from
/// connection to connection but has the same name on all. Takes a few milliseconds; the connections go back to
/// their pools.
async fn check_prepared_statements(
    pools: [&ConnectionPool; 2],
    connector: &Connector,
) -> Result<Backends, StartupError> {
    let started = Instant::now();
    let mut leases = Vec::new();
    for pool in pools {
        for _ in 0..CONNECTIONS_MAX.min(pool.max()) {
            leases.push(lease(pool).await?);
        }
    }
    let mut processes = Vec::new();
    for (lease, number) in leases.iter_mut().zip(0..) {
        processes.push(run_numbered(lease, number, 0).await?);
    }
    for round in 1..=ROUNDS {
        let runs = leases.iter_mut().zip(0..);
        let results = join_all(runs.map(|(lease, number)| run_numbered(lease, number, round))).await;
        results.into_iter().collect::<Result<Vec<i32>, _>>()?;
    }
    if let Some(lease) = leases.first_mut() {
        check_settings(lease, connector.settings()).await?;
    }
    processes.sort_unstable();
    let backends = if processes.windows(2).any(|pair| pair[0] == pair[1]) {
        Backends::Shared
    } else {
        Backends::Dedicated
    };
    tracing::debug!(separation = ?backends, elapsed = ?started.elapsed(), "connections keep their prepared statements apart");
    Ok(backends)
}

/// Runs the statement of a connection and returns the id of the server process that ran it.
async fn run_numbered(lease: &mut Lease, number: i32, round: i32) -> Result<i32, StartupError> {
    let sql = AssertSqlSafe(format!("select pg_backend_pid(), {number}, $1::int4"));
    let rows = lease
        .all(sqlx::query_as::<_, (i32, i32, i32)>(sql).bind(round))
        .await;
    match rows.map_err(|error| statement_failure(&error))?.as_slice() {
        &[(process, got_number, got_round)] if (got_number, got_round) == (number, round) => Ok(process),
        _ => Err(StartupError::StatementsMixedUp(
            "a connection got the result of another connection's statement".to_owned(),
        )),
    }
}

/// Logs the settings that a pooler has dropped, if any. The service works without them, but is much slower,
/// and no statement has a timeout.
async fn check_settings(lease: &mut Lease, wanted: &[(&'static str, String)]) -> Result<(), StartupError> {
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let rows = lease
        .all(sqlx::query_as::<_, (String, String)>(SETTINGS).bind(names))
        .await;
    let rows = rows.map_err(|error| statement_failure(&error))?;
    let mut repair = String::new(); // SQL that sets them for the role
    for (name, value) in wanted {
        let is_set = |(row_name, row_value): &(String, String)| row_name == name && row_value == value;
        if !rows.iter().any(is_set) {
            write!(repair, " alter role … set {name} = {value};").expect("writing to a String cannot fail");
        }
    }
    if !repair.is_empty() {
        tracing::warn!(
            repair = repair.trim(),
            "a pooler drops the settings of connections; set them for the role, or start with --pooler transaction"
        );
    }
    Ok(())
}

async fn lease(pool: &ConnectionPool) -> Result<Lease, StartupError> {
    let lease = pool.lease().await;
    lease.map_err(|error| connection_failure(error.to_string()))
}

fn statement_failure(error: &sqlx::Error) -> StartupError {
    use sqlx::Error as E;
    let is_mixed_up = match error {
        E::Database(database) => database
            .code()
            .is_some_and(|code| STATEMENT_LOST.contains(&&*code)),
        E::Protocol(_) | E::Decode(_) | E::ColumnDecode { .. } | E::ColumnIndexOutOfBounds { .. } => true,
        _ => false,
    };
    if is_mixed_up {
        StartupError::StatementsMixedUp(chain(error))
    } else {
        connection_failure(chain(error))
    }
}

fn connection_failure(cause: String) -> StartupError {
    if cause.contains(SETTINGS_REFUSED) {
        StartupError::SettingsRefused(cause)
    } else if cause.contains(NO_TRANSACTIONS) {
        StartupError::NoTransactions(cause)
    } else {
        StartupError::Failed(cause)
    }
}
