//! Selects the database of a command: the configured one, or the private PostgreSQL.

use std::path::PathBuf;
use std::str::FromStr as _;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnectOptions;

use crate::config::{BadSettings, DatabaseArgs};
use crate::embedded_postgres::{self, EmbeddedError, EmbeddedPostgres, Options, default_data_dir};
use crate::store::{StandbySettings, Store, StoreSettings};

/// Name of the database in the private PostgreSQL.
const DATABASE: &str = "events";
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Connection options of the database. Keeps the private PostgreSQL running if this process started it.
pub(super) struct Database {
    connect: PgConnectOptions,
    /// Bypasses a pooler.
    direct: Option<PgConnectOptions>,
    /// A standby for reads that may lag.
    standby: Option<StandbySettings>,
    embedded: Option<EmbeddedPostgres>,
}

impl Database {
    /// Returns the configured database without connecting to it, or starts the private PostgreSQL.
    pub(super) async fn open(args: &DatabaseArgs) -> anyhow::Result<Self> {
        if let Some(database) = Self::from_urls(args)? {
            return Ok(database);
        }
        let embedded = EmbeddedPostgres::start(Options {
            data_dir: data_dir(args)?,
            bin_dir: args.pg_bin_dir.clone(),
            settings: Vec::new(),
        })
        .await?;
        embedded.create_database(DATABASE).await?;
        Ok(Self {
            connect: embedded.connect_options(DATABASE),
            direct: None,
            standby: None,
            embedded: Some(embedded),
        })
    }

    /// Like [`open`](Self::open), but joins the private PostgreSQL of a running server instead of failing
    /// with [`EmbeddedError::InUse`].
    pub(super) async fn join(args: &DatabaseArgs) -> anyhow::Result<Self> {
        match Self::open(args).await {
            Err(error) if matches!(error.downcast_ref(), Some(EmbeddedError::InUse(_))) => {}
            opened => return opened,
        }
        let running = embedded_postgres::running(&data_dir(args)?, DATABASE)?;
        Ok(Self {
            connect: running,
            direct: None,
            standby: None,
            embedded: None,
        })
    }

    /// Returns the configured database, or `None` if no URL is configured.
    pub(super) fn from_urls(args: &DatabaseArgs) -> Result<Option<Self>, BadSettings> {
        let standby = args.read_database_url()?;
        let Some(url) = args.database_url()? else {
            if standby.is_some() {
                let message = "READ_DATABASE_URL needs DATABASE_URL: the private PostgreSQL has no standby";
                return Err(BadSettings(message.to_owned()));
            }
            return Ok(None);
        };
        let standby = standby
            .map(|url| connect_options("READ_DATABASE_URL", &url))
            .transpose()?;
        let direct = args.migration_database_url()?;
        Ok(Some(Self {
            connect: connect_options("DATABASE_URL", &url)?,
            direct: direct
                .map(|url| connect_options("MIGRATION_DATABASE_URL", &url))
                .transpose()?,
            standby: standby.map(|connect| StandbySettings {
                connect,
                lag_max: args.read_lag_max,
            }),
            embedded: None,
        }))
    }

    /// Returns how to connect to PostgreSQL itself, bypassing a pooler if that is configured.
    pub(super) fn direct_options(&self) -> PgConnectOptions {
        self.direct.clone().unwrap_or_else(|| self.connect.clone())
    }

    /// Returns whether a way around a pooler is configured.
    pub(super) fn bypasses_pooler(&self) -> bool {
        self.direct.is_some()
    }

    /// Opens a store on the primary.
    pub(super) fn store(&self, args: &DatabaseArgs) -> Store {
        self.open_store(args, None)
    }

    /// Opens a store for a server, which also uses the standby.
    pub(super) fn serving_store(&self, args: &DatabaseArgs) -> Store {
        self.open_store(args, self.standby.clone())
    }

    fn open_store(&self, args: &DatabaseArgs, standby: Option<StandbySettings>) -> Store {
        Store::open(
            self.connect.clone(),
            StoreSettings {
                direct: self.direct.clone(),
                standby,
                ..StoreSettings::from(args)
            },
        )
    }

    /// Stops the private PostgreSQL if this process started it.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        if let Some(embedded) = self.embedded {
            embedded.stop().await?;
        }
        Ok(())
    }
}

fn data_dir(args: &DatabaseArgs) -> Result<PathBuf, EmbeddedError> {
    args.data_dir.clone().map_or_else(default_data_dir, Ok)
}

/// Parses a URL. Checks the scheme, because the driver accepts any, and hides the driver's error, because it may
/// repeat parts of the URL.
pub(super) fn connect_options(name: &str, url: &SecretString) -> Result<PgConnectOptions, BadSettings> {
    let message = format!("{name} is invalid; it has the form postgres://user:password@host:5432/database");
    let url = url.expose_secret();
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(BadSettings(message));
    }
    PgConnectOptions::from_str(url).map_err(|_| BadSettings(message))
}
