//! `migrate`: brings the schema up to date and exits.

use std::process::ExitCode;

use clap::Args;

use super::database::Database;
use crate::config::{DatabaseArgs, LogArgs};
use crate::telemetry;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events migrate
  elephantasm-events migrate --database-url \"$DATABASE_URL\"")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(&args.log)?;
    let database = Database::open(&args.database).await?;
    let store = database.store(&args.database);
    let migrated = store.migrate().await;
    store.close().await;
    database.close().await?;
    println!("schema is at version {}", migrated?);
    Ok(ExitCode::SUCCESS)
}
