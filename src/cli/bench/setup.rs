//! Prepares a run: spirits, and events for reads.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use chrono::{TimeDelta, Utc};
use prost_types::Timestamp;
use uuid::Uuid;

use super::super::client::{Connection, REPLY_BYTES_MAX, explain};
use super::{BenchArgs, Workload};
use crate::domain::limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX};
use crate::grpc::pb::batch_create_events_result::Result as Item;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::session_service_client::SessionServiceClient;
use crate::grpc::pb::spirit_service_client::SpiritServiceClient;
use crate::grpc::pb::{
    BatchCreateEventsRequest, CreateEventRequest, CreateSpiritRequest, Event, GetEventRequest,
    ListEventsRequest, UpdateEventRequest, UpdateSessionRequest,
};
use crate::grpc::timestamp_of;

/// The session of all events of a run, or the beginning of the ids of its sessions.
pub(super) const SESSION: &str = "bench";
/// The owner of some sessions, and their number.
pub(super) const OWNER: (&str, usize) = ("bench", 50);
/// Number of events that are edited during another load.
const EDITED: u64 = 100;
/// Allowance for the fields of an event other than its content.
const EVENT_OVERHEAD_BYTES: usize = 512;

/// The data of a run, which the callers share.
pub(super) struct Data {
    /// Differs in every run, so that dedupe keys of runs do not collide.
    run: String,
    pub(super) spirit_ids: Vec<String>,
    content: String,
    /// Events that are read or edited.
    stored: Vec<StoredEvent>,
    /// Token of the page at the requested depth; empty for the first page.
    pub(super) page_token: String,
    /// Whether each event has a session of its own, and the days over which they were last active.
    sessions_over: Option<u32>,
    next: AtomicU64,
    next_batch: AtomicU64,
}

/// An event as requests name it.
#[derive(Clone, Debug)]
struct StoredEvent {
    event_id: String,
    spirit_id: Option<String>,
}

impl From<Event> for StoredEvent {
    fn from(event: Event) -> Self {
        Self {
            event_id: event.id,
            spirit_id: event.spirit_id,
        }
    }
}

