//! Hints between instances: NOTIFY after a commit, LISTEN on a connection of its own, and a poll.
//!
//! A hint goes out on its own, after the commit and not with it: PostgreSQL lets only one transaction
//! with a NOTIFY commit at a time, and the commits of events must not queue for that. What has gathered
//! while the hint before was sent goes into one. A lost hint costs time only: the poll finds the change.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use sqlx::FromRow;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::hub::{Hub, Polled};
use crate::domain::ids::{SpiritId, parse_uuid};
use crate::panics::keep_running;
use crate::store::pg::error::StoreError;
use crate::store::pg::pool::ConnectionPool;

/// How an instance hears of other instances' commits.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Whether hints are sent and listened for.
    pub notify: bool,
    /// How often watched spirits are looked at where LISTEN does not work.
    pub poll_interval: Duration,
}

const CHANNEL: &str = "elephantasm_events";
/// Payload that stands for every spirit.
const ALL: &str = "*";
/// Spirits that one hint names; a payload has less than 8,000 bytes.
const NAMED_MAX: usize = 200;
/// How often watched spirits are looked at where LISTEN works: the net under lost hints. Also the silence
/// after which it is asked whether that works still.
const NET_INTERVAL: Duration = Duration::from_secs(10);
/// Spirits that one poll statement looks at.
const POLLED_MAX: usize = 1_000;
/// Pause before trying to LISTEN again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// In which an own hint must come back where LISTEN works.
const ECHO_LIMIT: Duration = Duration::from_secs(3);
/// In which the listening connection ends; one that a network has swallowed does not.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// In which a connection that listens is made.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// A hint may be lost, so its commit waits for no disk; with that wait, creates lost an eighth of their rate.
pub(in crate::store) const NOTIFY: &str =
    "select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

pub(in crate::store) const POLL: &str = "
    select id, last_sequence, deleted_at is not null as is_deleted
    from spirits
    where id = any($1)";

/// The way to other instances. Cheap to clone; its tasks end when it is closed.
#[derive(Clone)]
pub(super) struct Notifier(Arc<Shared>);

struct Shared {
    connections: ConnectionPool,
    settings: ListenSettings,
    /// Tells own hints from others'.
    instance: String,
    /// Spirits to name in the next hint.
    changed: Mutex<HashSet<SpiritId>>,
    pending: Notify,
    /// The listening connection's; the listener gives the connection back to it in a task of its own.
    listening: Mutex<Option<PgPool>>,
    /// 1 while others' hints are heard.
    is_listening: IntGauge,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Notifier {
    /// Starts to send, to poll and, where `direct` reaches PostgreSQL itself, to listen.
    pub(super) fn start(
        connections: ConnectionPool,
        direct: Option<PgConnectOptions>,
        hub: Hub,
        settings: ListenSettings,
        is_listening: IntGauge,
    ) -> Self {
        let notifier = Self(Arc::new(Shared {
            connections,
            instance: Uuid::now_v7().simple().to_string(),
            changed: Mutex::default(),
            pending: Notify::new(),
            listening: Mutex::default(),
            is_listening,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settings,
        }));
        let tasks = &notifier.0.tasks;
        let sender = notifier.clone();
        let send = keep_running("sender of hints", async move || sender.send().await);
        tasks.spawn(notifier.clone().until_closed(send));
        let hearer = notifier.clone();
        let hear = keep_running("hearer of hints", async move || {
            hearer.clone().hear(direct.clone(), hub.clone()).await;
        });
        tasks.spawn(notifier.clone().until_closed(hear));
        tasks.close();
        notifier
    }

    /// Tells other instances that these spirits have changed, soon.
    pub(super) fn tell(&self, spirit_ids: &[SpiritId]) {
        if self.0.settings.notify {
            lock(&self.0.changed).extend(spirit_ids);
            self.0.pending.notify_one();
        }
    }

    /// Ends the tasks, and waits for the listening connection to end.
    pub(super) async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.wait().await;
        let pool = lock(&self.0.listening).take();
        if let Some(pool) = pool
            && timeout(CLOSE_LIMIT, pool.close()).await.is_err()
        {
            tracing::debug!("the connection that listened did not end in order");
        }
    }

    async fn until_closed(self, work: impl Future<Output = ()>) {
        self.0.closing.run_until_cancelled(work).await;
    }

    async fn send(&self) {
        loop {
            self.0.pending.notified().await;
            let changed = std::mem::take(&mut *lock(&self.0.changed));
            let named = if changed.len() > NAMED_MAX {
                ALL.to_owned()
            } else {
                let ids: Vec<String> = changed.iter().map(ToString::to_string).collect();
                ids.join(",")
            };
            if let Err(error) = self.notify(&named).await {
                tracing::debug!(%error, "a hint to other instances was not sent");
            }
        }
    }

    async fn notify(&self, named: &str) -> Result<(), StoreError> {
        let query = sqlx::query_as::<_, ()>(NOTIFY)
            .bind(CHANNEL)
            .bind(format!("{}|{named}", self.0.instance));
        self.0.connections.all(query).await?;
        Ok(())
    }

