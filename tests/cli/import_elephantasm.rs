//! Tests of `import-elephantasm`: the move from the database of the Python backend.

use std::process::Stdio;

use elephantasm_events::grpc::pb::{Event, EventFilter, EventOrder, ListEventsRequest};
use sqlx::{ConnectOptions as _, Executor as _, PgConnection};

use crate::harness::{Exited, Server, TestDir, eventually, finish};

/// The tables of the Python backend, and a column and a table of its later versions.
const SCHEMA: &str = "
    create table alembic_version (version_num varchar(32) primary key);
    create table users (id uuid primary key);
    create table spirits (
        id uuid primary key default gen_random_uuid(), name varchar(255) not null, description varchar, meta jsonb,
        is_deleted boolean not null, created_at timestamp not null, updated_at timestamp not null, user_id uuid
    );
    create table events (
        id uuid primary key default gen_random_uuid(), spirit_id uuid not null references spirits (id),
        event_type varchar(100) not null, meta_summary varchar, source_uri varchar, content varchar not null,
        occurred_at timestamp, session_id varchar(255), meta jsonb not null, dedupe_key varchar(255),
        importance_score double precision, is_deleted boolean not null, created_at timestamp not null,
        updated_at timestamp not null
    );
    insert into spirits values
        ('00000000-0000-4000-8000-000000000001', 'Ada', null, null, false, '2025-01-01 10:00', '2025-01-02 10:00', null),
        ('00000000-0000-4000-8000-000000000002', 'Bob', 'gone', '{\"a\": 1}', true, '2025-02-01', '2025-02-02', null);
";

/// Events in an order that is not that of their times. Each is named by its content.
const EVENTS: &str = "
    insert into events (
        content, spirit_id, event_type, occurred_at, session_id, meta, dedupe_key, importance_score, is_deleted,
        created_at, updated_at, source_uri, meta_summary
    )
    select
        content, ('00000000-0000-4000-8000-00000000000' || spirit)::uuid, event_type, occurred_at::timestamp, session_id,
        meta::jsonb, dedupe_key, importance_score, is_deleted, created_at::timestamp, updated_at::timestamp, source_uri,
        meta_summary
    from (values
        ('third', 1, 'a', '2025-10-17 14:23:15.25', 's', '{}', 'k', 0.5, false, '2025-10-17 15:00:02', '2025-10-18', 'u', 'm'),
        ('first', 1, 'a', null, 's', '[1]', 'k', 7.0, false, '2025-10-17 15:00:00', '2025-10-18', null, null),
        ('second', 1, 'a', '2025-10-17 14:00', '', '{\"id\": 1234567890123456789}', null, null, true, '2025-10-17 15:00:01', '2025-10-19 01:02:03.000004', null, null),
        ('', 1, 'a', '2030-01-01', 'deleted', 'null', null, null, true, '2025-10-17 15:00:03', '2025-10-19', null, null),
        ('untyped', 1, '', '2025-01-01', null, '{}', null, null, false, '2025-10-17 15:00:04', '2025-10-19', null, null),
        ('endless', 1, 'a', 'infinity', null, '{}', null, null, false, '2025-10-17 15:00:04', '2025-10-19', null, null),
        ('of Bob', 2, 'a', '2025-01-01', 's', '{}', 'k', null, false, '2025-10-17 15:00:04', '2025-10-19', null, null)
    ) as events (
        content, spirit, event_type, occurred_at, session_id, meta, dedupe_key, importance_score, is_deleted,
        created_at, updated_at, source_uri, meta_summary
    )";

/// Creates the other database beside that of the server.
pub async fn legacy_database(test_dir: &TestDir) -> PgConnection {
    test_dir
        .connect()
        .await
        .execute("create database legacy")
        .await
        .unwrap();
    let password = std::fs::read_to_string(test_dir.data.join("password")).unwrap();
    let options = test_dir.connect_options(&password).database("legacy");
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(SCHEMA).execute(&mut connection).await.unwrap();
    connection
}

async fn run_move(test_dir: &TestDir) -> Exited {
    let from = test_dir.database_url("legacy");
    finish(&mut test_dir.command(&["import-elephantasm", "--from", &from])).await
}

/// The events of a spirit in the order of their sequences.
async fn events(server: &Server, spirit_id: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        order: EventOrder::Sequence.into(),
        ..ListEventsRequest::default()
    };
    let mut client = server.events().await;
    client.list_events(request).await.unwrap().into_inner().events
}

const ADA: &str = "00000000-0000-4000-8000-000000000001";

