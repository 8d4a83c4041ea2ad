//! The connection pool is shared fairly among API keys, and a busy pool is reported as overload.

use std::time::Duration;

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb::{Event, UpdateSpiritRequest};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::access::{Caller, KeyedServer};
use crate::support::builders::{event_at, list, lock_spirit, refused, statements_are_blocked};
use crate::support::harness::{Settings, TestServer, set_pool_of_calls};
use crate::support::model::{delete, store};
use crate::support::scrape::{Scrape, metric_reaches};

const POOL_SIZE: usize = 2;
/// Statements of the greedy key: two hold the pool's connections, the others wait.
const EDITS: usize = 6;

fn small_pool(settings: &mut Settings) {
    set_pool_of_calls(settings, POOL_SIZE.try_into().unwrap());
    settings.store.acquire_timeout = Duration::from_secs(20);
}

/// Starts an edit that waits for the lock on the spirit's row and holds a connection meanwhile.
fn edit(caller: &Caller, spirit_id: &str) -> JoinHandle<Result<(), Status>> {
    let mut spirits = caller.spirits();
    let request = UpdateSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        description: Some(fastrand::u64(..).to_string()),
        ..UpdateSpiritRequest::default()
    };
    tokio::spawn(async move { spirits.update_spirit(request).await.map(|_| ()) })
}

#[tokio::test]
async fn a_key_that_fills_the_pool_is_served_after_a_waiting_key() {
    let keyed = KeyedServer::start_with(small_pool).await;
    let locked = keyed.admin.spirit("Ada").await;
    let other = keyed.caller(Role::Reader, &[&locked]).await;
    other.call().await.unwrap();
    let mut connection = keyed.server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &locked).await;
    let edits: Vec<_> = (0..EDITS).map(|_| edit(&keyed.admin, &locked)).collect();
    // An edit reads the spirit, and then waits for its lock.
    statements_are_blocked(&keyed.server, POOL_SIZE).await;
    metric_reaches(&keyed.server, "events_pool_waiting", (EDITS - POOL_SIZE) as u64).await;

    let read = tokio::spawn(async move { other.call().await });
    metric_reaches(
        &keyed.server,
        "events_pool_waiting",
        (EDITS - POOL_SIZE) as u64 + 1,
    )
    .await;
    // Cancelled edits free their connections while the spirit is still locked.
    for edit in edits {
        edit.abort();
    }
    read.await.unwrap().expect("the read does not wait for the lock");
    spirit_lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_call_that_gets_no_connection_in_time_is_refused_as_overload() {
    let keyed = KeyedServer::start_with(|settings| {
        set_pool_of_calls(settings, 1);
        settings.store.acquire_timeout = Duration::from_secs(3);
    })
    .await;
    let locked = keyed.admin.spirit("Ada").await;
    let mut connection = keyed.server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &locked).await;
    let holding = edit(&keyed.admin, &locked);
    statements_are_blocked(&keyed.server, 1).await;

    let status = refused(keyed.admin.call().await, Code::ResourceExhausted, "OVERLOADED");
    assert!(status.get_details_retry_info().is_some());
    assert!(
        Scrape::of(&keyed.server)
            .await
            .count("events_pool_refusals_total")
            >= 1
    );
    spirit_lock.rollback().await.unwrap();
    holding.await.unwrap().unwrap();
    keyed.admin.call().await.expect("the pool is free again");
}

/// Starts a deletion of each event.
fn delete_each(server: &TestServer, events: Vec<Event>) -> Vec<JoinHandle<()>> {
    let start = |mut event| {
        let mut client = server.events();
        tokio::spawn(async move { delete(&mut client, &mut event).await })
    };
    events.into_iter().map(start).collect()
}

#[tokio::test]
async fn deletions_that_wait_for_a_lock_leave_half_of_the_pool_to_reads() {
    const DELETIONS: i64 = 6;
    let server = TestServer::start_with(|settings| set_pool_of_calls(settings, 4)).await;
    let spirit_id = server.spirit().await;
    let requests = (0..DELETIONS).map(|n| event_at(&spirit_id, "s", n)).collect();
    let events = store(&mut server.events(), requests).await;
    let mut connection = server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &spirit_id).await;
    let deletions = delete_each(&server, events);
    statements_are_blocked(&server, 2).await;
    let listed = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert_eq!(
        i64::try_from(listed.into_inner().events.len()).unwrap(),
        DELETIONS
    );
    spirit_lock.rollback().await.unwrap();
    for deletion in deletions {
        deletion.await.unwrap();
    }
    let listed = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert!(listed.into_inner().events.is_empty());
}

#[tokio::test]
async fn edits_that_wait_for_a_locked_spirit_leave_connections_to_edits_of_others() {
    const DELETIONS: i64 = 6;
    // Half of the connections are for edits.
    let server = TestServer::start_with(|settings| set_pool_of_calls(settings, 8)).await;
    let (locked, other) = (server.spirit().await, server.spirit().await);
    let requests = (0..DELETIONS).map(|n| event_at(&locked, "s", n)).collect();
    let events = store(&mut server.events(), requests).await;
    let mut others = store(&mut server.events(), vec![event_at(&other, "s", 0)]).await;
    let mut connection = server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &locked).await;
    let deletions = delete_each(&server, events);
    metric_reaches(&server, "events_pool_waiting", DELETIONS.unsigned_abs() - 2).await;

    delete(&mut server.events(), &mut others[0]).await;
    spirit_lock.rollback().await.unwrap();
    for deletion in deletions {
        deletion.await.unwrap();
    }
}
