//! `serve`: runs the server until SIGTERM or SIGINT.

use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::database::Database;
use crate::config::{BadSettings, ConnectionLimits, DatabaseArgs, ServeArgs, TlsArgs};
use crate::domain::shard::SHARDS_MAX;
use crate::panics::keep_running;
use crate::server::{self, Listeners, ServerSettings, Tls};
use crate::telemetry;

/// File descriptors for everything except client connections and the pools of database connections:
/// operators, the log, certificates, the private PostgreSQL.
const FILES_RESERVED: usize = 256;
/// Connections of a writer: one that writes, and those that wait for locked spirits.
const CONNECTIONS_PER_WRITER: usize = 5;
/// The smallest number of client connections that a server is started for.
const CONNECTIONS_MIN: usize = 64;

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut settings = ServerSettings::try_from(&args)?;
    settings.tls = open_tls(&args.tls).await?;
    telemetry::init_traced(&args.log)?;
    limit_by_open_files(&mut settings.connections, files_reserved(&args.database))?;
    let shutdown = CancellationToken::new();
    listen_for_signals(shutdown.clone())?;
    if let Some(tls) = settings.tls.clone() {
        reload_on_sighup(tls)?;
    }

    let listener = TcpListener::bind(args.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen_addr))?;
    let addr = listener.local_addr()?;
    let admin = listen_for_operators(args.admin_addr).await?;
    let mut opening = pin!(Database::open(&args.database));
    let database = tokio::select! {
        opened = &mut opening => opened?,
        () = shutdown.cancelled() => {
            // Waits until the private PostgreSQL has started: left half-way, its initialization would continue
            // without this process and collide with the next start.
            opening.await?.close().await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let store = database.serving_store(&args.database);

    let (ready, ready_receiver) = oneshot::channel();
    let announcement = tokio::spawn(async move {
        if ready_receiver.await.is_ok() {
            announce(&format!("listening on {addr}"));
        }
    });
    let served = Box::pin(server::run(
        Listeners {
            calls: listener,
            admin,
        },
        store,
        settings,
        shutdown,
        ready,
    ))
    .await;
    announcement.abort();
    database.close().await?;
    served?;
    Ok(ExitCode::SUCCESS)
}

async fn listen_for_operators(addr: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(addr) = addr else { return Ok(None) };
    let listener = TcpListener::bind(addr).await;
    let listener = listener.with_context(|| format!("cannot listen on {addr} for operators"))?;
    tracing::info!(addr = %listener.local_addr()?, "serving metrics and readiness");
    Ok(Some(listener))
}

/// Returns the number of files that are open beside the client connections.
fn files_reserved(database: &DatabaseArgs) -> usize {
    let is_read = database.read_database_url.is_some() || database.read_database_url_file.is_some();
    let pools = to_usize(database.pool_size) * (1 + usize::from(is_read));
    let writers = match database.citus_shards {
        Some(shards) => to_usize(shards),
        None if database.citus => SHARDS_MAX,
        None => to_usize(database.writers),
    };
    FILES_RESERVED + pools + writers * CONNECTIONS_PER_WRITER
}

/// Raises the soft limit of open files to the hard limit, and lowers the connection limit if the files do not
/// suffice, because each connection is an open file.
///
/// # Errors
/// When the files do not suffice for [`CONNECTIONS_MIN`] connections, or for all if fewer are allowed.
fn limit_by_open_files(limits: &mut ConnectionLimits, reserved: usize) -> Result<(), BadSettings> {
    let mut files = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        ..files
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        files = raised;
    }
    let Some(open) = files.current.and_then(|open| usize::try_from(open).ok()) else {
        return Ok(());
    };
    let needed = reserved + CONNECTIONS_MIN.min(limits.connections_max);
    if open < needed {
        return Err(BadSettings(format!(
            "the limit of open files is {open} and the server needs at least {needed}: raise it with `ulimit -n`, \
             LimitNOFILE= or --ulimit nofile=, or lower --pool-size and --writers"
        )));
    }
    let connections_max = open - reserved;
    if connections_max < limits.connections_max {
        tracing::warn!(
            open,
            connections_max,
            "lowered the connection limit to the limit of open files"
        );
        limits.connections_max = connections_max;
    }
    Ok(())
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

async fn open_tls(args: &TlsArgs) -> anyhow::Result<Option<Tls>> {
    let Some(files) = args.files()? else {
        return Ok(None);
    };
    let tls = Tls::open(files).await;
    Ok(Some(tls.map_err(|error| BadSettings(format!("{error:#}")))?))
}

/// Prints a line to stdout. Logs a failure, because the parent process may have closed stdout.
fn announce(line: &str) {
    let mut stdout = std::io::stdout();
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, line, "cannot write to stdout");
    }
}

/// Drains on the first SIGTERM or SIGINT and exits at once on the second.
fn listen_for_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                tracing::warn!("second signal to shut down, exiting at once");
                telemetry::flush();
                std::process::exit(1);
            }
            tracing::info!("shutting down, finishing calls in progress");
            shutdown.cancel();
        }
    });
    Ok(())
}

fn reload_on_sighup(tls: Tls) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(keep_running("reload", async move || {
        while hangup.recv().await.is_some() {
            tls.reload().await;
        }
    }));
    Ok(())
}
