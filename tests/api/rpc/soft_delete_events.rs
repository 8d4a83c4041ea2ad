//! `SoftDeleteEvents` and `RestoreEvents`: rewind, clear, filters, guards, and the undoing of exactly one deletion.

use elephantasm_events::grpc::pb::{
    CreateEventRequest, EventFilter, EventOrder, ListEventsRequest, RestoreEventRequest,
    RestoreEventsRequest, SoftDeleteEventsRequest, SoftDeleteEventsResponse,
};
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::support::builders::{
    at, bad_fields, create, event, event_at, insert_events, list, metadata, number, object, refused,
};
use crate::support::harness::{PATIENCE, TestServer};
use crate::support::model::{delete, pages, sequences, store};
use crate::support::validation::UNKNOWN_ID;

fn of_spirit(spirit_id: &str) -> SoftDeleteEventsRequest {
    SoftDeleteEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..SoftDeleteEventsRequest::default()
    }
}

fn of_session(spirit_id: &str, session_id: &str) -> SoftDeleteEventsRequest {
    SoftDeleteEventsRequest {
        session_id: Some(session_id.to_owned()),
        ..of_spirit(spirit_id)
    }
}

async fn deleted(
    server: &TestServer,
    request: SoftDeleteEventsRequest,
) -> Result<SoftDeleteEventsResponse, Status> {
    let response = server.events().soft_delete_events(request).await?;
    Ok(response.into_inner())
}

async fn restored(
    server: &TestServer,
    spirit_id: &str,
    deleted_at: Option<Timestamp>,
    session_id: Option<&str>,
) -> i64 {
    let request = RestoreEventsRequest {
        spirit_id: spirit_id.to_owned(),
        deleted_at,
        session_id: session_id.map(str::to_owned),
    };
    let response = server.events().restore_events(request).await.unwrap();
    response.into_inner().restored_count
}

/// The sequences of the live events.
async fn live(server: &TestServer, spirit_id: &str) -> Vec<i64> {
    let request = ListEventsRequest {
        order: EventOrder::Sequence.into(),
        page_size: 200,
        ..list(spirit_id)
    };
    sequences(&pages(&mut server.events(), request).await.concat())
}

/// A spirit with events 1 to 9, in the sessions a, b and none by turns.
async fn spirit_with_events(server: &TestServer) -> String {
    let spirit_id = server.spirit().await;
    let requests = (0..9).map(|n| match n % 3 {
        0 => event_at(&spirit_id, "a", n),
        1 => event_at(&spirit_id, "b", n),
        _ => CreateEventRequest {
            meta: Some(object([("n", number(2.0))])),
            ..event(&spirit_id)
        },
    });
    store(&mut server.events(), requests.collect()).await;
    spirit_id
}

#[tokio::test]
async fn restore_events_undoes_a_deletion_by_session_sequence_or_filter() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_events(&server).await;
    let sequence = |after| SoftDeleteEventsRequest {
        after_sequence: Some(after),
        ..of_spirit(&spirit_id)
    };
    let filter = SoftDeleteEventsRequest {
        filter: Some(EventFilter {
            occurred_from: Some(at(3)),
            occurred_until: Some(at(5)),
            ..EventFilter::default()
        }),
        ..of_spirit(&spirit_id)
    };
    let path = SoftDeleteEventsRequest {
        filter: Some(EventFilter {
            meta_matches: Some("$.n == 2".to_owned()),
            ..EventFilter::default()
        }),
        ..of_spirit(&spirit_id)
    };
    let rewind = SoftDeleteEventsRequest {
        after_sequence: Some(1),
        ..of_session(&spirit_id, "a")
    };
    let all: Vec<i64> = (1..=9).collect();
    for (name, request, taken) in [
        ("clear a session", of_session(&spirit_id, "a"), &[1, 4, 7][..]),
        ("rewind a session", rewind, &[4, 7]),
        ("rewind the spirit", sequence(6), &[7, 8, 9]),
        ("after the last", sequence(9), &[]),
        ("everything", sequence(0), &all),
        ("a filter", filter, &[4, 5]),
        ("a path", path, &[3, 6, 9]),
        ("an unknown session", of_session(&spirit_id, "x"), &[]),
    ] {
        let reply = deleted(&server, request.clone()).await.unwrap();
        assert_eq!(
            usize::try_from(reply.deleted_count).unwrap(),
            taken.len(),
            "{name}"
        );
        assert_eq!(reply.deleted_at.is_some(), !taken.is_empty(), "{name}");
        let left: Vec<i64> = all.iter().copied().filter(|n| !taken.contains(n)).collect();
        assert_eq!(live(&server, &spirit_id).await, left, "{name}");
        assert_eq!(
            deleted(&server, request).await.unwrap().deleted_count,
            0,
            "{name}, again"
        );
        if reply.deleted_at.is_some() {
            assert_eq!(
                restored(&server, &spirit_id, reply.deleted_at, None).await,
                reply.deleted_count
            );
        }
        assert_eq!(live(&server, &spirit_id).await, all, "{name}, restored");
    }
}

