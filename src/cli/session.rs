//! `session`: lists sessions, shows and titles one, and rewinds one to an earlier event.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use prost_types::{Struct, Timestamp};

use super::call::{CallArgs, OwnerArgs, present, session_client};
use super::client::{Connection, explain};
use super::event::{delete_selected, restore_deletion};
use super::meta::{MetaArgs, mask, object};
use super::output::{Listing, Row, print_record};
use super::pages::read_pages;
use super::table::Column;
use super::times::{self, time};
use crate::grpc::pb::{
    GetSessionRequest, ListSessionsRequest, RestoreEventsRequest, Session, SessionFilter,
    SoftDeleteEventsRequest, UpdateSessionRequest,
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events session list --spirit Fern
  elephantasm-events session get tomatoes --spirit Fern")]
pub(super) struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// List the sessions of a spirit, most recently active first
    List(Box<ListArgs>),
    /// Show a session
    Get(GetArgs),
    /// Set title, owner and meta of a session
    Set(SetArgs),
    /// Soft-delete the events of a session after a sequence, or undo that
    Rewind(RewindArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events session list --spirit Fern
  elephantasm-events session list --spirit Fern --active-from 2026-05-01T00:00:00Z --json")]
struct ListArgs {
    #[command(flatten)]
    owner_spirit: OwnerArgs,

    /// List only the sessions with this owner
    #[arg(long)]
    owner: Option<String>,

    /// List only the sessions whose title contains this text, in any case
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,

    /// List only the sessions whose id begins with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,

    /// List only the sessions whose last event occurred at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    active_from: Option<Timestamp>,

    /// List only the sessions whose last event occurred before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    active_until: Option<Timestamp>,

    /// List only the sessions whose meta contains this JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    meta_contains: Option<Struct>,

    /// List sessions without live events too
    #[arg(long)]
    include_empty: bool,

    /// Maximum number of sessions to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    call: CallArgs,
}

/// The session of a command.
#[derive(Args, Debug)]
struct Target {
    /// Id of the session
    #[arg(value_name = "SESSION", allow_negative_numbers = true)]
    session: String,

    #[command(flatten)]
    owner_spirit: OwnerArgs,

    #[command(flatten)]
    call: CallArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events session get tomatoes --spirit Fern
  elephantasm-events session get tomatoes --spirit Fern --json")]
struct GetArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("property").required(true).multiple(true).args(["title", "owner", "meta", "merge_meta"])))]
#[command(after_help = "Examples:
  elephantasm-events session set tomatoes --spirit Fern --title 'Pale leaves' --owner ann
  elephantasm-events session set tomatoes --spirit Fern --merge-meta '{\"channel\": \"web\"}' --json")]
struct SetArgs {
    #[command(flatten)]
    target: Target,

    /// Title; empty to remove it
    #[arg(long)]
    title: Option<String>,

    /// User that the session belongs to; empty to remove it
    #[arg(long)]
    owner: Option<String>,

    #[command(flatten)]
    meta: MetaArgs,

    /// Change the session only if this is its revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<i64>,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").required(true)))]
#[command(after_help = "Examples:
  elephantasm-events session rewind tomatoes --spirit Fern --after 7
  elephantasm-events session rewind tomatoes --spirit Fern --undo \"$DELETED_AT\"")]
struct RewindArgs {
    #[command(flatten)]
    target: Target,

    /// Soft-delete the session's events with a higher sequence; 0 for all
    #[arg(long, value_name = "SEQUENCE", group = "change")]
    after: Option<i64>,

    /// Restore the events that were deleted at this time, as a rewind prints it
    #[arg(long, value_name = "TIME", group = "change", value_parser = time)]
    undo: Option<Timestamp>,
}

pub(super) async fn run(args: SessionArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        SessionCommand::List(args) => list(*args).await?,
        SessionCommand::Get(args) => get(args.target).await?,
        SessionCommand::Set(args) => set(args).await?,
        SessionCommand::Rewind(args) => rewind(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.owner_spirit.connect(&args.call).await?;
    let mut sessions = session_client(channel);
    let mut listing = Listing::new(
        args.call.json,
        &[
            Column::Whole("LAST EVENT"),
            Column::Number("EVENTS"),
            Column::Whole("SESSION"),
            Column::Text("OWNER"),
            Column::Text("TITLE"),
        ],
    );
    let request = ListSessionsRequest {
        spirit_id,
        filter: Some(SessionFilter {
            owner: args.owner,
            session_id_prefix: args.prefix,
            title_contains: args.title,
            meta_contains: args.meta_contains,
            active_from: args.active_from,
            active_until: args.active_until,
            include_empty: args.include_empty,
        }),
        ..ListSessionsRequest::default()
    };
    read_pages(
        args.limit,
        async |page| {
            let request = ListSessionsRequest {
                page_size: page.page_size,
                page_token: page.page_token,
                ..request.clone()
            };
            let reply = sessions
                .list_sessions(request)
                .await
                .map_err(explain)?
                .into_inner();
            Ok((reply.sessions, reply.next_page_token))
        },
        |session| listing.add(session, row),
    )
    .await?;
    listing.finish()
}

fn row(session: &Session) -> Row<5> {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    Row {
        cells: [
            times::seconds(session.last_occurred_at),
            session.event_count().to_string(),
            session.session_id.clone(),
            text(&session.owner),
            text(&session.title),
        ],
        is_dimmed: false,
    }
}

async fn get(target: Target) -> anyhow::Result<()> {
    let (channel, spirit_id) = target.connect().await?;
    let request = GetSessionRequest {
        spirit_id,
        session_id: target.session,
    };
    let reply = session_client(channel)
        .get_session(request)
        .await
        .map_err(explain)?;
    print_record(present(reply.into_inner().session)?, target.call.json)
}

async fn set(args: SetArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let (meta, meta_mode) = args.meta.change();
    let given = [
        ("title", args.title.is_some()),
        ("owner", args.owner.is_some()),
        ("meta", meta.is_some()),
    ];
    let request = UpdateSessionRequest {
        spirit_id,
        session_id: args.target.session,
        title: args.title.filter(|text| !text.is_empty()),
        owner: args.owner.filter(|text| !text.is_empty()),
        meta,
        meta_mode: meta_mode.into(),
        update_mask: Some(mask(given)),
        expected_revision: args.expected_revision,
    };
    let reply = session_client(channel)
        .update_session(request)
        .await
        .map_err(explain)?;
    print_record(present(reply.into_inner().session)?, args.target.call.json)
}

async fn rewind(args: RewindArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let session_id = Some(args.target.session);
    if args.undo.is_some() {
        let request = RestoreEventsRequest {
            spirit_id,
            deleted_at: args.undo,
            session_id,
        };
        return restore_deletion(channel, request, args.target.call.json).await;
    }
    let request = SoftDeleteEventsRequest {
        spirit_id,
        session_id,
        after_sequence: args.after,
        ..SoftDeleteEventsRequest::default()
    };
    delete_selected(channel, request, "--undo", args.target.call.json).await
}

impl Target {
    /// Connects and finds the spirit.
    async fn connect(&self) -> anyhow::Result<(Connection, String)> {
        self.owner_spirit.connect(&self.call).await
    }
}
