//! `event create`: stores one event.

use std::io::Read as _;

use anyhow::Context as _;
use clap::Args;
use prost_types::{Struct, Timestamp};

use super::super::call::{CallArgs, OwnerArgs, event_client};
use super::super::client::explain;
use super::super::meta::object;
use super::super::output::print_record;
use super::super::times::time;
use crate::grpc::pb::{CreateEventRequest, OnDuplicate};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event create 'Water them' --spirit Fern --type system --session tomatoes
  echo 'It rains' | elephantasm-events event create - --spirit Fern --type tool.result --role tool")]
pub(super) struct CreateArgs {
    /// Content; may be empty; `-` reads it from stdin
    #[arg(value_name = "CONTENT", allow_hyphen_values = true)]
    content: String,

    #[command(flatten)]
    owner: OwnerArgs,

    /// Type, such as message.in, message.out, thought, tool.call, tool.result, system or error
    #[arg(long = "type", value_name = "TYPE")]
    event_type: String,

    /// Session that the event belongs to
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    session: Option<String>,

    /// Who spoke, such as user, assistant or tool
    #[arg(long)]
    role: Option<String>,

    /// The user, model or tool that spoke
    #[arg(long)]
    author: Option<String>,

    /// Short summary
    #[arg(long, value_name = "TEXT")]
    summary: Option<String>,

    /// Time at which it happened, such as 2026-03-01T09:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    occurred_at: Option<Timestamp>,

    /// Importance, 0 to 1
    #[arg(long, value_name = "SCORE")]
    importance: Option<f64>,

    /// Meta, a JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    meta: Option<Struct>,

    /// Source of the event; together with --occurred-at it gives the event a dedupe key
    #[arg(long, value_name = "URI")]
    source_uri: Option<String>,

    /// Dedupe key, by which a repeated create is recognised
    #[arg(long, value_name = "KEY")]
    dedupe_key: Option<String>,

    /// Print the stored event if the dedupe key is taken, instead of failing
    #[arg(long)]
    return_existing: bool,

    /// Store the event only if this is the last sequence of the spirit
    #[arg(long, value_name = "SEQUENCE")]
    expected_last_sequence: Option<i64>,

    /// Store the event only if this is the last sequence of the session
    #[arg(long, value_name = "SEQUENCE", requires = "session")]
    expected_session_last_sequence: Option<i64>,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: CreateArgs) -> anyhow::Result<()> {
    let content = match args.content.as_str() {
        "-" => from_stdin()?,
        _ => args.content,
    };
    let (channel, spirit_id) = args.owner.connect(&args.call).await?;
    let request = CreateEventRequest {
        spirit_id,
        event_type: args.event_type,
        content: Some(content),
        meta_summary: args.summary,
        occurred_at: args.occurred_at,
        session_id: args.session,
        role: args.role,
        author: args.author,
        meta: args.meta,
        source_uri: args.source_uri,
        dedupe_key: args.dedupe_key,
        importance_score: args.importance,
        on_duplicate: on_duplicate(args.return_existing).into(),
        expected_last_sequence: args.expected_last_sequence,
        expected_session_last_sequence: args.expected_session_last_sequence,
        ..CreateEventRequest::default()
    };
    let reply = event_client(channel)
        .create_event(request)
        .await
        .map_err(explain)?;
    print_record(reply.into_inner(), args.call.json)
}

pub(super) fn on_duplicate(return_existing: bool) -> OnDuplicate {
    if return_existing {
        OnDuplicate::ReturnExisting
    } else {
        OnDuplicate::Reject
    }
}

/// Reads a text from stdin, without the line break at its end.
fn from_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the content from stdin")?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}
