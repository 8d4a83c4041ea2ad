//! Deadlines and cancellation reach the database: no statement outlives its call, and no cancel request hits a
//! statement of another call.

use std::time::Duration;

use elephantasm_events::grpc::pb::{
    CountEventsRequest, CountSpiritsRequest, CreateSpiritRequest, GetEventRequest, GetSpiritRequest,
    ListSessionsRequest, ListSpiritsRequest, SoftDeleteEventRequest, UpdateEventRequest, UpdateSpiritRequest,
    WatchEventsRequest,
};
use h2::client;
use http::Request;
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::Code;
use uuid::Uuid;

use crate::support::builders::{blocked_statements, create, event, event_at, list, refused, stream};
use crate::support::harness::{PATIENCE, TestServer, eventually};
use crate::support::live::{follow, following};
use crate::support::raw::{RawClient, encoded, read_to_end};

/// Longest time that a statement may outlive its call, on a busy machine.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);
/// Longer than any test waits, so that a statement that ends earlier was ended by the deadline of its call.
const FOREVER: Duration = Duration::from_secs(600);

/// A server on which only a call's own deadline or its cancellation ends a statement.
async fn server_without_statement_timeouts(pool_size: u32) -> TestServer {
    TestServer::start_with(|settings| {
        settings.store.pool_size = pool_size;
        settings.store.statement_timeout = FOREVER;
        settings.store.ingest.flush_timeout = FOREVER;
    })
    .await
}

/// Locks the tables, which blocks every statement on them until the transaction ends.
async fn lock_tables(connection: &mut PgConnection) -> Transaction<'_, Postgres> {
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("lock table events, spirits in access exclusive mode")
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction
}

/// Waits until none of the server's statements waits for a lock, which must happen soon.
async fn blocked_statements_end_soon(connection: &mut PgConnection, what: &str) {
    let started_at = Instant::now();
    eventually(what, async || {
        (blocked_statements(connection).await == 0).then_some(())
    })
    .await;
    assert!(
        started_at.elapsed() < CANCEL_TIME_MAX,
        "{what}: {:?}",
        started_at.elapsed()
    );
}

/// Method and encoded request of the RPCs that run a statement for a single call. RestoreEvent,
/// SoftDeleteSpirit and RestoreSpirit are left out, since they run the statements of the updates.
fn calls(spirit_id: &str, event_id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut calls = event_calls(spirit_id, event_id);
    calls.extend(spirit_calls(spirit_id));
    calls
}

fn event_calls(spirit_id: &str, event_id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (spirit_id, event_id) = (spirit_id.to_owned(), event_id.to_owned());
    vec![
        (
            "EventService/GetEvent",
            encoded(&GetEventRequest {
                event_id: event_id.clone(),
                ..Default::default()
            }),
        ),
        ("EventService/ListEvents", encoded(&list(&spirit_id))),
        (
            "EventService/CountEvents",
            encoded(&CountEventsRequest {
                spirit_id: spirit_id.clone(),
                ..Default::default()
            }),
        ),
        (
            "SessionService/ListSessions",
            encoded(&ListSessionsRequest {
                spirit_id: spirit_id.clone(),
                ..Default::default()
            }),
        ),
        (
            "EventService/StreamSessionEvents",
            encoded(&stream(&spirit_id, "s")),
        ),
        (
            "EventService/StreamSessionEvents",
            encoded(&following(&spirit_id, "s")),
        ),
        (
            "EventService/WatchEvents",
            encoded(&WatchEventsRequest {
                spirit_id: spirit_id.clone(),
                ..Default::default()
            }),
        ),
        (
            "EventService/UpdateEvent",
            encoded(&UpdateEventRequest {
                event_id: event_id.clone(),
                role: Some("user".to_owned()),
                ..Default::default()
            }),
        ),
        (
            "EventService/SoftDeleteEvent",
            encoded(&SoftDeleteEventRequest {
                event_id,
                ..Default::default()
            }),
        ),
    ]
}

fn spirit_calls(spirit_id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let spirit_id = spirit_id.to_owned();
    vec![
        (
            "SpiritService/CreateSpirit",
            encoded(&CreateSpiritRequest {
                name: "Ada".to_owned(),
                ..Default::default()
            }),
        ),
        (
            "SpiritService/GetSpirit",
            encoded(&GetSpiritRequest {
                spirit_id: spirit_id.clone(),
                ..Default::default()
            }),
        ),
        (
            "SpiritService/ListSpirits",
            encoded(&ListSpiritsRequest::default()),
        ),
        (
            "SpiritService/UpdateSpirit",
            encoded(&UpdateSpiritRequest {
                spirit_id,
                name: Some("Eve".to_owned()),
                ..Default::default()
            }),
        ),
        (
            "SpiritService/CountSpirits",
            encoded(&CountSpiritsRequest::default()),
        ),
    ]
}

