//! Logs: to stderr, as text for people or as JSON lines.

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;

use crate::config::{BadSettings, LogArgs, LogFormat};

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(args: &LogArgs) -> Result<(), BadSettings> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| BadSettings(format!("--log: {error}")))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match args.log_format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| BadSettings(format!("logging: {error}")))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Where it was, and what it says if that was written beforehand: what is put together at that moment may
/// hold a caller's content.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let says = panic.payload().downcast_ref::<&'static str>().copied();
    tracing::error!(place, says, "panicked");
}
