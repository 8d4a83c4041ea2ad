//! Reads that may lag go to a standby, and what must not lag does not: a real streaming standby, whose replay
//! is held up to show where an answer comes from.

use std::time::Duration;

use elephantasm_events::grpc::pb;
use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    CountEventsRequest, CountSpiritsRequest, CreateEventRequest, CreateOutcome, GetSpiritRequest,
    ListSessionsRequest, ListSpiritsRequest, OnDuplicate, StreamSessionEventsRequest, UpdateEventRequest,
};
use elephantasm_events::store::StandbySettings;
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorSet, MethodOptions};
use tonic::Request;

use crate::support::builders::{
    bad_fields, create, drain, event_at, keyed, list, stored_event, stream, strong,
};
use crate::support::cluster::Cluster;
use crate::support::harness::{TestServer, eventually};
use crate::support::live::{beginning, follow, following, watch};
use crate::support::raw::{RawClient, framed};
use crate::support::scrape::Scrape;

/// Longer than any test.
pub const FOR_EVER: Duration = Duration::from_secs(3_600);

/// A server on a primary, with a standby.
pub struct Pair {
    pub server: TestServer,
    pub standby: Cluster,
    pub primary: Cluster,
}

impl Pair {
    /// Returns once the standby is read.
    pub async fn start(lag_max: Duration) -> Self {
        Self::start_with(lag_max, &[]).await
    }

    /// The same with these settings of the standby.
    pub async fn start_with(lag_max: Duration, settings: &[(&str, &str)]) -> Self {
        let primary = Cluster::start(&[]).await;
        let standby = primary.standby(settings).await;
        let connect = standby.database.connect.clone();
        let server = TestServer::start_on(primary.database.clone(), |settings| {
            settings.store.standby = Some(StandbySettings { connect, lag_max });
        })
        .await;
        let pair = Self {
            server,
            standby,
            primary,
        };
        is_read(&pair.server).await;
        pair
    }

    /// Holds up replay: from now on the standby learns nothing.
    pub async fn pause(&self) {
        let mut standby = self.standby.database.connect().await;
        sqlx::query("select pg_wal_replay_pause()")
            .execute(&mut standby)
            .await
            .unwrap();
        eventually("replay stands", async || {
            let (state,): (String,) = sqlx::query_as("select pg_get_wal_replay_pause_state()")
                .fetch_one(&mut standby)
                .await
                .unwrap();
            (state == "paused").then_some(())
        })
        .await;
    }

    pub async fn resume(&self) {
        sqlx::query("select pg_wal_replay_resume()")
            .execute(&mut self.standby.database.connect().await)
            .await
            .unwrap();
    }

    /// How many events of a spirit a reader counts.
    pub async fn count(&self, spirit_id: &str) -> i64 {
        let response = self.server.events().count_events(count(spirit_id)).await;
        response.unwrap().into_inner().count
    }
}

/// Waits until a read is answered by the standby.
pub async fn is_read(server: &TestServer) {
    let before = reads(server, "served").await;
    eventually("the standby is read", async || {
        let request = CountSpiritsRequest::default();
        server.spirits().count_spirits(request).await.unwrap();
        (reads(server, "served").await > before).then_some(())
    })
    .await;
}

/// Reads of this outcome.
pub async fn reads(server: &TestServer, outcome: &str) -> u64 {
    let sample = format!("events_standby_reads_total{{outcome=\"{outcome}\"}}");
    Scrape::of(server).await.count(&sample)
}

pub async fn lag(server: &TestServer) -> f64 {
    Scrape::of(server).await.seconds("events_standby_lag_seconds")
}

