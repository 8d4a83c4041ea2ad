//! `replay`: prints a session in replay order, for people or as JSON lines.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{AddrArgs, REPLY_BYTES_MAX, explain};
use super::spirits::{UnknownName, resolve};
use crate::domain::Time;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::stream_session_events_response::Item;
use crate::grpc::pb::{Event, StreamSessionEventsRequest};
use crate::grpc::{object_of_struct, time_of};

#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// Spirit that owns the session, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    /// Session to print
    #[arg(long, value_name = "ID")]
    session: String,

    /// Print a JSON object a line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let channel = args.addr.connect().await?;
    let spirit_id = resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?;
    let request = StreamSessionEventsRequest {
        spirit_id,
        session_id: args.session,
        ..StreamSessionEventsRequest::default()
    };
    let mut events = EventServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let mut stream = events
        .stream_session_events(request)
        .await
        .map_err(explain)?
        .into_inner();
    let mut out = io::BufWriter::new(io::stdout());
    while let Some(response) = stream.message().await.map_err(explain)? {
        let Some(Item::Event(event)) = response.item else {
            continue;
        };
        let written = if args.json {
            write_json(&mut out, event)
        } else {
            write_text(&mut out, &event)
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            written => written.context("cannot write")?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        flushed => flushed.context("cannot write")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Time, type and role on a line of their own, the content below, indented.
fn write_text(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let time = event
        .occurred_at
        .and_then(time_of)
        .map(|time| time.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
    let role = event.role.as_deref().unwrap_or("-");
    writeln!(
        out,
        "{}  {}  {role}",
        time.unwrap_or_default(),
        event.event_type()
    )?;
    for line in event.content().lines() {
        // Control characters could command the reader's terminal.
        let line: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        writeln!(out, "    {line}")?;
    }
    Ok(())
}

/// The event with its proto field names; absent fields are left out.
fn write_json(out: &mut impl Write, event: Event) -> io::Result<()> {
    let time = |timestamp| Option::and_then(timestamp, time_of).map(|time: Time| json!(time.to_rfc3339()));
    let meta = event
        .meta
        .as_ref()
        .and_then(|meta| serde_json::from_str(&object_of_struct(meta)).ok());
    let fields: [(&str, Option<Value>); 19] = [
        ("id", Some(json!(event.id))),
        ("spirit_id", event.spirit_id.map(Value::from)),
        ("sequence", Some(json!(event.sequence))),
        ("event_type", event.event_type.map(Value::from)),
        ("meta_summary", event.meta_summary.map(Value::from)),
        ("content", event.content.map(Value::from)),
        ("occurred_at", time(event.occurred_at)),
        ("session_id", event.session_id.map(Value::from)),
        ("role", event.role.map(Value::from)),
        ("author", event.author.map(Value::from)),
        ("meta", meta),
        ("source_uri", event.source_uri.map(Value::from)),
        ("dedupe_key", event.dedupe_key.map(Value::from)),
        ("importance_score", event.importance_score.map(Value::from)),
        ("revision", Some(json!(event.revision))),
        ("is_deleted", Some(json!(event.is_deleted))),
        ("deleted_at", time(event.deleted_at)),
        ("created_at", time(event.created_at)),
        ("updated_at", time(event.updated_at)),
    ];
    let object: Map<String, Value> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    serde_json::to_writer(&mut *out, &object)?;
    writeln!(out)
}
