//! `event update`: changes the fields of an event that can change.

use clap::{ArgGroup, Args};

use super::super::call::{CallArgs, connect_any, event_client, present};
use super::super::client::explain;
use super::super::meta::{MetaArgs, mask};
use super::super::output::print_record;
use crate::grpc::pb::UpdateEventRequest;

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("property").required(true).multiple(true).args(["summary", "importance", "role", "author", "meta", "merge_meta"])))]
#[command(after_help = "Examples:
  elephantasm-events event update \"$EVENT\" --summary 'Asks about pale leaves' --importance 0.8
  elephantasm-events event update \"$EVENT\" --importance none --merge-meta '{\"checked\": true}' --json")]
pub(super) struct UpdateArgs {
    /// Id of the event
    #[arg(value_name = "EVENT")]
    event: String,

    /// Spirit that owns the event, by name or id [default: any]
    #[arg(long, value_name = "NAME|ID")]
    spirit: Option<String>,

    /// Short summary; empty to remove it
    #[arg(long, value_name = "TEXT")]
    summary: Option<String>,

    /// Importance, 0 to 1; `none` to remove it
    #[arg(long, value_name = "SCORE", value_parser = importance)]
    importance: Option<Importance>,

    /// Who spoke; empty to remove it
    #[arg(long)]
    role: Option<String>,

    /// The user, model or tool that spoke; empty to remove it
    #[arg(long)]
    author: Option<String>,

    #[command(flatten)]
    meta: MetaArgs,

    /// Change the event only if this is its revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<i64>,

    #[command(flatten)]
    call: CallArgs,
}

/// An importance, or none.
#[derive(Clone, Copy, Debug)]
struct Importance(Option<f64>);

fn importance(text: &str) -> Result<Importance, String> {
    if text == "none" {
        return Ok(Importance(None));
    }
    let score = text
        .parse()
        .map_err(|_| "must be a number from 0 to 1, or none")?;
    Ok(Importance(Some(score)))
}

pub(super) async fn run(args: UpdateArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = connect_any(args.spirit.as_deref(), &args.call).await?;
    let (meta, meta_mode) = args.meta.change();
    let given = [
        ("meta_summary", args.summary.is_some()),
        ("importance_score", args.importance.is_some()),
        ("role", args.role.is_some()),
        ("author", args.author.is_some()),
        ("meta", meta.is_some()),
    ];
    let present_text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let request = UpdateEventRequest {
        event_id: args.event,
        spirit_id,
        meta_summary: present_text(args.summary),
        importance_score: args.importance.and_then(|Importance(score)| score),
        role: present_text(args.role),
        author: present_text(args.author),
        meta,
        meta_mode: meta_mode.into(),
        update_mask: Some(mask(given)),
        expected_revision: args.expected_revision,
        is_deleted: None,
    };
    let reply = event_client(channel)
        .update_event(request)
        .await
        .map_err(explain)?;
    print_record(present(reply.into_inner().event)?, args.call.json)
}
