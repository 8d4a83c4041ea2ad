//! `purge` and `retention`; purges that a kill of the server breaks off; and the proof that purged data is gone.

use std::collections::BTreeSet;
use std::process::Command;

use elephantasm_events::grpc::pb::purge_service_client::PurgeServiceClient;
use elephantasm_events::grpc::pb::session_service_client::SessionServiceClient;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, ListPurgesRequest, PurgeEventsRequest, UpdateEventRequest, UpdateSessionRequest,
};
use sqlx::Connection as _;

use crate::harness::{Server, TestDir, event, peak_bytes};

/// Six bytes each, so that a compressed value has them in one piece if they begin in the right place.
const INLINE: &str = "mkINL7";
const COMPRESSED: &str = "mkCMP4";
const TOASTED: &str = "mkTST8";
const SUMMARY: &str = "mkSUM2";
const FORMER: &str = "mkFRM3";
const DEDUPE_KEY: &str = "mkKEY9";
const TITLE: &str = "mkTTL5";
const OWNER: &str = "mkOWN6";

/// The markers in the files of PostgreSQL's tables and indexes.
fn found(test_dir: &TestDir) -> BTreeSet<String> {
    let output = Command::new("grep")
        .args([
            "--recursive",
            "--text",
            "--only-matching",
            "--no-filename",
            "mk[A-Z]\\{3\\}[0-9]",
        ])
        .args(["base", "global"].map(|directory| test_dir.data.join("pgdata").join(directory)))
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().map(str::to_owned).collect()
}

/// A text that PostgreSQL cannot compress.
fn incompressible(len: usize) -> String {
    let mut state: u64 = 7;
    let chars = (0..len).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + u8::try_from(state >> 33 & 63).unwrap())
    });
    chars.collect()
}

/// Stores events with the markers between others.
async fn store_marked(server: &Server, spirit_id: &str) {
    let mut events = server.events().await;
    let of = |session: &str, content: String| CreateEventRequest {
        content: Some(content),
        session_id: Some(session.to_owned()),
        ..event(spirit_id)
    };
    let mut requests: Vec<CreateEventRequest> = (0..40).map(|n| of("other", format!("before {n}"))).collect();
    requests.push(CreateEventRequest {
        meta_summary: Some(SUMMARY.to_owned()),
        dedupe_key: Some(DEDUPE_KEY.to_owned()),
        ..of("marked", format!("an {INLINE}"))
    });
    // Eight literals of a compressed value are contiguous.
    requests.extend((0..8).map(|n| {
        of(
            "marked",
            format!("{}{COMPRESSED}{}", &"abcdefgh"[..n], "x".repeat(4_000)),
        )
    }));
    requests.push(of("marked", format!("{TOASTED}{}", incompressible(8_000))));
    requests.extend((0..40).map(|n| of("other", format!("after {n}"))));
    for request in requests {
        let is_marked = request.meta_summary.is_some();
        let created = events.create_event(request).await.unwrap().into_inner();
        let event_id = created.event.unwrap().id;
        for role in ["one", "two"].into_iter().filter(|_| is_marked) {
            let request = UpdateEventRequest {
                event_id: event_id.clone(),
                author: Some(format!("{FORMER} {role}")),
                ..UpdateEventRequest::default()
            };
            events.update_event(request).await.unwrap();
        }
    }
    let request = UpdateSessionRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: "marked".to_owned(),
        title: Some(TITLE.to_owned()),
        owner: Some(OWNER.to_owned()),
        ..UpdateSessionRequest::default()
    };
    let mut sessions = SessionServiceClient::new(server.channel().await);
    sessions.update_session(request).await.unwrap();
}

/// The commands of the handbook that erase what was purged.
fn handbook() -> &'static str {
    let handbook = include_str!("../../docs/operations.md");
    let (_, rest) = handbook.split_once("<!-- tested: erase -->\n```sql\n").unwrap();
    rest.split_once("```").unwrap().0
}

#[tokio::test]
async fn no_data_file_holds_what_was_purged_and_the_log_never_did() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    store_marked(&server, &spirit_id).await;
    let mut connection = test_dir.connect().await;
    // Statistics hold values of columns.
    sqlx::raw_sql("analyze; checkpoint")
        .execute(&mut connection)
        .await
        .unwrap();
    let all = [
        INLINE, COMPRESSED, TOASTED, SUMMARY, FORMER, DEDUPE_KEY, TITLE, OWNER,
    ];
    assert_eq!(found(&test_dir), all.map(str::to_owned).into());

    let arguments = [
        "purge",
        "Ada",
        "--session-owner",
        OWNER,
        "--yes",
        "--reason",
        "asked",
    ];
    let purged = server.command(&test_dir, &arguments).await.exits_with(0);
    assert_eq!(purged.stdout, "purged 10 events\n");
    for statement in handbook()
        .split_inclusive(';')
        .filter(|text| !text.trim().is_empty())
    {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    assert_eq!(found(&test_dir), BTreeSet::new());
    let left: (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, (80,));
    connection.close().await.unwrap();
    assert!(!server.log().contains("mk"), "{}", server.log());
    server.stop().await;
}

