//! Migrations and checks before the server executes calls.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};

use crate::config::AuthSettings;
use crate::grpc::Keyring;
use crate::store::{StartupError, Store};

/// The server would listen on a non-loopback address without authentication.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "refusing to serve {0} without authentication: no API key was ever created. Create one with \
     `elephantasm-events key create`, or listen on 127.0.0.1, or, if everybody who can reach the address may do \
     everything, set --insecure-no-auth (EVENTS_INSECURE_NO_AUTH=true)"
)]
pub struct MissingAuthentication(SocketAddr);

/// Back-off between attempts to prepare the database: exponential up to the maximum, with unlimited attempts.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(5))
    .without_max_times();

/// Migrates the schema as soon as the database is reachable. Returns whether an API key was ever created.
///
/// # Errors
/// When the error is not transient.
pub(super) async fn prepare_database(store: &Store, keyring: &Keyring) -> anyhow::Result<bool> {
    let prepare = || async {
        let version = store.migrate().await?;
        tracing::info!(version, "schema is up to date");
        Ok(keyring.detect_first_key().await?)
    };
    let prepared = prepare.retry(BACKOFF).when(StartupError::is_transient);
    let prepared = prepared.notify(|error, _pause| {
        if let StartupError::Failed(cause) = error {
            tracing::warn!(cause, "database not ready, retrying");
        }
    });
    prepared.await.context("the database cannot be used")
}

/// Checks that a server without API keys listens on a loopback address or has `--insecure-no-auth` set.
pub(super) fn check_authentication(
    addr: SocketAddr,
    auth: AuthSettings,
) -> Result<(), MissingAuthentication> {
    if addr.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if !auth.insecure_no_auth {
        return Err(MissingAuthentication(addr));
    }
    tracing::warn!(%addr, "no API key was ever created: everybody who can reach this address may do everything");
    Ok(())
}
