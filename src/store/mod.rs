//! PostgreSQL: the only place where SQL stands and sqlx is used.
//!
//! Knows nothing of the wire. One function, one statement, wherever the work allows it; a
//! transaction stands only in [`ingest`], in tasks that no caller can cancel. Start at [`Store`].

mod edits;
pub mod embedded;
mod error;
mod events;
mod gets;
mod ingest;
mod migrate;
mod replay;
mod rows;
mod sessions;
mod spirits;

use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub use error::StoreError;
pub use events::{EventPage, EventQuery, PageStart};
pub use ingest::{IngestSettings, Queued};
pub use migrate::MigrateError;
pub use replay::{Replay, ReplayPage, ReplayStart};
pub use sessions::{Session, SessionPage};
pub use spirits::{SpiritOrder, SpiritPage, SpiritQuery};

/// How the store uses its database.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Connections for reads and edits; the writer has its own.
    pub pool_size: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// The write path.
    pub ingest: IngestSettings,
}

/// Every statement by name, so that a test can prepare each against the migrated schema and read its
/// plan.
#[must_use]
pub fn statements() -> Vec<(String, Arc<str>)> {
    let mut all = events::statements();
    let others = [
        gets::statements(),
        spirits::statements(),
        edits::statements(),
        sessions::statements(),
        ingest::statements(),
    ];
    all.extend(
        others
            .into_iter()
            .flatten()
            .map(|(name, sql)| (name.to_owned(), sql)),
    );
    all
}

/// The database as the service sees it. Cheap to clone; made without a connection. Not `Debug`: it
/// knows the database's password.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    connect: PgConnectOptions,
    ingest: ingest::Ingest,
    gets: gets::Gets,
}

impl Store {
    /// Opens a store that connects as it is used. Needs a Tokio runtime, in which its writer lives
    /// until the last clone is dropped.
    #[must_use]
    pub fn open(options: PgConnectOptions, settings: StoreSettings) -> Self {
        let millis = settings.statement_timeout.as_millis().to_string();
        let connect = options
            .application_name("elephantasm-events")
            // jit: a page's cost is estimated without its limit, and would be worth compiling if it were true.
            .options([("statement_timeout", millis), ("jit", "off".to_owned())])
            .disable_statement_logging(); // a flush's statements are long
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool_size)
            .acquire_timeout(settings.acquire_timeout)
            .connect_lazy_with(connect.clone());
        let ingest = ingest::Ingest::start(connect.clone(), settings.ingest);
        let gets = gets::Gets::start(&pool);
        Self {
            pool,
            connect,
            ingest,
            gets,
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Finishes queued writes and closes every connection.
    pub async fn close(&self) {
        self.ingest.close().await;
        self.pool.close().await;
    }
}
