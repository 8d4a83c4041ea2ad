//! The data directory: its password, its database cluster, its log, and the processes that run on it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use uuid::Uuid;

use super::binaries::Binaries;
use super::locks::{FILE_MODE, lock_processes, make_dir};
use super::owner::Owner;
use super::pid_files;
use super::watchdog::Watchdog;
use super::{EmbeddedError, SUPERUSER};

/// Port number, which is part of the socket's file name. PostgreSQL listens on no TCP port.
pub(super) const PORT: u16 = 5432;
/// Directory of the database cluster, below the data directory.
pub(super) const DATA: &str = "pgdata";
const NEW_DATA: &str = "pgdata.new";
const PASSWORD: &str = "password";
const NEW_PASSWORD: &str = "password.new";
const LOG: &str = "postgres.log";
const OLD_LOG: &str = "postgres.log.old";
const SOCKETS: &str = "run";

/// Maximum length of the socket directory's path: the shortest limit of a socket path among the supported
/// systems, less the socket's file name.
const SOCKET_DIR_BYTES_MAX: usize = 85;
/// Size of the log at which it is rotated; one old log is kept.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
const LOG_TAIL_LINES: usize = 15;

/// Settings that differ from PostgreSQL's defaults. The durability settings keep their defaults, full
/// durability.
const SETTINGS: [(&str, &str); 9] = [
    ("listen_addresses", ""), // no TCP
    ("unix_socket_permissions", "0700"),
    ("shared_buffers", "256MB"), // the default is sized for the smallest machines
    ("max_wal_size", "4GB"),     // fewer checkpoints under steady ingest
    // Each checkpoint makes PostgreSQL log every page once more in full; max_wal_size still bounds recovery.
    ("checkpoint_timeout", "15min"),
    ("random_page_cost", "1.1"), // solid-state disks
    ("jit", "off"),              // short statements gain nothing from it
    // The log must not contain event content or dedupe keys: no details of errors, no statements.
    ("log_error_verbosity", "terse"),
    ("log_min_error_statement", "panic"),
];

/// A data directory and the PostgreSQL programs that are run on it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) password: String,
    pub(super) binaries: Binaries,
    owner: Option<Owner>,
    settings: Vec<(String, String)>,
}

/// Returns the major version of the data; `None` if the directory is new.
pub(super) fn data_version(dir: &Path) -> Result<Option<u32>, EmbeddedError> {
    let path = dir.join(DATA).join("PG_VERSION");
    if !path.exists() {
        return Ok(None);
    }
    let text =
        fs::read_to_string(&path).map_err(EmbeddedError::io(format!("cannot read {}", path.display())))?;
    Ok(text.trim().parse().ok())
}

/// Returns the socket directory and the password of a cluster that another process runs.
pub(super) fn access(dir: &Path) -> Result<(PathBuf, String), EmbeddedError> {
    let owner = super::owner::choose(&dir.join(DATA))?;
    let found = dir
        .canonicalize()
        .map_err(EmbeddedError::io(format!("cannot find {}", dir.display())))?;
    let password = found.join(PASSWORD);
    let password = fs::read_to_string(&password)
        .map_err(EmbeddedError::io(format!("cannot read {}", password.display())))?;
    Ok((socket_dir(&found, owner.as_ref())?, password.trim().to_owned()))
}

impl Cluster {
    /// Opens a data directory.
    pub(super) fn open(
        dir: PathBuf,
        binaries: Binaries,
        owner: Option<Owner>,
        settings: Vec<(String, String)>,
    ) -> Result<Self, EmbeddedError> {
        let dir = dir
            .canonicalize()
            .map_err(EmbeddedError::io(format!("cannot find {}", dir.display())))?;
        Ok(Self {
            socket_dir: socket_dir(&dir, owner.as_ref())?,
            password: password(&dir, owner.as_ref())?,
            dir,
            binaries,
            owner,
            settings,
        })
    }

