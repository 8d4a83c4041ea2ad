//! The settings of the server: flags, environment variables, defaults and bounds.
//!
//! clap parses them into plain types. Depends on no other layer; the layers that use a setting convert it into their
//! own types.

mod database;
mod duration;
mod limits;
mod secret;
mod serve;
mod tls;

use clap::{Args, ValueEnum};

pub use database::{DatabaseArgs, Pooler};
pub use limits::EventLimitArgs;
pub(crate) use secret::read_secret;
pub use serve::{ANY_ORIGIN, AuthSettings, ConnectionLimits, Console, KeyLimits, Reflection, ServeArgs};
pub use tls::{ClientAuth, TlsArgs, TlsFiles};

/// Heading in `--help` for settings of deployments with a pooler, a standby or several machines.
const POOLERS_AND_STANDBYS: &str = "Poolers, standbys and Citus";
/// Heading in `--help` for settings whose defaults suit most deployments.
const RARELY_NEEDED: &str = "Rarely needed";

/// Settings that contradict each other or cannot be read. The process exits with code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadSettings(pub String);

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Settings of the log.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Format of the log, which goes to stderr
    #[arg(long, env = "EVENTS_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log level: error, warn, info, debug or trace; also by module, as in `info,sqlx=debug`
    #[arg(
        long,
        env = "EVENTS_LOG",
        value_name = "FILTER",
        default_value = "info,sqlx=warn"
    )]
    pub log: String,
}

/// Returns the variable that sets an option: `new`, or `old` if only the former name is set.
fn variable(new: &'static str, old: &'static str) -> &'static str {
    let is_set = |name| std::env::var_os(name).is_some();
    if !is_set(new) && is_set(old) { old } else { new }
}
