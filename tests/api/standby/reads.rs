//! Reads with eventual consistency go to a standby, strong reads and everything that writes depend on to the
//! primary. The tests run a real streaming standby and pause its replay to distinguish which server answered.

use std::time::Duration;

use elephantasm_events::grpc::pb;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    CountEventsRequest, CountSpiritsRequest, CreateEventRequest, CreateOutcome, Event, GetSpiritRequest,
    ListEventChangesRequest, ListSessionsRequest, ListSpiritsRequest, OnDuplicate,
    StreamSessionEventsRequest, UpdateEventRequest,
};
use elephantasm_events::store::{DistributeError, Distributor, StandbySettings};
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorSet, MethodOptions};
use tonic::Request;
use tonic::transport::Channel;

use crate::purges::{of_session, purged};
use crate::support::builders::{
    bad_fields, create, drain, event_at, get, keyed, list, stored_event, stream, strong,
};
use crate::support::cluster::Cluster;
use crate::support::harness::{TestServer, eventually};
use crate::support::live::{beginning, follow, following, watch};
use crate::support::raw::{RawClient, framed};
use crate::support::scrape::Scrape;

/// A lag limit longer than any test.
pub const NO_LAG_LIMIT: Duration = Duration::from_secs(3_600);

/// A server on a primary with a streaming standby.
pub struct Pair {
    pub server: TestServer,
    pub standby: Cluster,
    pub primary: Cluster,
}

impl Pair {
    /// Starts the server and both clusters; returns once the standby is read.
    pub async fn start(lag_max: Duration) -> Self {
        Self::start_with(lag_max, &[]).await
    }

    /// Like [`start`](Self::start), with further settings of the standby.
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
        wait_until_standby_is_read(&pair.server).await;
        pair
    }

    /// Pauses WAL replay, so that the standby stays at its present state.
    pub async fn pause_replay(&self) {
        let mut standby = self.standby.database.connect().await;
        sqlx::query("select pg_wal_replay_pause()")
            .execute(&mut standby)
            .await
            .unwrap();
        eventually("replay is paused", async || {
            let (state,): (String,) = sqlx::query_as("select pg_get_wal_replay_pause_state()")
                .fetch_one(&mut standby)
                .await
                .unwrap();
            (state == "paused").then_some(())
        })
        .await;
    }

    pub async fn resume_replay(&self) {
        sqlx::query("select pg_wal_replay_resume()")
            .execute(&mut self.standby.database.connect().await)
            .await
            .unwrap();
    }

    /// Number of events of a spirit, counted with eventual consistency.
    pub async fn count(&self, spirit_id: &str) -> i64 {
        let response = self.server.events().count_events(count(spirit_id)).await;
        response.unwrap().into_inner().count
    }
}

/// Waits until the standby has answered a read.
pub async fn wait_until_standby_is_read(server: &TestServer) {
    let before = reads(server, "served").await;
    eventually("the standby answers a read", async || {
        let request = CountSpiritsRequest::default();
        server.spirits().count_spirits(request).await.unwrap();
        (reads(server, "served").await > before).then_some(())
    })
    .await;
}

/// Number of reads that may go to the standby and had this outcome, from the metrics.
pub async fn reads(server: &TestServer, outcome: &str) -> u64 {
    let sample = format!("events_standby_reads_total{{outcome=\"{outcome}\"}}");
    Scrape::of(server).await.count(&sample)
}

/// Bound on the standby's lag in seconds, from the metrics.
pub async fn lag(server: &TestServer) -> f64 {
    Scrape::of(server).await.seconds("events_standby_lag_seconds")
}

pub fn count(spirit_id: &str) -> CountEventsRequest {
    CountEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..CountEventsRequest::default()
    }
}

