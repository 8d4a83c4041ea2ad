//! `IngestEvents`: ordered answers, each after its commit; flow control instead of refusals.

use std::time::Duration;

use elephantasm_events::grpc::pb::ingest_events_response::Result as Item;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, CreateOutcome, IngestEventsRequest, IngestEventsResponse, IngestReceipt, OnDuplicate,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::{RpcStatusExt as _, pb as rpc};

use crate::support::builders::{event, keyed, list, lock_spirit, refused};
use crate::support::harness::{PATIENCE, TestServer};

/// Both sides of a stream.
pub struct Ingest {
    requests: mpsc::Sender<IngestEventsRequest>,
    answers: Streaming<IngestEventsResponse>,
}

impl Ingest {
    pub async fn open(server: &TestServer) -> Self {
        let (requests, outgoing) = mpsc::channel(10_000);
        let answers = server
            .events()
            .ingest_events(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        Self { requests, answers }
    }

    pub async fn send(&self, request_id: impl ToString, create: CreateEventRequest) {
        let request = IngestEventsRequest {
            request_id: request_id.to_string(),
            create: Some(create),
        };
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<Option<IngestEventsResponse>, Status> {
        timeout(PATIENCE, self.answers.message())
            .await
            .expect("an answer comes")
    }

    async fn receipt(&mut self) -> IngestReceipt {
        match self.answer().await.unwrap().unwrap().result {
            Some(Item::Receipt(receipt)) => receipt,
            other => panic!("no receipt: {other:?}"),
        }
    }

    async fn error(&mut self) -> rpc::Status {
        match self.answer().await.unwrap().unwrap().result {
            Some(Item::Error(error)) => error,
            other => panic!("no error: {other:?}"),
        }
    }

    /// Closes the sender's side and returns all answers.
    pub async fn finish(mut self) -> Vec<IngestEventsResponse> {
        drop(self.requests);
        let mut answers = Vec::new();
        while let Some(answer) = timeout(PATIENCE, self.answers.message()).await.unwrap().unwrap() {
            answers.push(answer);
        }
        answers
    }
}

fn reason(error: &rpc::Status) -> (Code, String) {
    let info = error.get_details_error_info().expect("every error has ErrorInfo");
    (Code::from_i32(error.code), info.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_request_order_and_items_take_effect_in_it() {
    const ITEMS: usize = 1_500;
    let server = TestServer::start().await;
    let spirits = [
        server.spirit().await,
        server.spirit().await,
        server.spirit().await,
    ];
    let stream = Ingest::open(&server).await;
    for n in 0..ITEMS {
        let mut request = keyed(&spirits[n % 3], &n.to_string());
        if n % 50 == 7 {
            request.event_type = String::new();
        }
        stream.send(n, request).await;
    }
    let answers = stream.finish().await;
    assert_eq!(answers.len(), ITEMS);
    let mut last = [0, 0, 0];
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.request_id, n.to_string());
        match answer.result.unwrap() {
            Item::Receipt(receipt) => {
                last[n % 3] += 1;
                assert_eq!(receipt.sequence, last[n % 3], "item {n}");
                assert_eq!(receipt.outcome(), CreateOutcome::Created);
            }
            Item::Error(error) => {
                assert_eq!(n % 50, 7, "only the bad ones fail: {error:?}");
                let bad = error.get_details_bad_request().unwrap();
                assert_eq!(bad.field_violations[0].field, "create.event_type");
            }
        }
    }
    let (stored,): (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut server.database.connect().await)
        .await
        .unwrap();
    assert_eq!(stored, last.iter().sum::<i64>());
}

#[tokio::test]
async fn an_item_is_answered_while_the_stream_goes_on() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut stream = Ingest::open(&server).await;
    for sequence in 1..=20 {
        stream.send("", event(&spirit_id)).await;
        assert_eq!(stream.receipt().await.sequence, sequence);
    }
    assert!(stream.finish().await.is_empty());
}

#[tokio::test]
async fn one_refused_item_fails_alone_as_create_event_would() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let mut stream = Ingest::open(&server).await;
    stream.send("first", keyed(&spirit_id, "k")).await;
    let first = stream.receipt().await;
    stream.send("again", keyed(&spirit_id, "k")).await;
    assert_eq!(
        reason(&stream.error().await),
        (Code::AlreadyExists, "DUPLICATE_EVENT".to_owned())
    );
    let existing = CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "k")
    };
    stream.send("existing", existing.clone()).await;
    let same = stream.receipt().await;
    assert_eq!(
        (same.event_id, same.sequence, same.outcome),
        (first.event_id, 1, CreateOutcome::Duplicate.into())
    );
    let different = CreateEventRequest {
        content: Some("other".to_owned()),
        ..existing
    };
    stream.send("different", different).await;
    assert_eq!(
        stream.receipt().await.outcome(),
        CreateOutcome::DuplicateDifferent
    );
    let guarded = CreateEventRequest {
        expected_last_sequence: Some(7),
        ..event(&spirit_id)
    };
    stream.send("guarded", guarded).await;
    assert_eq!(
        reason(&stream.error().await),
        (Code::Aborted, "SEQUENCE_MISMATCH".to_owned())
    );
    stream.send("unknown", event(unknown)).await;
    assert_eq!(
        reason(&stream.error().await),
        (Code::NotFound, "SPIRIT_NOT_FOUND".to_owned())
    );
    stream.send("last", event(&spirit_id)).await;
    assert_eq!(stream.receipt().await.sequence, 2);
}

