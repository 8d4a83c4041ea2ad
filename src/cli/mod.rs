//! The command line: one file for each subcommand. Without a subcommand the binary serves.

mod bench;
mod changes;
mod client;
mod database;
mod follow;
mod healthcheck;
mod history;
mod import;
mod key;
mod migrate;
mod print;
mod printable;
mod purge;
mod replay;
mod retention;
mod serve;
mod session;
mod spirits;
mod tail;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{BadSettings, ServeArgs};
use crate::server::MissingAuthentication;
use crate::telemetry;

/// Long-term memory for AI agents: stores events durably and replays them in order.
#[derive(Debug, Parser)]
#[command(
    name = "elephantasm-events",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date and exit
    Migrate(Box<migrate::MigrateArgs>),
    /// Create, list and revoke API keys
    Key(key::KeyArgs),
    /// Store events from JSON files and from transcripts of other tools
    Import(import::ImportArgs),
    /// Print a session in replay order
    Replay(replay::ReplayArgs),
    /// List, show, title and rewind sessions
    Session(session::SessionArgs),
    /// Print new events of a spirit or a session as they are stored
    Tail(tail::TailArgs),
    /// Print the changes of one event, newest first
    History(history::HistoryArgs),
    /// Print the changes of a spirit's events in the order of their commits
    Changes(changes::ChangesArgs),
    /// Remove events, or a spirit, for good
    Purge(Box<purge::PurgeArgs>),
    /// Show and set how long a spirit keeps its events
    Retention(retention::RetentionArgs),
    /// Measure a running server
    Bench(bench::BenchArgs),
    /// Check a running server; exit code 0 if it serves, 1 if not
    Healthcheck(healthcheck::HealthcheckArgs),
}

/// Exit code for invalid settings, the same as clap's.
const BAD_SETTINGS: u8 = 2;
/// Time limit for the end of tasks that were aborted at the drain limit.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the subcommand and returns its exit code.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(async {
        match cli.command {
            None => Box::pin(serve::run(cli.serve)).await,
            Some(Command::Serve(args)) => Box::pin(serve::run(*args)).await,
            Some(Command::Migrate(args)) => migrate::run(*args).await,
            Some(Command::Key(args)) => key::run(args).await,
            Some(Command::Import(args)) => import::run(args).await,
            Some(Command::Replay(args)) => replay::run(args).await,
            Some(Command::Session(args)) => session::run(args).await,
            Some(Command::Tail(args)) => tail::run(args).await,
            Some(Command::History(args)) => history::run(args).await,
            Some(Command::Changes(args)) => changes::run(args).await,
            Some(Command::Purge(args)) => purge::run(*args).await,
            Some(Command::Retention(args)) => retention::run(args).await,
            Some(Command::Bench(args)) => bench::run(args).await,
            Some(Command::Healthcheck(args)) => healthcheck::run(args).await,
        }
    });
    telemetry::end_traces();
    runtime.shutdown_timeout(ABORT_TIMEOUT);
    telemetry::flush();
    result.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    if error.is::<BadSettings>() || error.is::<MissingAuthentication>() {
        ExitCode::from(BAD_SETTINGS)
    } else {
        ExitCode::FAILURE
    }
}
