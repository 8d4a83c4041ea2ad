//! The source of printed items: presents the streams of a spirit, of a session and of changes in the same form.

use std::fmt;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::cli::call::event_client;
use crate::cli::client::Connection;
use crate::grpc::pb::{
    Event, EventChange, EventFilter, StreamSessionEventsRequest, StreamSessionEventsResponse,
    WatchChangesRequest, WatchChangesResponse, WatchEventsRequest, WatchEventsResponse, WatchStart,
    stream_session_events_request, stream_session_events_response, watch_changes_request,
    watch_changes_response, watch_events_request, watch_events_response,
};

/// The start of a stream.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Start {
    Now,
    Beginning,
    /// Start with this number of last events of a session.
    Last(i32),
    /// Start after this sequence of a spirit.
    Sequence(i64),
    /// Start after this position in a session.
    Cursor(String),
    /// Start after this change of a spirit.
    Change(i64),
}

impl Start {
    /// Returns the resume position in the metadata of the status that ended a stream.
    pub(super) fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        let number = |name| info.metadata.get(name)?.parse().ok();
        let cursor = info.metadata.get("cursor").cloned().map(Self::Cursor);
        let sequence = || number("sequence").map(Self::Sequence);
        let change = || number("change").map(Self::Change);
        cursor.or_else(sequence).or_else(change)
    }
}

/// Prints the value for `--after`.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence(number) | Self::Change(number) => write!(f, "{number}"),
            Self::Cursor(cursor) => f.write_str(cursor),
            Self::Now | Self::Beginning | Self::Last(_) => write!(f, "{self:?}"),
        }
    }
}

/// An item to print.
pub(super) enum Item {
    Event(Box<Event>),
    Change(Box<EventChange>),
}

/// A message of a stream.
pub(super) struct Step {
    /// Absent if the message reports only a position.
    pub(super) item: Option<Item>,
    /// The position to resume from.
    pub(super) after: Start,
    /// Whether every stored item was sent.
    pub(super) is_caught_up: bool,
}

/// The stream to print.
pub(in crate::cli) enum Source {
    Events {
        spirit_id: String,
        /// Watches the whole spirit if absent.
        session_id: Option<String>,
        filter: Box<EventFilter>,
        /// Length at which contents are cut, if they are.
        content_bytes_max: Option<i32>,
    },
    Changes {
        spirit_id: String,
    },
}

impl Source {
    /// Opens the stream.
    pub(super) async fn open(
        &self,
        channel: Connection,
        start: &Start,
    ) -> Result<BoxStream<'static, Result<Step, Status>>, Status> {
        let mut client = event_client(channel);
        match self {
            Self::Events {
                spirit_id,
                session_id: Some(session_id),
                filter,
                content_bytes_max,
            } => {
                let request = StreamSessionEventsRequest {
                    content_bytes_max: *content_bytes_max,
                    ..follow(spirit_id, session_id, filter, start)
                };
                let stream = client.stream_session_events(request).await?.into_inner();
                Ok(stream.map(|message| message.map(Step::from)).boxed())
            }
            Self::Events {
                spirit_id,
                session_id: None,
                filter,
                content_bytes_max,
            } => {
                let request = WatchEventsRequest {
                    content_bytes_max: *content_bytes_max,
                    ..watch(spirit_id, filter, start)
                };
                let stream = client.watch_events(request).await?.into_inner();
                Ok(stream.map(|message| message.map(Step::from)).boxed())
            }
            Self::Changes { spirit_id } => {
                let stream = client.watch_changes(watch_changes(spirit_id, start)).await?;
                let stream = stream.into_inner();
                Ok(stream.map(|message| message.map(Step::from)).boxed())
            }
        }
    }
}

fn follow(
    spirit_id: &str,
    session_id: &str,
    filter: &EventFilter,
    start: &Start,
) -> StreamSessionEventsRequest {
    use stream_session_events_request::Start as Wire;
    StreamSessionEventsRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
        filter: Some(filter.clone()),
        start: match start {
            Start::Last(count) => Some(Wire::LastN(*count)),
            Start::Cursor(cursor) => Some(Wire::AfterCursor(cursor.clone())),
            Start::Now | Start::Beginning | Start::Sequence(_) | Start::Change(_) => None,
        },
        follow: true,
        ..StreamSessionEventsRequest::default()
    }
}

fn watch(spirit_id: &str, filter: &EventFilter, start: &Start) -> WatchEventsRequest {
    use watch_events_request::Start as Wire;
    WatchEventsRequest {
        spirit_id: spirit_id.to_owned(),
        filter: Some(filter.clone()),
        start: Some(match start {
            Start::Sequence(sequence) => Wire::AfterSequence(*sequence),
            other => Wire::StartAt(watch_start(other).into()),
        }),
        ..WatchEventsRequest::default()
    }
}

fn watch_changes(spirit_id: &str, start: &Start) -> WatchChangesRequest {
    use watch_changes_request::Start as Wire;
    WatchChangesRequest {
        spirit_id: spirit_id.to_owned(),
        start: Some(match start {
            Start::Change(change) => Wire::AfterChange(*change),
            other => Wire::StartAt(watch_start(other).into()),
        }),
    }
}

/// Returns the start of a watch without a number.
fn watch_start(start: &Start) -> WatchStart {
    match start {
        Start::Beginning => WatchStart::FromBeginning,
        Start::Now | Start::Last(_) | Start::Sequence(_) | Start::Cursor(_) | Start::Change(_) => {
            WatchStart::FromNow
        }
    }
}

impl Step {
    fn item(item: Item, after: Start) -> Self {
        Self {
            item: Some(item),
            after,
            is_caught_up: false,
        }
    }

    fn position(after: Start, is_caught_up: bool) -> Self {
        Self {
            item: None,
            after,
            is_caught_up,
        }
    }
}

impl From<StreamSessionEventsResponse> for Step {
    fn from(response: StreamSessionEventsResponse) -> Self {
        use stream_session_events_response::Item as Wire;
        let after = Start::Cursor(response.cursor);
        match response.item {
            Some(Wire::Event(event)) => Self::item(Item::Event(Box::new(event)), after),
            Some(Wire::CaughtUp(_)) => Self::position(after, true),
            Some(Wire::Heartbeat(_)) | None => Self::position(after, false),
        }
    }
}

impl From<WatchEventsResponse> for Step {
    fn from(response: WatchEventsResponse) -> Self {
        use watch_events_response::Item as Wire;
        let after = Start::Sequence(response.sequence);
        match response.item {
            Some(Wire::Event(event)) => Self::item(Item::Event(Box::new(event)), after),
            Some(Wire::CaughtUp(_)) => Self::position(after, true),
            Some(Wire::Heartbeat(_)) | None => Self::position(after, false),
        }
    }
}

impl From<WatchChangesResponse> for Step {
    fn from(response: WatchChangesResponse) -> Self {
        use watch_changes_response::Item as Wire;
        let after = Start::Change(response.last_change);
        match response.item {
            Some(Wire::Change(change)) => Self::item(Item::Change(Box::new(change)), after),
            Some(Wire::CaughtUp(_)) => Self::position(after, true),
            Some(Wire::Heartbeat(_)) | None => Self::position(after, false),
        }
    }
}
