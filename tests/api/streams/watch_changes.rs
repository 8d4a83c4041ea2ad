//! `WatchChanges`: the changes of a spirit in order, resumable, also across instances and after rows were removed.

use std::time::Duration;

use elephantasm_events::grpc::pb::watch_changes_request::Start;
use elephantasm_events::grpc::pb::{
    ChangeKind, Event, SoftDeleteEventRequest, UpdateEventRequest, WatchStart,
};
use tonic::{Code, Status};

use crate::support::builders::{bad_fields, create, event, metadata, refused};
use crate::support::harness::TestServer;
use crate::support::live::{changes_after, delete_spirit, watch_changes};
use crate::support::scrape::Scrape;
use crate::support::validation::UNKNOWN_ID;

async fn edit(server: &TestServer, event: &Event, role: &str) {
    let request = UpdateEventRequest {
        event_id: event.id.clone(),
        role: Some(role.to_owned()),
        ..UpdateEventRequest::default()
    };
    server.events().update_event(request).await.unwrap();
}

/// A spirit with an event that was edited this often.
async fn edited(server: &TestServer, edits: i64) -> (String, Event) {
    let spirit_id = server.spirit().await;
    let created = create(&mut server.events(), event(&spirit_id)).await;
    for n in 0..edits {
        edit(server, &created, &n.to_string()).await;
    }
    (spirit_id, created)
}

/// At the oldest change that is stored.
const BEGINNING: Option<Start> = Some(Start::StartAt(WatchStart::FromBeginning as i32));

#[tokio::test(flavor = "multi_thread")]
async fn stored_changes_are_followed_by_those_of_every_instance_and_creates_are_none() {
    let first = TestServer::start().await;
    let second = TestServer::start_on(first.database.clone(), |_| {}).await;
    let (spirit_id, created) = edited(&first, 2).await;
    let mut stored = watch_changes(&second, &spirit_id, BEGINNING).await.unwrap();
    let mut new = watch_changes(&second, &spirit_id, None).await.unwrap();
    assert_eq!(stored.changes(2).await, [1, 2]);
    assert_eq!(stored.caught_up().await, 2);
    assert_eq!(new.caught_up().await, 2);
    create(&mut first.events(), event(&spirit_id)).await;
    edit(&first, &created, "user").await;
    let request = SoftDeleteEventRequest {
        event_id: created.id.clone(),
        ..SoftDeleteEventRequest::default()
    };
    second.events().soft_delete_event(request).await.unwrap();
    for watcher in [&mut stored, &mut new] {
        let (update, deletion) = (watcher.change().await, watcher.change().await);
        assert_eq!((update.change, update.kind()), (3, ChangeKind::Updated));
        assert_eq!((deletion.change, deletion.kind()), (4, ChangeKind::Deleted));
        assert_eq!(deletion.event_ids, std::slice::from_ref(&created.id));
    }
    let metrics = Scrape::of(&second).await;
    assert_eq!(metrics.count("events_live_change_streams"), 2);
    assert_eq!(metrics.count("events_live_streams"), 0);
    assert_eq!(metrics.count("events_changes_total{kind=\"deleted\"}"), 1);
    assert_eq!(metrics.count("events_changes_total{kind=\"updated\"}"), 0);
}

#[tokio::test]
async fn starts_are_checked_against_the_last_change() {
    let server = TestServer::start().await;
    let (spirit_id, _) = edited(&server, 1).await;
    let beyond = changes_after(&server, &spirit_id, 2).await.map(|_| ());
    assert_eq!(bad_fields(beyond), ["after_change"]);
    let negative = watch_changes(&server, "x", Some(Start::AfterChange(-1)))
        .await
        .map(|_| ());
    assert_eq!(bad_fields(negative), ["spirit_id", "after_change"]);
    let unknown = watch_changes(&server, &spirit_id, Some(Start::StartAt(9)))
        .await
        .map(|_| ());
    assert_eq!(bad_fields(unknown), ["start_at"]);
    let unknown = watch_changes(&server, UNKNOWN_ID, None).await.map(|_| ());
    refused(unknown, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(
        changes_after(&server, &spirit_id, 1)
            .await
            .unwrap()
            .caught_up()
            .await,
        1
    );
}

/// Removes changes as an operator may, and does not lower the spirit's last change.
async fn remove_changes(server: &TestServer, condition: &'static str) {
    let mut connection = server.database.connect().await;
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "delete from changes where {condition}"
    )))
    .execute(&mut connection)
    .await
    .unwrap();
}

#[track_caller]
fn gone(error: Status) -> String {
    let status = refused(Err::<(), _>(error), Code::OutOfRange, "CHANGES_GONE");
    metadata(&status, "oldest_change")
}

#[tokio::test]
async fn a_start_before_removed_changes_is_refused_with_the_oldest_that_is_stored() {
    let server = TestServer::start().await;
    let (spirit_id, created) = edited(&server, 6).await;
    remove_changes(&server, "change <= 3").await;
    let refusal = changes_after(&server, &spirit_id, 2).await.map(|_| ());
    assert_eq!(gone(refusal.unwrap_err()), "4");
    for start in [Some(Start::AfterChange(3)), BEGINNING] {
        let mut watcher = watch_changes(&server, &spirit_id, start).await.unwrap();
        assert_eq!(watcher.changes(3).await, [4, 5, 6]);
        assert_eq!(watcher.caught_up().await, 6);
    }

    remove_changes(&server, "change = 5").await;
    let mut watcher = changes_after(&server, &spirit_id, 3).await.unwrap();
    assert_eq!(watcher.changes(1).await, [4]);
    assert_eq!(gone(watcher.error().await.unwrap_err()), "6");

    remove_changes(&server, "true").await;
    let refusal = changes_after(&server, &spirit_id, 5).await.map(|_| ());
    assert_eq!(gone(refusal.unwrap_err()), "7");
    let mut watcher = watch_changes(&server, &spirit_id, BEGINNING).await.unwrap();
    assert_eq!(watcher.caught_up().await, 6);
    edit(&server, &created, "last").await;
    assert_eq!(watcher.changes(1).await, [7]);
}

#[tokio::test]
async fn a_watch_outlasts_the_deletion_of_its_spirit_and_ends_with_the_server_at_a_position_to_resume_from() {
    let server = TestServer::start_with(|settings| {
        settings.store.live.heartbeat = Duration::from_millis(50);
    })
    .await;
    let (spirit_id, created) = edited(&server, 1).await;
    let mut watcher = changes_after(&server, &spirit_id, 0).await.unwrap();
    assert_eq!(watcher.changes(1).await, [1]);
    assert_eq!(watcher.caught_up().await, 1);
    delete_spirit(&server, &spirit_id).await;
    assert_eq!(watcher.heartbeat().await, 1);
    edit(&server, &created, "assistant").await;
    let end = loop {
        match watcher.next().await {
            Ok(Some((_, 2))) => server.shut_down(),
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    let end = refused::<()>(Err(end), Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(metadata(&end, "change"), "2");
}
