//! Retention: the service purges what is older than a spirit keeps it.

use std::time::Duration;

use elephantasm_events::grpc::pb::{
    Purge, PurgeSelection, Retention, SoftDeleteEventsRequest, UpdateEventRequest, UpdateSpiritRequest,
};
use tonic::Code;

use super::{execute, purges, stored};
use crate::support::builders::{create, event_at, insert_events, metadata, refused};
use crate::support::harness::{Settings, TestServer, eventually};
use crate::support::live::{changes_after, delete_spirit};
use crate::support::scrape::Scrape;

fn often(settings: &mut Settings) {
    settings.store.retention_interval = Duration::from_millis(50);
}

#[allow(clippy::unnecessary_wraps)] // the type of the field
fn hours(hours: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: hours * 3_600,
        nanos: 0,
    })
}

async fn keep(server: &TestServer, spirit_id: &str, retention: Retention) {
    let request = UpdateSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        retention: Some(retention),
        ..UpdateSpiritRequest::default()
    };
    server.spirits().update_spirit(request).await.unwrap();
}

fn for_an_hour() -> Retention {
    Retention {
        max_age: hours(1),
        ..Retention::default()
    }
}

/// Waits until these events are left.
async fn left(server: &TestServer, spirit_id: &str, expected: &[i64]) {
    eventually("retention purges the old events", async || {
        (stored(server, spirit_id).await == expected).then_some(())
    })
    .await;
}

/// Waits until a run of retention has ended, so that none that is under way began before.
async fn run_ends(server: &TestServer) {
    let ended = async || {
        let metrics = Scrape::of(server).await;
        metrics.seconds("events_retention_completed_timestamp_seconds")
    };
    let before = ended().await;
    eventually("a run of retention ends", async || {
        (ended().await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn old_events_go_and_young_ones_stay_in_one_purge_a_day() {
    let server = TestServer::start_with(often).await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    for spirit_id in [&spirit_id, &other] {
        insert_events(&server, spirit_id, 6).await;
        execute(
            &server,
            "update events set created_at = now() - interval '2 hours'
             where spirit_id = $1::text::uuid and sequence in (2, 3, 5)",
            spirit_id,
        )
        .await;
    }
    delete_spirit(&server, &spirit_id).await;
    keep(&server, &spirit_id, for_an_hour()).await;
    left(&server, &spirit_id, &[1, 4, 6]).await;
    execute(
        &server,
        "update events set created_at = now() - interval '2 hours'
         where spirit_id = $1::text::uuid and sequence = 6",
        &spirit_id,
    )
    .await;
    left(&server, &spirit_id, &[1, 4]).await;
    assert_eq!(stored(&server, &other).await.len(), 6, "it keeps everything");
    let [purge] = &purges(&server, &spirit_id).await[..] else {
        panic!("not one purge")
    };
    assert_eq!(purge.selection(), PurgeSelection::Retention);
    assert_eq!(
        (purge.purged_count, purge.requested_by.as_str()),
        (4, "retention")
    );
    assert_eq!((purge.lowest_sequence, purge.highest_sequence), (2, 6));
    assert!(purge.finished_at.is_some());
    let mut changes = changes_after(&server, &spirit_id, 0).await.unwrap();
    assert_eq!(changes.change().await.changed_by, "retention");
    let metrics = Scrape::of(&server).await;
    assert_eq!(metrics.count("events_purged_total{selection=\"retention\"}"), 4);
    assert_eq!(metrics.count("events_retention_failures_total"), 0);
}

#[tokio::test]
async fn deleted_events_and_changes_have_ages_of_their_own() {
    let server = TestServer::start_with(often).await;
    let spirit_id = server.spirit().await;
    let mut events = Vec::new();
    for n in 0..3 {
        events.push(create(&mut server.events(), event_at(&spirit_id, "s", n)).await);
    }
    for role in ["one", "two"] {
        let request = UpdateEventRequest {
            event_id: events[0].id.clone(),
            role: Some(role.to_owned()),
            ..UpdateEventRequest::default()
        };
        server.events().update_event(request).await.unwrap();
    }
    let request = SoftDeleteEventsRequest {
        spirit_id: spirit_id.clone(),
        after_sequence: Some(1),
        ..SoftDeleteEventsRequest::default()
    };
    server.events().soft_delete_events(request).await.unwrap();
    for sql in [
        "update events set deleted_at = now() - interval '2 hours'
         where spirit_id = $1::text::uuid and sequence = 2",
        "update changes set changed_at = now() - interval '2 hours'
         where spirit_id = $1::text::uuid and change = 1",
    ] {
        execute(&server, sql, &spirit_id).await;
    }
    let retention = Retention {
        deleted_max_age: hours(1),
        history_max_age: hours(1),
        ..Retention::default()
    };
    keep(&server, &spirit_id, retention).await;
    left(&server, &spirit_id, &[1, 3]).await;
    let gone = eventually("the old change is removed", async || {
        changes_after(&server, &spirit_id, 0).await.err()
    })
    .await;
    let gone = refused(Err::<(), _>(gone), Code::OutOfRange, "CHANGES_GONE");
    assert_eq!(metadata(&gone, "oldest_change"), "2");
}

#[tokio::test]
async fn two_instances_purge_each_event_once_and_young_events_do_not_hide_old_ones_for_good() {
    let first = TestServer::start_with(often).await;
    let second = TestServer::start_on(first.database.clone(), often).await;
    let spirit_id = first.spirit().await;
    insert_events(&first, &spirit_id, 22_000).await;
    // As after a move: old events behind more young ones than a run looks at.
    execute(
        &first,
        "update events set created_at = now() - interval '2 hours'
         where spirit_id = $1::text::uuid and (sequence <= 1500 or sequence > 21990)",
        &spirit_id,
    )
    .await;
    keep(&first, &spirit_id, for_an_hour()).await;
    let young: Vec<i64> = (1_501..=21_990).collect();
    left(&first, &spirit_id, &young).await;
    let listed: Vec<Purge> = purges(&second, &spirit_id).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].purged_count, 1_510);

    // The next scan of all events is due a day later; until then the beginning is looked at. Each instance may have begun
    // with a scan before the other one recorded its own.
    for server in [&first, &second, &first] {
        run_ends(server).await;
    }
    execute(
        &first,
        "update events set created_at = now() - interval '2 hours'
         where spirit_id = $1::text::uuid and sequence in (1501, 21990)",
        &spirit_id,
    )
    .await;
    left(&first, &spirit_id, &young[1..]).await;
    eventually("the scan of the next day purges the last event", async || {
        // Again each time: the other instance may end and record a scan that began before the event was old.
        execute(
            &first,
            "update spirits set retention_scanned_at = now() - interval '25 hours' where id = $1::text::uuid",
            &spirit_id,
        )
        .await;
        (stored(&first, &spirit_id).await == young[1..young.len() - 1]).then_some(())
    })
    .await;
}
