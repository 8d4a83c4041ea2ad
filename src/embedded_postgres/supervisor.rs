//! Keeps PostgreSQL running: a thread waits for its end and starts it again with back-off.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::EmbeddedError;
use super::cluster::Cluster;
use super::watchdog::Watchdog;

/// Interval of the checks for the end of PostgreSQL.
const POLL: Duration = Duration::from_millis(20);
/// Interval of checks of the log's size.
const LOG_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Back-off before PostgreSQL is started again: the first and the longest pause.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Uptime of PostgreSQL after which the back-off is reset.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The thread that supervises PostgreSQL. Dropping it stops PostgreSQL.
#[derive(Debug)]
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    patience: Duration,
    pid: AtomicU32,
    /// Whether PostgreSQL is started again when it ends.
    restart: AtomicBool,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    is_stopping: bool,
    watchdog: Option<Watchdog>,
}

impl Supervisor {
    /// Starts PostgreSQL and its supervising thread. PostgreSQL is not started again until
    /// [`keep_running`](Self::keep_running) is called. Blocks until an earlier PostgreSQL on the data has
    /// ended.
    pub(super) fn start(cluster: Cluster, patience: Duration) -> Result<Self, EmbeddedError> {
        let shared = Arc::new(Shared {
            cluster,
            patience,
            pid: AtomicU32::default(),
            restart: AtomicBool::default(),
            running: Mutex::new(Running {
                is_stopping: false,
                watchdog: None,
            }),
        });
        let postgres = shared.spawn()?;
        let supervised = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("events-postgres".to_owned())
            .spawn(move || supervised.supervise(postgres))
            .map_err(EmbeddedError::io("cannot start a thread"))?;
        Ok(Self { shared, thread })
    }

    /// From now on restarts PostgreSQL whenever it ends.
    pub(super) fn keep_running(&self) {
        self.shared.restart.store(true, Ordering::Release);
    }

    /// Requests a fast shutdown of PostgreSQL, without waiting for its end.
    pub(super) fn request_stop(&self) {
        let mut running = self.shared.running();
        running.is_stopping = true;
        if let Some(watchdog) = &mut running.watchdog {
            watchdog.stop_postgres();
        }
    }

    /// Returns whether PostgreSQL has ended for good.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn pid(&self) -> u32 {
        self.shared.pid.load(Ordering::Acquire)
    }

    pub(super) fn log_tail(&self) -> String {
        self.shared.cluster.log_tail()
    }

    pub(super) fn remove_socket_dir(&self) -> Result<(), EmbeddedError> {
        self.shared.cluster.remove_socket_dir()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.request_stop();
    }
}

impl Shared {
    /// Starts PostgreSQL with its watchdog.
    fn spawn(&self) -> Result<Child, EmbeddedError> {
        let mut postgres = self.cluster.spawn(self.patience)?;
        self.pid.store(postgres.id(), Ordering::Release);
        let mut watchdog = self.cluster.watch(postgres.id()).inspect_err(|_| {
            if let Err(error) = postgres.kill().and_then(|()| postgres.wait()) {
                tracing::error!(%error, "PostgreSQL runs without a watchdog");
            }
        })?;
        let mut running = self.running();
        if running.is_stopping {
            watchdog.stop_postgres();
        }
        running.watchdog = Some(watchdog);
        Ok(postgres)
    }

    fn supervise(&self, mut postgres: Child) {
        let mut pause = BACKOFF.0;
        loop {
            let started = Instant::now();
            self.wait(&mut postgres);
            let watchdog = self.running().watchdog.take();
            if let Some(watchdog) = watchdog {
                watchdog.end();
            }
            if self.is_done() {
                return;
            }
            tracing::error!(
                log = self.cluster.log_tail(),
                "private PostgreSQL ended, starting it again"
            );
            if started.elapsed() >= STABLE_AFTER {
                pause = BACKOFF.0;
            }
            postgres = loop {
                sleep(pause);
                pause = (pause * 2).min(BACKOFF.1);
                if self.is_done() {
                    return;
                }
                match self.spawn() {
                    Ok(postgres) => break postgres,
                    Err(error) => tracing::error!(%error, "private PostgreSQL could not be started again"),
                }
            };
        }
    }

    /// Waits for the end of PostgreSQL and rotates its log whenever that is too large.
    fn wait(&self, postgres: &mut Child) {
        let mut log_checked = Instant::now();
        loop {
            match postgres.try_wait() {
                Ok(None) => {}
                Ok(Some(_)) => return,
                Err(error) => {
                    tracing::error!(%error, "the process of private PostgreSQL cannot be watched");
                    return;
                }
            }
            if log_checked.elapsed() >= LOG_CHECK_INTERVAL {
                log_checked = Instant::now();
                self.cluster.rotate_log();
            }
            sleep(POLL);
        }
    }

    /// Returns whether PostgreSQL is not to be started again.
    fn is_done(&self) -> bool {
        self.running().is_stopping || !self.restart.load(Ordering::Acquire)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock()
    }
}
