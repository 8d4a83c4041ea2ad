//! `distribute`: distributes the tables over the workers of a Citus cluster.

use std::process::ExitCode;

use clap::Args;

use super::database::Database;
use super::failure::{CommandError, Failure};
use crate::config::{BadSettings, DatabaseArgs, LogArgs, Pooler};
use crate::store::{DistributeError, Distribution, Distributor};
use crate::telemetry;

/// Connections that each writer may open.
const CONNECTIONS_PER_WRITER: u32 = 5;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events distribute --database-url \"$DATABASE_URL\"
  elephantasm-events distribute --shards 16")]
pub(super) struct DistributeArgs {
    /// Number of shards of each table; a server has a writer for each, with up to five connections
    /// [default: 8, or the number that the tables have]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: Option<u32>,

    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn run(args: DistributeArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(&args.log)?;
    let Some(database) = Database::from_urls(&args.database)? else {
        let message = "distribute needs DATABASE_URL, the coordinator of a Citus cluster: the private PostgreSQL is one \
                       machine";
        return Err(BadSettings(message.to_owned()).into());
    };
    if args.database.pooler == Pooler::Transaction && !database.bypasses_pooler() {
        let message = "distribute needs MIGRATION_DATABASE_URL, the coordinator without the pooler: it holds a lock of \
                       its PostgreSQL session";
        return Err(BadSettings(message.to_owned()).into());
    }
    let distributed = async {
        let distributor = Distributor::connect(database.direct_options()).await?;
        distributor.distribute(args.shards).await
    };
    match distributed.await {
        Ok(distribution) => report(&distribution),
        Err(error) => return Err(failed(error)),
    }
    Ok(ExitCode::SUCCESS)
}

fn report(distribution: &Distribution) {
    let Distribution {
        tables,
        shards,
        nodes,
        role_settings,
    } = distribution;
    if tables.is_empty() {
        println!("already distributed: {shards} shards on {nodes} nodes");
    } else {
        println!(
            "distributed {}: {shards} shards on {nodes} nodes",
            tables.join(", ")
        );
    }
    for statement in role_settings {
        println!("{statement}");
    }
    let connections = shards * CONNECTIONS_PER_WRITER;
    eprintln!("next: elephantasm-events serve --citus");
    eprintln!(
        "it has a writer for each shard, with up to {connections} connections to the coordinator in all, besides \
         --pool-size and four"
    );
}

/// Adds the exit code.
fn failed(error: DistributeError) -> anyhow::Error {
    let failure = match &error {
        DistributeError::InUse(_) | DistributeError::OtherShards { .. } | DistributeError::OtherLayout(_) => {
            Failure::Conflict
        }
        DistributeError::ReadOnly
        | DistributeError::NoExtension
        | DistributeError::NotCoordinator
        | DistributeError::NoWorkers
        | DistributeError::WorkerFailed { .. }
        | DistributeError::NoPreparedTransactions(_)
        | DistributeError::NotMigrated(_)
        | DistributeError::Failed(_) => Failure::Other,
    };
    CommandError::new(failure, error.to_string()).into()
}
