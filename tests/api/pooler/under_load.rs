//! Concurrent calls behind PgBouncer in transaction mode with fewer server connections than the service
//! opens: each call gets its own answer and no event is lost when calls are cancelled, connections break or
//! the pooler restarts.

use std::time::Duration;

use elephantasm_events::grpc::pb::{
    CountEventsRequest, GetSpiritRequest, ListSpiritsRequest, UpdateEventRequest,
};
use futures_util::future::join_all;
use sqlx::Connection as _;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::pooler::modes::{PooledDatabase, SHARED_POOL_SIZE};
use crate::support::builders::{create, event, keyed, list, mask, refused, stored_event};
use crate::support::harness::TestServer;
use crate::support::health_watch::HealthWatch;
use crate::support::load::Load;
use crate::support::pgbouncer::{
    IGNORE_OPTIONS, MAX_PREPARED_STATEMENTS, Mode, program, supports_prepared_statements,
};

/// Spirits in the read test; the first has one event, each further spirit one more than the previous one.
const SPIRITS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reads_through_a_transaction_pooler_each_return_their_own_rows() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Transaction, "").await;
    let server = pooled.serve_in_transaction_mode().await;
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
    // Each of the four calls for each of the spirits, many times. More calls at once than the connection may have replies
    // for would be refused.
    for first in (0..600).step_by(60) {
        join_all((first..first + 60).map(|n| read(n / 4 + n))).await;
    }
    pooled.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_creates_through_a_transaction_pooler_have_gapless_sequences_and_distinct_dedupe_keys() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Transaction, "").await;
    let server = pooled.serve_in_transaction_mode().await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    // Four consecutive calls share a dedupe key; every fifth call goes to the other spirit without a key.
    let create_nth = async |n: usize| {
        let mut request = keyed(&spirit_id, &format!("key {}", n / 4));
        if n.is_multiple_of(5) {
            request = event(&other);
        }
        server.events().create_event(request).await
    };
    let mut stored = 0;
    for _ in 0..3 {
        for result in join_all((0..200).map(create_nth)).await {
            match result {
                Ok(_) => stored += 1,
                rejected => _ = refused(rejected, Code::AlreadyExists, "DUPLICATE_EVENT"),
            }
        }
    }
    let mut connection = pooled.database.connect().await;
    let stored_by_spirit: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select count(*), max(events.sequence), max(spirits.last_sequence)
         from events
         join spirits on spirits.id = spirit_id
         group by spirit_id
         order by count(*)",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(stored_by_spirit, [(50, 50, 50), (120, 120, 120)]);
    assert_eq!(stored, 170);
    pooled.wait_until_idle().await;
}

/// Sets the summary of an event and checks over a direct connection that it is committed.
async fn set_summary(server: &TestServer, pooled: &PooledDatabase, event_id: &str, summary: &str) {
    let updated = server
        .events()
        .update_event(summary_update(event_id, summary))
        .await;
    updated.unwrap();
    let mut connection = pooled.database.connect().await;
    let (found,): (String,) = sqlx::query_as("select meta_summary from events where id = $1")
        .bind(event_id.parse::<uuid::Uuid>().unwrap())
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(found, summary);
}

fn summary_update(event_id: &str, summary: &str) -> UpdateEventRequest {
    UpdateEventRequest {
        event_id: event_id.to_owned(),
        meta_summary: Some(summary.to_owned()),
        update_mask: mask(&["meta_summary"]),
        ..UpdateEventRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_behind_a_pooler_leave_no_open_transaction_and_lose_no_later_update() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Transaction, "").await;
    let server = pooled.serve_in_transaction_mode().await;
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let nth_call = async |n: u64| {
        let mut events = server.events();
        match n % 3 {
            0 => _ = events.list_events(list(&spirit_id)).await,
            1 => _ = events.update_event(summary_update(&event_id, "cancelled")).await,
            _ => _ = events.create_event(event(&spirit_id)).await,
        }
    };
    let mut cancelled = 0;
    for round in 0..20 {
        let calls = (0..30).map(|n| timeout(Duration::from_micros(150 * n * (round % 4 + 1)), nth_call(n)));
        let results = join_all(calls).await;
        cancelled += results.into_iter().filter(Result::is_err).count();
    }
    assert!(cancelled > 100, "only {cancelled} calls were cancelled");
    pooled.wait_until_idle().await;

    // More updates than server connections, so that every connection is used.
    for n in 0..40 {
        set_summary(&server, &pooled, &event_id, &format!("summary {n}")).await;
    }
    join_all((0..40).map(|_| async {
        let page = server.events().list_events(list(&spirit_id)).await;
        let events = page.unwrap().into_inner().events;
        assert!(!events.is_empty());
        assert!(events.iter().all(|event| event.spirit_id() == spirit_id));
    }))
    .await;
    pooled.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_timeout_behind_a_pooler_ends_the_statement_and_its_transaction() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Transaction, "").await;
    let direct = pooled.database.connect.clone();
    let server = pooled.serve(|settings| {
        settings.store.transaction_pooler = true;
        settings.store.direct = Some(direct);
        settings.store.statement_timeout = Duration::from_secs(2);
    });
    let server = server.await.unwrap();
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let mut connection = pooled.database.connect().await;
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("select id from events for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    // More updates than server connections.
    for _ in 0..=SHARED_POOL_SIZE {
        let late = server
            .events()
            .update_event(summary_update(&event_id, "late"))
            .await;
        refused(late, Code::DeadlineExceeded, "DEADLINE");
    }
    lock.rollback().await.unwrap();
    drop(connection);
    pooled.wait_until_idle().await;
    set_summary(&server, &pooled, &event_id, "in time").await;
}

/// Terminates every PostgreSQL backend of the pooler and the service.
async fn terminate_connections(pooled: &PooledDatabase) {
    let mut connection = pooled.database.connect().await;
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
async fn a_pooler_that_loses_its_connections_or_restarts_under_load_loses_no_event() {
    if program().is_none() {
        return;
    }
    let follow = format!("{IGNORE_OPTIONS}\n{MAX_PREPARED_STATEMENTS} = 200");
    for more in &["", &follow][..=usize::from(supports_prepared_statements())] {
        let mut pooled = PooledDatabase::new(Mode::Transaction, more).await;
        let direct = pooled.database.connect.clone();
        let server = pooled.serve(|settings| {
            settings.store.transaction_pooler = more.is_empty();
            settings.store.direct = Some(direct);
        });
        let server = server.await.unwrap();
        let mut health = HealthWatch::start(&server).await;
        let load = Load::start_with_own_spirits(&server).await;
        for _ in 0..5 {
            load.wait_for_creates(20).await;
            terminate_connections(&pooled).await;
        }
        load.wait_for_creates(20).await;
        pooled.pooler.stop();
        let rejected = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
        refused(rejected, Code::Unavailable, "DATABASE_UNAVAILABLE");
        health.wait_for(NotServing).await;
        pooled.pooler.run().await;
        health.wait_for(Serving).await;
        load.wait_for_creates(20).await;
        load.finish_and_verify(&mut pooled.database.connect().await).await;
        pooled.wait_until_idle().await;
    }
}
