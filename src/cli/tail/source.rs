//! The source of `tail`: presents the stream of a spirit and that of a session in the same form.

use std::fmt;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::super::client::{Connection, REPLY_BYTES_MAX};
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::{
    Event, EventFilter, StreamSessionEventsRequest, StreamSessionEventsResponse, WatchEventsRequest,
    WatchEventsResponse, WatchStart, stream_session_events_request, stream_session_events_response,
    watch_events_request, watch_events_response,
};

/// The start of a stream.
#[derive(Clone, Debug)]
pub(super) enum Start {
    Now,
    Beginning,
    /// Start with this number of last events of a session.
    Last(i32),
    /// Start after this sequence of a spirit.
    Sequence(i64),
    /// Start after this position in a session.
    Cursor(String),
}

impl Start {
    /// Returns the resume position in the metadata of the status that ended a stream.
    pub(super) fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        let sequence = || info.metadata.get("sequence")?.parse().ok().map(Self::Sequence);
        let cursor = info.metadata.get("cursor").cloned().map(Self::Cursor);
        cursor.or_else(sequence)
    }
}

/// Prints the value for `--after`.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence(sequence) => write!(f, "{sequence}"),
            Self::Cursor(cursor) => f.write_str(cursor),
            Self::Now | Self::Beginning | Self::Last(_) => write!(f, "{self:?}"),
        }
    }
}

/// An item of a stream.
pub(super) struct Step {
    /// Absent if the item reports only a position.
    pub(super) event: Option<Event>,
    /// The position to resume from.
    pub(super) after: Start,
}

pub(super) struct Source {
    pub(super) spirit_id: String,
    /// Watches the whole spirit if absent.
    pub(super) session_id: Option<String>,
    pub(super) filter: EventFilter,
}

impl Source {
    /// Opens the stream.
    pub(super) async fn open(
        &self,
        channel: Connection,
        start: &Start,
    ) -> Result<BoxStream<'static, Result<Step, Status>>, Status> {
        let mut events = EventServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        if let Some(session_id) = &self.session_id {
            let request = self.follow(session_id, start);
            let stream = events.stream_session_events(request).await?.into_inner();
            Ok(stream.map(|item| item.map(Step::from)).boxed())
        } else {
            let stream = events.watch_events(self.watch(start)).await?.into_inner();
            Ok(stream.map(|item| item.map(Step::from)).boxed())
        }
    }

    fn follow(&self, session_id: &str, start: &Start) -> StreamSessionEventsRequest {
        use stream_session_events_request::Start as Wire;
        StreamSessionEventsRequest {
            spirit_id: self.spirit_id.clone(),
            session_id: session_id.to_owned(),
            filter: Some(self.filter.clone()),
            start: match start {
                Start::Last(count) => Some(Wire::LastN(*count)),
                Start::Cursor(cursor) => Some(Wire::AfterCursor(cursor.clone())),
                Start::Now | Start::Beginning | Start::Sequence(_) => None,
            },
            follow: true,
            ..StreamSessionEventsRequest::default()
        }
    }

    fn watch(&self, start: &Start) -> WatchEventsRequest {
        use watch_events_request::Start as Wire;
        WatchEventsRequest {
            spirit_id: self.spirit_id.clone(),
            filter: Some(self.filter.clone()),
            start: Some(match start {
                Start::Sequence(sequence) => Wire::AfterSequence(*sequence),
                Start::Beginning => Wire::StartAt(WatchStart::FromBeginning.into()),
                Start::Now | Start::Last(_) | Start::Cursor(_) => Wire::StartAt(WatchStart::FromNow.into()),
            }),
            ..WatchEventsRequest::default()
        }
    }
}

impl From<StreamSessionEventsResponse> for Step {
    fn from(response: StreamSessionEventsResponse) -> Self {
        use stream_session_events_response::Item;
        Self {
            event: match response.item {
                Some(Item::Event(event)) => Some(event),
                Some(Item::CaughtUp(_) | Item::Heartbeat(_)) | None => None,
            },
            after: Start::Cursor(response.cursor),
        }
    }
}

impl From<WatchEventsResponse> for Step {
    fn from(response: WatchEventsResponse) -> Self {
        use watch_events_response::Item;
        Self {
            event: match response.item {
                Some(Item::Event(event)) => Some(event),
                Some(Item::CaughtUp(_) | Item::Heartbeat(_)) | None => None,
            },
            after: Start::Sequence(response.sequence),
        }
    }
}
