//! `session`: lists sessions, shows and titles one, and rewinds one to an earlier event.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use chrono::DateTime;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{AddrArgs, Connection, REPLY_BYTES_MAX, explain};
use super::printable::{self, printable};
use super::spirits::{UnknownName, resolve};
use crate::domain::Time;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::session_service_client::SessionServiceClient;
use crate::grpc::pb::{
    GetSessionRequest, ListSessionsRequest, RestoreEventsRequest, Session, SessionFilter,
    SoftDeleteEventsRequest, UpdateSessionRequest,
};
use crate::grpc::{object_of_struct, time_of, timestamp_of};

#[derive(Args, Debug)]
pub(super) struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// List the sessions of a spirit, most recently active first
    List(ListArgs),
    /// Show a session
    Get(GetArgs),
    /// Set title and owner of a session
    Set(SetArgs),
    /// Soft-delete the events of a session after a sequence, or undo that
    Rewind(RewindArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Spirit that owns the sessions, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    /// List only the sessions with this owner
    #[arg(long)]
    owner: Option<String>,

    /// List only the sessions whose title contains this text, in any case
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,

    /// Maximum number of sessions to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    /// Print a JSON object a line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

/// The session of a command.
#[derive(Args, Debug)]
struct Target {
    /// Spirit that owns the session, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    /// Id of the session
    #[arg(value_name = "SESSION", allow_negative_numbers = true)]
    session: String,

    #[command(flatten)]
    addr: AddrArgs,
}

#[derive(Args, Debug)]
struct GetArgs {
    #[command(flatten)]
    target: Target,

    /// Print a JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("property").required(true).multiple(true)))]
struct SetArgs {
    #[command(flatten)]
    target: Target,

    /// Title; empty to remove it
    #[arg(long, group = "property")]
    title: Option<String>,

    /// User that the session belongs to; empty to remove it
    #[arg(long, group = "property")]
    owner: Option<String>,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("change").required(true)))]
struct RewindArgs {
    #[command(flatten)]
    target: Target,

    /// Soft-delete the session's events with a higher sequence; 0 for all
    #[arg(long, value_name = "SEQUENCE", group = "change")]
    after: Option<i64>,

    /// Restore the events that were deleted at this time, as a rewind prints it
    #[arg(long, value_name = "TIME", group = "change", value_parser = DateTime::parse_from_rfc3339)]
    undo: Option<DateTime<chrono::FixedOffset>>,
}

