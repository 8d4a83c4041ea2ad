//! The files in which a postmaster records its process id. They outlive it after `kill -9`.

use std::fs;
use std::path::{Path, PathBuf};

use super::EmbeddedError;

/// Names of the program of a postmaster.
const PROGRAMS: [&str; 2] = ["postgres", "postmaster"];

/// Returns the path of the PID file of a cluster.
pub(super) fn of_cluster(cluster: &Path) -> PathBuf {
    cluster.join("postmaster.pid")
}

/// Returns the path of the lock file of a socket.
pub(super) fn of_socket(socket_dir: &Path, port: u16) -> PathBuf {
    socket_dir.join(format!(".s.PGSQL.{port}.lock"))
}

/// Returns true if the process id in this file belongs to another program by now. A postmaster refuses to start
/// beside such a file, because it cannot tell that program from another postmaster: in a container, where
/// process ids repeat, it may be a thread of this process.
///
/// Returns false on a system without `/proc`, where the program of a process is not known.
pub(super) fn is_reused(pid_file: &Path) -> bool {
    process_of(pid_file)
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .is_some_and(|program| !PROGRAMS.contains(&program.trim()))
}

/// Removes the file if its process id belongs to another program by now.
pub(super) fn remove_if_reused(pid_file: &Path) -> Result<(), EmbeddedError> {
    if !is_reused(pid_file) {
        return Ok(());
    }
    tracing::info!(file = %pid_file.display(), "removing the PID file of an earlier PostgreSQL");
    fs::remove_file(pid_file).map_err(EmbeddedError::io(format!("cannot remove {}", pid_file.display())))
}

/// Returns the process id in a PID file. That of a single-user PostgreSQL is written with a minus sign.
fn process_of(pid_file: &Path) -> Option<u32> {
    let text = fs::read_to_string(pid_file).ok()?;
    let first = text.lines().next()?.trim();
    first.strip_prefix('-').unwrap_or(first).parse().ok()
}
