//! The ingest queue: bounded in items and bytes, with separate budgets for unary calls and for streams.

use elephantasm_events::grpc::pb::ingest_events_response::Result as Item;
use elephantasm_events::grpc::pb::{CreateEventRequest, IngestEventsRequest, IngestEventsResponse};
use tokio::time::timeout;
use tonic::{Code, Streaming};

use crate::support::builders::{a_statement_is_blocked, create, event, lock_spirit, refused};
use crate::support::harness::{PATIENCE, TestServer, eventually};

const KIB: usize = 1024;

fn with_content(spirit_id: &str, bytes: usize) -> CreateEventRequest {
    CreateEventRequest {
        content: Some("x".repeat(bytes)),
        ..event(spirit_id)
    }
}

/// An ingest stream that sends these creates and stays open.
async fn ingest(server: &TestServer, creates: Vec<CreateEventRequest>) -> Streaming<IngestEventsResponse> {
    use tokio_stream::StreamExt as _;
    let requests = creates.into_iter().map(|create| IngestEventsRequest {
        create: Some(create),
        ..IngestEventsRequest::default()
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let answers = server
        .events()
        .ingest_events(requests.chain(tokio_stream::pending()))
        .await;
    answers.unwrap().into_inner()
}

async fn sequence(stream: &mut Streaming<IngestEventsResponse>) -> i64 {
    let answer = timeout(PATIENCE, stream.message())
        .await
        .expect("the stream answers in time");
    match answer.unwrap().unwrap().result {
        Some(Item::Receipt(receipt)) => receipt.sequence,
        other => panic!("no receipt: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_refuses_calls_beyond_its_bytes_but_accepts_a_larger_one_when_empty() {
    let server = TestServer::start_with(|settings| settings.store.ingest.queue_bytes_max = 64 * KIB).await;
    let (locked, free) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &locked).await;
    let (mut events, request) = (server.events(), with_content(&locked, 20 * KIB));
    let waiting_create = tokio::spawn(async move { create(&mut events, request).await });
    a_statement_is_blocked(&server).await;

    // The budget of calls is half of the queue, 32 KiB.
    create(&mut server.events(), with_content(&free, 8 * KIB)).await;
    for bytes in [16 * KIB, 200 * KIB] {
        let rejected = server.events().create_event(with_content(&free, bytes)).await;
        refused(rejected, Code::ResourceExhausted, "OVERLOADED");
    }
    transaction.rollback().await.unwrap();
    waiting_create.await.unwrap();
    let large = create(&mut server.events(), with_content(&free, 200 * KIB)).await;
    assert_eq!(large.sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_served_while_the_queue_budget_of_calls_is_used_up() {
    let server = TestServer::start_with(|settings| settings.store.ingest.queue_items_max = 2).await;
    let (locked, free) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &locked).await;
    let (mut events, request) = (server.events(), event(&locked));
    let waiting_create = tokio::spawn(async move { create(&mut events, request).await });
    a_statement_is_blocked(&server).await;
    refused(
        server.events().create_event(event(&free)).await,
        Code::ResourceExhausted,
        "OVERLOADED",
    );

    let mut stream = ingest(&server, vec![event(&free); 5]).await;
    for expected in 1..=5 {
        assert_eq!(sequence(&mut stream).await, expected);
    }
    transaction.rollback().await.unwrap();
    waiting_create.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_spirit_delays_only_its_own_items_of_an_ingest_stream() {
    let server = TestServer::start().await;
    let (locked, free, other) = (
        server.spirit().await,
        server.spirit().await,
        server.spirit().await,
    );
    let mut connection = server.database.connect().await;
    let mut observer = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &locked).await;
    let creates = vec![event(&free), event(&locked), event(&free), event(&locked)];
    let mut stream = ingest(&server, creates).await;
    assert_eq!(sequence(&mut stream).await, 1);
    a_statement_is_blocked(&server).await;

    // The third item is stored, but its reply waits for that of the second.
    eventually("the item after the blocked one is stored", async || {
        let (stored,): (i64,) = sqlx::query_as("select count(*) from events")
            .fetch_one(&mut observer)
            .await
            .unwrap();
        (stored == 2).then_some(())
    })
    .await;
    let mut second_stream = ingest(&server, vec![event(&other); 50]).await;
    for expected in 1..=50 {
        assert_eq!(sequence(&mut second_stream).await, expected);
    }
    transaction.rollback().await.unwrap();
    for expected in [1, 2, 2] {
        assert_eq!(sequence(&mut stream).await, expected);
    }
}
