//! `PurgeEvents`: selections, dry runs, sessions, dedupe keys, large purges and long histories.

use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, GetSessionRequest, PurgeEventsRequest, PurgeSelection, Session,
    UpdateSessionRequest,
};
use tonic::{Code, Status};

use super::{begun, execute, of_all, of_session, of_spirit, purged, purges, stored};
use crate::support::builders::{at, create, event_at, insert_events, keyed, refused};
use crate::support::harness::TestServer;
use crate::support::model::{delete, store};
use crate::support::scrape::Scrape;
use crate::support::validation::UNKNOWN_ID;

async fn session(server: &TestServer, spirit_id: &str, session_id: &str) -> Result<Session, Status> {
    let request = GetSessionRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
    };
    let response = server.sessions().get_session(request).await?;
    Ok(response.into_inner().session.unwrap())
}

async fn own(server: &TestServer, spirit_id: &str, session_id: &str, owner: &str) {
    let request = UpdateSessionRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
        title: Some("titled".to_owned()),
        owner: Some(owner.to_owned()),
        ..UpdateSessionRequest::default()
    };
    server.sessions().update_session(request).await.unwrap();
}

/// Events 1 to 6 of a new spirit: sessions a, a, b, c, c and none. Sessions a and c have the owner `ann`, b has `bob`;
/// session `empty` of `ann` has no event. Authors alternate between Ada and Bo; event 6 is soft-deleted.
async fn spirit_with_events(server: &TestServer) -> (String, Vec<Event>) {
    let spirit_id = server.spirit().await;
    let sessions = [Some("a"), Some("a"), Some("b"), Some("c"), Some("c"), None];
    let requests = (1..).zip(sessions).map(|(n, session_id)| CreateEventRequest {
        session_id: session_id.map(str::to_owned),
        author: Some(["Ada", "Bo"][usize::from(n % 2 == 0)].to_owned()),
        ..event_at(&spirit_id, "", i64::from(n) * 60)
    });
    let mut events = store(&mut server.events(), requests.collect::<Vec<_>>()).await;
    for (session_id, owner) in [("a", "ann"), ("b", "bob"), ("c", "ann"), ("empty", "ann")] {
        own(server, &spirit_id, session_id, owner).await;
    }
    delete(&mut server.events(), &mut events[5]).await;
    (spirit_id, events)
}

#[tokio::test]
async fn a_purged_session_is_gone_with_its_properties_and_its_dedupe_keys_are_free() {
    let server = TestServer::start().await;
    let (spirit_id, _) = spirit_with_events(&server).await;
    let key = CreateEventRequest {
        session_id: Some("a".to_owned()),
        ..keyed(&spirit_id, "key")
    };
    create(&mut server.events(), key.clone()).await;
    let (purge_id, count) = purged(&server, of_session(&spirit_id, "a")).await.unwrap();
    assert_eq!(count, 3);
    assert_eq!(stored(&server, &spirit_id).await, [3, 4, 5, 6]);
    let missing = session(&server, &spirit_id, "a").await;
    refused(missing, Code::NotFound, "SESSION_NOT_FOUND");
    assert_eq!(session(&server, &spirit_id, "c").await.unwrap().title(), "titled");

    let again = create(&mut server.events(), key).await;
    assert_eq!(again.sequence, 8, "sequences are never used again");
    let recreated = session(&server, &spirit_id, "a").await.unwrap();
    assert_eq!((recreated.revision, recreated.event_count()), (0, 1));

    let [purge] = &purges(&server, &spirit_id).await[..] else {
        panic!("not one purge")
    };
    assert_eq!(purge.purge_id, purge_id);
    assert_eq!(purge.selection(), PurgeSelection::SessionId);
    assert_eq!((purge.purged_count, purge.lowest_sequence), (3, 1));
    assert_eq!(purge.highest_sequence, 7);
    assert!(purge.finished_at.is_some());
    let metrics = Scrape::of(&server).await;
    assert_eq!(metrics.count("events_purged_total{selection=\"session_id\"}"), 3);
}

/// Sets the selection of a purge of these events.
type Select = fn(&[Event], &mut PurgeEventsRequest);