pub(super) async fn run(args: SessionArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        SessionCommand::List(args) => list(args).await?,
        SessionCommand::Get(args) => get(args).await?,
        SessionCommand::Set(args) => set(args).await?,
        SessionCommand::Rewind(args) => rewind(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let channel = args.addr.connect().await?;
    let spirit_id = resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?;
    let mut sessions = SessionServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let mut request = ListSessionsRequest {
        spirit_id,
        filter: Some(SessionFilter {
            owner: args.owner,
            title_contains: args.title,
            ..SessionFilter::default()
        }),
        ..ListSessionsRequest::default()
    };
    let mut left = args.limit;
    while left > 0 {
        let page = sessions
            .list_sessions(request.clone())
            .await
            .map_err(explain)?
            .into_inner();
        for session in page.sessions.into_iter().take(left) {
            left -= 1;
            print(&session, args.json)?;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    Ok(())
}

async fn get(args: GetArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let request = GetSessionRequest {
        spirit_id,
        session_id: args.target.session,
    };
    let reply = SessionServiceClient::new(channel).get_session(request).await;
    print(
        &session_of(reply.map_err(explain)?.into_inner().session)?,
        args.json,
    )
}

async fn set(args: SetArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let mut paths = Vec::new();
    let mut property = |path: &str, value: Option<String>| {
        paths.extend(value.is_some().then(|| path.to_owned()));
        value.filter(|text| !text.is_empty())
    };
    let request = UpdateSessionRequest {
        spirit_id,
        session_id: args.target.session,
        title: property("title", args.title),
        owner: property("owner", args.owner),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..UpdateSessionRequest::default()
    };
    let reply = SessionServiceClient::new(channel).update_session(request).await;
    print(&session_of(reply.map_err(explain)?.into_inner().session)?, false)
}

async fn rewind(args: RewindArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.target.connect().await?;
    let mut events = EventServiceClient::new(channel);
    if let Some(deleted_at) = args.undo {
        let request = RestoreEventsRequest {
            spirit_id,
            deleted_at: Some(timestamp_of(deleted_at.to_utc())),
            session_id: Some(args.target.session),
        };
        let restored = events
            .restore_events(request)
            .await
            .map_err(explain)?
            .into_inner();
        return write_line(&format!("restored {}", restored.restored_count));
    }
    let request = SoftDeleteEventsRequest {
        spirit_id,
        session_id: Some(args.target.session),
        after_sequence: args.after,
        ..SoftDeleteEventsRequest::default()
    };
    let deleted = events
        .soft_delete_events(request)
        .await
        .map_err(explain)?
        .into_inner();
    let undo = deleted.deleted_at.and_then(time_of).map(|time: Time| {
        let time = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        format!(" (to undo: --undo {time})")
    });
    write_line(&format!(
        "deleted {}{}",
        deleted.deleted_count,
        undo.unwrap_or_default()
    ))
}

impl Target {
    /// Connects and finds the spirit.
    async fn connect(&self) -> anyhow::Result<(Connection, String)> {
        let channel = self.addr.connect().await?;
        let spirit_id = resolve(channel.clone(), &self.spirit, UnknownName::Refuse).await?;
        Ok((channel, spirit_id))
    }
}

fn session_of(session: Option<Session>) -> anyhow::Result<Session> {
    session.ok_or_else(|| anyhow!("the server's reply holds no session"))
}

/// Prints a session in one line: as JSON, or the time of its last event, the number of its events, id, owner and title.
fn print(session: &Session, json: bool) -> anyhow::Result<()> {
    if json {
        let mut line = Vec::new();
        printable::write_json(&mut line, &object(session)).context("cannot write")?;
        return write_line(&String::from_utf8_lossy(&line));
    }
    let time = session.last_occurred_at.and_then(time_of).map_or_else(
        || "-".to_owned(),
        |time| time.format("%Y-%m-%d %H:%M:%S").to_string(),
    );
    write_line(&format!(
        "{time:19}  {:>6} events  {}  {}  {}",
        session.event_count(),
        printable(&session.session_id),
        printable(session.owner.as_deref().unwrap_or("-")),
        printable(session.title.as_deref().unwrap_or("-")),
    ))
}

/// The session with its proto field names; absent fields are left out.
fn object(session: &Session) -> Map<String, Value> {
    let time = |timestamp| Option::and_then(timestamp, time_of).map(|time: Time| json!(time.to_rfc3339()));
    let meta = session
        .meta
        .as_ref()
        .and_then(|meta| serde_json::from_str(&object_of_struct(meta)).ok());
    let fields: [(&str, Option<Value>); 11] = [
        ("spirit_id", Some(json!(session.spirit_id))),
        ("session_id", Some(json!(session.session_id))),
        ("event_count", session.event_count.map(Value::from)),
        ("first_occurred_at", time(session.first_occurred_at)),
        ("last_occurred_at", time(session.last_occurred_at)),
        ("title", session.title.clone().map(Value::from)),
        ("owner", session.owner.clone().map(Value::from)),
        ("meta", meta),
        ("last_sequence", Some(json!(session.last_sequence))),
        ("revision", Some(json!(session.revision))),
        ("updated_at", time(session.updated_at)),
    ];
    let present = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    present.collect()
}

/// Writes a line to standard output, whose reader may have gone away.
fn write_line(line: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write"),
    }
}
