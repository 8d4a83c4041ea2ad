//! Reads live streams and asserts on their items.

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::stream_session_events_response::Item as SessionItem;
use elephantasm_events::grpc::pb::watch_changes_request::Start as ChangeStart;
use elephantasm_events::grpc::pb::watch_changes_response::Item as ChangeItem;
use elephantasm_events::grpc::pb::watch_events_request::Start;
use elephantasm_events::grpc::pb::watch_events_response::Item as WatchItem;
use elephantasm_events::grpc::pb::{
    Event, EventChange, SoftDeleteSpiritRequest, StreamSessionEventsRequest, StreamSessionEventsResponse,
    WatchChangesRequest, WatchChangesResponse, WatchEventsRequest, WatchEventsResponse, WatchStart,
};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{IntoRequest, Status, Streaming};
use uuid::Uuid;

use crate::support::builders::stream;
use crate::support::harness::{PATIENCE, TestServer};

/// An item of a live stream.
#[derive(Debug)]
pub enum Item {
    Event(Box<Event>),
    Change(Box<EventChange>),
    CaughtUp,
    Heartbeat,
}

/// A message of a live stream: an item, and the position from which to resume after it.
pub trait Message {
    type Position: std::fmt::Debug;
    fn split(self) -> (Item, Self::Position);
}

impl Message for WatchEventsResponse {
    type Position = i64;

    fn split(self) -> (Item, i64) {
        let item = match self.item.expect("an item") {
            WatchItem::Event(event) => Item::Event(Box::new(event)),
            WatchItem::CaughtUp(_) => Item::CaughtUp,
            WatchItem::Heartbeat(_) => Item::Heartbeat,
        };
        (item, self.sequence)
    }
}

impl Message for StreamSessionEventsResponse {
    type Position = String;

    fn split(self) -> (Item, String) {
        let item = match self.item.expect("an item") {
            SessionItem::Event(event) => Item::Event(Box::new(event)),
            SessionItem::CaughtUp(_) => Item::CaughtUp,
            SessionItem::Heartbeat(_) => Item::Heartbeat,
        };
        (item, self.cursor)
    }
}

impl Message for WatchChangesResponse {
    type Position = i64;

    fn split(self) -> (Item, i64) {
        let item = match self.item.expect("an item") {
            ChangeItem::Change(change) => Item::Change(Box::new(change)),
            ChangeItem::CaughtUp(_) => Item::CaughtUp,
            ChangeItem::Heartbeat(_) => Item::Heartbeat,
        };
        (item, self.last_change)
    }
}

/// Reads a live stream. Every wait is limited by [`PATIENCE`].
pub struct Reader<M>(pub Streaming<M>);

impl<M: Message> Reader<M> {
    /// Reads the next item; `None` when the stream ended with OK.
    pub async fn next(&mut self) -> Result<Option<(Item, M::Position)>, Status> {
        let message = timeout(PATIENCE, self.0.message())
            .await
            .expect("an item within the time limit")?;
        Ok(message.map(M::split))
    }

    /// Reads the next item, which must be an event.
    pub async fn event(&mut self) -> (Event, M::Position) {
        match self.next().await.unwrap() {
            Some((Item::Event(event), position)) => (*event, position),
            other => panic!("no event: {other:?}"),
        }
    }

    /// Reads the next item, which must be a change.
    pub async fn change(&mut self) -> EventChange {
        match self.next().await.unwrap() {
            Some((Item::Change(change), _)) => *change,
            other => panic!("no change: {other:?}"),
        }
    }

