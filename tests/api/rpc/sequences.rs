//! Sequences are per spirit, without gaps and in commit order.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use elephantasm_events::grpc::pb::{BatchCreateEventsRequest, BatchMode, SoftDeleteSpiritRequest};
use futures_util::future::join_all;
use sqlx::PgConnection;
use tonic::Code;
use uuid::Uuid;

use crate::support::builders::{event, refused};
use crate::support::harness::TestServer;

const WRITERS: usize = 16;
const EVENTS_EACH: usize = 60;

/// Committed sequences of the spirit above `last`, in order.
async fn sequences_above(connection: &mut PgConnection, spirit_id: Uuid, last: i64) -> Vec<i64> {
    let rows: Vec<(i64,)> = sqlx::query_as(
        "select sequence from events where spirit_id = $1 and sequence > $2 order by sequence",
    )
    .bind(spirit_id)
    .bind(last)
    .fetch_all(connection)
    .await
    .unwrap();
    rows.into_iter().map(|(sequence,)| sequence).collect()
}

/// Polls by sequence, as a summariser would, until the writers are done; returns the sequences it read.
async fn poll(mut connection: PgConnection, spirit_id: Uuid, done: Arc<AtomicBool>) -> Vec<i64> {
    let mut seen: Vec<i64> = Vec::new();
    loop {
        let last_round = done.load(Ordering::Acquire);
        seen.extend(sequences_above(&mut connection, spirit_id, seen.last().copied().unwrap_or(0)).await);
        if last_round {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_by_sequence_misses_no_event_of_concurrent_writers() {
    let server = TestServer::start().await;
    let second_server = TestServer::start_on(Arc::clone(&server.database), |_| {}).await;
    let shared = server.spirit().await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(poll(
        server.database.connect().await,
        shared.parse().unwrap(),
        Arc::clone(&done),
    ));

    let mut writers = Vec::new();
    for writer in 0..2 * WRITERS {
        // Half of the writers share a spirit, half have their own; each half uses both servers.
        let spirit_id = if writer < WRITERS {
            shared.clone()
        } else {
            server.spirit().await
        };
        let mut events = if writer % 2 == 0 {
            server.events()
        } else {
            second_server.events()
        };
        writers.push(async move {
            let mut sequences = Vec::new();
            for round in 0..EVENTS_EACH {
                if round % 10 == 0 {
                    let request = BatchCreateEventsRequest {
                        requests: vec![event(&spirit_id); 3],
                        mode: BatchMode::Atomic.into(),
                    };
                    events.batch_create_events(request).await.unwrap();
                }
                let created = events.create_event(event(&spirit_id)).await.unwrap().into_inner();
                sequences.push(created.event.unwrap().sequence);
            }
            sequences
        });
    }
    let acknowledged = join_all(writers).await;
    done.store(true, Ordering::Release);
    let seen = reader.await.unwrap();

    let shared_count = WRITERS * (EVENTS_EACH + 3 * EVENTS_EACH / 10);
    let expected: Vec<i64> = (1..=i64::try_from(shared_count).unwrap()).collect();
    assert_eq!(seen, expected, "each sequence is read once and in order");
    let shared_sequences: Vec<i64> = acknowledged[..WRITERS].iter().flatten().copied().collect();
    assert_eq!(
        shared_sequences.iter().collect::<HashSet<_>>().len(),
        shared_sequences.len(),
        "no sequence is assigned twice"
    );
    for own in &acknowledged[..] {
        assert!(own.is_sorted(), "a writer's sequences increase");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_created_after_its_spirit_was_soft_deleted() {
    let server = TestServer::start().await;
    for _ in 0..10 {
        let spirit_id = server.spirit().await;
        let creates = (0..24).map(|_| {
            let mut events = server.events();
            let request = event(&spirit_id);
            async move { events.create_event(request).await }
        });
        let deletion = async {
            let request = SoftDeleteSpiritRequest {
                spirit_id: spirit_id.clone(),
                ..SoftDeleteSpiritRequest::default()
            };
            let deleted = server.spirits().soft_delete_spirit(request).await.unwrap();
            deleted.into_inner().spirit.unwrap()
        };
        let (results, deleted) = tokio::join!(join_all(creates), deletion);
        let created = results.iter().filter(|result| result.is_ok()).count();
        for result in results.into_iter().filter(Result::is_err) {
            refused(result, Code::NotFound, "SPIRIT_NOT_FOUND");
        }
        let stored = sequences_above(
            &mut server.database.connect().await,
            spirit_id.parse().unwrap(),
            0,
        )
        .await;
        assert_eq!(stored.len(), created);
        assert_eq!(
            deleted.last_sequence,
            i64::try_from(created).unwrap(),
            "every created event precedes the deletion"
        );
        refused(
            server.events().create_event(event(&spirit_id)).await,
            Code::NotFound,
            "SPIRIT_NOT_FOUND",
        );
    }
}
