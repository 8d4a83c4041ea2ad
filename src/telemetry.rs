//! Logs: to stderr, as text for people or as JSON lines.

mod lines;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{BadSettings, LogArgs, LogFormat};

pub(crate) use lines::dropped;
pub use lines::flush;

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(args: &LogArgs) -> Result<(), BadSettings> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| BadSettings(format!("--log: {error}")))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines::Lines)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match args.log_format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| BadSettings(format!("logging: {error}")))
}
