//! Measures the latency of deliveries to watchers while events are created at a constant rate: the time from the
//! reply to a create to the delivery of its event.
//!
//! The spirits are new, so each watcher must receive sequences 1, 2, 3 … up to the last acknowledged event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status, Streaming};

use super::super::client::{Connection, REPLY_BYTES_MAX, explain};
use super::report::Tally;
use super::setup::Data;
use super::{BenchArgs, Clock};
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::watch_events_response::Item;
use crate::grpc::pb::{Event, WatchEventsRequest, WatchEventsResponse};

/// Time after the last create after which deliveries count as missing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time of the reply to each create, by index of the spirit and by sequence.
type Replies = Vec<HashMap<i64, Instant>>;

pub(super) async fn run(
    channels: &[Connection],
    data: &Arc<Data>,
    args: &BenchArgs,
) -> anyhow::Result<Tally> {
    let (last_sender, last_sequences) = watch::channel(Vec::new());
    let mut watchers = JoinSet::new();
    for index in 0..args.watchers {
        let channel = channels[index % channels.len()].clone();
        let watcher = Watcher::open(channel, data, index % data.spirit_ids.len()).await?;
        watchers.spawn(watcher.follow(last_sequences.clone()));
    }
    let clock = Clock::start(args);
    let mut tally = Tally::new()?;
    let replies = create(args, data, clock, &mut tally).await?;
    let sequences: Vec<i64> = replies
        .iter()
        .map(|replies| replies.keys().max().copied().unwrap_or(0))
        .collect();
    last_sender.send_replace(sequences.clone());
    // Dropping the sender ends the watchers that still wait.
    let patience = tokio::spawn(async move {
        sleep(PATIENCE).await;
        drop(last_sender);
    });
    while let Some(watcher) = watchers.join_next().await {
        let watcher = watcher?;
        watcher.count(
            &replies[watcher.spirit],
            sequences[watcher.spirit],
            clock,
            &mut tally,
        );
    }
    patience.abort();
    Ok(tally)
}

/// Creates events at a constant rate on a separate connection, with at most `--concurrency` in flight.
async fn create(
    args: &BenchArgs,
    data: &Arc<Data>,
    clock: Clock,
    tally: &mut Tally,
) -> anyhow::Result<Replies> {
    let events = EventServiceClient::new(args.addr.connect().await?);
    let spirits: HashMap<&str, usize> = data.spirit_ids.iter().map(String::as_str).zip(0..).collect();
    let mut replies: Replies = vec![HashMap::new(); spirits.len()];
    let interval = Duration::from_secs(1).div_f64(to_f64(args.rate));
    let mut due = Instant::now();
    let mut in_flight = JoinSet::new();
    loop {
        while in_flight.len() >= args.concurrency || (due >= clock.until && !in_flight.is_empty()) {
            let answered = in_flight.join_next().await.context("a create is in flight")?;
            let (result, answered): (Result<Event, Status>, Instant) = answered?;
            match result {
                Ok(event) => {
                    let spirit = spirits
                        .get(event.spirit_id())
                        .context("an event of another spirit")?;
                    replies[*spirit].insert(event.sequence, answered);
                    tally.stored(usize::from(clock.counts(answered)));
                }
                Err(status) => tally.refused(status.code()),
            }
        }
        if due >= clock.until {
            return Ok(replies);
        }
        sleep_until(due).await;
        due += interval;
        let (mut events, request) = (events.clone(), data.create());
        in_flight.spawn(async move {
            let response = events.create_event(request).await;
            let answered = Instant::now();
            let event = response.and_then(|response| {
                let event = response.into_inner().event;
                event.ok_or_else(|| Status::new(Code::DataLoss, "the reply holds no event"))
            });
            (event, answered)
        });
    }
}

#[allow(clippy::cast_precision_loss)] // a rate
fn to_f64(count: usize) -> f64 {
    count as f64
}

struct Watcher {
    stream: Streaming<WatchEventsResponse>,
    /// Index of the watched spirit.
    spirit: usize,
    delivered: Vec<(i64, Instant)>,
    /// Highest sequence delivered.
    newest: i64,
    missing: u64,
    repeated: u64,
    failed: Option<Code>,
}

impl Watcher {
    /// Opens a watcher. It receives every event that is created after this returns.
    async fn open(channel: Connection, data: &Data, spirit: usize) -> anyhow::Result<Self> {
        let mut events = EventServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        let request = WatchEventsRequest {
            spirit_id: data.spirit_ids[spirit].clone(),
            ..WatchEventsRequest::default()
        };
        Ok(Self {
            stream: events.watch_events(request).await.map_err(explain)?.into_inner(),
            spirit,
            delivered: Vec::new(),
            newest: 0,
            missing: 0,
            repeated: 0,
            failed: None,
        })
    }

    /// Reads until the last event of the spirit is delivered. `last_sequences` provides its
    /// sequence once it is known.
    async fn follow(mut self, mut last_sequences: watch::Receiver<Vec<i64>>) -> Self {
        loop {
            let last = last_sequences.borrow_and_update().get(self.spirit).copied();
            if last.is_some_and(|last| self.newest >= last) {
                return self;
            }
            tokio::select! {
                message = self.stream.message() => match message {
                    Ok(Some(WatchEventsResponse { item: Some(Item::Event(event)), .. })) => self.take(event.sequence),
                    Ok(Some(_)) => {}
                    Ok(None) => return self,
                    Err(status) => {
                        self.failed = Some(status.code());
                        return self;
                    }
                },
                changed = last_sequences.changed() => if changed.is_err() {
                    return self;
                },
            }
        }
    }

    fn take(&mut self, sequence: i64) {
        if sequence <= self.newest {
            self.repeated += 1;
            return;
        }
        self.missing += (sequence - self.newest - 1).unsigned_abs();
        self.newest = sequence;
        self.delivered.push((sequence, Instant::now()));
    }

    /// Adds the deliveries to the tally. `last` is the sequence of the spirit's last event.
    fn count(&self, replies: &HashMap<i64, Instant>, last: i64, clock: Clock, tally: &mut Tally) {
        for (sequence, delivered) in &self.delivered {
            // An event may be stored although its create failed, and then has no reply.
            if let Some(replied) = replies.get(sequence)
                && clock.counts(*replied)
            {
                tally.answered(delivered.saturating_duration_since(*replied), 0);
            }
        }
        let missing = self.missing + (last - self.newest).max(0).unsigned_abs();
        tally.record_errors("missing", missing);
        tally.record_errors("repeated", self.repeated);
        if let Some(code) = self.failed {
            tally.refused(code);
        }
    }
}
