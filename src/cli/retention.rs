//! `retention`: shows and sets how long a spirit keeps its events and their changes.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use humantime::{format_duration, parse_duration};

use super::call::{TargetArgs, present, spirit_client};
use super::client::{Connection, explain};
use super::output::{Output, print_record};
use crate::grpc::pb::spirit_service_client::SpiritServiceClient;
use crate::grpc::pb::{GetSpiritRequest, Retention, Spirit, UpdateSpiritRequest};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events retention get Fern
  elephantasm-events retention set Fern --max-age 90d")]
pub(super) struct RetentionArgs {
    #[command(subcommand)]
    command: RetentionCommand,
}

#[derive(Debug, Subcommand)]
enum RetentionCommand {
    /// Show the ages
    Get(GetArgs),
    /// Set ages, and purge from now on what is older; ages that are not given stay as they are
    Set(SetArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events retention get Fern
  elephantasm-events retention get Fern --json")]
struct GetArgs {
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("age").required(true).multiple(true)))]
#[command(after_help = "Examples:
  elephantasm-events retention set Fern --deleted-max-age 30d
  elephantasm-events retention set Fern --max-age none --history-max-age 1y --json")]
struct SetArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Maximum age of events, such as 90d; `none` keeps them for good
    #[arg(long, value_name = "AGE", group = "age", value_parser = age)]
    max_age: Option<Age>,

    /// Maximum age of soft-deleted events since their deletion; `none` keeps them for good
    #[arg(long, value_name = "AGE", group = "age", value_parser = age)]
    deleted_max_age: Option<Age>,

    /// Maximum age of changes; `none` keeps them for good
    #[arg(long, value_name = "AGE", group = "age", value_parser = age)]
    history_max_age: Option<Age>,
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
    let target = match &args.command {
        RetentionCommand::Get(args) => &args.target,
        RetentionCommand::Set(args) => &args.target,
    };
    let (channel, spirit_id) = target.connect().await?;
    let mut spirits = spirit_client(channel);
    let spirit = get(&mut spirits, spirit_id).await?;
    let spirit = match &args.command {
        RetentionCommand::Get(_) => spirit,
        RetentionCommand::Set(args) => set(&mut spirits, spirit, args).await?,
    };
    print(spirit.retention.unwrap_or_default(), target.call.json)?;
    Ok(ExitCode::SUCCESS)
}

async fn get(spirits: &mut Client, spirit_id: String) -> anyhow::Result<Spirit> {
    let request = GetSpiritRequest {
        spirit_id,
        include_deleted: true,
    };
    let reply = spirits.get_spirit(request).await.map_err(explain)?;
    present(reply.into_inner().spirit)
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
    let reply = spirits.update_spirit(request).await.map_err(explain)?;
    present(reply.into_inner().spirit)
}

/// Prints the ages: as JSON, or in the form that `set` accepts.
fn print(retention: Retention, json: bool) -> anyhow::Result<()> {
    if json {
        return print_record(retention, true);
    }
    let mut out = Output::new();
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
        out.line(&format!("{name} {age}"))?;
    }
    out.finish()
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