    /// Runs `initdb` if there is no cluster yet, in a directory that is renamed when it is complete, so that an
    /// interrupted `initdb` leaves no cluster behind.
    pub(super) fn initialise_if_new(&self, patience: Duration) -> Result<(), EmbeddedError> {
        if self.dir.join(DATA).exists() {
            return Ok(());
        }
        let lock = self.lock_processes(patience)?;
        let new = self.dir.join(NEW_DATA);
        if new.exists() {
            fs::remove_dir_all(&new)
                .map_err(EmbeddedError::io(format!("cannot remove {}", new.display())))?;
        }
        let mut initdb = Command::new(self.binaries.dir.join("initdb"));
        initdb.args([
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--username",
            SUPERUSER,
        ]);
        initdb
            .arg("--pwfile")
            .arg(self.dir.join(PASSWORD))
            .arg("--pgdata")
            .arg(&new)
            .stdin(lock);
        self.run("initdb", &mut initdb)?;
        // Synced, because a rename that is lost in a power cut would lose all events stored since.
        fs::rename(&new, self.dir.join(DATA))
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(EmbeddedError::io("cannot move the new cluster to its place"))
    }

    /// Starts PostgreSQL in a process group of its own, after every older process on the data has ended.
    pub(super) fn spawn(&self, patience: Duration) -> Result<Child, EmbeddedError> {
        let lock = self.lock_processes(patience)?;
        pid_files::remove_if_reused(&pid_files::of_cluster(&self.dir.join(DATA)))?;
        pid_files::remove_if_reused(&pid_files::of_socket(&self.socket_dir, PORT))?;
        let mut postgres = Command::new(self.binaries.dir.join("postgres"));
        postgres.arg("-D").arg(self.dir.join(DATA));
        postgres
            .arg("-c")
            .arg(sockets_setting(&self.socket_dir))
            .arg("-c")
            .arg(format!("port={PORT}"));
        for (name, value) in SETTINGS {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        for (name, value) in &self.settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let log = self.open_log()?;
        let errors = log
            .try_clone()
            .map_err(EmbeddedError::io("cannot open PostgreSQL's log"))?;
        postgres.stdin(lock).stdout(log).stderr(errors);
        self.as_owner(&mut postgres)
            .spawn()
            .map_err(EmbeddedError::io("cannot start PostgreSQL"))
    }

    /// Starts the watchdog of a postmaster.
    pub(super) fn watch(&self, postmaster: u32) -> Result<Watchdog, EmbeddedError> {
        Watchdog::spawn(self.as_owner(&mut Watchdog::command(postmaster)))
    }

    /// Takes the process lock, after stopping a postmaster that outlived its server.
    fn lock_processes(&self, patience: Duration) -> Result<File, EmbeddedError> {
        let mut has_warned = false;
        lock_processes(&self.dir, patience, || {
            if !has_warned {
                has_warned = true;
                tracing::info!("waiting for the end of an earlier PostgreSQL on this data");
            }
            self.request_stop();
        })
    }

    /// Requests a fast shutdown of the postmaster in the pid file. A failure is ignored, because the
    /// postmaster may have ended already or not have written its pid file yet, and the caller waits for the
    /// process lock.
    fn request_stop(&self) {
        let pid_file = pid_files::of_cluster(&self.dir.join(DATA));
        if !pid_file.exists() || pid_files::is_reused(&pid_file) {
            return;
        }
        let mut stop = Command::new(self.binaries.dir.join("pg_ctl"));
        stop.arg("stop").arg("-D").arg(self.dir.join(DATA));
        stop.args(["-m", "fast", "-W"]);
        if let Err(error) = self.run("pg_ctl stop", &mut stop) {
            tracing::debug!(%error, "the earlier PostgreSQL was not stopped");
        }
    }

    /// Removes the socket directory if it is outside the data directory.
    pub(super) fn remove_socket_dir(&self) -> Result<(), EmbeddedError> {
        if self.socket_dir.starts_with(&self.dir) {
            return Ok(());
        }
        fs::remove_dir_all(&self.socket_dir).map_err(EmbeddedError::io(format!(
            "cannot remove {}",
            self.socket_dir.display()
        )))
    }

    /// Returns the last lines of PostgreSQL's log.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read(self.dir.join(LOG)).unwrap_or_default();
        tail(&String::from_utf8_lossy(&log))
    }