    /// Reads the next items, which must be changes; returns their numbers.
    pub async fn changes(&mut self, count: usize) -> Vec<i64> {
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(self.change().await.change);
        }
        changes
    }

    /// Reads the next items, which must be events; returns their sequences.
    pub async fn sequences(&mut self, count: usize) -> Vec<i64> {
        let mut sequences = Vec::new();
        for _ in 0..count {
            sequences.push(self.event().await.0.sequence);
        }
        sequences
    }

    /// Reads up to `caught_up` and returns its position. Heartbeats may precede it, since catching up can
    /// take longer than a heartbeat interval.
    pub async fn caught_up(&mut self) -> M::Position {
        loop {
            match self.next().await.unwrap() {
                Some((Item::CaughtUp, position)) => return position,
                Some((Item::Heartbeat, _)) => {}
                other => panic!("no caught_up: {other:?}"),
            }
        }
    }

    /// Reads the next item, which must be a heartbeat; returns its position.
    pub async fn heartbeat(&mut self) -> M::Position {
        match self.next().await.unwrap() {
            Some((Item::Heartbeat, position)) => position,
            other => panic!("no heartbeat: {other:?}"),
        }
    }

    /// Reads to the end; returns the remaining events and the stream's status.
    pub async fn rest(mut self) -> (Vec<Event>, Result<(), Status>) {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Ok(Some((Item::Event(event), _))) => events.push(*event),
                Ok(Some(_)) => {}
                Ok(None) => return (events, Ok(())),
                Err(status) => return (events, Err(status)),
            }
        }
    }

    /// Reads the error that ends the stream; panics if an item precedes it.
    pub async fn error(&mut self) -> Result<(), Status> {
        let item = self.next().await?;
        panic!("no error: {item:?}")
    }
}

pub type Watcher = Reader<WatchEventsResponse>;
pub type Follower = Reader<StreamSessionEventsResponse>;

/// Starts a watch.
pub async fn watch(server: &TestServer, request: WatchEventsRequest) -> Result<Watcher, Status> {
    let response = server.events().watch_events(request).await?;
    Ok(Reader(response.into_inner()))
}

/// Starts a watch through this channel.
pub async fn watch_through(channel: Channel, request: WatchEventsRequest) -> Watcher {
    let response = EventServiceClient::new(channel).watch_events(request).await;
    Reader(response.unwrap().into_inner())
}

/// Starts to follow a session; the request may carry a deadline.
pub async fn follow(
    server: &TestServer,
    request: impl IntoRequest<StreamSessionEventsRequest>,
) -> Result<Follower, Status> {
    let response = server.events().stream_session_events(request).await?;
    Ok(Reader(response.into_inner()))
}

/// A watch that starts with new events.
pub fn now(spirit_id: &str) -> WatchEventsRequest {
    WatchEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..WatchEventsRequest::default()
    }
}

/// A watch that starts with the spirit's first event.
pub fn beginning(spirit_id: &str) -> WatchEventsRequest {
    WatchEventsRequest {
        start: Some(Start::StartAt(WatchStart::FromBeginning.into())),
        ..now(spirit_id)
    }
}

/// A watch that starts after this sequence.
pub fn after(spirit_id: &str, sequence: i64) -> WatchEventsRequest {
    WatchEventsRequest {
        start: Some(Start::AfterSequence(sequence)),
        ..now(spirit_id)
    }
}

/// Starts a watch of changes.
pub async fn watch_changes(
    server: &TestServer,
    spirit_id: &str,
    start: Option<ChangeStart>,
) -> Result<Reader<WatchChangesResponse>, Status> {
    let request = WatchChangesRequest {
        spirit_id: spirit_id.to_owned(),
        start,
    };
    let response = server.events().watch_changes(request).await?;
    Ok(Reader(response.into_inner()))
}

/// Starts a watch of the changes after this number.
pub async fn changes_after(
    server: &TestServer,
    spirit_id: &str,
    change: i64,
) -> Result<Reader<WatchChangesResponse>, Status> {
    watch_changes(server, spirit_id, Some(ChangeStart::AfterChange(change))).await
}

/// A replay of a session that continues with new events (`follow`).
pub fn following(spirit_id: &str, session_id: &str) -> StreamSessionEventsRequest {
    StreamSessionEventsRequest {
        follow: true,
        ..stream(spirit_id, session_id)
    }
}

pub async fn delete_spirit(server: &TestServer, spirit_id: &str) {
    let request = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
}

/// Random numbers, seeded differently in each run.
pub struct Rng(u64);

impl Rng {
    pub fn new() -> Self {
        Self(Uuid::new_v4().as_u64_pair().0)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