    /// Listens where that works, and polls all the time.
    async fn hear(self, direct: Option<PgConnectOptions>, hub: Hub) {
        let net = self.clone().poll(hub.clone(), NET_INTERVAL);
        let poll_interval = self.0.settings.poll_interval;
        let direct = match direct {
            Some(direct) if self.0.settings.notify => direct,
            direct => {
                if direct.is_none() {
                    tracing::info!(
                        ?poll_interval,
                        "LISTEN does not work through a pooler; polling for other instances' commits; \
                         MIGRATION_DATABASE_URL lets the server listen"
                    );
                }
                return self.poll(hub, poll_interval).await;
            }
        };
        let listening = async {
            let mut said = false;
            loop {
                self.0.is_listening.set(0);
                let ended = self.listen(&direct, &hub).await;
                self.0.is_listening.set(0);
                match ended {
                    Ok(()) => said = false,
                    Err(error) if !said => {
                        said = true;
                        tracing::warn!(
                            cause = %error,
                            poll_interval = ?self.0.settings.poll_interval,
                            "LISTEN does not work; polling for other instances' commits instead"
                        );
                    }
                    Err(_) => {}
                }
                // What came while nobody listened is found by a poll.
                let poll = self.clone().poll(hub.clone(), self.0.settings.poll_interval);
                if timeout(RETRY_PAUSE.max(self.0.settings.poll_interval * 2), poll)
                    .await
                    .is_ok()
                {
                    return;
                }
            }
        };
        tokio::join!(listening, net);
    }

    /// Listens until the connection is lost; an error when it has not even heard itself.
    async fn listen(&self, direct: &PgConnectOptions, hub: &Hub) -> Result<(), StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(direct.clone());
        *lock(&self.0.listening) = Some(pool.clone());
        let unheard = || StoreError::Unavailable("an own notification did not come back".to_owned());
        let begun = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let mut listener = timeout(LISTEN_LIMIT, begun).await.map_err(|_| unheard())??;
        // A pooler in transaction mode takes the LISTEN and gives the connection to somebody else.
        self.notify("").await?;
        let heard = async {
            loop {
                let notification = listener.recv().await?;
                if self.is_own(notification.payload()) {
                    return Ok::<_, sqlx::Error>(());
                }
            }
        };
        timeout(ECHO_LIMIT, heard).await.map_err(|_| unheard())??;
        self.0.is_listening.set(1);
        tracing::debug!("listening for other instances' commits");
        hub.wake_all(); // whatever came before
        while let Some(notification) = self.next(&mut listener).await? {
            self.take(notification.payload(), hub);
        }
        Ok(())
    }

    /// The next notification; `None` when the connection is lost. A network that swallows everything does not
    /// tell, so after some silence this instance sends itself a hint.
    async fn next(&self, listener: &mut PgListener) -> Result<Option<PgNotification>, StoreError> {
        let no_echo = async {
            loop {
                sleep(NET_INTERVAL).await;
                match self.notify("").await {
                    Ok(()) => break,
                    // The readers' connections may all be busy, which says nothing of this one.
                    Err(error) => tracing::debug!(%error, "whether LISTEN works still was not asked"),
                }
            }
            sleep(ECHO_LIMIT).await;
        };
        tokio::select! {
            biased; // what came counts, however late it is looked at
            next = listener.try_recv() => Ok(next?),
            () = no_echo => Ok(None),
        }
    }

    fn is_own(&self, payload: &str) -> bool {
        payload
            .split_once('|')
            .is_some_and(|(instance, _)| instance == self.0.instance)
    }

    fn take(&self, payload: &str, hub: &Hub) {
        match payload.split_once('|') {
            Some((instance, _)) if instance == self.0.instance => {}
            Some((_, named)) if named != ALL => {
                let spirit_ids: Vec<SpiritId> =
                    named.split(',').filter_map(parse_uuid).map(SpiritId).collect();
                hub.wake(&spirit_ids);
            }
            _ => hub.wake_all(),
        }
    }

    async fn poll(self, hub: Hub, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for spirit_ids in hub.watched().chunks(POLLED_MAX) {
                if let Err(error) = self.poll_once(spirit_ids, &hub).await {
                    tracing::debug!(%error, "a poll for new events failed");
                }
            }
        }
    }

    async fn poll_once(&self, spirit_ids: &[SpiritId], hub: &Hub) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = spirit_ids.iter().map(|id| id.0).collect();
        let rows: Vec<PollRow> = self.0.connections.all(sqlx::query_as(POLL).bind(ids)).await?;
        for row in rows {
            let polled = Polled {
                last_sequence: row.last_sequence,
                is_deleted: row.is_deleted,
            };
            hub.polled(SpiritId(row.id), polled);
        }
        Ok(())
    }
}

#[derive(FromRow)]
struct PollRow {
    id: Uuid,
    last_sequence: i64,
    is_deleted: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under a lock is a single step, so a poisoned one is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
