//! `changes`: prints the changes of a spirit's events, once or as they are committed.

use std::process::ExitCode;

use clap::Args;

use super::call::{CallArgs, OwnerArgs};
use super::follow::{Source, Start, follow};
use super::print::Form;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events changes --spirit Fern
  elephantasm-events changes --spirit Fern --after 0 --follow --json | head -n 1")]
pub(super) struct ChangesArgs {
    #[command(flatten)]
    owner: OwnerArgs,

    /// Start after this change number instead of the oldest change that is stored
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,

    /// Continue with new changes as they are committed, and resume when the server is available again
    #[arg(long)]
    follow: bool,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: ChangesArgs) -> anyhow::Result<ExitCode> {
    let (channel, spirit_id) = args.owner.connect(&args.call).await?;
    let start = args.after.map_or(Start::Beginning, Start::Change);
    let source = Source::Changes { spirit_id };
    follow(
        channel,
        source,
        start,
        Form::new(args.call.json, true),
        args.follow,
    )
    .await
}
