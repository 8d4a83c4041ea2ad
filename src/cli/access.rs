//! `access`: shows what the API key of the call may do.

use std::process::ExitCode;

use clap::Args;

use super::call::CallArgs;
use super::client::explain;
use super::output::print_record;
use crate::grpc::pb::GetAccessRequest;
use crate::grpc::pb::access_service_client::AccessServiceClient;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events access
  elephantasm-events access --json")]
pub(super) struct AccessArgs {
    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: AccessArgs) -> anyhow::Result<ExitCode> {
    let mut access = AccessServiceClient::new(args.call.addr.connect().await?);
    let reply = access.get_access(GetAccessRequest {}).await.map_err(explain)?;
    print_record(reply.into_inner(), args.call.json)?;
    Ok(ExitCode::SUCCESS)
}
