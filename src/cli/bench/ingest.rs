//! An ingest stream with a constant number of events in flight.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use super::super::client::Connection;
use super::Clock;
use super::report::Tally;
use super::setup::Data;
use crate::grpc::pb::IngestEventsRequest;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::ingest_events_response::Result as Item;

pub(super) async fn run(
    channel: Connection,
    data: Arc<Data>,
    window: usize,
    clock: Clock,
) -> anyhow::Result<Tally> {
    let mut events = EventServiceClient::new(channel);
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut in_flight = VecDeque::with_capacity(window);
    let send = |in_flight: &mut VecDeque<Instant>| {
        in_flight.push_back(Instant::now());
        let request = IngestEventsRequest {
            request_id: String::new(),
            create: Some(data.create()),
        };
        requests.send(request).context("the stream ended")
    };
    for _ in 0..window {
        send(&mut in_flight)?;
    }
    let mut answers = events
        .ingest_events(UnboundedReceiverStream::new(outgoing))
        .await?
        .into_inner();
    let mut tally = Tally::new()?;
    while !in_flight.is_empty() {
        let answer = answers.message().await?;
        let answered = Instant::now();
        let sent = in_flight.pop_front().unwrap_or(answered);
        if clock.counts(answered) {
            match answer.and_then(|answer| answer.result) {
                Some(Item::Receipt(_)) => tally.answered(answered - sent, 1),
                Some(Item::Error(error)) => tally.refused(Code::from_i32(error.code)),
                None => tally.refused(Code::DataLoss),
            }
        }
        if answered < clock.until {
            send(&mut in_flight)?;
        }
    }
    Ok(tally)
}
