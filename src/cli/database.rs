//! The database a command works on: the one of the URL, or the private one.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::config::{BadSettings, DatabaseArgs, Secret};
use crate::embedded_postgres::{self, EmbeddedError, EmbeddedPostgres, Options, default_data_dir};
use crate::store::{StandbySettings, Store, StoreSettings};

/// Database of the private PostgreSQL.
const DATABASE: &str = "events";
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// How to connect, and the private PostgreSQL if there is one: it runs as long as this value lives.
pub(super) struct Database {
    connect: PgConnectOptions,
    /// Around a pooler, if there is one.
    direct: Option<PgConnectOptions>,
    /// A copy for reads that may lag, if there is one.
    standby: Option<StandbySettings>,
    embedded: Option<EmbeddedPostgres>,
}

impl Database {
    pub(super) async fn open(args: &DatabaseArgs) -> anyhow::Result<Self> {
        if let Some(given) = Self::given(args)? {
            return Ok(given);
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

    /// The same beside a server that may run the private one already.
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

    /// The one of the URL, if there is one.
    fn given(args: &DatabaseArgs) -> Result<Option<Self>, BadSettings> {
        let standby = args.read_database_url()?;
        let Some(url) = args.database_url()? else {
            if standby.is_some() {
                let rule = "READ_DATABASE_URL needs DATABASE_URL: the private PostgreSQL has no standby";
                return Err(BadSettings(rule.to_owned()));
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
                lag_max: Duration::from_secs(args.read_lag_seconds),
            }),
            embedded: None,
        }))
    }

    /// A store on it.
    pub(super) fn store(&self, args: &DatabaseArgs) -> Store {
        self.open_store(args, None)
    }

    /// A store for a server, which has the standby, too.
    pub(super) fn serving_store(&self, args: &DatabaseArgs) -> Store {
        self.open_store(args, self.standby.clone())
    }

    fn open_store(&self, args: &DatabaseArgs, standby: Option<StandbySettings>) -> Store {
        Store::open(
            self.connect.clone(),
            StoreSettings {
                direct: self.direct.clone(),
                standby,
                ..args.store_settings()
            },
        )
    }

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

/// The driver's own message could repeat parts of the URL, so it is not shown; and it would take any
/// scheme.
fn connect_options(name: &str, url: &Secret) -> Result<PgConnectOptions, BadSettings> {
    let form = format!("{name} cannot be read; it has the form postgres://user:password@host:5432/database");
    let url = url.expose();
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(BadSettings(form));
    }
    PgConnectOptions::from_str(url).map_err(|_| BadSettings(form))
}
