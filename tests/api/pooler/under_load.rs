//! Calls in numbers behind PgBouncer in transaction mode, with fewer server connections than the service has: each gets
//! its own answer and nothing is lost, whatever happens to the callers, the pooler or its connections.

use std::time::Duration;

use elephantasm_events::grpc::pb::{
    CountEventsRequest, GetSpiritRequest, ListSpiritsRequest, UpdateEventRequest,
};
use futures_util::future::join_all;
use sqlx::Connection as _;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::pooler::modes::{FEW, Place};
use crate::support::builders::{create, event, keyed, list, mask, refused, stored_event};
use crate::support::harness::TestServer;
use crate::support::load::Load;
use crate::support::pgbouncer::{FOLLOW, IGNORE, Mode, follows_statements, program};
use crate::support::watched::Watched;

/// Spirits with events of their own, the first with one and each with one more.
const SPIRITS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_reads_at_once_through_a_few_connections_each_get_their_own_rows() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let server = place.transactional().await;
    let mut spirits = Vec::new();
    for n in 0..SPIRITS {
        let spirit_id = server.spirit().await;
        let mut last = None;
        for _ in 0..=n {
            last = Some(create(&mut server.events(), event(&spirit_id)).await);
        }
        spirits.push((spirit_id, last.unwrap()));
    }
    let read = async |n: usize| {
        let (spirit_id, last) = &spirits[n % SPIRITS];
        let count = i64::try_from(n % SPIRITS).unwrap() + 1;
        let mut events = server.events();
        match n % 4 {
            0 => {
                let event = stored_event(&mut events, &last.id).await;
                assert_eq!((event.spirit_id(), event.sequence), (spirit_id.as_str(), count));
            }
            1 => {
                let page = events.list_events(list(spirit_id)).await.unwrap().into_inner();
                assert_eq!(i64::try_from(page.events.len()).unwrap(), count);
                assert!(page.events.iter().all(|event| event.spirit_id() == spirit_id));
            }
            2 => {
                let request = GetSpiritRequest {
                    spirit_id: spirit_id.clone(),
                    ..GetSpiritRequest::default()
                };
                let spirit = server.spirits().get_spirit(request).await.unwrap().into_inner();
                let spirit = spirit.spirit.unwrap();
                assert_eq!((&spirit.id, spirit.last_sequence), (spirit_id, count));
            }
            _ => {
                let request = CountEventsRequest {
                    spirit_id: spirit_id.clone(),
                    ..CountEventsRequest::default()
                };
                let counted = events.count_events(request).await.unwrap().into_inner();
                assert_eq!(counted.count, count);
            }
        }
    };
    // Each of the four kinds for each of the spirits, many times.
    join_all((0..600).map(|n| read(n / 4 + n))).await;
    place.nothing_is_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_at_once_through_a_few_connections_have_sequences_without_gaps_and_keep_their_keys() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let server = place.transactional().await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    // Every fourth key is new; the others are taken, or being stored at the same time.
    let send = async |n: usize| {
        let mut request = keyed(&spirit_id, &format!("key {}", n / 4));
        if n.is_multiple_of(5) {
            request = event(&other);
        }
        server.events().create_event(request).await
    };
    let mut stored = 0;
    for _ in 0..3 {
        for result in join_all((0..200).map(send)).await {
            match result {
                Ok(_) => stored += 1,
                refusal => _ = refused(refusal, Code::AlreadyExists, "DUPLICATE_EVENT"),
            }
        }
    }
    let mut connection = place.database.connect().await;
    let found: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select count(*), max(events.sequence), max(spirits.last_sequence)
         from events
         join spirits on spirits.id = spirit_id
         group by spirit_id
         order by count(*)",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(found, [(50, 50, 50), (120, 120, 120)]);
    assert_eq!(stored, 170);
    place.nothing_is_open().await;
}

/// Sets the summary of an event, and makes sure beside the pooler that this is committed.
async fn set_summary(server: &TestServer, place: &Place, event_id: &str, summary: &str) {
    let updated = server.events().update_event(summarising(event_id, summary)).await;
    updated.unwrap();
    let mut connection = place.database.connect().await;
    let (found,): (String,) = sqlx::query_as("select meta_summary from events where id = $1")
        .bind(event_id.parse::<uuid::Uuid>().unwrap())
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(found, summary);
}

