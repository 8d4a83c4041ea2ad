//! The sessions of events that were stored before the table of sessions existed are recorded at the start.

use std::sync::Arc;

use elephantasm_events::grpc::pb::ListSessionsRequest;
use elephantasm_events::store::Store;
use sqlx::PgConnection;

use crate::rpc::session_model::assert_active_minutes_are_exact;
use crate::support::builders::{lock_spirit, statements_are_blocked};
use crate::support::harness::{Database, Settings, TestServer};

/// The schema before sessions were recorded, as the version before left it.
const REVERT: &str = "
    drop table changes;
    drop table purges;
    drop index ix_spirits_retention;
    drop table sessions;
    drop index ix_events_deleted_at;
    alter table spirits drop column activity_epoch, drop column last_deleted_at, drop column last_change,
        drop column retention_max_age, drop column retention_deleted_max_age, drop column retention_history_max_age,
        drop column retention_scanned_at;
    delete from _sqlx_migrations where version > 15";

/// 100,000 sessions of two events each, of the spirits in turn; some events are deleted, and some sessions have no live
/// event.
const LOAD: &str = "
    insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id, is_deleted, deleted_at)
    select gen_random_uuid(), spirit_ids[n % 3 + 1], n / 3 + 1, 'x', '', timestamptz '2026-01-01Z' + n % 9973 * interval '7 s',
        'session ' || n / 2, n % 5 < 2, case when n % 5 < 2 then timestamptz '2026-02-01Z' + n * interval '1 ms' end
    from generate_series(0, 199999) as n, (select array_agg(id order by id) as spirit_ids from spirits) as spirits";

fn store(database: &Database) -> Store {
    Store::open(database.connect.clone(), Settings::default().store)
}

/// Number of the spirits whose sessions have been recorded.
async fn recorded(connection: &mut PgConnection) -> i64 {
    let counted: (i64,) = sqlx::query_as("select count(activity_epoch) from spirits")
        .fetch_one(connection)
        .await
        .unwrap();
    counted.0
}

/// As if the start had been killed after the migrations.
const FORGET: &str = "
    truncate sessions;
    update spirits set activity_epoch = null, last_deleted_at = null";

async fn run(connection: &mut PgConnection, script: &'static str) {
    sqlx::raw_sql(script).execute(connection).await.unwrap();
}

/// Asserts that the sessions and the newest deletions of all three spirits are recorded.
async fn assert_recorded(connection: &mut PgConnection) {
    assert_eq!(recorded(connection).await, 3);
    assert_active_minutes_are_exact(connection).await;
    let newest: Vec<(bool,)> = sqlx::query_as(
        "select last_deleted_at = (select max(deleted_at) from events where spirit_id = spirits.id) from spirits",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    assert_eq!(newest, [(true,), (true,), (true,)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_records_the_sessions_of_existing_events_and_goes_on_after_it_was_killed() {
    let database = Arc::new(Database::empty().await);
    let server = TestServer::start_on(Arc::clone(&database), |_| {}).await;
    let mut spirit_ids = [
        server.spirit().await,
        server.spirit().await,
        server.spirit().await,
    ];
    spirit_ids.sort();
    let connection = &mut database.connect().await;
    run(connection, LOAD).await;
    run(connection, REVERT).await;
    store(&database).migrate().await.unwrap();
    assert_recorded(connection).await;

    // The second spirit is locked, so the start ends when only the first is recorded.
    run(connection, FORGET).await;
    let mut locking = database.connect().await;
    let lock = lock_spirit(&mut locking, &spirit_ids[1]).await;
    let start = tokio::spawn({
        let store = store(&database);
        async move { store.migrate().await }
    });
    statements_are_blocked(&server, 1).await;
    start.abort();
    assert!(start.await.unwrap_err().is_cancelled());
    assert_eq!(recorded(connection).await, 1);
    drop(lock);
    drop(locking);

    store(&database).migrate().await.unwrap();
    assert_recorded(connection).await;
    let request = ListSessionsRequest {
        spirit_id: spirit_ids[0].clone(),
        page_size: 200,
        ..ListSessionsRequest::default()
    };
    let page = server
        .sessions()
        .list_sessions(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.sessions.len(), 200);
}
