//! Stalled replays hold no database connection and a bounded amount of memory, and dropped ones stop reading.

use std::sync::Arc;

use elephantasm_events::grpc::pb::GetEventRequest;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::support::builders::{create, event, insert_events, stream};
use crate::support::harness::{PATIENCE, TestServer, eventually};

const SESSION_EVENTS: i64 = 20_000;
const STREAMS: usize = 200;
const STREAMS_PER_CONNECTION: usize = 50;
/// Two pages for each stream, the bytes that HTTP/2 has in flight, and slack for the allocator. The session
/// has 20 MiB, so 200 buffered copies would take 4 GiB.
const GROWTH_MAX_KIB: u64 = 400 * 1024;

/// Resident memory of this process, which includes the server; `None` where `/proc` is missing.
pub fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Opens a connection whose flow-control window is large enough that one stream does not starve the others.
pub async fn connect_for_many_streams(addr: std::net::SocketAddr) -> Channel {
    const STREAM_WINDOW: u32 = 64 * 1024;
    const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_stalled_replays_hold_no_database_connection_and_bounded_memory() {
    let server = TestServer::start_with(|settings| settings.store.pool_size = 4).await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, SESSION_EVENTS).await;
    let before = resident_kib();

    let mut stalled = Vec::new();
    for _ in 0..STREAMS / STREAMS_PER_CONNECTION {
        let channel = connect_for_many_streams(server.addr).await;
        for _ in 0..STREAMS_PER_CONNECTION {
            let request = stream(&spirit_id, "s");
            let mut reader = EventServiceClient::new(channel.clone())
                .stream_session_events(request)
                .await
                .unwrap()
                .into_inner();
            let first = timeout(PATIENCE, reader.message())
                .await
                .expect("the first event arrives");
            assert!(first.unwrap().is_some());
            stalled.push(reader); // no further item is read
        }
    }

    let mut events = server.events();
    for _ in 0..20 {
        let created = create(&mut events, event(&spirit_id)).await;
        let request = GetEventRequest {
            event_id: created.id,
            ..GetEventRequest::default()
        };
        events.get_event(request).await.unwrap();
    }
    all_idle(&server).await;
    if let (Some(before), Some(now)) = (before, resident_kib()) {
        let growth = now.saturating_sub(before);
        assert!(
            growth < GROWTH_MAX_KIB,
            "memory grew by {growth} KiB for {STREAMS} stalled streams"
        );
    }

    // A stream that is read again delivers the whole session.
    let mut reader = stalled.pop().unwrap();
    let mut count = 1;
    while timeout(PATIENCE, reader.message())
        .await
        .unwrap()
        .unwrap()
        .is_some()
    {
        count += 1;
    }
    assert_eq!(count, SESSION_EVENTS);
}

