//! The database a command works on: the one of the URL, or the private one.

use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

use crate::config::{BadSettings, DatabaseArgs, Secret};
use crate::store::embedded::{EmbeddedPostgres, Options, default_data_dir};
use crate::store::{Store, StoreSettings};

/// Database of the private PostgreSQL.
const DATABASE: &str = "events";
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// How to connect, and the private PostgreSQL if there is one: it runs as long as this value lives.
pub(super) struct Database {
    connect: PgConnectOptions,
    /// Around a pooler, if there is one.
    direct: Option<PgConnectOptions>,
    embedded: Option<EmbeddedPostgres>,
}

impl Database {
    pub(super) async fn open(args: &DatabaseArgs) -> anyhow::Result<Self> {
        if let Some(url) = &args.database_url {
            return Ok(Self {
                connect: connect_options("DATABASE_URL", url)?,
                direct: args
                    .migration_database_url
                    .as_ref()
                    .map(|url| connect_options("MIGRATION_DATABASE_URL", url))
                    .transpose()?,
                embedded: None,
            });
        }
        let data_dir = match &args.data_dir {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        };
        let embedded = EmbeddedPostgres::start(Options {
            data_dir,
            bin_dir: args.pg_bin_dir.clone(),
            settings: Vec::new(),
        })
        .await?;
        embedded.create_database(DATABASE).await?;
        Ok(Self {
            connect: embedded.connect_options(DATABASE),
            direct: None,
            embedded: Some(embedded),
        })
    }

    /// A store on it.
    pub(super) fn store(&self, args: &DatabaseArgs) -> Store {
        Store::open(
            self.connect.clone(),
            StoreSettings {
                direct: self.direct.clone(),
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
