//! Tests of `PurgeService` and of retention.

mod across_purges;
mod broken_off;
mod of_one_person;
mod purge_events;
mod purge_spirit;
mod retention;
mod validation;

use elephantasm_events::grpc::pb::{ListPurgesRequest, Purge, PurgeEventsRequest, PurgeEventsResponse};
use tonic::{Status, Streaming};

use crate::support::harness::TestServer;

/// A purge without a selection.
pub fn of_spirit(spirit_id: &str) -> PurgeEventsRequest {
    PurgeEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..PurgeEventsRequest::default()
    }
}

pub fn of_session(spirit_id: &str, session_id: &str) -> PurgeEventsRequest {
    PurgeEventsRequest {
        session_id: Some(session_id.to_owned()),
        ..of_spirit(spirit_id)
    }
}

pub fn of_all(spirit_id: &str) -> PurgeEventsRequest {
    PurgeEventsRequest {
        all: Some(true),
        ..of_spirit(spirit_id)
    }
}

/// Purges events to the end; returns the id of the purge and the number of events.
pub async fn purged(server: &TestServer, request: PurgeEventsRequest) -> Result<(String, i64), Status> {
    let mut items = server.purges().purge_events(request).await?.into_inner();
    let mut so_far = 0;
    loop {
        let item = items.message().await?.expect("an item before the end");
        assert!(item.purged_count >= so_far);
        so_far = item.purged_count;
        if item.done {
            assert_eq!(items.message().await?, None);
            return Ok((item.purge_id, so_far));
        }
    }
}

/// Begins to purge all events of a spirit; returns the first item and the stream of those that follow.
pub async fn begun(
    server: &TestServer,
    spirit_id: &str,
) -> (PurgeEventsResponse, Streaming<PurgeEventsResponse>) {
    let response = server.purges().purge_events(of_all(spirit_id)).await.unwrap();
    let mut items = response.into_inner();
    (items.message().await.unwrap().unwrap(), items)
}

/// The purges of a spirit, newest first.
pub async fn purges(server: &TestServer, spirit_id: &str) -> Vec<Purge> {
    let request = ListPurgesRequest {
        spirit_id: Some(spirit_id.to_owned()),
        ..ListPurgesRequest::default()
    };
    server
        .purges()
        .list_purges(request)
        .await
        .unwrap()
        .into_inner()
        .purges
}

/// The sequences of all stored events, soft-deleted ones included.
pub async fn stored(server: &TestServer, spirit_id: &str) -> Vec<i64> {
    let rows: Vec<(i64,)> =
        sqlx::query_as("select sequence from events where spirit_id = $1::text::uuid order by sequence")
            .bind(spirit_id)
            .fetch_all(&mut server.database.connect().await)
            .await
            .unwrap();
    rows.into_iter().map(|(sequence,)| sequence).collect()
}

/// Runs a statement with the spirit's id as its parameter, bypassing the service.
pub async fn execute(server: &TestServer, sql: &'static str, spirit_id: &str) {
    sqlx::query(sql)
        .bind(spirit_id)
        .execute(&mut server.database.connect().await)
        .await
        .unwrap();
}