    /// Sets up a command to run as PostgreSQL's user, in a directory that this user can enter.
    pub(super) fn as_owner<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(owner) = &self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        command.current_dir("/").env("LC_ALL", "C").process_group(0)
    }

    fn run(&self, name: &str, command: &mut Command) -> Result<(), EmbeddedError> {
        let output = self
            .as_owner(command)
            .output()
            .map_err(EmbeddedError::io(format!("cannot run {name}")))?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(EmbeddedError::Program {
            program: name.to_owned(),
            output: tail(&String::from_utf8_lossy(&text)),
        })
    }

    fn open_log(&self) -> Result<File, EmbeddedError> {
        self.rotate_log();
        let path = self.dir.join(LOG);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(EmbeddedError::io(format!("cannot open {}", path.display())))?;
        if let Some(owner) = &self.owner {
            owner.take(&path)?;
        }
        Ok(file)
    }

    /// Rotates a log that exceeds its maximum size: copies it to the old log and truncates it. PostgreSQL
    /// appends to the file, so it need not reopen it. The log is truncated even if it cannot be copied, so that it
    /// stays bounded.
    pub(super) fn rotate_log(&self) {
        let path = self.dir.join(LOG);
        if !fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            return;
        }
        let copied = fs::copy(&path, self.dir.join(OLD_LOG));
        let emptied = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|log| log.set_len(0));
        if let Err(error) = copied.and(emptied) {
            tracing::warn!(%error, "PostgreSQL's log could not be rotated");
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// Returns the password of this cluster, which is generated on first use.
fn password(dir: &Path, owner: Option<&Owner>) -> Result<String, EmbeddedError> {
    let path = dir.join(PASSWORD);
    let failed = || EmbeddedError::io(format!("cannot store the password in {}", path.display()));
    if !path.exists() {
        let secret = Uuid::new_v4().simple().to_string() + &Uuid::new_v4().simple().to_string();
        let new = dir.join(NEW_PASSWORD);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&new)
            .map_err(failed())?;
        file.write_all(secret.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed())?;
        if let Some(owner) = owner {
            owner.take(&new)?;
        }
        fs::rename(&new, &path).map_err(failed())?;
    }
    fs::read_to_string(&path)
        .map(|text| text.trim().to_owned())
        .map_err(failed())
}

/// Returns the directory of the socket: in the data directory, or below /tmp if that path would be too long.
fn socket_dir(dir: &Path, owner: Option<&Owner>) -> Result<PathBuf, EmbeddedError> {
    let inside = dir.join(SOCKETS);
    let chosen = if inside.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
        inside
    } else {
        PathBuf::from(format!("/tmp/elephantasm-{}", short_name(dir.as_os_str())))
    };
    if let Ok(metadata) = fs::symlink_metadata(&chosen) {
        // Another user could have created it, since everybody may write to /tmp.
        let expected = owner
            .map(|owner| owner.uid)
            .or_else(|| fs::metadata(dir).ok().map(|metadata| metadata.uid()));
        if !metadata.is_dir() || expected != Some(metadata.uid()) {
            return Err(EmbeddedError::io(format!(
                "cannot use {} for the socket",
                chosen.display()
            ))(std::io::Error::other(
                "it belongs to another user",
            )));
        }
    }
    make_dir(&chosen, owner)?;
    Ok(chosen)
}

/// Returns `unix_socket_directories=` with the directory, quoted as a list element.
fn sockets_setting(dir: &Path) -> OsString {
    let quoted = dir.as_os_str().as_bytes().split(|byte| *byte == b'"');
    let mut setting = b"unix_socket_directories=\"".to_vec();
    setting.extend(quoted.collect::<Vec<_>>().join(&b"\"\""[..]));
    setting.push(b'"');
    OsString::from_vec(setting)
}

fn short_name(path: &OsStr) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(path.as_bytes());
    let head: [u8; 8] = std::array::from_fn(|i| digest[i]);
    format!("{:016x}", u64::from_be_bytes(head))
}
