//! Streams of events and of their changes: replays, followed replays and watches.
//!
//! The tables are the only source: a stream reads page after page of its [`feed`], each after the last number that
//! it has read. The [`hub`] only wakes a stream when a read may find new events, so a wake-up that is
//! repeated, late or lost loses nothing. [`notifier`] sends wake-ups to other instances, receives theirs,
//! and polls as a fallback. [`shared_reads`] lets streams that need the same page share a read. A stream
//! subscribes before it reads.

pub(super) mod changes;
mod feed;
mod hub;
pub(super) mod notifier;
pub(super) mod page;
mod page_sender;
mod replay;
mod shared_reads;
mod watch;

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use hub::Hub;
use notifier::Notifier;
use shared_reads::SharedReads;

use super::pg::metrics::StoreMetrics;
use super::pg::pool::ConnectionPool;
use super::read::ReadRouter;
use crate::domain::change::EventChange;
use crate::domain::event::Event;
use crate::domain::ids::SpiritId;

pub use changes::ChangeWatch;
pub use feed::{LivePage, StreamRow};
pub(super) use hub::{SubscriptionCounts, Topic};
pub use notifier::ListenSettings;
pub use page_sender::{Pages, StreamPage};
pub use replay::{Replay, ReplayStart};
pub use watch::{Watch, WatchStart};

/// Maximum bytes of a page of a stream; a page holds at least one event, which may be larger.
const PAGE_BYTES: usize = 256 * 1024;

/// Settings of long-lived streams.
#[derive(Clone, Debug)]
pub struct LiveSettings {
    /// Time without an item after which a stream sends a heartbeat.
    pub heartbeat: Duration,
    /// Time without an item taken by the client after which a stream ends.
    pub stall_limit: Duration,
    /// Settings of the notifications between instances.
    pub listen: ListenSettings,
}

/// Starts replays and watches. Cheap to clone.
#[derive(Clone)]
pub struct LiveStreams {
    reads: ReadRouter,
    pool: ConnectionPool,
    announcer: Announcer,
    shared_events: SharedReads<Event>,
    shared_changes: SharedReads<EventChange>,
    settings: LiveSettings,
    metrics: StoreMetrics,
}

/// Wakes the streams of changed spirits, in this and other instances. Cheap to clone.
#[derive(Clone)]
pub(super) struct Announcer {
    hub: Hub,
    notifier: Notifier,
}

impl LiveStreams {
    pub(super) fn new(
        reads: ReadRouter,
        pool: ConnectionPool,
        announcer: Announcer,
        settings: LiveSettings,
        metrics: StoreMetrics,
    ) -> Self {
        Self {
            reads,
            pool,
            announcer,
            shared_events: SharedReads::default(),
            shared_changes: SharedReads::default(),
            settings,
            metrics,
        }
    }

    /// Ends every stream that waits for new events with UNAVAILABLE, because the database does not answer.
    pub fn end_all(&self) {
        self.announcer.hub.end_all();
    }

    /// Returns the numbers of subscriptions.
    pub(super) fn subscription_counts(&self) -> SubscriptionCounts {
        self.announcer.hub.subscription_counts()
    }
}

impl Announcer {
    /// Starts the exchange of notifications. `direct` connects to PostgreSQL itself, not to a pooler; without
    /// it notifications are sent but not received.
    pub(super) fn start(
        pool: ConnectionPool,
        direct: Option<PgConnectOptions>,
        settings: ListenSettings,
        metrics: &StoreMetrics,
    ) -> Self {
        let hub = Hub::default();
        let listening = metrics.live.listening.clone();
        let notifier = Notifier::start(pool, direct, hub.clone(), settings, listening);
        Self { hub, notifier }
    }

    /// Announces spirits that have new rows of a topic. Call it after the commit.
    pub(super) fn announce(&self, spirit_ids: &[SpiritId], topic: Topic) {
        self.hub.wake(spirit_ids, topic);
        self.notifier.announce(spirit_ids, topic);
    }

    /// Ends the exchange of notifications.
    pub(super) async fn close(&self) {
        self.notifier.close().await;
    }
}