#[tokio::test]
async fn a_restore_brings_back_exactly_the_set_of_one_deletion() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut client = server.events();
    let requests = (0..6).map(|n| event_at(&spirit_id, ["a", "b"][n % 2], 1));
    let mut events = store(&mut client, requests.collect()).await;
    delete(&mut client, &mut events[0]).await; // before
    let reply = deleted(
        &server,
        SoftDeleteEventsRequest {
            after_sequence: Some(0),
            ..of_spirit(&spirit_id)
        },
    )
    .await
    .unwrap();
    assert_eq!(reply.deleted_count, 5);
    // Restored in between and deleted again, so it belongs to another deletion.
    let request = RestoreEventRequest {
        event_id: events[1].id.clone(),
        ..RestoreEventRequest::default()
    };
    client.restore_event(request).await.unwrap();
    delete(&mut client, &mut events[1]).await;
    assert_ne!(events[0].deleted_at, reply.deleted_at);
    assert_ne!(events[1].deleted_at, reply.deleted_at);

    assert_eq!(
        restored(&server, &spirit_id, reply.deleted_at, Some("a")).await,
        2
    );
    assert_eq!(live(&server, &spirit_id).await, [3, 5]);
    assert_eq!(restored(&server, &spirit_id, reply.deleted_at, None).await, 2);
    assert_eq!(live(&server, &spirit_id).await, [3, 4, 5, 6]);
    assert_eq!(restored(&server, &spirit_id, reply.deleted_at, None).await, 0);
    assert_eq!(restored(&server, &spirit_id, events[1].deleted_at, None).await, 1);
}

#[tokio::test]
async fn deletions_of_a_spirit_have_times_of_their_own_even_if_the_clock_steps_back() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut client = server.events();
    let requests = (0..4).map(|n| event_at(&spirit_id, "s", n));
    let mut events = store(&mut client, requests.collect()).await;
    // As if a deletion had been made an hour in the future.
    sqlx::query("update spirits set last_deleted_at = now() + interval '1 hour' where id = $1::uuid")
        .bind(&spirit_id)
        .execute(&mut server.database.connect().await)
        .await
        .unwrap();
    let mut times = Vec::new();
    for event in &mut events[..3] {
        delete(&mut client, event).await;
        times.push(event.deleted_at.unwrap());
    }
    times.push(
        deleted(&server, of_session(&spirit_id, "s"))
            .await
            .unwrap()
            .deleted_at
            .unwrap(),
    );
    let micros: Vec<i64> = times
        .iter()
        .map(|time| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000)
        .collect();
    assert!(micros.windows(2).all(|pair| pair[1] == pair[0] + 1), "{micros:?}");
}

#[tokio::test]
async fn soft_delete_events_checks_its_guards_and_deletes_nothing_if_one_fails() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_events(&server).await;
    let guarded = |last, of_session_last| SoftDeleteEventsRequest {
        expected_last_sequence: last,
        expected_session_last_sequence: of_session_last,
        ..of_session(&spirit_id, "a")
    };
    let status = refused(
        deleted(&server, guarded(Some(8), None)).await,
        Code::Aborted,
        "SEQUENCE_MISMATCH",
    );
    assert_eq!(metadata(&status, "actual"), "9");
    let status = refused(
        deleted(&server, guarded(Some(9), Some(6))).await,
        Code::Aborted,
        "SEQUENCE_MISMATCH",
    );
    assert_eq!(
        (metadata(&status, "actual"), metadata(&status, "session_id")),
        ("7".to_owned(), "a".to_owned())
    );
    assert_eq!(live(&server, &spirit_id).await.len(), 9);
    let reply = deleted(&server, guarded(Some(9), Some(7))).await.unwrap();
    assert_eq!(reply.deleted_count, 3);
    create(&mut server.events(), event_at(&spirit_id, "a", 1)).await;
}