fn summarising(event_id: &str, summary: &str) -> UpdateEventRequest {
    UpdateEventRequest {
        event_id: event_id.to_owned(),
        meta_summary: Some(summary.to_owned()),
        update_mask: mask(&["meta_summary"]),
        ..UpdateEventRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_leave_no_transaction_open_and_lose_nothing_that_follows() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let server = place.transactional().await;
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let call = async |n: u64| {
        let mut events = server.events();
        match n % 3 {
            0 => _ = events.list_events(list(&spirit_id)).await,
            1 => _ = events.update_event(summarising(&event_id, "cancelled")).await,
            _ => _ = events.create_event(event(&spirit_id)).await,
        }
    };
    let mut cancelled = 0;
    for round in 0..20 {
        let calls = (0..30).map(|n| timeout(Duration::from_micros(150 * n * (round % 4 + 1)), call(n)));
        let ended = join_all(calls).await;
        cancelled += ended.into_iter().filter(Result::is_err).count();
    }
    assert!(cancelled > 100, "{cancelled} calls were cancelled");
    place.nothing_is_open().await;

    // More than there are connections, so that each takes part.
    for n in 0..40 {
        set_summary(&server, &place, &event_id, &format!("summary {n}")).await;
    }
    join_all((0..40).map(|_| async {
        let page = server.events().list_events(list(&spirit_id)).await;
        let events = page.unwrap().into_inner().events;
        assert!(!events.is_empty());
        assert!(events.iter().all(|event| event.spirit_id() == spirit_id));
    }))
    .await;
    place.nothing_is_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_out_of_time_is_stopped_by_the_database_and_its_transaction_ended() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let direct = place.database.connect.clone();
    let server = place.serve(|settings| {
        settings.store.transaction_pooler = true;
        settings.store.direct = Some(direct);
        settings.store.statement_timeout = Duration::from_millis(300);
    });
    let server = server.await.unwrap();
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let mut connection = place.database.connect().await;
    let mut holder = connection.begin().await.unwrap();
    sqlx::query("select id from events for update")
        .execute(&mut *holder)
        .await
        .unwrap();
    // More than there are connections.
    for _ in 0..=FEW {
        let late = server.events().update_event(summarising(&event_id, "late")).await;
        refused(late, Code::DeadlineExceeded, "DEADLINE");
    }
    holder.rollback().await.unwrap();
    drop(connection);
    place.nothing_is_open().await;
    set_summary(&server, &place, &event_id, "in time").await;
}

/// Kills every connection that PostgreSQL has of the pooler and the server.
async fn kill_connections(place: &Place) {
    let mut connection = place.database.connect().await;
    sqlx::query(
        "select pg_terminate_backend(pid)
         from pg_stat_activity
         where datname = current_database()
         and pid <> pg_backend_pid()",
    )
    .execute(&mut connection)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_loses_its_connections_or_restarts_under_load_is_survived() {
    if program().is_none() {
        return;
    }
    let follow = format!("{IGNORE}\n{FOLLOW} = 200");
    for more in &["", &follow][..=usize::from(follows_statements())] {
        let mut place = Place::new(Mode::Transaction, more).await;
        let direct = place.database.connect.clone();
        let server = place.serve(|settings| {
            settings.store.transaction_pooler = more.is_empty();
            settings.store.direct = Some(direct);
        });
        let server = server.await.unwrap();
        let mut health = Watched::start(&server).await;
        let load = Load::start_apart(&server).await;
        for _ in 0..5 {
            load.stores(20).await;
            kill_connections(&place).await;
        }
        load.stores(20).await;
        place.pooler.stop();
        let away = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
        refused(away, Code::Unavailable, "DATABASE_UNAVAILABLE");
        health.turns(NotServing).await;
        place.pooler.run().await;
        health.turns(Serving).await;
        load.stores(20).await;
        load.ends_all_there(&mut place.database.connect().await).await;
        place.nothing_is_open().await;
    }
}
