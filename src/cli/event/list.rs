//! `event list`: lists the events of a spirit or a session.

use clap::{Args, ValueEnum};

use super::super::call::{CallArgs, OwnerArgs, event_client};
use super::super::client::explain;
use super::super::filter::FilterArgs;
use super::super::output::{Listing, Row};
use super::super::pages::read_pages;
use super::super::table::Column;
use super::super::times;
use crate::grpc::pb::{Event, EventOrder, ListEventsRequest};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event list --spirit Fern --session tomatoes --type message.in
  elephantasm-events event list --spirit Fern --order sequence --after 5 --json")]
pub(super) struct ListArgs {
    #[command(flatten)]
    owner: OwnerArgs,

    /// List only the events of this session
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    session: Option<String>,

    #[command(flatten)]
    filter: FilterArgs,

    /// List soft-deleted events too
    #[arg(long)]
    include_deleted: bool,

    /// Order [default: oldest with --session, otherwise newest]
    #[arg(long, value_enum)]
    order: Option<Order>,

    /// List only the events with a higher sequence; needs `--order sequence`
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<i64>,

    /// Maximum number of events to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    call: CallArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// By time, newest first
    Newest,
    /// By time, oldest first: the order of a replay
    Oldest,
    /// By sequence: the order of commits
    Sequence,
    /// By sequence, highest first
    SequenceDesc,
}

impl From<Order> for EventOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Newest => Self::NewestFirst,
            Order::Oldest => Self::OldestFirst,
            Order::Sequence => Self::Sequence,
            Order::SequenceDesc => Self::SequenceDesc,
        }
    }
}

/// The columns of a table of events.
pub(super) const COLUMNS: [Column; 6] = [
    Column::Whole("OCCURRED"),
    Column::Number("SEQUENCE"),
    Column::Whole("ID"),
    Column::Whole("TYPE"),
    Column::Text("SESSION"),
    Column::Text("CONTENT"),
];

/// Bytes of a content that a row of the table can show.
const ROW_BYTES_MAX: i32 = 1_000;

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.owner.connect(&args.call).await?;
    let mut events = event_client(channel);
    let mut listing = Listing::new(args.call.json, &COLUMNS);
    let request = ListEventsRequest {
        spirit_id,
        session_id: args.session,
        filter: Some(args.filter.filter(args.include_deleted)),
        order: args
            .order
            .map_or(EventOrder::Unspecified, EventOrder::from)
            .into(),
        after_sequence: args.after,
        content_bytes_max: (!args.call.json).then_some(ROW_BYTES_MAX),
        ..ListEventsRequest::default()
    };
    read_pages(
        args.limit,
        async |page| {
            let request = ListEventsRequest {
                page_size: page.page_size,
                page_token: page.page_token,
                ..request.clone()
            };
            let reply = events.list_events(request).await.map_err(explain)?.into_inner();
            Ok((reply.events, reply.next_page_token))
        },
        |event| listing.add(event, row),
    )
    .await?;
    listing.finish()
}

pub(super) fn row(event: &Event) -> Row<6> {
    Row {
        cells: [
            times::seconds(event.occurred_at),
            event.sequence.to_string(),
            event.id.clone(),
            event.event_type().to_owned(),
            event.session_id.clone().unwrap_or_else(|| "-".to_owned()),
            event.content().to_owned(),
        ],
        is_dimmed: event.is_deleted,
    }
}