impl Data {
    pub(super) async fn prepare(channels: &[Connection], args: &BenchArgs) -> anyhow::Result<Self> {
        let channel = channels.first().context("no connection")?.clone();
        let run = Uuid::now_v7().simple().to_string();
        let mut data = Self {
            spirit_ids: create_spirits(channel.clone(), &run, args.spirits()).await?,
            run,
            content: "x".repeat(args.content_bytes),
            stored: Vec::new(),
            page_token: String::new(),
            sessions_over: (args.workload == Workload::Sessions).then_some(args.days),
            next: AtomicU64::new(0),
            next_batch: AtomicU64::new(0),
        };
        if matches!(
            args.workload,
            Workload::Get
                | Workload::Edit
                | Workload::List
                | Workload::Replay
                | Workload::Sessions
                | Workload::Mixed
        ) {
            let mut events =
                EventServiceClient::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX);
            data.fill(&mut events, args.events).await?;
            if args.workload == Workload::List && args.page_depth > 0 {
                data.page_token = data.token_at(&mut events, args.page_depth).await?;
            }
            if args.workload == Workload::Sessions {
                data.set_owners(channel, args.events).await?;
            }
        }
        if args.edits > 0 {
            let mut events = EventServiceClient::new(channels[0].clone());
            data.store_edited(&mut events).await?;
        }
        Ok(data)
    }

    fn random_event(&self) -> StoredEvent {
        self.stored[fastrand::usize(..self.stored.len())].clone()
    }

    /// Returns a read of a random event.
    pub(super) fn get(&self) -> GetEventRequest {
        let StoredEvent { event_id, spirit_id } = self.random_event();
        GetEventRequest {
            event_id,
            spirit_id,
            ..GetEventRequest::default()
        }
    }

    /// Returns an edit of a random event, which changes it.
    pub(super) fn edit(&self) -> UpdateEventRequest {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let StoredEvent { event_id, spirit_id } = self.random_event();
        UpdateEventRequest {
            event_id,
            spirit_id,
            meta_summary: Some(format!("summary {number}")),
            ..UpdateEventRequest::default()
        }
    }

    /// Returns a create request with a unique dedupe key. Requests are spread evenly over the spirits.
    pub(super) fn create(&self) -> CreateEventRequest {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.create_for(number, number)
    }

    /// Returns the create requests of a batch, spread evenly over this number of spirits. Successive batches take
    /// the spirits in turn.
    pub(super) fn batch(&self, count: usize, spirits: usize) -> Vec<CreateEventRequest> {
        let spirits = spirits.clamp(1, self.spirit_ids.len()) as u64;
        let first_spirit = self.next_batch.fetch_add(1, Ordering::Relaxed) * spirits;
        let numbers = self.next.fetch_add(count as u64, Ordering::Relaxed)..;
        let requests = numbers.zip(0..count as u64);
        requests
            .map(|(number, index)| self.create_for(number, first_spirit + index % spirits))
            .collect()
    }

    /// Returns a create request with the dedupe key of this number, for a spirit by its index, which wraps around.
    fn create_for(&self, number: u64, spirit: u64) -> CreateEventRequest {
        let spirit = usize::try_from(spirit).unwrap_or(0) % self.spirit_ids.len();
        let (session_id, occurred_at) = match self.sessions_over {
            None => (SESSION.to_owned(), None),
            Some(days) => (session_id(number), random_time(days)),
        };
        CreateEventRequest {
            spirit_id: self.spirit_ids[spirit].clone(),
            event_type: "message.in".to_owned(),
            content: Some(self.content.clone()),
            occurred_at,
            session_id: Some(session_id),
            role: Some("user".to_owned()),
            dedupe_key: Some(format!("{}-{number}", self.run)),
            ..CreateEventRequest::default()
        }
    }

    async fn fill(
        &mut self,
        events: &mut EventServiceClient<Connection>,
        count: usize,
    ) -> anyhow::Result<()> {
        let fitting = BATCH_BYTES_MAX / (self.content.len() + EVENT_OVERHEAD_BYTES);
        let size = fitting.clamp(1, BATCH_ITEMS_MAX);
        let mut left = count;
        while left > 0 {
            let request = BatchCreateEventsRequest {
                requests: (0..left.min(size)).map(|_| self.create()).collect(),
                ..BatchCreateEventsRequest::default()
            };
            left -= request.requests.len();
            let response = events.batch_create_events(request).await.map_err(explain)?;
            for result in response.into_inner().results {
                if let Some(Item::Created(created)) = result.result {
                    self.stored.extend(created.event.map(StoredEvent::from));
                }
            }
        }
        ensure!(self.stored.len() == count, "not every event was stored");
        Ok(())
    }

    /// Stores the events of the first spirit that are edited during the load.
    async fn store_edited(&mut self, events: &mut EventServiceClient<Connection>) -> anyhow::Result<()> {
        for number in 0..EDITED {
            let mut request = self.create_for(number, 0);
            request.dedupe_key = None;
            let response = events.create_event(request).await.map_err(explain)?;
            self.stored
                .extend(response.into_inner().event.map(StoredEvent::from));
        }
        Ok(())
    }

    /// Gives sessions an owner, spread evenly over all of them.
    async fn set_owners(&self, channel: Connection, count: usize) -> anyhow::Result<()> {
        let mut sessions = SessionServiceClient::new(channel);
        let (owner, owned) = OWNER;
        for number in (0..count as u64).step_by(count.div_ceil(owned)) {
            let request = UpdateSessionRequest {
                spirit_id: self.spirit_ids[0].clone(),
                session_id: session_id(number),
                owner: Some(owner.to_owned()),
                ..UpdateSessionRequest::default()
            };
            sessions.update_session(request).await.map_err(explain)?;
        }
        Ok(())
    }

    /// Returns the page token after this number of events of the first spirit.
    async fn token_at(
        &self,
        events: &mut EventServiceClient<Connection>,
        depth: usize,
    ) -> anyhow::Result<String> {
        let request = ListEventsRequest {
            spirit_id: self.spirit_ids[0].clone(),
            page_size: 1,
            offset: i32::try_from(depth.saturating_sub(1))?,
            ..ListEventsRequest::default()
        };
        let page = events.list_events(request).await.map_err(explain)?.into_inner();
        ensure!(
            !page.next_page_token.is_empty(),
            "the spirit has no page at --page-depth {depth}; give more --events or fewer --spirits"
        );
        Ok(page.next_page_token)
    }
}

fn session_id(number: u64) -> String {
    format!("{SESSION}-{number}")
}

/// Returns a time within the last days; `None` for the time of arrival.
fn random_time(days: u32) -> Option<Timestamp> {
    let seconds = i64::from(days) * 86_400;
    (seconds > 0).then(|| timestamp_of(Utc::now() - TimeDelta::seconds(fastrand::i64(0..seconds))))
}

pub(super) async fn create_spirits(
    channel: Connection,
    run: &str,
    count: usize,
) -> anyhow::Result<Vec<String>> {
    let mut spirits = SpiritServiceClient::new(channel);
    let mut ids = Vec::with_capacity(count);
    for number in 0..count {
        let request = CreateSpiritRequest {
            name: format!("bench-{run}-{number}"),
            ..CreateSpiritRequest::default()
        };
        let response = spirits.create_spirit(request).await.map_err(explain)?;
        let spirit = response.into_inner().spirit;
        ids.push(spirit.context("the server's reply holds no spirit")?.id);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_edits_name_the_spirit_of_their_event() {
        let event = Event {
            id: "e".to_owned(),
            spirit_id: Some("s".to_owned()),
            ..Event::default()
        };
        let data = Data {
            run: String::new(),
            spirit_ids: vec!["s".to_owned()],
            content: String::new(),
            stored: vec![event.into()],
            page_token: String::new(),
            sessions_over: None,
            next: AtomicU64::new(0),
            next_batch: AtomicU64::new(0),
        };
        let (get, edit) = (data.get(), data.edit());
        assert_eq!((get.event_id.as_str(), get.spirit_id()), ("e", "s"));
        assert_eq!((edit.event_id.as_str(), edit.spirit_id()), ("e", "s"));
    }
}
