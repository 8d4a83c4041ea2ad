//! `IngestEvents`: ordered answers, each after its commit, and
//! back-pressure instead of errors when the queue is full.

use std::time::Duration;

use elephantasm_events::grpc::pb::ingest_events_response::Result as Item;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, CreateOutcome, IngestEventsRequest, IngestEventsResponse, IngestReceipt, OnDuplicate,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::{RpcStatusExt as _, StatusExt as _, pb as rpc};

use crate::support::builders::{create, event, keyed, list, lock_spirit, refused};
use crate::support::harness::{PATIENCE, TestServer, eventually};

/// The client side of an open `IngestEvents` stream.
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
            .expect("the server answers in time")
    }

    async fn receipt(&mut self) -> IngestReceipt {
        match self.answer().await.unwrap().unwrap().result {
            Some(Item::Receipt(receipt)) => receipt,
            other => panic!("expected a receipt, got {other:?}"),
        }
    }

    async fn error(&mut self) -> rpc::Status {
        match self.answer().await.unwrap().unwrap().result {
            Some(Item::Error(error)) => error,
            other => panic!("expected an error, got {other:?}"),
        }
    }

    /// Half-closes the stream and returns the remaining answers.
    pub async fn finish(mut self) -> Vec<IngestEventsResponse> {
        drop(self.requests);
        let mut answers = Vec::new();
        while let Some(answer) = timeout(PATIENCE, self.answers.message()).await.unwrap().unwrap() {
            answers.push(answer);
        }
        answers
    }
}

/// Code and reason of an item's error.
fn code_and_reason(error: &rpc::Status) -> (Code, String) {
    let info = error.get_details_error_info().expect("every error has ErrorInfo");
    (Code::from_i32(error.code), info.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_applies_and_answers_items_in_request_order() {
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
                assert_eq!(n % 50, 7, "a valid item fails: {error:?}");
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
async fn ingest_answers_an_item_while_the_stream_stays_open() {
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
async fn a_rejected_ingest_item_fails_alone_with_the_error_of_create_event() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let mut stream = Ingest::open(&server).await;
    stream.send("first", keyed(&spirit_id, "k")).await;
    let first = stream.receipt().await;
    stream.send("again", keyed(&spirit_id, "k")).await;
    assert_eq!(
        code_and_reason(&stream.error().await),
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
        code_and_reason(&stream.error().await),
        (Code::Aborted, "SEQUENCE_MISMATCH".to_owned())
    );
    stream.send("unknown", event(unknown)).await;
    assert_eq!(
        code_and_reason(&stream.error().await),
        (Code::NotFound, "SPIRIT_NOT_FOUND".to_owned())
    );
    stream.send("last", event(&spirit_id)).await;
    assert_eq!(stream.receipt().await.sequence, 2);
}

#[tokio::test]
async fn ingest_echoes_request_ids_and_rejects_long_ids_and_missing_creates() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut stream = Ingest::open(&server).await;
    let longest = "🐘".repeat(64);
    stream.send(&longest, event(&spirit_id)).await;
    assert_eq!(stream.answer().await.unwrap().unwrap().request_id, longest);
    stream.send(format!("{longest}x"), event("ada")).await;
    let answer = stream.answer().await.unwrap().unwrap();
    assert_eq!(answer.request_id, longest, "not truncated to the limit");
    let Some(Item::Error(error)) = answer.result else {
        panic!("a request_id of 65 characters was accepted")
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
async fn a_full_queue_slows_ingest_streams_down_and_rejects_none_of_their_items() {
    const ITEMS: i64 = 500;
    let server = TestServer::start_with(|settings| {
        settings.store.ingest.queue_items_max = 8;
        settings.server.ingest_window = 64;
    })
    .await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let lock = lock_spirit(&mut connection, &spirit_id).await;
    let mut stream = Ingest::open(&server).await;
    for n in 0..ITEMS {
        stream.send(n, event(&spirit_id)).await;
    }
    // The queue budget of streams is used up; unary calls have their own.
    create(&mut server.events(), event(&other)).await;
    let early = timeout(Duration::from_millis(50), stream.answers.message()).await;
    assert!(early.is_err(), "an item is answered before its commit");
    lock.rollback().await.unwrap();
    for sequence in 1..=ITEMS {
        assert_eq!(stream.receipt().await.sequence, sequence);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_rejects_unary_creates_at_once_with_retry_info() {
    let server = TestServer::start_with(|settings| settings.store.ingest.queue_items_max = 8).await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let lock = lock_spirit(&mut connection, &spirit_id).await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (mut events, request) = (server.events(), event(&spirit_id));
            tokio::spawn(async move { events.create_event(request).await })
        })
        .collect();
    eventually("every call that is not queued is rejected", async || {
        (calls.iter().filter(|call| call.is_finished()).count() == 16).then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    let mut rejections = 0;
    for call in calls {
        let result = call.await.unwrap();
        if result.is_err() {
            rejections += 1;
            let status = refused(result, Code::ResourceExhausted, "OVERLOADED");
            assert!(status.get_details_retry_info().is_some());
        }
    }
    assert_eq!(rejections, 16);
    let stored = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert_eq!(
        stored.into_inner().events.len(),
        4,
        "a rejected event is stored, or a queued one is not"
    );
}

#[tokio::test]
async fn an_oversized_ingest_message_ends_the_stream_after_the_earlier_answers() {
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
async fn a_draining_server_answers_accepted_ingest_items_before_it_ends_the_stream() {
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
            Ok(None) => panic!("the stream ended with OK"),
            Err(status) => break status,
        }
    };
    refused::<()>(Err(end), Code::Unavailable, "SHUTTING_DOWN");
    let (stored,): (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut server.database.connect().await)
        .await
        .unwrap();
    assert_eq!(stored, answered, "not every stored item was answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_ingest_client_leaves_its_items_stored_in_request_order() {
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
    // Items of the dropped streams may still be committed after this create.
    let last = create(&mut server.events(), event(&spirit_id)).await;
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
        assert!(
            numbers.len() >= 10 * round,
            "an acknowledged item of round {round} is not stored"
        );
        assert!(
            numbers.is_sorted(),
            "round {round} is not in request order: {numbers:?}"
        );
    }
}