#[tokio::test]
async fn request_ids_are_echoed_and_bounded_and_create_is_required() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut stream = Ingest::open(&server).await;
    let fitting = "🐘".repeat(64);
    stream.send(&fitting, event(&spirit_id)).await;
    assert_eq!(stream.answer().await.unwrap().unwrap().request_id, fitting);
    stream.send(format!("{fitting}x"), event("ada")).await;
    let answer = stream.answer().await.unwrap().unwrap();
    assert_eq!(answer.request_id, fitting, "as much of it as fits");
    let Some(Item::Error(error)) = answer.result else {
        panic!("a request_id of 65 characters passed")
    };
    let bad: Vec<String> = error
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(bad, ["request_id", "create.spirit_id"]);

    let empty = IngestEventsRequest::default();
    stream.requests.send(empty).await.unwrap();
    let error = stream.error().await;
    let bad = error.get_details_bad_request().unwrap().field_violations;
    assert_eq!(bad[0].field, "create");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_is_slowed_and_never_refused_when_the_queue_is_full() {
    const ITEMS: i64 = 500;
    let server = TestServer::start_with(|settings| {
        settings.store.ingest.queue_items_max = 8;
        settings.server.ingest_window = 64;
    })
    .await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let held = lock_spirit(&mut connection, &spirit_id).await;
    let mut stream = Ingest::open(&server).await;
    for n in 0..ITEMS {
        stream.send(n, event(&spirit_id)).await;
    }
    // The streams' share of the queue is full; unary calls have their own.
    crate::support::builders::create(&mut server.events(), event(&other)).await;
    let early = timeout(Duration::from_millis(50), stream.answers.message()).await;
    assert!(early.is_err(), "nothing is answered before its commit");
    held.rollback().await.unwrap();
    for sequence in 1..=ITEMS {
        assert_eq!(stream.receipt().await.sequence, sequence);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_unary_calls_at_once_with_a_time_to_retry() {
    let server = TestServer::start_with(|settings| settings.store.ingest.queue_items_max = 8).await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let held = lock_spirit(&mut connection, &spirit_id).await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (mut events, request) = (server.events(), event(&spirit_id));
            tokio::spawn(async move { events.create_event(request).await })
        })
        .collect();
    let mut refusals = 0;
    let mut waiting = Vec::new();
    for call in calls {
        waiting.push(call);
    }
    crate::support::harness::eventually("all calls but those in the queue are refused", async || {
        (waiting.iter().filter(|call| call.is_finished()).count() == 16).then_some(())
    })
    .await;
    held.rollback().await.unwrap();
    for call in waiting {
        let result = call.await.unwrap();
        if result.is_err() {
            refusals += 1;
            let status = refused(result, Code::ResourceExhausted, "OVERLOADED");
            assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
        }
    }
    assert_eq!(refusals, 16);
    let stored = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert_eq!(
        stored.into_inner().events.len(),
        4,
        "what was refused is not stored"
    );
}

#[tokio::test]
async fn an_oversized_message_ends_the_stream_after_the_answers_before_it() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut stream = Ingest::open(&server).await;
    stream.send(1, event(&spirit_id)).await;
    let oversized = CreateEventRequest {
        content: Some("x".repeat(5 * 1024 * 1024)),
        ..event(&spirit_id)
    };
    stream.send(2, oversized).await;
    assert_eq!(stream.receipt().await.sequence, 1);
    refused(
        stream.answer().await,
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_the_stream_after_the_answers_to_what_was_taken_in() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut stream = Ingest::open(&server).await;
    for n in 0..100 {
        stream.send(n, event(&spirit_id)).await;
    }
    assert_eq!(stream.receipt().await.sequence, 1);
    server.shut_down();
    let mut answered = 1;
    let end = loop {
        match stream.answer().await {
            Ok(Some(_)) => answered += 1,
            Ok(None) => panic!("the stream ended as if all was well"),
            Err(status) => break status,
        }
    };
    refused::<()>(Err(end), Code::Unavailable, "SHUTTING_DOWN");
    let (stored,): (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut server.database.connect().await)
        .await
        .unwrap();
    assert_eq!(stored, answered, "what was taken in is stored and answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_whole_prefixes() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for round in 0..10 {
        let mut stream = Ingest::open(&server).await;
        for n in 0..200 {
            stream.send(n, keyed(&spirit_id, &format!("{round}-{n}"))).await;
        }
        for _ in 0..10 * round {
            stream.receipt().await;
        }
    }
    // A later create by another caller comes after all of them.
    let last = crate::support::builders::create(&mut server.events(), event(&spirit_id)).await;
    let rows: Vec<(i64, Option<String>)> =
        sqlx::query_as("select sequence, dedupe_key from events order by sequence")
            .fetch_all(&mut server.database.connect().await)
            .await
            .unwrap();
    assert!(
        rows.iter()
            .map(|(sequence, _)| *sequence)
            .eq(1..=i64::try_from(rows.len()).unwrap())
    );
    assert!(last.sequence <= i64::try_from(rows.len()).unwrap());
    for round in 0..10 {
        let prefix = format!("{round}-");
        let numbers: Vec<i64> = rows
            .iter()
            .filter_map(|(_, key)| key.as_deref()?.strip_prefix(&prefix)?.parse().ok())
            .collect();
        assert!(numbers.len() >= 10 * round, "acknowledged is stored");
        assert!(numbers.is_sorted(), "in request order");
    }
}