#[tokio::test]
async fn soft_delete_events_refuses_unknown_spirits_and_selections_of_everything() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    refused(
        deleted(&server, of_session(UNKNOWN_ID, "s")).await,
        Code::NotFound,
        "SPIRIT_NOT_FOUND",
    );
    let restore = RestoreEventsRequest {
        spirit_id: UNKNOWN_ID.to_owned(),
        deleted_at: Some(at(1)),
        session_id: None,
    };
    refused(
        server.events().restore_events(restore).await,
        Code::NotFound,
        "SPIRIT_NOT_FOUND",
    );
    let filter = |include_deleted| {
        Some(EventFilter {
            include_deleted,
            ..EventFilter::default()
        })
    };
    for (request, expected) in [
        (of_spirit(&spirit_id), &["session_id"][..]),
        (
            SoftDeleteEventsRequest {
                filter: filter(false),
                ..of_spirit(&spirit_id)
            },
            &["session_id"],
        ),
        (
            SoftDeleteEventsRequest {
                filter: filter(true),
                ..of_session(&spirit_id, "s")
            },
            &["filter.include_deleted"],
        ),
        (
            SoftDeleteEventsRequest {
                after_sequence: Some(-1),
                expected_last_sequence: Some(-1),
                expected_session_last_sequence: Some(-1),
                ..of_spirit("x")
            },
            &[
                "spirit_id",
                "expected_session_last_sequence",
                "after_sequence",
                "expected_last_sequence",
            ],
        ),
    ] {
        assert_eq!(bad_fields(deleted(&server, request).await), expected);
    }
    let path = SoftDeleteEventsRequest {
        filter: Some(EventFilter {
            meta_matches: Some("$.a".to_owned()),
            ..EventFilter::default()
        }),
        ..of_spirit(&spirit_id)
    };
    assert_eq!(bad_fields(deleted(&server, path).await), ["filter.meta_matches"]);
    let restore = RestoreEventsRequest {
        spirit_id: "x".to_owned(),
        deleted_at: None,
        session_id: Some(String::new()),
    };
    let fields = bad_fields(server.events().restore_events(restore).await);
    assert_eq!(fields, ["deleted_at", "spirit_id", "session_id"]);
}

/// Moves the events of a spirit to sessions of ten events each.
async fn spread_over_sessions(server: &TestServer, spirit_id: &str) {
    let mut connection = server.database.connect().await;
    for sql in [
        "update events set session_id = 's-' || sequence / 10 where spirit_id = $1::text::uuid",
        "insert into sessions (spirit_id, session_id, active_minute)
         select spirit_id, session_id, date_trunc('minute', max(occurred_at), 'UTC')
         from events
         where spirit_id = $1::text::uuid
         group by spirit_id, session_id",
    ] {
        sqlx::query(sql)
            .bind(spirit_id)
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_100000_events_does_not_block_other_spirits_and_one_more_is_refused() {
    const MAX: i64 = 100_000;
    let server = TestServer::start_with(|settings| {
        settings.server.call_limit = PATIENCE;
    })
    .await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    insert_events(&server, &spirit_id, MAX + 1).await;
    spread_over_sessions(&server, &spirit_id).await;
    let everything = SoftDeleteEventsRequest {
        after_sequence: Some(0),
        ..of_spirit(&spirit_id)
    };
    let status = refused(
        deleted(&server, everything.clone()).await,
        Code::FailedPrecondition,
        "TOO_MANY_EVENTS",
    );
    assert_eq!(metadata(&status, "max"), MAX.to_string());

    let mut client = server.events();
    let most = SoftDeleteEventsRequest {
        after_sequence: Some(1),
        ..everything
    };
    let mut deletion =
        tokio::spawn(async move { client.soft_delete_events(most).await.unwrap().into_inner() });
    let mut creates = 0;
    let mut client = server.events();
    let reply = loop {
        tokio::select! {
            biased;
            reply = &mut deletion => break reply.unwrap(),
            _ = create(&mut client, event(&other)) => creates += 1,
        }
    };
    assert_eq!(reply.deleted_count, MAX);
    assert!(
        creates > 10,
        "{creates} creates of another spirit during the deletion"
    );
    assert_eq!(restored(&server, &spirit_id, reply.deleted_at, None).await, MAX);
}