/// Edits an event, which becomes the one that the service returns.
async fn edit(events: &mut EventServiceClient<Channel>, event: &mut Event) {
    let request = UpdateEventRequest {
        event_id: event.id.clone(),
        role: Some("edited".to_owned()),
        ..UpdateEventRequest::default()
    };
    let response = events.update_event(request).await.unwrap();
    *event = response.into_inner().event.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_counts_and_replays_may_lag_with_the_standby_and_strong_ones_do_not() {
    let pair = Pair::start(NO_LAG_LIMIT).await;
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
    pair.pause_replay().await;
    let mut stored = create(&mut events, event_at(&spirit_id, "s", 1)).await;
    edit(&mut events, &mut stored).await;
    purged(&pair.server, of_session(&spirit_id, "none such"))
        .await
        .unwrap();
    pair.server.spirit().await;

    for is_strong in [false, true] {
        let found = usize::from(is_strong);
        macro_rules! call {
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
        let mut sessions_client = pair.server.sessions();
        let listed = call!(events, list_events, list(&spirit_id)).events;
        assert_eq!(listed.len(), found, "ListEvents, strong: {is_strong}");
        let counted = call!(events, count_events, count(&spirit_id)).count;
        assert_eq!(counted, i64::from(is_strong), "CountEvents, strong: {is_strong}");
        let request = ListEventChangesRequest {
            event_id: stored.id.clone(),
            ..ListEventChangesRequest::default()
        };
        let changes = call!(events, list_event_changes, request).changes;
        assert_eq!(changes.len(), found, "ListEventChanges, strong: {is_strong}");
        let request = ListSessionsRequest {
            spirit_id: spirit_id.clone(),
            ..ListSessionsRequest::default()
        };
        let sessions = call!(sessions_client, list_sessions, request).sessions;
        assert_eq!(sessions.len(), found, "ListSessions, strong: {is_strong}");
        let request = pb::ListPurgesRequest::default();
        let purges = call!(pair.server.purges(), list_purges, request).purges;
        assert_eq!(purges.len(), found, "ListPurges, strong: {is_strong}");
        let replayed = call!(events, stream_session_events, stream(&spirit_id, "s"));
        let replayed = drain(replayed).await.unwrap();
        assert_eq!(replayed.len(), found, "StreamSessionEvents, strong: {is_strong}");
        let listed = call!(spirits, list_spirits, ListSpiritsRequest::default()).spirits;
        assert_eq!(listed.len(), 1 + found, "ListSpirits, strong: {is_strong}");
        let counted = call!(spirits, count_spirits, CountSpiritsRequest::default()).count;
        assert_eq!(
            counted,
            1 + i64::from(is_strong),
            "CountSpirits, strong: {is_strong}"
        );
    }

    pair.resume_replay().await;
    let listed = eventually("the event reaches the standby", async || {
        let listed = events.list_events(list(&spirit_id)).await.unwrap();
        let listed = listed.into_inner().events;
        (!listed.is_empty()).then_some(listed)
    })
    .await;
    assert_eq!(listed, [stored]);
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_fall_back_to_the_primary_and_writes_never_read_the_standby() {
    let pair = Pair::start(NO_LAG_LIMIT).await;
    let mut events = pair.server.events();
    pair.pause_replay().await;
    let spirit_id = pair.server.spirit().await;
    let request = CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "key")
    };
    let stored = create(&mut events, request.clone()).await;

    let get_spirit = GetSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..GetSpiritRequest::default()
    };
    let found = pair.server.spirits().get_spirit(get_spirit).await.unwrap();
    assert_eq!(found.into_inner().spirit.unwrap().id, spirit_id);
    let found = stored_event(&mut events, &stored.id).await;
    assert_eq!(found, stored);
    let missed = reads(&pair.server, "missed").await;
    assert!(missed > 0, "the gets did not try the standby first");

    for (revision, score) in [(1, 0.1), (2, 0.2)] {
        let update = UpdateEventRequest {
            event_id: stored.id.clone(),
            importance_score: Some(score),
            expected_revision: Some(revision),
            ..UpdateEventRequest::default()
        };
        let updated = events.update_event(update).await.unwrap().into_inner();
        assert_eq!(updated.event.unwrap().revision, revision + 1);
    }
    let again = events.create_event(request).await.unwrap().into_inner();
    assert_eq!(again.outcome(), CreateOutcome::Duplicate);
    assert_eq!(again.event.unwrap().revision, 3, "a stale event was returned");
    assert_eq!(
        reads(&pair.server, "missed").await,
        missed,
        "an update or a create read the standby"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_streams_read_the_primary_instead_of_a_lagging_standby() {
    let pair = Pair::start(NO_LAG_LIMIT).await;
    let mut events = pair.server.events();
    let spirit_id = pair.server.spirit().await;
    pair.pause_replay().await;
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
async fn a_replay_cursor_ahead_of_the_standby_resumes_on_the_primary() {
    let pair = Pair::start(NO_LAG_LIMIT).await;
    let mut events = pair.server.events();
    let spirit_id = pair.server.spirit().await;
    create(&mut events, event_at(&spirit_id, "s", 1)).await;
    eventually("the event reaches the standby", async || {
        (pair.count(&spirit_id).await == 1).then_some(())
    })
    .await;
    pair.pause_replay().await;
    for seconds in 2..=3 {
        create(&mut events, event_at(&spirit_id, "s", seconds)).await;
    }
    let all = events
        .stream_session_events(strong(stream(&spirit_id, "s")))
        .await
        .unwrap();
    let all = drain(all.into_inner()).await.unwrap();
    assert_eq!(all.len(), 3);

    // The cursor points to the first event, which the standby has; its bound is ahead of the standby.
    let resumed = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(all[0].1.clone())),
        ..stream(&spirit_id, "s")
    };
    let resumed = events.stream_session_events(resumed).await.unwrap().into_inner();
    assert_eq!(drain(resumed).await.unwrap(), all[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_rejects_an_unknown_consistency() {
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
            for invalid in ["Strong", "", "primary"] {
                let end = client
                    .call(&path, &[("x-consistency", invalid)], framed(&[]))
                    .await;
                assert_eq!(
                    bad_fields(end.error::<()>()),
                    ["x-consistency"],
                    "{path} {invalid}"
                );
            }
            for valid in ["strong", "eventual"] {
                let end = client.call(&path, &[("x-consistency", valid)], framed(&[])).await;
                let status = end.error::<()>().unwrap_err();
                assert!(
                    !status.message().contains("x-consistency"),
                    "{path} {valid}: {status:?}"
                );
            }
            tried += 1;
        }
    }
    assert!(tried >= 11, "{tried} reading RPCs");
}

#[tokio::test]
async fn a_path_that_the_standby_refuses_is_no_failure_of_the_standby() {
    let pair = Pair::start(NO_LAG_LIMIT).await;
    let spirit_id = pair.server.spirit().await;
    let failed = reads(&pair.server, "failed").await;
    for path in ["$.a =", "$.a"] {
        let request = CountEventsRequest {
            filter: Some(pb::EventFilter {
                meta_matches: Some(path.to_owned()),
                ..pb::EventFilter::default()
            }),
            ..count(&spirit_id)
        };
        let counted = pair.server.events().count_events(request).await;
        assert_eq!(bad_fields(counted), ["filter.meta_matches"], "{path}");
    }
    assert_eq!(reads(&pair.server, "failed").await, failed);
}

#[tokio::test]
async fn an_event_with_cut_content_that_the_standby_does_not_have_yet_is_read_from_the_primary() {
    let pair = Pair::start(NO_LAG_LIMIT).await;
    pair.pause_replay().await;
    let spirit_id = pair.server.spirit().await;
    let created = create(&mut pair.server.events(), event_at(&spirit_id, "s", 1)).await;
    let request = pb::GetEventRequest {
        content_bytes_max: Some(1),
        ..get(&created.id)
    };
    let reply = pair.server.events().get_event(request).await.unwrap();
    let event = reply.into_inner().event.unwrap();
    assert_eq!((event.content(), event.content_bytes), ("h", Some(5)));
    pair.resume_replay().await;
}

#[tokio::test]
async fn distribute_refuses_a_standby() {
    let pair = Pair::start(NO_LAG_LIMIT).await;
    let connect = pair.standby.database.connect.clone();
    let distributor = Distributor::connect(connect).await.unwrap();
    let refused = distributor.distribute(None).await.unwrap_err();
    assert!(matches!(refused, DistributeError::ReadOnly), "{refused}");
}