fn path(method: &str) -> String {
    format!("/elephantasm.events.v1.{method}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_deadline_ends_its_statement_and_frees_the_connection() {
    let server = server_without_statement_timeouts(1).await;
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let (mut connection, mut observer) = (server.database.connect().await, server.database.connect().await);
    let table_lock = lock_tables(&mut connection).await;
    let raw = RawClient::connect(server.addr).await;
    // With a pool of one connection, a call reaches the database only after the previous call has released it.
    for (method, request) in calls(&spirit_id, &event_id) {
        let started_at = Instant::now();
        let end = raw
            .call(&path(method), &[("grpc-timeout", "200m")], request)
            .await;
        refused(end.error::<()>(), Code::DeadlineExceeded, "DEADLINE");
        assert!(
            started_at.elapsed() < CANCEL_TIME_MAX,
            "{method}: {:?}",
            started_at.elapsed()
        );
        blocked_statements_end_soon(&mut observer, method).await;
    }
    table_lock.rollback().await.unwrap();
    let mut events = server.events();
    let listed = events
        .list_events(list(&spirit_id))
        .await
        .unwrap()
        .into_inner()
        .events;
    assert!(!listed[0].is_deleted && listed[0].role.is_none(), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_ends_its_statement() {
    let server = server_without_statement_timeouts(1).await;
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let (mut connection, mut observer) = (server.database.connect().await, server.database.connect().await);
    let table_lock = lock_tables(&mut connection).await;
    let raw = RawClient::connect(server.addr).await;
    for (method, request) in calls(&spirit_id, &event_id) {
        let path = path(method);
        let call = raw.call(&path, &[], request);
        tokio::select! {
            _ = call => panic!("{method} was answered"),
            () = eventually(method, async || (blocked_statements(&mut observer).await == 1).then_some(())) => {}
        }
        blocked_statements_end_soon(&mut observer, method).await;
    }
    table_lock.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_shared_by_several_calls_survives_the_deadlines_of_some() {
    let server = server_without_statement_timeouts(4).await;
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let (mut connection, mut observer) = (server.database.connect().await, server.database.connect().await);
    let table_lock = lock_tables(&mut connection).await;
    let raw = RawClient::connect(server.addr).await;
    let request = GetEventRequest {
        event_id: event_id.clone(),
        ..GetEventRequest::default()
    };
    let path = path("EventService/GetEvent");
    let impatient = [("grpc-timeout", "300m")];
    let (mut client, patient_call) = (server.events(), request.clone());
    let patient_call = tokio::spawn(async move { client.get_event(patient_call).await });
    let impatient = (0..40).map(|_| raw.call(&path, &impatient, encoded(&request)));
    for end in futures_util::future::join_all(impatient).await {
        refused(end.error::<()>(), Code::DeadlineExceeded, "DEADLINE");
    }
    assert!(blocked_statements(&mut observer).await >= 1);
    table_lock.rollback().await.unwrap();
    let got = timeout(PATIENCE, patient_call).await.unwrap().unwrap().unwrap();
    assert_eq!(got.into_inner().event.unwrap().id, event_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_never_hits_a_statement_of_another_call() {
    const CALLS: usize = 1_500;
    let server = server_without_statement_timeouts(2).await;
    let spirit_id = server.spirit().await;
    for second in 0..200 {
        create(&mut server.events(), event_at(&spirit_id, "s", second)).await;
    }
    let raw = RawClient::connect(server.addr).await;
    let (path, request) = (path("EventService/ListEvents"), encoded(&list(&spirit_id)));
    let calls_with_short_deadlines = async {
        for call in 0..CALLS {
            let deadline = format!("{}u", 100 + call * 7 % 4_000);
            raw.call(&path, &[("grpc-timeout", &deadline)], request.clone())
                .await;
        }
    };
    let mut events = server.events();
    let calls_without_deadline = async {
        loop {
            let page = events.list_events(list(&spirit_id)).await.unwrap().into_inner();
            assert_eq!(page.events.len(), 50);
        }
    };
    tokio::select! {
        () = calls_with_short_deadlines => {}
        () = calls_without_deadline => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_call_limit_applies_without_a_deadline_and_with_a_longer_one() {
    const LIMIT: Duration = Duration::from_secs(3);
    let server = TestServer::start_with(|settings| {
        settings.server.call_limit = LIMIT;
        settings.store.statement_timeout = FOREVER;
    })
    .await;
    let spirit_id = server.spirit().await;
    let (mut connection, mut observer) = (server.database.connect().await, server.database.connect().await);
    let table_lock = lock_tables(&mut connection).await;
    let raw = RawClient::connect(server.addr).await;
    let (path, request) = (path("EventService/ListEvents"), encoded(&list(&spirit_id)));
    for headers in [
        &[][..],
        &[("grpc-timeout", "1H")],
        &[("grpc-timeout", "nonsense")],
    ] {
        let end = raw.call(&path, headers, request.clone()).await;
        refused(end.error::<()>(), Code::DeadlineExceeded, "DEADLINE");
        blocked_statements_end_soon(&mut observer, "the server's limit").await;
    }
    table_lock.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_call_limit_does_not_apply_to_a_stream_that_has_started() {
    const LIMIT: Duration = Duration::from_secs(3);
    let server = TestServer::start_with(|settings| settings.server.call_limit = LIMIT).await;
    let spirit_id = server.spirit().await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    follower.caught_up().await;
    tokio::time::sleep(LIMIT).await; // the limit is what the test is about
    create(&mut server.events(), event_at(&spirit_id, "s", 1)).await;
    assert_eq!(follower.sequences(1).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_call_limit_applies_to_a_request_that_never_arrives_in_full() {
    let server = TestServer::start_with(|settings| {
        settings.server.call_limit = Duration::from_secs(2);
    })
    .await;
    let spirit_id = server.spirit().await;
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (requests, connection) = client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut incomplete = Vec::new();
    for (method, message) in calls(&spirit_id, &Uuid::now_v7().to_string()) {
        let mut requests = requests.clone().ready().await.unwrap();
        let request = Request::post(format!("http://{}{}", server.addr, path(method)))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(message[..3].to_vec().into(), false).unwrap();
        incomplete.push((method, response, sending));
    }
    for (method, response, _sending) in incomplete {
        let (head, body) = timeout(PATIENCE, response)
            .await
            .expect(method)
            .unwrap()
            .into_parts();
        let end = read_to_end(head.headers, body).await;
        refused(end.error::<()>(), Code::DeadlineExceeded, "DEADLINE");
    }
}
