//! Edits events of the first spirit at a constant rate during another load, to measure what they cost its creates.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::super::client::{Connection, explain};
use super::setup::Data;
use super::{BenchArgs, Clock};
use crate::grpc::pb::event_service_client::EventServiceClient;

/// Maximum number of edits in flight.
const IN_FLIGHT_MAX: usize = 64;
/// The part of `--edits` below which a warning is printed.
const ANSWERED_MIN: f64 = 0.9;

/// Edits `--edits` events a second until the load ends. Prints a warning if fewer are answered.
pub(super) async fn run(
    channel: Connection,
    data: Arc<Data>,
    args: BenchArgs,
    clock: Clock,
) -> anyhow::Result<()> {
    let events = EventServiceClient::new(channel);
    let interval = Duration::from_secs(1).checked_div(u32::try_from(args.edits)?);
    let interval = interval.context("no edits")?;
    let mut due = Instant::now();
    let (mut in_flight, mut answered) = (JoinSet::new(), 0);
    while due < clock.until || !in_flight.is_empty() {
        if in_flight.len() >= IN_FLIGHT_MAX || due >= clock.until {
            let (result, at) = in_flight.join_next().await.context("an edit is in flight")??;
            let result: Result<_, tonic::Status> = result;
            result.map_err(explain)?;
            answered += u32::from(clock.counts(at));
            continue;
        }
        sleep_until(due).await;
        due += interval;
        let (mut events, request) = (events.clone(), data.edit());
        in_flight.spawn(async move { (events.update_event(request).await, Instant::now()) });
    }
    let rate = f64::from(answered) / args.duration;
    let wanted = f64::from(u32::try_from(args.edits)?);
    if rate < wanted * ANSWERED_MIN {
        eprintln!("only {rate:.0} of {wanted} edits were answered a second");
    }
    Ok(())
}
