//! Readers of live streams, and what a test may say about their items.

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::stream_session_events_response::Item as SessionItem;
use elephantasm_events::grpc::pb::watch_events_request::Start;
use elephantasm_events::grpc::pb::watch_events_response::Item as WatchItem;
use elephantasm_events::grpc::pb::{
    Event, SoftDeleteSpiritRequest, StreamSessionEventsRequest, StreamSessionEventsResponse,
    WatchEventsRequest, WatchEventsResponse, WatchStart,
};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{IntoRequest, Status, Streaming};
use uuid::Uuid;

use crate::support::builders::stream;
use crate::support::harness::{PATIENCE, TestServer};

/// What a live stream sends.
#[derive(Debug)]
pub enum Item {
    Event(Box<Event>),
    CaughtUp,
    Heartbeat,
}

/// A message of a live stream: an item, and the place to resume after it.
pub trait Message {
    type Place: std::fmt::Debug;
    fn split(self) -> (Item, Self::Place);
}

impl Message for WatchEventsResponse {
    type Place = i64;

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
    type Place = String;

    fn split(self) -> (Item, String) {
        let item = match self.item.expect("an item") {
            SessionItem::Event(event) => Item::Event(Box::new(event)),
            SessionItem::CaughtUp(_) => Item::CaughtUp,
            SessionItem::Heartbeat(_) => Item::Heartbeat,
        };
        (item, self.cursor)
    }
}

/// The reader of a live stream. Every wait of it ends with the test's patience.
pub struct Reader<M>(pub Streaming<M>);

impl<M: Message> Reader<M> {
    /// The next item; `None` when the stream ended with OK.
    pub async fn next(&mut self) -> Result<Option<(Item, M::Place)>, Status> {
        let message = timeout(PATIENCE, self.0.message())
            .await
            .expect("an item comes")?;
        Ok(message.map(M::split))
    }

    /// The next item, which must be an event.
    pub async fn event(&mut self) -> (Event, M::Place) {
        match self.next().await.unwrap() {
            Some((Item::Event(event), place)) => (*event, place),
            other => panic!("no event: {other:?}"),
        }
    }

    /// The sequences of the next items, which must be events.
    pub async fn sequences(&mut self, count: usize) -> Vec<i64> {
        let mut sequences = Vec::new();
        for _ in 0..count {
            sequences.push(self.event().await.0.sequence);
        }
        sequences
    }

    /// The next item, which must be `caught_up`; catching up may take longer than a heartbeat.
    pub async fn caught_up(&mut self) -> M::Place {
        loop {
            match self.next().await.unwrap() {
                Some((Item::CaughtUp, place)) => return place,
                Some((Item::Heartbeat, _)) => {}
                other => panic!("no caught_up: {other:?}"),
            }
        }
    }

    /// The place of the next item, which must be a heartbeat.
    pub async fn heartbeat(&mut self) -> M::Place {
        match self.next().await.unwrap() {
            Some((Item::Heartbeat, place)) => place,
            other => panic!("no heartbeat: {other:?}"),
        }
    }

    /// The remaining events, and how the stream ends.
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

    /// The error that must come next.
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

/// Starts a watch through a connection of the test's own.
pub async fn watch_through(channel: Channel, request: WatchEventsRequest) -> Watcher {
    let response = EventServiceClient::new(channel).watch_events(request).await;
    Reader(response.unwrap().into_inner())
}

/// Starts to follow a session; a deadline may come with the request.
pub async fn follow(
    server: &TestServer,
    request: impl IntoRequest<StreamSessionEventsRequest>,
) -> Result<Follower, Status> {
    let response = server.events().stream_session_events(request).await?;
    Ok(Reader(response.into_inner()))
}

/// A watch from now on.
pub fn now(spirit_id: &str) -> WatchEventsRequest {
    WatchEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..WatchEventsRequest::default()
    }
}

pub fn beginning(spirit_id: &str) -> WatchEventsRequest {
    WatchEventsRequest {
        start: Some(Start::StartAt(WatchStart::FromBeginning.into())),
        ..now(spirit_id)
    }
}

/// A watch of what is after this sequence.
pub fn after(spirit_id: &str, sequence: i64) -> WatchEventsRequest {
    WatchEventsRequest {
        start: Some(Start::AfterSequence(sequence)),
        ..now(spirit_id)
    }
}

/// A session to its end and on.
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

/// Numbers that differ from run to run.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        Self(Uuid::new_v4().as_u64_pair().0)
    }

    /// A number from 0 to below the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
