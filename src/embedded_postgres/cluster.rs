//! The data directory: its lock, its password, its cluster, and how PostgreSQL runs on it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use uuid::Uuid;

use super::binaries::Binaries;
use super::owner::Owner;
use super::{EmbeddedError, SUPERUSER};

/// Part of the socket's name; nothing listens on it.
pub(super) const PORT: u16 = 5432;
/// Below the data directory.
pub(super) const DATA: &str = "pgdata";
const HALF_MADE_DATA: &str = "pgdata.new";
const PASSWORD: &str = "password";
const HALF_MADE_PASSWORD: &str = "password.new";
const LOCK: &str = "lock";
const LOG: &str = "postgres.log";
const SOCKETS: &str = "run";

/// The shortest limit of a socket's path on the systems we know, with room for its name.
const SOCKET_DIR_BYTES_MAX: usize = 85;
/// The log starts anew past this.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
const LOG_TAIL_LINES: usize = 15;
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What differs from PostgreSQL's defaults. Durability is as PostgreSQL has it: full.
const SETTINGS: [(&str, &str); 6] = [
    ("listen_addresses", ""), // no TCP
    ("unix_socket_permissions", "0700"),
    ("shared_buffers", "256MB"), // the default is sized for the smallest machines
    ("max_wal_size", "4GB"),     // fewer checkpoints under steady ingest
    ("random_page_cost", "1.1"), // solid-state disks
    ("jit", "off"),              // short statements gain nothing from it
];

/// A data directory ready to be started.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) password: String,
    pub(super) binaries: Binaries,
    owner: Option<Owner>,
    settings: Vec<(String, String)>,
}

/// Makes the data directory and locks it for this process.
pub(super) fn lock(dir: &Path, owner: Option<&Owner>) -> Result<File, EmbeddedError> {
    make_dir(dir, owner)?;
    if let Some(owner) = owner {
        owner.check_reach(dir)?;
    }
    let path = dir.join(LOCK);
    let failed = || EmbeddedError::io(format!("cannot lock {}", path.display()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&path)
        .map_err(failed())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed()(error)),
    }
}

/// Major version of the data; `None` when there is none yet.
pub(super) fn data_version(dir: &Path) -> Result<Option<u32>, EmbeddedError> {
    let path = dir.join(DATA).join("PG_VERSION");
    if !path.exists() {
        return Ok(None);
    }
    let text =
        fs::read_to_string(&path).map_err(EmbeddedError::io(format!("cannot read {}", path.display())))?;
    Ok(text.trim().parse().ok())
}

/// Where the socket and what the password of a cluster is that another process runs.
pub(super) fn access(dir: &Path) -> Result<(PathBuf, String), EmbeddedError> {
    let owner = super::owner::choose(dir)?;
    let found = dir
        .canonicalize()
        .map_err(EmbeddedError::io(format!("cannot find {}", dir.display())))?;
    let password = found.join(PASSWORD);
    let password = fs::read_to_string(&password)
        .map_err(EmbeddedError::io(format!("cannot read {}", password.display())))?;
    Ok((socket_dir(&found, owner.as_ref())?, password.trim().to_owned()))
}

impl Cluster {
    /// Opens the data directory, initialising it if it is new.
    pub(super) fn open(
        dir: PathBuf,
        binaries: Binaries,
        owner: Option<Owner>,
        settings: Vec<(String, String)>,
    ) -> Result<Self, EmbeddedError> {
        let dir = dir
            .canonicalize()
            .map_err(EmbeddedError::io(format!("cannot find {}", dir.display())))?;
        let cluster = Self {
            socket_dir: socket_dir(&dir, owner.as_ref())?,
            password: password(&dir, owner.as_ref())?,
            dir,
            binaries,
            owner,
            settings,
        };
        if !cluster.dir.join(DATA).exists() {
            cluster.initialise()?;
        }
        Ok(cluster)
    }

