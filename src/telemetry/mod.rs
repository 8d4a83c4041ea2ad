//! Sets up logs on stderr, as text or JSON lines, and traces to an OpenTelemetry collector.

mod collector;
mod log;
mod traces;

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{BadSettings, LogArgs, LogFormat};

pub use log::{dropped_log_lines, flush};
pub(crate) use traces::{are_wanted, continue_from, trace_id};

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging for the whole process, and exports traces if the environment names a collector.
///
/// # Errors
/// When the log filter or the environment is invalid.
pub fn init_traced(args: &LogArgs) -> Result<(), BadSettings> {
    start(args, traces::layer()?)
}

/// Starts logging for the whole process.
///
/// # Errors
/// When the log filter is invalid.
pub fn init(args: &LogArgs) -> Result<(), BadSettings> {
    start(args, None)
}

/// Exports the remaining spans. Must be called before the runtime ends, and [`flush`] after it.
pub fn end_traces() {
    traces::end();
}

fn start(args: &LogArgs, traces: Option<AnyLayer>) -> Result<(), BadSettings> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| BadSettings(format!("--log: {error}")))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(log::start())
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match args.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let mut layers = vec![lines.with_filter(filter).boxed()];
    layers.extend(traces);
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|error| BadSettings(format!("logging: {error}")))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Logs where a panic happened, and its message only if that is a constant: a formatted message may contain a
/// caller's content.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let says = panic.payload().downcast_ref::<&'static str>().copied();
    tracing::error!(place, says, "panicked");
}

/// Returns an environment variable; empty if it is not set.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
