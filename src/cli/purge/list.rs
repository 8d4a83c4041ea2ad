//! `purge list`: lists purges, newest first.

use clap::Args;

use super::super::call::{CallArgs, connect};
use super::super::client::{REPLY_BYTES_MAX, explain};
use super::super::output::{Listing, Row};
use super::super::pages::read_pages;
use super::super::record::selection_name;
use super::super::table::Column;
use super::super::times;
use crate::domain::ids::parse_uuid;
use crate::grpc::pb::purge_service_client::PurgeServiceClient;
use crate::grpc::pb::{ListPurgesRequest, Purge};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events purge list
  elephantasm-events purge list --spirit Fern --limit 10 --json")]
pub(super) struct ListArgs {
    /// List only the purges of this spirit, by name or id; the id if it is soft-deleted or purged
    #[arg(long, value_name = "NAME|ID")]
    spirit: Option<String>,

    /// Maximum number of purges to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = match args.spirit {
        // A spirit that was purged is not found any more.
        Some(name) if parse_uuid(&name).is_none() => {
            let (channel, spirit_id) = connect(&name, &args.call).await?;
            (channel, Some(spirit_id))
        }
        id => (args.call.addr.connect().await?, id),
    };
    let mut purges = PurgeServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let mut listing = Listing::new(
        args.call.json,
        &[
            Column::Whole("STARTED"),
            Column::Whole("FINISHED"),
            Column::Number("EVENTS"),
            Column::Whole("SELECTION"),
            Column::Whole("SPIRIT"),
            Column::Text("REQUESTED BY"),
            Column::Text("REASON"),
        ],
    );
    read_pages(
        args.limit,
        async |page| {
            let request = ListPurgesRequest {
                spirit_id: spirit_id.clone(),
                page_size: page.page_size,
                page_token: page.page_token,
            };
            let reply = purges.list_purges(request).await.map_err(explain)?.into_inner();
            Ok((reply.purges, reply.next_page_token))
        },
        |purge| listing.add(purge, row),
    )
    .await?;
    listing.finish()
}

fn row(purge: &Purge) -> Row<7> {
    Row {
        cells: [
            times::seconds(purge.started_at),
            times::seconds(purge.finished_at),
            purge.purged_count.to_string(),
            selection_name(purge),
            purge.spirit_id.clone(),
            purge.requested_by.clone(),
            purge.reason.clone().unwrap_or_else(|| "-".to_owned()),
        ],
        is_dimmed: false,
    }
}
