//! The watchdog: a shell that stops a postmaster when this process ends, however it ends.

use std::process::{Child, Command, Stdio};

use super::EmbeddedError;

/// Waits for the end of its standard input, a pipe whose write end this process holds. SIGINT requests a fast
/// shutdown.
const SCRIPT: &str = "read -r _; kill -INT \"$1\" 2>/dev/null";

/// A running watchdog.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    /// Returns the command of a watchdog. The caller runs it as PostgreSQL's user and in a process group of its
    /// own, so that Ctrl-C in a terminal reaches only the server, which drains before the database ends.
    pub(super) fn command(postmaster: u32) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "watchdog", &postmaster.to_string()]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    pub(super) fn spawn(command: &mut Command) -> Result<Self, EmbeddedError> {
        let child = command.spawn();
        child
            .map(Self)
            .map_err(EmbeddedError::io("cannot start the watchdog of PostgreSQL"))
    }

    /// Makes the watchdog stop PostgreSQL.
    pub(super) fn stop_postgres(&mut self) {
        drop(self.0.stdin.take());
    }

    /// Ends the watchdog of a postmaster that has ended, whose process id another process may have by now.
    pub(super) fn end(mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            tracing::warn!(%error, "the watchdog of PostgreSQL could not be ended");
        }
    }
}
