//! Reads replies without decoding their events, as pgbench does not decode rows, so that the server is
//! measured and not the client.

use http::uri::PathAndQuery;
use prost::bytes::Bytes;
use tonic::client::Grpc;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::super::client::{Connection, REPLY_BYTES_MAX};
use crate::grpc::pb::{ListEventsRequest, StreamSessionEventsRequest};

const LIST_EVENTS: PathAndQuery = PathAndQuery::from_static("/elephantasm.events.v1.EventService/ListEvents");
const STREAM_SESSION_EVENTS: PathAndQuery =
    PathAndQuery::from_static("/elephantasm.events.v1.EventService/StreamSessionEvents");

/// `ListEventsResponse` with undecoded events.
#[derive(Clone, PartialEq, prost::Message)]
struct Page {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    events: Vec<Bytes>,
}

/// `StreamSessionEventsResponse` with an undecoded event.
#[derive(Clone, PartialEq, prost::Message)]
struct Item {
    #[prost(bytes = "bytes", optional, tag = "1")]
    event: Option<Bytes>,
}

/// Returns the number of events of a page.
pub(super) async fn list(channel: Connection, request: ListEventsRequest) -> Result<usize, Status> {
    let codec = ProstCodec::<ListEventsRequest, Page>::default();
    let mut client = ready(channel).await?;
    let page = client.unary(Request::new(request), LIST_EVENTS, codec).await?;
    Ok(page.into_inner().events.len())
}

/// Returns the number of events of a replay.
pub(super) async fn replay(
    channel: Connection,
    request: StreamSessionEventsRequest,
) -> Result<usize, Status> {
    let codec = ProstCodec::<StreamSessionEventsRequest, Item>::default();
    let mut client = ready(channel).await?;
    let response = client
        .server_streaming(Request::new(request), STREAM_SESSION_EVENTS, codec)
        .await?;
    let mut items = response.into_inner();
    let mut count = 0;
    while let Some(item) = items.message().await? {
        count += usize::from(item.event.is_some());
    }
    Ok(count)
}

async fn ready(channel: Connection) -> Result<Grpc<Connection>, Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(client)
}
