//! The database a command works on: the one of the URL, or the private one.

use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

use crate::config::{BadSettings, DatabaseArgs};
use crate::store::embedded::{EmbeddedPostgres, Options, default_data_dir};

/// Database of the private PostgreSQL.
const DATABASE: &str = "events";

/// How to connect, and the private PostgreSQL if there is one: it runs as long as this value lives.
pub(super) struct Database {
    pub(super) connect: PgConnectOptions,
    embedded: Option<EmbeddedPostgres>,
}

impl Database {
    pub(super) async fn open(args: &DatabaseArgs) -> anyhow::Result<Self> {
        if let Some(url) = &args.database_url {
            // The driver's message could repeat parts of the URL, so it is not shown.
            let connect = PgConnectOptions::from_str(url.expose())
                .map_err(|_| BadSettings("DATABASE_URL cannot be read; it has the form postgres://user:password@host:5432/database".to_owned()))?;
            return Ok(Self {
                connect,
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
            embedded: Some(embedded),
        })
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        if let Some(embedded) = self.embedded {
            embedded.stop().await?;
        }
        Ok(())
    }
}
