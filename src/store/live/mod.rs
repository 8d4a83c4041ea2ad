//! Live reading: streams that go on with what is committed while they last.
//!
//! The table is the only source: a stream reads behind its own sequence, page by page. What the
//! [`hub`] tells it is no more than that a look is worth while, so a hint may come twice, late, or never
//! without an event being lost. [`notify`] carries hints between instances and polls as a net;
//! [`shared`] lets streams that want the same page share the read. Subscribe first, then read.

mod hub;
mod notify;
mod page;
mod shared;
mod stream;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::store::pg::pool::ConnectionPool;
use crate::store::pg::metrics::StoreMetrics;
use crate::domain::ids::SpiritId;
use hub::Hub;
use notify::Notifier;

pub(super) use shared::SharedReads;
pub(super) use stream::{PageSender, StreamEnd};

pub use notify::ListenSettings;
pub use page::LivePage;
pub use stream::{Pages, StreamPage};
pub(super) use watch::Live;
pub use watch::{Watch, WatchStart};

/// How long-lived streams behave.
#[derive(Clone, Debug)]
pub struct LiveSettings {
    /// After this long without an item a heartbeat is sent.
    pub heartbeat: Duration,
    /// After this long without a reader taking anything a stream is ended.
    pub stall_limit: Duration,
    /// Hints between instances.
    pub listen: ListenSettings,
}

/// Tells streams, here and in other instances, which spirits have changed. Cheap to clone.
#[derive(Clone)]
pub(super) struct Changes {
    hub: Hub,
    notifier: Notifier,
}

impl Changes {
    /// Starts the exchange of hints. `direct` reaches PostgreSQL itself, not a pooler; without it hints are
    /// sent and not heard.
    pub(super) fn start(
        connections: ConnectionPool,
        direct: Option<PgConnectOptions>,
        settings: ListenSettings,
        metrics: &StoreMetrics,
    ) -> Self {
        let hub = Hub::default();
        let listening = metrics.live.listening.clone();
        let notifier = Notifier::start(connections, direct, hub.clone(), settings, listening);
        Self { hub, notifier }
    }

    /// These spirits have new events, or have been deleted or restored; to be called after the commit.
    pub(super) fn announce(&self, spirit_ids: &[SpiritId]) {
        self.hub.wake(spirit_ids);
        self.notifier.tell(spirit_ids);
    }

    /// The database is away: every stream is to end.
    pub(super) fn lose(&self) {
        self.hub.lose();
    }

    /// How many spirits are followed, and by how many streams.
    pub(super) fn followed(&self) -> (usize, usize) {
        self.hub.followed()
    }

    pub(super) async fn close(&self) {
        self.notifier.close().await;
    }
}

/// See [`super::statements`].
pub(super) fn statements() -> Vec<(&'static str, Arc<str>)> {
    let mut all = page::statements();
    all.extend(notify::statements());
    all
}