#[tokio::test]
async fn a_move_keeps_ids_times_and_deletions_and_counts_what_it_changes() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let mut legacy = legacy_database(&test_dir).await;
    legacy.execute(EVENTS).await.unwrap();
    let first = run_move(&test_dir).await.exits_with(1);
    let expected = [
        "spirits: moved 2, already there 0, left out 0\n",
        "events: moved 5 (of them soft-deleted 2), already there 0, left out 2;",
        "changed: 1 × dedupe_key of an earlier event → none\n",
        "changed: 1 × empty session_id → none\n",
        "changed: 1 × importance_score outside 0 to 1 → none\n",
        "changed: 2 × meta that is no object → {\"value\": …}\n",
        "changed: 1 × no occurred_at → created_at\n",
        "changed: 1 × number in meta that a double cannot hold → a string\n",
        "not moved: column spirits.user_id, table users\n",
    ];
    for line in expected {
        assert!(first.stdout.contains(line), "no {line:?} in {first:?}");
    }
    first.reports(&[
        "event_type must have 1 to 100 characters",
        "occurred_at is outside the years 1 to 9999",
    ]);

    let moved = events(&server, ADA).await;
    let contents: Vec<&str> = moved.iter().map(Event::content).collect();
    assert_eq!(contents, ["first", "second", "third", ""], "by (created_at, id)");
    let sequences: Vec<i64> = moved.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
    let ids: Vec<String> = sqlx::query_scalar("select id::text from events where content = 'first'")
        .fetch_all(&mut legacy)
        .await
        .unwrap();
    assert_eq!(ids, [moved[0].id.as_str()]);
    assert_eq!(
        (moved[0].occurred_at, moved[0].dedupe_key()),
        (moved[0].created_at, "k")
    );
    assert_eq!(
        (moved[1].session_id.as_deref(), moved[1].is_deleted),
        (None, true)
    );
    assert_eq!(moved[1].deleted_at.unwrap().nanos, 4_000);
    assert_eq!(
        (moved[2].dedupe_key.as_deref(), moved[2].importance_score()),
        (None, 0.5)
    );
    assert_eq!(
        moved[2].occurred_at.unwrap().seconds,
        1_760_710_995,
        "2025-10-17T14:23:15Z"
    );

    let before = everything(&test_dir).await;
    let second = run_move(&test_dir).await.exits_with(1).stdout;
    assert!(
        second.contains("spirits: moved 0, already there 2, left out 0"),
        "{second}"
    );
    assert!(
        second.contains("events: moved 0 (of them soft-deleted 0), already there 5"),
        "{second}"
    );
    assert!(!second.contains("changed: "), "{second}");
    assert_eq!(everything(&test_dir).await, before);

    let session = server
        .command(&test_dir, &["session", "list", "--spirit", ADA, "--json"])
        .await
        .exits_with(0)
        .stdout;
    assert!(
        session.contains(r#""event_count":2"#) && session.contains(r#""session_id":"s""#),
        "{session}"
    );
    server.stop().await;
}

/// All rows of the service's tables of spirits, events and sessions as text.
async fn everything(test_dir: &TestDir) -> Vec<String> {
    let sql = "select s::text from spirits s union all select e::text from events e \
        union all select s::text from sessions s order by 1";
    sqlx::query_scalar(sql)
        .fetch_all(&mut test_dir.connect().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_move_that_was_killed_is_completed_by_the_next_in_the_same_order() {
    const EVENTS: i64 = 30_000;
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let mut legacy = legacy_database(&test_dir).await;
    let fill = format!(
        "insert into events (
             spirit_id, event_type, content, occurred_at, session_id, meta, is_deleted, created_at, updated_at
         )
         select '{ADA}', 'a', n, '2025-01-01', 's' || n % 50, '{{}}', n % 9 = 0, '2025-01-01'::timestamp + n * interval '1 s',
             '2025-02-01'
         from generate_series({EVENTS}, 1, -1) as n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill))
        .execute(&mut legacy)
        .await
        .unwrap();
    let from = test_dir.database_url("legacy");
    let mut killed = test_dir
        .command(&["import-elephantasm", "--from", &from])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let count = async || -> i64 {
        let connection = &mut test_dir.connect().await;
        sqlx::query_scalar("select count(*) from events")
            .fetch_one(connection)
            .await
            .unwrap()
    };
    eventually("some events are moved", async || {
        (count().await > 0).then_some(())
    })
    .await;
    killed.kill().await.unwrap();
    assert!(count().await < EVENTS, "killed too late");
    run_move(&test_dir).await.exits_with(0);

    let sql = "select count(*), count(*) filter (where content <> sequence::text), max(sequence) from events";
    let counted: (i64, i64, i64) = sqlx::query_as(sql)
        .fetch_one(&mut test_dir.connect().await)
        .await
        .unwrap();
    assert_eq!(counted, (EVENTS, 0, EVENTS), "each event once, in order");
    let next = r#"{"event_type": "a", "content": "next", "session_id": "s1"}"#;
    let import = ["import", "-", "--spirit", ADA];
    server
        .command_with_stdin(&test_dir, &import, next)
        .await
        .exits_with(0);
    let last: (i64,) = sqlx::query_as("select max(sequence) from events")
        .fetch_one(&mut test_dir.connect().await)
        .await
        .unwrap();
    assert_eq!(last, (EVENTS + 1,), "new events follow the moved ones");
    server.stop().await;
}

#[tokio::test]
async fn a_database_of_another_schema_is_refused_and_purged_events_do_not_return() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let own = test_dir.database_url("events");
    let refused = finish(&mut test_dir.command(&["import-elephantasm", "--from", &own])).await;
    refused.exits_with(1).reports(&[
        "not a database of the Python backend",
        "spirits has no column is_deleted",
    ]);

    let mut legacy = legacy_database(&test_dir).await;
    legacy.execute(EVENTS).await.unwrap();
    run_move(&test_dir).await.exits_with(1);
    let purge = ["purge", ADA, "--session-id", "s", "--yes"];
    server.command(&test_dir, &purge).await.exits_with(0);
    let again = run_move(&test_dir)
        .await
        .exits_with(1)
        .reports(&["were purged here"]);
    assert!(
        again
            .stdout
            .contains("spirits: moved 0, already there 1, left out 1"),
        "{again:?}"
    );
    let kept: Vec<String> = events(&server, ADA)
        .await
        .iter()
        .map(|event| event.content().to_owned())
        .collect();
    assert_eq!(kept, ["second", ""]);
    server.stop().await;
}
