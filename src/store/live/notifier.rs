//! Notifications between instances: NOTIFY after a commit, LISTEN on its own connection, a fallback poll.
//!
//! A notification is sent after the commit in a transaction of its own. PostgreSQL lets only one transaction
//! with a NOTIFY commit at a time, and commits of events must not queue for that. Spirits that change while a
//! notification is being sent, and shortly after, are named in the next one. A lost notification only delays delivery until the
//! next poll.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;
use sqlx::FromRow;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::hub::{Hub, Polled, Topic};
use crate::domain::ids::{SpiritId, parse_uuid};
use crate::panics::keep_running;
use crate::store::pg::error::StoreError;
use crate::store::pg::pool::ConnectionPool;

/// Settings of the notifications between instances.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Whether notifications are sent and received.
    pub notify: bool,
    /// Interval of the poll while LISTEN does not work.
    pub poll_interval: Duration,
}

const CHANNEL: &str = "elephantasm_events";
/// The payload for "any spirit may have changed".
const ALL: &str = "*";
/// Precedes the id of a spirit whose events have changed. A spirit with new events is named by its id alone.
const CHANGES: &str = "c:";
/// Maximum number of spirits that one notification names; PostgreSQL limits a payload to 8,000 bytes.
const NAMED_MAX: usize = 200;
/// Interval of the poll while LISTEN works, in case a notification is lost. Also the time without a notification
/// after which this instance notifies itself to check the listening connection.
const FALLBACK_INTERVAL: Duration = Duration::from_secs(10);
/// Pause between two notifications. Each costs PostgreSQL a transaction and wakes a backend and a server for every
/// instance.
const NOTIFY_PAUSE: Duration = Duration::from_millis(5);
/// Maximum number of spirits that one poll statement reads.
const POLLED_MAX: usize = 1_000;
/// Minimum pause before another attempt to LISTEN.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Time limit for receiving a notification that this instance sent to itself.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for closing the listening connection, in case the network drops packets silently.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit for opening the listening connection.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Commits asynchronously, which is safe because a notification may be lost. With a synchronous commit, the rate
/// of creates was one eighth lower.
pub(in crate::store) const NOTIFY: &str =
    "select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// Reads the state of spirits that have subscriptions.
pub(in crate::store) const POLL: &str = "
    select id, last_change, last_sequence, deleted_at is not null as is_deleted
    from spirits
    where id = any($1)";

/// Exchanges notifications with other instances and polls. Cheap to clone; its tasks end when it is closed.
#[derive(Clone)]
pub(super) struct Notifier(Arc<Shared>);

