//! `changes`: prints the changes of a spirit's events, once or as they are committed.

use std::process::ExitCode;

use clap::Args;

use super::client::AddrArgs;
use super::follow::{Source, Start, follow};
use super::print::Form;
use super::spirits::{UnknownName, resolve};

#[derive(Args, Debug)]
pub(super) struct ChangesArgs {
    /// Spirit that owns the events, by name or id
    #[arg(value_name = "SPIRIT")]
    spirit: String,

    /// Start after this change number instead of the oldest change that is stored
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,

    /// Continue with new changes as they are committed, and resume when the server is available again
    #[arg(long)]
    follow: bool,

    /// Print a JSON object a line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

pub(super) async fn run(args: ChangesArgs) -> anyhow::Result<ExitCode> {
    let channel = args.addr.connect().await?;
    let spirit_id = resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?;
    let start = args.after.map_or(Start::Beginning, Start::Change);
    let source = Source::Changes { spirit_id };
    follow(channel, source, start, Form::new(args.json), args.follow).await
}
