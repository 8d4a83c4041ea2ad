//! Opens watchers of spirits that get no events, to measure what they cost writers.

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::super::client::{Connection, explain};
use super::BenchArgs;
use super::setup::create_spirits;
use crate::grpc::pb::WatchEventsRequest;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::watch_events_response::Item;

/// Maximum number of spirits that the watchers are spread over.
const SPIRITS_MAX: usize = 100;

/// Opens `--idle-watchers` streams, which end when the set is dropped.
pub(super) async fn watch(
    channels: &[Connection],
    args: &BenchArgs,
) -> anyhow::Result<JoinSet<anyhow::Error>> {
    let mut watchers = JoinSet::new();
    if args.idle_watchers == 0 {
        return Ok(watchers);
    }
    let channel = channels.first().context("no connection")?.clone();
    let spirit_ids = create_spirits(channel, "idle", args.idle_watchers.min(SPIRITS_MAX)).await?;
    for index in 0..args.idle_watchers {
        let request = WatchEventsRequest {
            spirit_id: spirit_ids[index % spirit_ids.len()].clone(),
            ..WatchEventsRequest::default()
        };
        let mut events = EventServiceClient::new(channels[index % channels.len()].clone());
        let mut stream = events.watch_events(request).await.map_err(explain)?.into_inner();
        watchers.spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(message)) if !matches!(message.item, Some(Item::Event(_))) => {}
                    Ok(_) => {
                        return anyhow::Error::msg("a watcher of an idle spirit got an event or its end");
                    }
                    Err(status) => return explain(status),
                }
            }
        });
    }
    Ok(watchers)
}