#[tokio::test]
async fn every_selection_takes_exactly_its_events_and_a_dry_run_counts_them() {
    let server = TestServer::start().await;
    let text = |text: &str| Some(text.to_owned());
    let cases: [(&str, Select, &[i64]); 8] = [
        (
            "event_ids",
            |events, request| {
                request.event_ids = [0, 4, 0].map(|index: usize| events[index].id.clone()).to_vec();
                request.event_ids.push(UNKNOWN_ID.to_owned());
            },
            &[2, 3, 4, 6],
        ),
        (
            "session_id",
            |_, request| request.session_id = Some("c".to_owned()),
            &[1, 2, 3, 6],
        ),
        (
            "unknown session",
            |_, request| request.session_id = Some("x".to_owned()),
            &[1, 2, 3, 4, 5, 6],
        ),
        (
            "session_owner",
            |_, request| request.session_owner = Some("ann".to_owned()),
            &[3, 6],
        ),
        (
            "author",
            |_, request| request.author = Some("Bo".to_owned()),
            &[1, 3, 5],
        ),
        (
            "created_until",
            |_, request| request.created_until = Some(at(1_000)),
            &[4, 5, 6],
        ),
        (
            "deleted_until",
            |_, request| request.deleted_until = Some(at(4_000_000_000)),
            &[1, 2, 3, 4, 5],
        ),
        ("all", |_, request| request.all = Some(true), &[]),
    ];
    for (name, select, left) in cases {
        let (spirit_id, events) = spirit_with_events(&server).await;
        execute(
            &server,
            "update events set created_at = to_timestamp(sequence)
             where spirit_id = $1::text::uuid and sequence <= 3",
            &spirit_id,
        )
        .await;
        let mut request = PurgeEventsRequest {
            reason: text("test"),
            ..of_spirit(&spirit_id)
        };
        select(&events, &mut request);
        let dry = PurgeEventsRequest {
            dry_run: true,
            ..request.clone()
        };
        let count = 6 - i64::try_from(left.len()).unwrap();
        assert_eq!(
            purged(&server, dry).await.unwrap(),
            (String::new(), count),
            "{name}"
        );
        assert_eq!(stored(&server, &spirit_id).await.len(), 6, "{name}");
        let (_, purged_count) = purged(&server, request.clone()).await.unwrap();
        assert_eq!(
            (purged_count, stored(&server, &spirit_id).await.as_slice()),
            (count, left),
            "{name}"
        );
        let (_, again) = purged(&server, request).await.unwrap();
        assert_eq!(again, 0, "{name}");
        let listed = purges(&server, &spirit_id).await;
        assert_eq!(listed.len(), 2, "{name}: a dry run is not listed");
        assert_eq!(listed[1].reason(), "test", "{name}");
        let is_left = session(&server, &spirit_id, "empty").await.is_ok();
        assert_eq!(is_left, !["session_owner", "all"].contains(&name), "{name}");
    }
}

#[tokio::test]
async fn a_session_is_listed_by_its_newest_remaining_event_and_later_creates_raise_it_again() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = [60, 6_000, 3_000].map(|seconds| event_at(&spirit_id, "s", seconds));
    let events = store(&mut server.events(), requests.to_vec()).await;
    let request = PurgeEventsRequest {
        event_ids: vec![events[1].id.clone()],
        ..of_spirit(&spirit_id)
    };
    purged(&server, request).await.unwrap();
    let remaining = session(&server, &spirit_id, "s").await.unwrap();
    assert_eq!(remaining.last_occurred_at, Some(at(3_000)));
    assert_eq!(active_minute(&server, &spirit_id).await, 3_000);
    create(&mut server.events(), event_at(&spirit_id, "s", 4_800)).await;
    assert_eq!(active_minute(&server, &spirit_id).await, 4_800);
}

async fn active_minute(server: &TestServer, spirit_id: &str) -> i64 {
    let (minute,) = sqlx::query_as(
        "select extract(epoch from active_minute)::bigint from sessions where spirit_id = $1::text::uuid",
    )
    .bind(spirit_id)
    .fetch_one(&mut server.database.connect().await)
    .await
    .unwrap();
    minute
}

#[tokio::test]
async fn a_purge_of_many_events_is_done_in_steps_and_leaves_what_is_created_meanwhile() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, 2_500).await;
    let (first, mut items) = begun(&server, &spirit_id).await;
    assert!(!first.done);
    let created = create(&mut server.events(), event_at(&spirit_id, "s", 1)).await;
    let mut last = first;
    while let Some(item) = items.message().await.unwrap() {
        last = item;
    }
    assert!(last.done);
    assert_eq!((last.purged_count, created.sequence), (2_500, 2_501));
    assert_eq!(stored(&server, &spirit_id).await, [2_501]);
    let steps: Vec<(i32,)> = sqlx::query_as("select cardinality(event_ids) from changes order by change")
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap();
    assert_eq!(steps, [(1_000,), (1_000,), (500,)]);
}

#[tokio::test]
async fn large_events_and_long_histories_are_purged_in_bounded_steps() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, 30).await;
    execute(
        &server,
        "update events set content = repeat('x', 1000000) where spirit_id = $1::text::uuid and sequence > 10",
        &spirit_id,
    )
    .await;
    // 2,300 edits of the first event, and one of each other.
    execute(
        &server,
        r#"insert into changes (spirit_id, change, kind, event_id, sequence, fields, previous, revision, changed_at)
           select spirit_id, row_number() over (), 'updated', id, sequence, '{role}', '{"role": "x"}', 2, now()
           from events
           cross join lateral generate_series(1, case sequence when 1 then 2300 else 1 end)
           where spirit_id = $1::text::uuid"#,
        &spirit_id,
    )
    .await;
    execute(
        &server,
        "update spirits set last_change = 2329 where id = $1::text::uuid",
        &spirit_id,
    )
    .await;
    assert_eq!(purged(&server, of_all(&spirit_id)).await.unwrap().1, 30);
    let rows: Vec<(i64, Option<i32>)> = sqlx::query_as(
        "select change, cardinality(event_ids) from changes where previous is not null or kind = 'purged' order by 1",
    )
    .fetch_all(&mut server.database.connect().await)
    .await
    .unwrap();
    let counts: Vec<i32> = rows.iter().map(|(_, count)| count.expect("cleared")).collect();
    assert_eq!(counts.iter().sum::<i32>(), 30);
    assert!(
        counts.iter().all(|count| *count <= 18),
        "8 MiB a step: {counts:?}"
    );
    assert_eq!(rows[0].0, 2_330, "cleared history draws no number");
}
