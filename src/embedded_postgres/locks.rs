//! The two locks of a data directory.
//!
//! A server holds the *directory lock* while it runs, so that two servers do not use one directory. Every
//! process of PostgreSQL that may write the data, `initdb` and the postmaster with its children, inherits the
//! *process lock*. It is free only when all of them have ended, also after a `kill -9` of the server or of the
//! postmaster, so a new process never starts beside an old one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::EmbeddedError;
use super::owner::Owner;

const DIRECTORY_LOCK: &str = "lock";
const PROCESS_LOCK: &str = "processes.lock";
const DIR_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;
/// Interval between attempts to take a lock.
const POLL: Duration = Duration::from_millis(50);
/// Time in which a killed server gives up the directory lock: the system frees its memory first.
const KILLED_SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Creates the data directory and locks it for this process.
pub(super) fn lock_directory(dir: &Path, owner: Option<&Owner>) -> Result<File, EmbeddedError> {
    make_dir(dir, owner)?;
    if let Some(owner) = owner {
        owner.check_access(dir)?;
    }
    let path = dir.join(DIRECTORY_LOCK);
    let file = open(&path)?;
    lock_within(file, &path, KILLED_SERVER_TIMEOUT, || {})?
        .ok_or_else(|| EmbeddedError::InUse(dir.to_owned()))
}

/// Waits until no process of PostgreSQL holds the process lock, and takes it. The caller passes the file to a
/// new process as its standard input. `end_old` is called after every failed attempt.
pub(super) fn lock_processes(
    dir: &Path,
    patience: Duration,
    end_old: impl FnMut(),
) -> Result<File, EmbeddedError> {
    let path = dir.join(PROCESS_LOCK);
    let file = open(&path)?;
    lock_within(file, &path, patience, end_old)?.ok_or_else(|| {
        EmbeddedError::NoAnswer(format!(
            "a process of an earlier PostgreSQL still uses {}",
            dir.display()
        ))
    })
}

/// Locks a file. Returns `None` if others hold the lock for longer than `patience`.
fn lock_within(
    file: File,
    path: &Path,
    patience: Duration,
    mut on_failure: impl FnMut(),
) -> Result<Option<File>, EmbeddedError> {
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                on_failure();
                sleep(POLL);
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failure(path)(error)),
        }
    }
}

fn open(path: &Path) -> Result<File, EmbeddedError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(failure(path))
}

fn failure(path: &Path) -> impl FnOnce(std::io::Error) -> EmbeddedError {
    EmbeddedError::io(format!("cannot lock {}", path.display()))
}

/// Creates a directory that only its owner may enter. An existing directory keeps its contents.
pub(super) fn make_dir(dir: &Path, owner: Option<&Owner>) -> Result<(), EmbeddedError> {
    let failed = || {
        EmbeddedError::io(format!(
            "cannot create {} for the private PostgreSQL; choose another directory with EVENTS_DATA_DIR, or another \
             PostgreSQL with DATABASE_URL",
            dir.display()
        ))
    };
    if !dir.is_dir() {
        if let Some(above) = dir.parent() {
            fs::create_dir_all(above).map_err(failed())?;
        }
        DirBuilder::new().mode(DIR_MODE).create(dir).map_err(failed())?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE)).map_err(failed())?;
    owner.map_or(Ok(()), |owner| owner.take(dir))
}
