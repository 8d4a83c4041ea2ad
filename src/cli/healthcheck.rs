//! `healthcheck`: checks a server, for container and service managers.

use std::process::ExitCode;

use clap::Args;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::client::{AddrArgs, explain};
use super::failure::{Failure, report};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events healthcheck
  elephantasm-events healthcheck --service elephantasm.events.v1.EventService")]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    addr: AddrArgs,

    /// Service to check, such as elephantasm.events.v1.EventService; empty = the whole server
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
}

/// Exits with 1 for every reason not to call the server healthy, as container managers expect it.
pub(super) async fn run(args: HealthcheckArgs) -> anyhow::Result<ExitCode> {
    match check(args).await {
        Err(error) if Failure::of(&error) != Failure::Usage => {
            report(&error);
            Ok(ExitCode::FAILURE)
        }
        checked => checked,
    }
}

async fn check(args: HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let mut health = HealthClient::new(args.addr.connect().await?);
    let request = HealthCheckRequest {
        service: args.service,
    };
    let status = health.check(request).await.map_err(explain)?.into_inner().status;
    let serving = status == ServingStatus::Serving as i32;
    println!("{}", if serving { "SERVING" } else { "NOT_SERVING" });
    Ok(if serving {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
