//! `spirit`: creates, lists, shows, changes, deletes, restores and counts spirits.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use prost_types::Struct;
use serde_json::json;

use super::call::{CallArgs, TargetArgs, present, spirit_client};
use super::client::explain;
use super::meta::{MetaArgs, mask, object};
use super::output::{Listing, Row, print_line, print_record};
use super::pages::read_pages;
use super::record::Record;
use super::table::Column;
use super::times;
use crate::grpc::pb::{
    CountSpiritsRequest, CreateSpiritRequest, GetSpiritRequest, ListSpiritsRequest, RestoreSpiritRequest,
    SoftDeleteSpiritRequest, Spirit, UpdateSpiritRequest,
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events spirit list
  elephantasm-events spirit get Fern")]
pub(super) struct SpiritArgs {
    #[command(subcommand)]
    command: SpiritCommand,
}

#[derive(Debug, Subcommand)]
enum SpiritCommand {
    /// Create a spirit
    Create(CreateArgs),
    /// List spirits, newest first, or with --name by name
    List(ListArgs),
    /// Show a spirit
    Get(GetArgs),
    /// Change name, description and meta of a spirit
    Update(UpdateArgs),
    /// Soft-delete a spirit: its events stay readable, new ones are refused
    Delete(DeleteArgs),
    /// Restore a soft-deleted spirit
    Restore(RestoreArgs),
    /// Count spirits
    Count(CountArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events spirit create Ada
  elephantasm-events spirit create Bryn --description 'A gardener' --meta '{\"team\": \"north\"}'")]
struct CreateArgs {
    /// Name; a name that several spirits have selects none of them
    #[arg(value_name = "NAME")]
    name: String,

    /// Description
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Meta, a JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    meta: Option<Struct>,

    #[command(flatten)]
    call: CallArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events spirit list
  elephantasm-events spirit list --name fern --include-deleted --json")]
struct ListArgs {
    /// List only the spirits whose name contains this text, in any case
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    /// List soft-deleted spirits too
    #[arg(long)]
    include_deleted: bool,

    /// Maximum number of spirits to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    call: CallArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events spirit get Fern
  elephantasm-events spirit get Fern --json")]
struct GetArgs {
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("property").required(true).multiple(true).args(["name", "description", "meta", "merge_meta"])))]
#[command(after_help = "Examples:
  elephantasm-events spirit update Fern --description 'Looks after the greenhouse'
  elephantasm-events spirit update Fern --merge-meta '{\"team\": \"north\"}' --json")]
struct UpdateArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Name
    #[arg(long)]
    name: Option<String>,

    /// Description; empty to remove it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    #[command(flatten)]
    meta: MetaArgs,

    /// Change the spirit only if this is its revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<i64>,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events spirit delete Ada
  elephantasm-events spirit delete Bryn --expected-revision 1 --json")]
struct DeleteArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Delete the spirit only if this is its revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<i64>,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events spirit restore \"$SPIRIT\"
  elephantasm-events spirit restore \"$SPIRIT\" --json")]
struct RestoreArgs {
    #[command(flatten)]
    target: TargetArgs,

    /// Restore the spirit only if this is its revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<i64>,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events spirit count
  elephantasm-events spirit count --include-deleted --json")]
struct CountArgs {
    /// Count soft-deleted spirits too
    #[arg(long)]
    include_deleted: bool,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: SpiritArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        SpiritCommand::Create(args) => create(args).await?,
        SpiritCommand::List(args) => list(args).await?,
        SpiritCommand::Get(args) => get(args.target).await?,
        SpiritCommand::Update(args) => update(args).await?,
        SpiritCommand::Delete(args) => delete(args).await?,
        SpiritCommand::Restore(args) => restore(args).await?,
        SpiritCommand::Count(args) => count(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let mut spirits = spirit_client(args.call.addr.connect().await?);
    let request = CreateSpiritRequest {
        name: args.name,
        description: args.description,
        meta: args.meta,
        retention: None,
    };
    let reply = spirits.create_spirit(request).await.map_err(explain)?;
    print_record(present(reply.into_inner().spirit)?, args.call.json)
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let mut spirits = spirit_client(args.call.addr.connect().await?);
    let mut listing = Listing::new(
        args.call.json,
        &[
            Column::Whole("ID"),
            Column::Whole("CREATED"),
            Column::Number("SEQUENCE"),
            Column::Text("NAME"),
            Column::Text("DESCRIPTION"),
        ],
    );
    read_pages(
        args.limit,
        async |page| {
            let request = ListSpiritsRequest {
                name_contains: args.name.clone(),
                include_deleted: args.include_deleted,
                page_size: page.page_size,
                page_token: page.page_token,
                offset: 0,
            };
            let reply = spirits.list_spirits(request).await.map_err(explain)?.into_inner();
            Ok((reply.spirits, reply.next_page_token))
        },
        |spirit| listing.add(spirit, row),
    )
    .await?;
    listing.finish()
}

fn row(spirit: &Spirit) -> Row<5> {
    Row {
        cells: [
            spirit.id.clone(),
            times::seconds(spirit.created_at),
            spirit.last_sequence.to_string(),
            spirit.name().to_owned(),
            spirit.description().to_owned(),
        ],
        is_dimmed: spirit.is_deleted,
    }
}

async fn get(target: TargetArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = target.connect().await?;
    let request = GetSpiritRequest {
        spirit_id,
        include_deleted: true,
    };
    let reply = spirit_client(channel)
        .get_spirit(request)
        .await
        .map_err(explain)?;
    print_record(present(reply.into_inner().spirit)?, target.call.json)
}

async fn update(args: UpdateArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let (meta, meta_mode) = args.meta.change();
    let given = [
        ("name", args.name.is_some()),
        ("description", args.description.is_some()),
        ("meta", meta.is_some()),
    ];
    let request = UpdateSpiritRequest {
        spirit_id,
        name: args.name,
        description: args.description.filter(|text| !text.is_empty()),
        meta,
        meta_mode: meta_mode.into(),
        update_mask: Some(mask(given)),
        expected_revision: args.expected_revision,
        ..UpdateSpiritRequest::default()
    };
    let reply = spirit_client(channel)
        .update_spirit(request)
        .await
        .map_err(explain)?;
    print_record(present(reply.into_inner().spirit)?, args.target.call.json)
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let request = SoftDeleteSpiritRequest {
        spirit_id,
        expected_revision: args.expected_revision,
    };
    let reply = spirit_client(channel)
        .soft_delete_spirit(request)
        .await
        .map_err(explain)?;
    print_record(present(reply.into_inner().spirit)?, args.target.call.json)
}

async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let request = RestoreSpiritRequest {
        spirit_id,
        expected_revision: args.expected_revision,
    };
    let reply = spirit_client(channel)
        .restore_spirit(request)
        .await
        .map_err(explain)?;
    print_record(present(reply.into_inner().spirit)?, args.target.call.json)
}

async fn count(args: CountArgs) -> anyhow::Result<()> {
    let mut spirits = spirit_client(args.call.addr.connect().await?);
    let request = CountSpiritsRequest {
        include_deleted: args.include_deleted,
    };
    let count = spirits
        .count_spirits(request)
        .await
        .map_err(explain)?
        .into_inner()
        .count;
    print_line(
        &count.to_string(),
        Record::of([("count", Some(json!(count)))]),
        args.call.json,
    )
}