    /// Makes the cluster beside its place and moves it there, so that a half-made one never counts.
    fn initialise(&self) -> Result<(), EmbeddedError> {
        let half_made = self.dir.join(HALF_MADE_DATA);
        if half_made.exists() {
            fs::remove_dir_all(&half_made).map_err(EmbeddedError::io(format!(
                "cannot remove {}",
                half_made.display()
            )))?;
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
            .arg(&half_made);
        self.run("initdb", &mut initdb)?;
        fs::rename(&half_made, self.dir.join(DATA))
            .map_err(EmbeddedError::io("cannot move the new cluster to its place"))
    }

    /// Starts PostgreSQL, in a process group of its own.
    pub(super) fn spawn(&self) -> Result<Child, EmbeddedError> {
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
        postgres.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.as_owner(&mut postgres)
            .spawn()
            .map_err(EmbeddedError::io("cannot start PostgreSQL"))
    }

    /// Ends a postmaster that outlived its server, and waits for one that is ending. We hold the
    /// lock, so it serves nobody.
    pub(super) fn stop_old_postmaster(&self, patience: Duration) -> Result<(), EmbeddedError> {
        if !self.dir.join(DATA).join("postmaster.pid").exists() {
            return Ok(());
        }
        let pg_ctl = |verb: &str| {
            let mut command = Command::new(self.binaries.dir.join("pg_ctl"));
            command.arg(verb).arg("-D").arg(self.dir.join(DATA));
            command
        };
        let running = self
            .as_owner(&mut pg_ctl("status"))
            .output()
            .map_err(EmbeddedError::io("cannot run pg_ctl"))?;
        if !running.status.success() {
            return Ok(()); // a stale file, which PostgreSQL removes by itself
        }
        tracing::info!("waiting for the PostgreSQL of a server that was killed");
        let mut stop = pg_ctl("stop");
        stop.args(["-m", "fast", "-w", "-t", &patience.as_secs().to_string()]);
        self.run("pg_ctl stop", &mut stop)
    }

    /// Takes away the socket's directory if it is outside the data.
    pub(super) fn remove_socket_dir(&self) -> Result<(), EmbeddedError> {
        if self.socket_dir.starts_with(&self.dir) {
            return Ok(());
        }
        fs::remove_dir_all(&self.socket_dir).map_err(EmbeddedError::io(format!(
            "cannot remove {}",
            self.socket_dir.display()
        )))
    }

    /// The last lines of PostgreSQL's log.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read(self.dir.join(LOG)).unwrap_or_default();
        tail(&String::from_utf8_lossy(&log))
    }

    /// Lets a command run as PostgreSQL's user, in a place that this user can enter.
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
        let path = self.dir.join(LOG);
        let long = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX);
        let mut options = OpenOptions::new();
        options.create(true).mode(FILE_MODE);
        if long {
            options.write(true).truncate(true)
        } else {
            options.append(true)
        };
        let file = options
            .open(&path)
            .map_err(EmbeddedError::io(format!("cannot open {}", path.display())))?;
        if let Some(owner) = &self.owner {
            owner.take(&path)?;
        }
        Ok(file)
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// Makes a directory that only its owner may enter; one that exists keeps its contents.
fn make_dir(dir: &Path, owner: Option<&Owner>) -> Result<(), EmbeddedError> {
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

/// The password of this cluster: read, or made at random on first use.
fn password(dir: &Path, owner: Option<&Owner>) -> Result<String, EmbeddedError> {
    let path = dir.join(PASSWORD);
    let failed = || EmbeddedError::io(format!("cannot keep the password in {}", path.display()));
    if !path.exists() {
        let secret = Uuid::new_v4().simple().to_string() + &Uuid::new_v4().simple().to_string();
        let half_made = dir.join(HALF_MADE_PASSWORD);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&half_made)
            .map_err(failed())?;
        file.write_all(secret.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed())?;
        if let Some(owner) = owner {
            owner.take(&half_made)?;
        }
        fs::rename(&half_made, &path).map_err(failed())?;
    }
    fs::read_to_string(&path)
        .map(|text| text.trim().to_owned())
        .map_err(failed())
}

/// Where the socket is: in the data directory, or in a short one when its path would be too long.
fn socket_dir(dir: &Path, owner: Option<&Owner>) -> Result<PathBuf, EmbeddedError> {
    let inside = dir.join(SOCKETS);
    let chosen = if inside.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
        inside
    } else {
        PathBuf::from(format!("/tmp/elephantasm-{}", short_name(dir.as_os_str())))
    };
    if let Ok(metadata) = fs::symlink_metadata(&chosen) {
        // Somebody else could have put it there, in a place that everybody may write to.
        let expected = owner
            .map(|owner| owner.uid)
            .or_else(|| fs::metadata(dir).ok().map(|metadata| metadata.uid()));
        if !metadata.is_dir() || expected != Some(metadata.uid()) {
            return Err(EmbeddedError::io(format!(
                "cannot use {} for the socket",
                chosen.display()
            ))(std::io::Error::other(
                "it belongs to somebody else",
            )));
        }
    }
    make_dir(&chosen, owner)?;
    Ok(chosen)
}

/// PostgreSQL takes a list of directories; in quotes it reads everything but a quote as it is.
fn sockets_setting(dir: &Path) -> OsString {
    let quoted = dir.as_os_str().as_bytes().split(|byte| *byte == b'"');
    let mut setting = b"unix_socket_directories=\"".to_vec();
    setting.extend(quoted.collect::<Vec<_>>().join(&b"\"\""[..]));
    setting.push(b'"');
    OsString::from_vec(setting)
}

fn short_name(path: &OsStr) -> String {
    use sha2::{Digest as _, Sha256};
    const BYTES: usize = 8;
    crate::domain::dedupe::hex(&Sha256::digest(path.as_bytes())[..BYTES])
}