struct Shared {
    pool: ConnectionPool,
    settings: ListenSettings,
    /// Id of this instance, which marks its notifications.
    instance: String,
    /// Spirits and topics to name in the next notification.
    changed: Mutex<HashSet<(SpiritId, Topic)>>,
    /// Wakes the sender when `changed` is not empty.
    pending: Notify,
    /// The pool of the listening connection. `PgListener` returns its connection to the pool in a task.
    listening: Mutex<Option<PgPool>>,
    /// 1 while notifications of other instances are received.
    is_listening: IntGauge,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Notifier {
    /// Starts the tasks that send, poll and, where `direct` reaches PostgreSQL itself, listen.
    pub(super) fn start(
        pool: ConnectionPool,
        direct: Option<PgConnectOptions>,
        hub: Hub,
        settings: ListenSettings,
        is_listening: IntGauge,
    ) -> Self {
        let notifier = Self(Arc::new(Shared {
            pool,
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
        let send = keep_running("notification sender", async move || sender.send().await);
        tasks.spawn(notifier.clone().until_closed(send));
        let receiver = notifier.clone();
        let receive = keep_running("notification receiver", async move || {
            receiver.clone().receive(direct.clone(), hub.clone()).await;
        });
        tasks.spawn(notifier.clone().until_closed(receive));
        tasks.close();
        notifier
    }

    /// Notifies other instances of spirits that have new rows of a topic, in the background.
    pub(super) fn announce(&self, spirit_ids: &[SpiritId], topic: Topic) {
        if self.0.settings.notify {
            let changed = spirit_ids.iter().map(|spirit_id| (*spirit_id, topic));
            self.0.changed.lock().extend(changed);
            self.0.pending.notify_one();
        }
    }

    /// Ends the tasks and closes the listening connection.
    pub(super) async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.wait().await;
        let pool = self.0.listening.lock().take();
        if let Some(pool) = pool
            && timeout(CLOSE_TIMEOUT, pool.close()).await.is_err()
        {
            tracing::debug!("the listening connection did not close cleanly");
        }
    }

    /// Runs the work until the notifier is closed.
    async fn until_closed(self, work: impl Future<Output = ()>) {
        self.0.closing.run_until_cancelled(work).await;
    }

    /// Sends a notification whenever spirits have changed.
    async fn send(&self) {
        loop {
            self.0.pending.notified().await;
            let changed = std::mem::take(&mut *self.0.changed.lock());
            let named = if changed.len() > NAMED_MAX {
                ALL.to_owned()
            } else {
                let names: Vec<String> = changed.iter().map(name_of).collect();
                names.join(",")
            };
            if let Err(error) = self.notify(&named).await {
                tracing::debug!(%error, "a notification to other instances was not sent");
            }
            sleep(NOTIFY_PAUSE).await;
        }
    }

    /// Sends a notification that names these spirits.
    async fn notify(&self, named: &str) -> Result<(), StoreError> {
        let query = sqlx::query_as::<_, ()>(NOTIFY)
            .bind(CHANNEL)
            .bind(format!("{}|{named}", self.0.instance));
        self.0.pool.all(query).await?;
        Ok(())
    }

    /// Listens if that is possible, and polls in any case.
    async fn receive(self, direct: Option<PgConnectOptions>, hub: Hub) {
        match direct {
            Some(direct) if self.0.settings.notify => {
                let fallback = self.clone().poll(hub.clone(), FALLBACK_INTERVAL);
                tokio::join!(self.keep_listening(&direct, &hub), fallback);
            }
            direct => {
                let poll_interval = self.0.settings.poll_interval;
                if direct.is_none() {
                    tracing::info!(
                        ?poll_interval,
                        "LISTEN does not work through a pooler; polling for other instances' commits; \
                         MIGRATION_DATABASE_URL lets the server listen"
                    );
                }
                self.poll(hub, poll_interval).await;
            }
        }
    }

    /// Listens, again and again if the connection is lost, and polls in between.
    async fn keep_listening(&self, direct: &PgConnectOptions, hub: &Hub) {
        let poll_interval = self.0.settings.poll_interval;
        let mut has_warned = false;
        loop {
            self.0.is_listening.set(0);
            let ended = self.listen(direct, hub).await;
            self.0.is_listening.set(0);
            match ended {
                Ok(()) => has_warned = false,
                Err(error) if !has_warned => {
                    has_warned = true;
                    tracing::warn!(
                        cause = %error,
                        ?poll_interval,
                        "LISTEN does not work; polling for other instances' commits instead"
                    );
                }
                Err(_) => {}
            }
            // The poll finds what changes while nothing listens.
            let poll = self.clone().poll(hub.clone(), poll_interval);
            let pause = RETRY_PAUSE.max(poll_interval * 2);
            if timeout(pause, poll).await.is_ok() {
                return;
            }
        }
    }

    /// Listens until the connection is lost. Fails if a notification from this instance itself does not arrive.
    async fn listen(&self, direct: &PgConnectOptions, hub: &Hub) -> Result<(), StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(direct.clone());
        *self.0.listening.lock() = Some(pool.clone());
        let timed_out = |cause: &str| StoreError::Unavailable(cause.to_owned());
        let connected = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let mut listener = timeout(LISTEN_TIMEOUT, connected)
            .await
            .map_err(|_| timed_out("the listening connection did not open in time"))??;
        // A pooler in transaction mode accepts LISTEN and then gives the server connection to another client.
        self.notify("").await?;
        let echo = async {
            loop {
                let notification = listener.recv().await?;
                if self.is_own(notification.payload()) {
                    return Ok::<_, sqlx::Error>(());
                }
            }
        };
        timeout(ECHO_TIMEOUT, echo)
            .await
            .map_err(|_| timed_out("a notification to this instance did not arrive"))??;
        self.0.is_listening.set(1);
        tracing::debug!("listening for other instances' commits");
        hub.wake_all(); // for changes before LISTEN
        while let Some(notification) = self.next(&mut listener).await? {
            self.handle(notification.payload(), hub);
        }
        Ok(())
    }

    /// Returns the next notification; `None` when the connection is lost. A network that drops packets silently
    /// causes no error, so this instance notifies itself after some time without a notification.
    async fn next(&self, listener: &mut PgListener) -> Result<Option<PgNotification>, StoreError> {
        let silence = async {
            loop {
                sleep(FALLBACK_INTERVAL).await;
                match self.notify("").await {
                    Ok(()) => break,
                    // The pool may be busy, so this failure does not mean that the listening connection is lost.
                    Err(error) => tracing::debug!(%error, "the notification that checks LISTEN was not sent"),
                }
            }
            sleep(ECHO_TIMEOUT).await;
        };
        tokio::select! {
            biased; // a notification that has arrived counts, even if this task ran late
            next = listener.try_recv() => Ok(next?),
            () = silence => Ok(None),
        }
    }

    fn is_own(&self, payload: &str) -> bool {
        payload
            .split_once('|')
            .is_some_and(|(instance, _)| instance == self.0.instance)
    }

    /// Wakes the streams of the spirits that a notification of another instance names.
    fn handle(&self, payload: &str, hub: &Hub) {
        match payload.split_once('|') {
            Some((instance, _)) if instance == self.0.instance => {}
            Some((_, named)) if named != ALL => {
                for (spirit_id, topic) in named.split(',').filter_map(named_in) {
                    hub.wake(&[spirit_id], topic);
                }
            }
            _ => hub.wake_all(),
        }
    }

    /// Polls the spirits that have subscriptions at this interval.
    async fn poll(self, hub: Hub, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for spirit_ids in hub.subscribed_spirits().chunks(POLLED_MAX) {
                if let Err(error) = self.poll_once(spirit_ids, &hub).await {
                    tracing::debug!(%error, "a poll for new events failed");
                }
            }
        }
    }

    async fn poll_once(&self, spirit_ids: &[SpiritId], hub: &Hub) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = spirit_ids.iter().map(|id| id.0).collect();
        let rows: Vec<PollRow> = self.0.pool.all(sqlx::query_as(POLL).bind(ids)).await?;
        for row in rows {
            for topic in Topic::ALL {
                let polled = Polled {
                    last: match topic {
                        Topic::Events => row.last_sequence,
                        Topic::Changes => row.last_change,
                    },
                    is_deleted: row.is_deleted,
                };
                hub.record_poll(SpiritId(row.id), topic, polled);
            }
        }
        Ok(())
    }
}

#[derive(FromRow)]
struct PollRow {
    id: Uuid,
    last_sequence: i64,
    last_change: i64,
    is_deleted: bool,
}

/// Returns the name of a topic of a spirit in a notification.
fn name_of((spirit_id, topic): &(SpiritId, Topic)) -> String {
    match topic {
        Topic::Events => spirit_id.to_string(),
        Topic::Changes => format!("{CHANGES}{spirit_id}"),
    }
}

/// Returns the topic of a spirit that a notification names.
fn named_in(name: &str) -> Option<(SpiritId, Topic)> {
    let (id, topic) = match name.strip_prefix(CHANGES) {
        Some(id) => (id, Topic::Changes),
        None => (name, Topic::Events),
    };
    Some((SpiritId(parse_uuid(id)?), topic))
}