/// Waits until every connection to the database but the test's own is idle and outside a transaction.
pub async fn all_idle(server: &TestServer) {
    let mut connection = server.database.connect().await;
    eventually("every connection is idle", async || {
        let (busy,): (i64,) = sqlx::query_as(
            "select count(*) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        (busy == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_replay_stops_its_reads() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, SESSION_EVENTS).await;
    for _ in 0..20 {
        let request = stream(&spirit_id, "s");
        let mut reader = server
            .events()
            .stream_session_events(request)
            .await
            .unwrap()
            .into_inner();
        reader.message().await.unwrap();
    }
    all_idle(&server).await;
    let fetched = fetched(server, "relname = 'events'").await;
    let all = 20 * SESSION_EVENTS;
    assert!(
        fetched < all / 2,
        "{fetched} of {all} rows were read for 20 streams that received one event each"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_replay_is_bounded_in_bytes_of_meta() {
    const EVENTS: i64 = 600;
    const FIRST_PAGE: usize = 50;
    /// PostgreSQL splits 32 KiB of incompressible data into TOAST rows of about 2,000 bytes.
    const ROWS_EACH: i64 = 16;
    const META: &str = "(select string_agg(md5(n || ' ' || i), '') from generate_series(1, 1024) as i)";
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_large(&server, &spirit_id, EVENTS, "''", META).await;
    let request = stream(&spirit_id, "s");
    let response = server.events().stream_session_events(request).await.unwrap();
    let mut stalled = response.into_inner();
    for _ in 0..=FIRST_PAGE {
        assert!(stalled.message().await.unwrap().is_some());
    }
    let toast = "relid = (select reltoastrelid from pg_class where oid = 'events'::regclass)";
    let (fetched, all) = (fetched(server, toast).await, EVENTS * ROWS_EACH);
    assert!(
        fetched < all / 2,
        "{fetched} of {all} TOAST rows were read for a stream that stalls after {FIRST_PAGE} events"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_replays_hold_few_pages_of_meta_however_well_it_is_compressed() {
    const STREAMS: usize = 50;
    /// Two pages of 256 KiB for each stream are 25 MiB; without a bound by text they would take 1.6 GiB.
    const GROWTH_MAX_KIB: u64 = 200 * 1024;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_large(&server, &spirit_id, 600, "''", "repeat(' ', 60000)").await;
    let before = resident_kib();
    let channel = connect_for_many_streams(server.addr).await;
    let mut stalled = Vec::new();
    for _ in 0..STREAMS {
        let mut events = EventServiceClient::new(channel.clone());
        let response = events.stream_session_events(stream(&spirit_id, "s")).await;
        let mut reader = response.unwrap().into_inner();
        let first = timeout(PATIENCE, reader.message()).await;
        assert!(first.expect("the first event arrives").unwrap().is_some());
        stalled.push(reader); // not read any further
    }
    all_idle(&server).await;
    if let (Some(before), Some(now)) = (before, resident_kib()) {
        let growth = now.saturating_sub(before);
        assert!(
            growth < GROWTH_MAX_KIB,
            "memory grew by {growth} KiB for {STREAMS} stalled streams"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_replay_reads_no_further_while_it_sends_an_event_larger_than_a_page() {
    /// PostgreSQL splits 1 MiB into TOAST rows of 1,996 bytes.
    const ROWS_EACH: i64 = 526;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    sqlx::query("alter table events alter column content set storage external") // not compressed
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    insert_large(&server, &spirit_id, 8, "repeat('x', 1024 * 1024)", "''::text").await;
    let mut events = EventServiceClient::new(connect_for_many_streams(server.addr).await);
    let response = events.stream_session_events(stream(&spirit_id, "s")).await;
    let mut stalled = response.unwrap().into_inner();
    assert!(stalled.message().await.unwrap().is_some());
    all_idle(&server).await;
    drop(stalled); // else the shutdown waits for it up to the drain limit
    let toast = "relid = (select reltoastrelid from pg_class where oid = 'events'::regclass)";
    let fetched = fetched(server, toast).await;
    assert!(
        fetched <= 2 * ROWS_EACH,
        "{fetched} TOAST rows were read: more than the first event and the next one, which is being sent"
    );
}

/// Inserts events into the session `s` of a new spirit, bypassing the service. `content` and `meta` are SQL
/// expressions over the event's number `n`; the second is the value of one key.
async fn insert_large(server: &TestServer, spirit_id: &str, count: i64, content: &str, meta: &str) {
    let mut connection = server.database.connect().await;
    let sql = format!(
        "with advanced as (update spirits set last_sequence = $2 where id = $1::text::uuid)
         insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id, meta)
         select gen_random_uuid(), $1::text::uuid, n, 'x', {content}, to_timestamp(n), 's',
             jsonb_build_object('k', {meta})
         from generate_series(1, $2) as n"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(spirit_id)
        .bind(count)
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

/// Rows of a table that a server has fetched through indexes. Stops the server first, so that all its
/// connections have reported to PostgreSQL's statistics.
pub async fn fetched(server: TestServer, table: &str) -> i64 {
    let database = Arc::clone(&server.database);
    server.stop().await.unwrap();
    let mut connection = database.connect().await;
    eventually("the server's connections are closed", async || {
        let (open,): (i64,) = sqlx::query_as(
            "select count(*) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()
             and backend_type = 'client backend'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        (open == 0).then_some(())
    })
    .await;
    let sql = format!("select idx_tup_fetch from pg_stat_all_tables where {table}");
    let (rows,) = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(&mut connection)
        .await
        .unwrap();
    rows
}
