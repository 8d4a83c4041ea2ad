//! The command line: one file for each subcommand. Without a subcommand the binary serves.

mod access;
mod bench;
mod call;
mod changes;
mod client;
mod completions;
mod database;
mod distribute;
mod event;
mod explain;
mod export;
mod failure;
mod filter;
mod follow;
mod healthcheck;
mod history;
mod import;
mod import_elephantasm;
mod key;
mod meta;
mod migrate;
mod output;
mod pages;
mod print;
mod printable;
mod progress;
mod purge;
mod record;
mod replay;
mod retention;
mod retry;
mod serve;
mod session;
mod spirit;
mod spirits;
mod stop;
mod style;
mod table;
mod tail;
mod times;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use const_format::concatcp;

use crate::config::ServeArgs;
use crate::telemetry;

/// Long-term memory for AI agents: stores events durably and replays them in order.
#[derive(Debug, Parser)]
#[command(
    name = "elephantasm-events",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    after_help = concatcp!(EXAMPLES, "\n\n", failure::EXIT_CODES)
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
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date and exit
    Migrate(Box<migrate::MigrateArgs>),
    /// Distribute the tables over the workers of a Citus cluster
    Distribute(Box<distribute::DistributeArgs>),
    /// Create, list and revoke API keys
    Key(key::KeyArgs),
    /// Show what the API key of the call may do
    Access(access::AccessArgs),
    /// Create, show, change and delete spirits
    Spirit(spirit::SpiritArgs),
    /// Store, show, change and delete events
    Event(event::EventArgs),
    /// List, show, title and rewind sessions
    Session(session::SessionArgs),
    /// Store events from JSON files and from transcripts of other tools
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(import::ImportArgs),
    /// Move the spirits and events of the Python backend, database to database
    ImportElephantasm(Box<import_elephantasm::ImportElephantasmArgs>),
    /// Write the events of a spirit or a session to a file, for `import` or as transcripts
    Export(export::ExportArgs),
    /// Print a session in replay order
    Replay(Box<replay::ReplayArgs>),
    /// Print new events of a spirit or a session as they are stored
    Tail(Box<tail::TailArgs>),
    /// Print the changes of one event, newest first
    History(history::HistoryArgs),
    /// Print the changes of a spirit's events in the order of their commits
    Changes(changes::ChangesArgs),
    /// Remove events, or a spirit, for good, and list such removals
    Purge(Box<purge::PurgeArgs>),
    /// Show and set how long a spirit keeps its events
    Retention(retention::RetentionArgs),
    /// Measure a running server
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(bench::BenchArgs),
    /// Check a running server; exit code 0 if it serves, 1 if not
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

// A test runs the examples of each command.
const EXAMPLES: &str = "Examples:
  elephantasm-events import examples/garden.jsonl --spirit Fern
  elephantasm-events replay --spirit Fern --session tomatoes";
const SERVE_EXAMPLES: &str = "Examples:
  elephantasm-events serve --database-url \"$DATABASE_URL\"
  elephantasm-events serve --listen-addr 127.0.0.1:0 --drain-timeout 5s";
const IMPORT_EXAMPLES: &str = "Examples:
  elephantasm-events import examples/garden.jsonl --spirit Fern
  elephantasm-events import - --spirit Fern --dry-run --json < examples/garden.jsonl";
const BENCH_EXAMPLES: &str = "Examples:
  elephantasm-events bench create --duration 0.5 --warmup 0
  elephantasm-events bench get --duration 0.5 --warmup 0 --events 1000 --json";

/// Time limit for the end of tasks that were aborted at the drain limit.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the subcommand and returns its exit code.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&error.into()),
    };
    let result = runtime.block_on(run_command(cli));
    telemetry::end_traces();
    runtime.shutdown_timeout(ABORT_TIMEOUT);
    telemetry::flush();
    result.unwrap_or_else(|error| failure::report(&error))
}

async fn run_command(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        None => Box::pin(serve::run(cli.serve)).await,
        Some(Command::Serve(args)) => Box::pin(serve::run(*args)).await,
        Some(Command::Migrate(args)) => migrate::run(*args).await,
        Some(Command::Distribute(args)) => distribute::run(*args).await,
        Some(Command::Key(args)) => key::run(args).await,
        Some(Command::Access(args)) => access::run(args).await,
        Some(Command::Spirit(args)) => Box::pin(spirit::run(args)).await,
        Some(Command::Event(args)) => Box::pin(event::run(args)).await,
        Some(Command::Session(args)) => Box::pin(session::run(args)).await,
        Some(Command::Import(args)) => import::run(args).await,
        Some(Command::ImportElephantasm(args)) => import_elephantasm::run(*args).await,
        Some(Command::Export(args)) => export::run(args).await,
        Some(Command::Replay(args)) => replay::run(*args).await,
        Some(Command::Tail(args)) => tail::run(*args).await,
        Some(Command::History(args)) => history::run(args).await,
        Some(Command::Changes(args)) => changes::run(args).await,
        Some(Command::Purge(args)) => Box::pin(purge::run(*args)).await,
        Some(Command::Retention(args)) => retention::run(args).await,
        Some(Command::Bench(args)) => bench::run(args).await,
        Some(Command::Healthcheck(args)) => healthcheck::run(args).await,
        Some(Command::Completions(args)) => completions::run(args),
    }
}
