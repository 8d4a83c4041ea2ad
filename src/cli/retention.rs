//! `retention`: shows and sets how long a spirit keeps its events and their changes.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use humantime::{format_duration, parse_duration};

use super::client::{AddrArgs, Connection, explain};
use super::spirits::{UnknownName, resolve};
use crate::grpc::pb::spirit_service_client::SpiritServiceClient;
use crate::grpc::pb::{GetSpiritRequest, Retention, Spirit, UpdateSpiritRequest};

#[derive(Args, Debug)]
pub(super) struct RetentionArgs {
    /// Spirit, by name or id
    #[arg(value_name = "SPIRIT")]
    spirit: String,

    #[command(subcommand)]
    command: RetentionCommand,
}

#[derive(Debug, Subcommand)]
enum RetentionCommand {
    /// Set ages, and purge from now on what is older; ages that are not given stay as they are
    Set(SetArgs),
    /// Show the ages
    Show(ShowArgs),
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("age").required(true).multiple(true)))]
struct SetArgs {
    /// Maximum age of events, such as 90d; `none` keeps them for good
    #[arg(long, value_name = "AGE", group = "age", value_parser = age)]
    max_age: Option<Age>,

    /// Maximum age of soft-deleted events since their deletion; `none` keeps them for good
    #[arg(long, value_name = "AGE", group = "age", value_parser = age)]
    deleted_max_age: Option<Age>,

    /// Maximum age of changes; `none` keeps them for good
    #[arg(long, value_name = "AGE", group = "age", value_parser = age)]
    history_max_age: Option<Age>,

    #[command(flatten)]
    addr: AddrArgs,
}

#[derive(Args, Debug)]
struct ShowArgs {
    #[command(flatten)]
    addr: AddrArgs,
}

/// An age, or none.
#[derive(Clone, Copy, Debug)]
struct Age(Option<Duration>);

fn age(text: &str) -> Result<Age, String> {
    if text == "none" {
        return Ok(Age(None));
    }
    let age = parse_duration(text).map_err(|error| error.to_string())?;
    Ok(Age(Some(age)))
}

type Client = SpiritServiceClient<Connection>;

pub(super) async fn run(args: RetentionArgs) -> anyhow::Result<ExitCode> {
    let addr = match &args.command {
        RetentionCommand::Set(args) => &args.addr,
        RetentionCommand::Show(args) => &args.addr,
    };
    let channel = addr.connect().await?;
    let id = resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?;
    let mut spirits = SpiritServiceClient::new(channel);
    let spirit = get(&mut spirits, id).await?;
    let spirit = match args.command {
        RetentionCommand::Set(args) => set(&mut spirits, spirit, &args).await?,
        RetentionCommand::Show(_) => spirit,
    };
    print(spirit.retention.unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

async fn get(spirits: &mut Client, spirit_id: String) -> anyhow::Result<Spirit> {
    let request = GetSpiritRequest {
        spirit_id,
        include_deleted: true,
    };
    let reply = spirits.get_spirit(request).await.map_err(explain)?.into_inner();
    reply
        .spirit
        .ok_or_else(|| anyhow!("the server's reply holds no spirit"))
}

/// Sets the given ages, on the condition that the spirit has not changed since it was read.
async fn set(spirits: &mut Client, spirit: Spirit, args: &SetArgs) -> anyhow::Result<Spirit> {
    let mut retention = spirit.retention.unwrap_or_default();
    let given = [
        (&mut retention.max_age, args.max_age),
        (&mut retention.deleted_max_age, args.deleted_max_age),
        (&mut retention.history_max_age, args.history_max_age),
    ];
    for (age, given) in given {
        if let Some(Age(given)) = given {
            *age = given.map(prost_types::Duration::try_from).transpose()?;
        }
    }
    let request = UpdateSpiritRequest {
        spirit_id: spirit.id,
        retention: Some(retention),
        expected_revision: Some(spirit.revision),
        ..UpdateSpiritRequest::default()
    };
    let reply = spirits
        .update_spirit(request)
        .await
        .map_err(explain)?
        .into_inner();
    reply
        .spirit
        .ok_or_else(|| anyhow!("the server's reply holds no spirit"))
}

fn print(retention: Retention) {
    let Retention {
        max_age,
        deleted_max_age,
        history_max_age,
    } = retention;
    for (name, age) in [
        ("max-age", max_age),
        ("deleted-max-age", deleted_max_age),
        ("history-max-age", history_max_age),
    ] {
        let age = age.and_then(|age| Duration::try_from(age).ok());
        let age = age.map_or_else(|| "none".to_owned(), text_of);
        println!("{name} {age}");
    }
}

/// Returns the age in days and what is left, in the form that `set` accepts.
fn text_of(age: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    let days = age.as_secs() / DAY_SECONDS;
    let rest = age.saturating_sub(Duration::from_secs(days * DAY_SECONDS));
    match (days, rest.is_zero()) {
        (0, _) => format_duration(rest).to_string(),
        (_, true) => format!("{days}d"),
        (_, false) => format!("{days}d {}", format_duration(rest)),
    }
}