pub fn count(spirit_id: &str) -> CountEventsRequest {
    CountEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..CountEventsRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_counts_and_replays_may_lag_and_strong_ones_do_not() {
    let pair = Pair::start(FOR_EVER).await;
    let mut events = pair.server.events();
    let spirit_id = pair.server.spirit().await;
    eventually("the spirit reaches the standby", async || {
        let found = pair
            .server
            .spirits()
            .list_spirits(ListSpiritsRequest::default())
            .await;
        (found.unwrap().into_inner().spirits.len() == 1).then_some(())
    })
    .await;
    pair.pause().await;
    let stored = create(&mut events, event_at(&spirit_id, "s", 1)).await;
    pair.server.spirit().await;

    for is_strong in [false, true] {
        let found = usize::from(is_strong);
        macro_rules! ask {
            ($client:expr, $method:ident, $message:expr) => {{
                let message = $message;
                let request = if is_strong {
                    strong(message)
                } else {
                    Request::new(message)
                };
                $client.$method(request).await.unwrap().into_inner()
            }};
        }
        let mut spirits = pair.server.spirits();
        let listed = ask!(events, list_events, list(&spirit_id)).events;
        assert_eq!(listed.len(), found, "ListEvents, strong: {is_strong}");
        let counted = ask!(events, count_events, count(&spirit_id)).count;
        assert_eq!(counted, i64::from(is_strong), "CountEvents, strong: {is_strong}");
        let request = ListSessionsRequest {
            spirit_id: spirit_id.clone(),
            ..ListSessionsRequest::default()
        };
        let sessions = ask!(events, list_sessions, request).sessions;
        assert_eq!(sessions.len(), found, "ListSessions, strong: {is_strong}");
        let replayed = ask!(events, stream_session_events, stream(&spirit_id, "s"));
        let replayed = drain(replayed).await.unwrap();
        assert_eq!(replayed.len(), found, "StreamSessionEvents, strong: {is_strong}");
        let listed = ask!(spirits, list_spirits, ListSpiritsRequest::default()).spirits;
        assert_eq!(listed.len(), 1 + found, "ListSpirits, strong: {is_strong}");
        let counted = ask!(spirits, count_spirits, CountSpiritsRequest::default()).count;
        assert_eq!(
            counted,
            1 + i64::from(is_strong),
            "CountSpirits, strong: {is_strong}"
        );
    }

    pair.resume().await;
    let listed = eventually("the event reaches the standby", async || {
        let listed = events.list_events(list(&spirit_id)).await.unwrap();
        let listed = listed.into_inner().events;
        (!listed.is_empty()).then_some(listed)
    })
    .await;
    assert_eq!(listed, [stored]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exists_is_found_and_what_decides_about_writes_does_not_lag() {
    let pair = Pair::start(FOR_EVER).await;
    let mut events = pair.server.events();
    pair.pause().await;
    let spirit_id = pair.server.spirit().await;
    let request = CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "key")
    };
    let stored = create(&mut events, request.clone()).await;

    let request_spirit = GetSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..GetSpiritRequest::default()
    };
    let found = pair.server.spirits().get_spirit(request_spirit).await.unwrap();
    assert_eq!(found.into_inner().spirit.unwrap().id, spirit_id);
    let found = stored_event(&mut events, &stored.id).await;
    assert_eq!(found, stored);
    let missed = reads(&pair.server, "missed").await;
    assert!(missed > 0, "they were looked for on the standby first");

    for (revision, score) in [(1, 0.1), (2, 0.2)] {
        let edit = UpdateEventRequest {
            event_id: stored.id.clone(),
            importance_score: Some(score),
            expected_revision: Some(revision),
            ..UpdateEventRequest::default()
        };
        let edited = events.update_event(edit).await.unwrap().into_inner();
        assert_eq!(edited.event.unwrap().revision, revision + 1);
    }
    let again = events.create_event(request).await.unwrap().into_inner();
    assert_eq!(again.outcome(), CreateOutcome::Duplicate);
    assert_eq!(again.event.unwrap().revision, 3, "as it is now");
    assert_eq!(
        reads(&pair.server, "missed").await,
        missed,
        "none of these asked the standby"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_streams_and_what_they_go_on_from_come_from_the_primary() {
    let pair = Pair::start(FOR_EVER).await;
    let mut events = pair.server.events();
    let spirit_id = pair.server.spirit().await;
    pair.pause().await;
    create(&mut events, event_at(&spirit_id, "s", 1)).await;

    let mut session = follow(&pair.server, following(&spirit_id, "s")).await.unwrap();
    let mut watch = watch(&pair.server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(session.sequences(1).await, [1]);
    assert_eq!(watch.sequences(1).await, [1]);
    session.caught_up().await;
    watch.caught_up().await;
    create(&mut events, event_at(&spirit_id, "s", 2)).await;
    assert_eq!(session.sequences(1).await, [2]);
    assert_eq!(watch.sequences(1).await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_has_seen_more_than_the_standby_goes_on_at_the_primary() {
    let pair = Pair::start(FOR_EVER).await;
    let mut events = pair.server.events();
    let spirit_id = pair.server.spirit().await;
    create(&mut events, event_at(&spirit_id, "s", 1)).await;
    eventually("the event reaches the standby", async || {
        (pair.count(&spirit_id).await == 1).then_some(())
    })
    .await;
    pair.pause().await;
    for seconds in 2..=3 {
        create(&mut events, event_at(&spirit_id, "s", seconds)).await;
    }
    let all = events
        .stream_session_events(strong(stream(&spirit_id, "s")))
        .await
        .unwrap();
    let all = drain(all.into_inner()).await.unwrap();
    assert_eq!(all.len(), 3);

    // The cursor is of the first event, which the standby knows; its bound is beyond.
    let resumed = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(all[0].1.clone())),
        ..stream(&spirit_id, "s")
    };
    let resumed = events.stream_session_events(resumed).await.unwrap().into_inner();
    assert_eq!(drain(resumed).await.unwrap(), all[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_refuses_a_consistency_that_it_does_not_know() {
    let server = TestServer::start().await;
    let client = RawClient::connect(server.addr).await;
    let set = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let mut tried = 0;
    for service in set.file.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            let level = method.options.as_ref().map(MethodOptions::idempotency_level);
            if level != Some(IdempotencyLevel::NoSideEffects) {
                continue;
            }
            let path = format!("/elephantasm.events.v1.{}/{}", service.name(), method.name());
            for bad in ["Strong", "", "primary"] {
                let end = client.call(&path, &[("x-consistency", bad)], framed(&[])).await;
                assert_eq!(bad_fields(end.error::<()>()), ["x-consistency"], "{path} {bad}");
            }
            for good in ["strong", "eventual"] {
                let end = client.call(&path, &[("x-consistency", good)], framed(&[])).await;
                let status = end.error::<()>().unwrap_err();
                assert!(
                    !status.message().contains("x-consistency"),
                    "{path} {good}: {status:?}"
                );
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 9, "RPCs that read");
}