#[tokio::test]
async fn purge_asks_first_and_retention_shows_what_it_sets() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    server.create_events(&spirit_id, 3).await;
    let dry = server
        .command(&test_dir, &["purge", "Ada", "--all", "--dry-run"])
        .await;
    assert_eq!(dry.exits_with(0).stdout, "would purge 3 events\n");
    let arguments = ["purge", "Ada", "--session-id", "s"];
    let no = server.command_with_stdin(&test_dir, &arguments, "no\n").await;
    no.exits_with(1)
        .reports(&["3 events will be removed for good", "nothing was purged"]);
    let unasked = server.command(&test_dir, &arguments).await;
    unasked.exits_with(1).reports(&["nothing was purged"]);
    let yes = server.command_with_stdin(&test_dir, &arguments, "yes\n").await;
    assert_eq!(yes.exits_with(0).stdout, "purged 3 events\n");
    let live = server
        .command(&test_dir, &["purge", &spirit_id, "--whole-spirit", "--yes"])
        .await;
    live.exits_with(5).reports(&["is not soft-deleted"]);
    let none = server.command(&test_dir, &["purge", "Ada"]).await;
    none.exits_with(2).reports(&["--session-owner"]);
    let list = ["purge", "list", "--spirit", &spirit_id];
    let listed = server.command(&test_dir, &list).await.exits_with(0).stdout;
    let [heading, row] = listed.lines().collect::<Vec<_>>()[..] else {
        panic!("not one purge: {listed}")
    };
    assert!(heading.starts_with("STARTED "), "{listed}");
    assert!(
        row.contains("  session_id  ") && row.contains(&spirit_id),
        "{listed}"
    );

    let set = [
        "retention",
        "set",
        "Ada",
        "--max-age",
        "90d",
        "--history-max-age",
        "1h",
    ];
    let set = server.command(&test_dir, &set).await.exits_with(0);
    assert_eq!(
        set.stdout,
        "max-age 90d\ndeleted-max-age none\nhistory-max-age 1h\n"
    );
    let set = ["retention", "set", "Ada", "--max-age", "none"];
    server.command(&test_dir, &set).await.exits_with(0);
    let shown = server
        .command(&test_dir, &["retention", "get", "Ada"])
        .await
        .exits_with(0);
    assert_eq!(
        shown.stdout,
        "max-age none\ndeleted-max-age none\nhistory-max-age 1h\n"
    );
    server.stop().await;
}

/// Number of events to purge: `PURGE_EVENTS`, by default as many as the test has time for.
fn events_to_purge() -> i64 {
    std::env::var("PURGE_EVENTS").map_or(20_000, |count| count.parse().unwrap())
}

/// Inserts events of 2 KB, bypassing the service.
async fn insert_events(test_dir: &TestDir, spirit_id: &str, count: i64) {
    let sql = format!(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, author)
         select gen_random_uuid(), '{spirit_id}', n, 'x', repeat('x', 2000), now(), 'ann' from generate_series(1, {count}) as n;
         update spirits set last_sequence = {count}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut test_dir.connect().await)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_purge_of_many_events_that_a_kill_breaks_off_is_completed_by_another_call_in_bounded_memory() {
    const GROWTH_MAX: usize = 16 * 1024 * 1024;
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let count = events_to_purge();
    insert_events(&test_dir, &spirit_id, count).await;
    let request = PurgeEventsRequest {
        spirit_id: spirit_id.clone(),
        author: Some("ann".to_owned()),
        ..PurgeEventsRequest::default()
    };
    let mut purges = PurgeServiceClient::new(server.channel().await);
    let mut items = purges.purge_events(request.clone()).await.unwrap().into_inner();
    items.message().await.unwrap().unwrap();
    server.kill().await;

    let server = Server::start(&test_dir).await;
    let mut purges = PurgeServiceClient::new(server.channel().await);
    let before = peak_bytes(server.pid());
    let mut items = purges.purge_events(request).await.unwrap().into_inner();
    while !items.message().await.unwrap().unwrap().done {}
    let growth = peak_bytes(server.pid())
        .zip(before)
        .map_or(0, |(after, before)| after - before);
    assert!(growth <= GROWTH_MAX, "{} KiB", growth / 1024);

    let listed = purges.list_purges(ListPurgesRequest::default()).await.unwrap();
    let [second, first] = &listed.into_inner().purges[..] else {
        panic!("not two purges")
    };
    assert!(first.purged_count > 0 && first.finished_at.is_none(), "{first:?}");
    assert!(second.finished_at.is_some());
    assert_eq!(
        first.purged_count + second.purged_count,
        count,
        "each event is counted once"
    );
    server.stop().await;
}
