//! A database that is ill rather than dead: callers are told soon to try again, health says so where
//! nothing works, what was acknowledged is committed, and the service heals by itself.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use elephantasm_events::grpc::pb::CreateEventRequest;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tempfile::TempDir;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::support::builders::{create, event, keyed, list};
use crate::support::cluster::Cluster;
use crate::support::connections::CONNECTIONS_MAX;
use crate::support::harness::{TestServer, eventually, reachable_dir};
use crate::support::health_watch::HealthWatch;
use crate::support::load::{Load, connections, short_timeouts};

const END_CONNECTIONS: &str = "
    select pg_terminate_backend(pid)
    from pg_stat_activity
    where application_name like 'elephantasm-events%'";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_free_connections_is_unavailable_until_there_are_some() {
    // As many as the service may want, and the test's own.
    let max_connections = (CONNECTIONS_MAX + 1).to_string();
    let own = Cluster::start(&[
        ("fsync", "off"),
        ("max_connections", &max_connections),
        ("superuser_reserved_connections", "0"),
    ])
    .await;
    let mut first = own.database.connect().await;
    let server = TestServer::start_on(Arc::clone(&own.database), short_timeouts).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    // Somebody else takes what there is, and at last the server's own, so that it cannot even ask. Those that it is just
    // making are not to be seen yet, but not to be had either.
    let mut others = Vec::new();
    let all = usize::try_from(CONNECTIONS_MAX).unwrap();
    eventually("others have all connections", async || {
        sqlx::query(END_CONNECTIONS).execute(&mut first).await.unwrap();
        while let Ok(other) = own.database.connect.connect().await {
            others.push(other);
        }
        (others.len() == all).then_some(())
    })
    .await;
    health.wait_for(NotServing).await;
    load.wait_for_refusals(50).await;
    for other in others {
        other.close().await.unwrap();
    }
    health.wait_for(Serving).await;
    load.wait_for_creates(50).await;
    load.finish_and_verify(&mut first).await;
    server.stop().await.unwrap();
    drop(first);
}

async fn alter(connection: &mut PgConnection, setting: &str) {
    for sql in [
        format!("alter system set {setting}"),
        "select pg_reload_conf()".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut *connection)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_for_a_while_is_read_and_refuses_creates() {
    let own = Cluster::start(&[("fsync", "off")]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), short_timeouts).await;
    let spirit_id = server.spirit().await;
    let mut beside = own.database.connect().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    alter(&mut beside, "default_transaction_read_only = on").await;
    load.wait_for_refusals(20).await;
    let mut events = server.events();
    let mut own_creates = 0;
    let refused = eventually("a create is refused", async || {
        own_creates += 1;
        let request = keyed(&spirit_id, &format!("own {own_creates}"));
        events.create_event(request).await.err()
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable);
    let listed = events.list_events(list(&spirit_id)).await.unwrap().into_inner();
    assert!(!listed.events.is_empty(), "it is read all the same");
    // Changing it back is a write, which the session has to ask for.
    sqlx::query("set default_transaction_read_only = off")
        .execute(&mut beside)
        .await
        .unwrap();
    alter(&mut beside, "default_transaction_read_only = off").await;
    load.wait_for_creates(50).await;
    load.finish_and_verify(&mut beside).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_behind_a_lock_are_given_up_and_go_on_after_it() {
    let own = Cluster::start(&[("fsync", "off")]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), short_timeouts).await;
    let spirit_id = server.spirit().await;
    let (mut holder, mut beside) = (own.database.connect().await, own.database.connect().await);
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    let usual = connections(&mut beside).await;
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("lock table events, spirits in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    load.wait_for_refusals(20).await;
    assert!(
        connections(&mut beside).await <= usual + 10,
        "what is stuck makes no connections"
    );
    lock.rollback().await.unwrap();
    load.wait_for_creates(50).await;
    load.finish_and_verify(&mut beside).await;
    server.stop().await.unwrap();
}

/// A small file system in memory; only root can make one, and not in every container.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(mebibytes: usize) -> Option<Self> {
        let dir = reachable_dir();
        let size = format!("size={mebibytes}m,mode=755");
        let path = dir.path().to_str().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs", path])
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_creates_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(220) else {
        eprintln!("SKIPPED: no tmpfs can be mounted here; root can");
        return;
    };
    let data_dir = disk.0.path().join("data");
    let settings = [
        ("fsync", "off"),
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
    ];
    let own = Cluster::start_at(data_dir, &settings).await;
    let server = TestServer::start_on(Arc::clone(&own.database), short_timeouts).await;
    let spirit_id = server.spirit().await;
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 30 * 1024 * 1024]).unwrap();

    let mut events = server.events();
    let mut acknowledged = BTreeSet::new();
    // Random letters, which do not get much smaller when they are stored.
    let content = || {
        std::iter::repeat_with(fastrand::alphanumeric)
            .take(300_000)
            .collect()
    };
    let full = loop {
        let key = acknowledged.len().to_string();
        let request = CreateEventRequest {
            content: Some(content()),
            ..keyed(&spirit_id, &key)
        };
        match events.create_event(request).await {
            Ok(_) => acknowledged.insert(key),
            Err(status) => break status,
        };
        assert!(acknowledged.len() < 2_000, "the disk never gets full");
    };
    assert_eq!(full.code(), Code::Unavailable, "{full:?}");
    std::fs::remove_file(&ballast).unwrap();
    eventually("there is room again", async || {
        server
            .events()
            .create_event(keyed(&spirit_id, "after"))
            .await
            .ok()
    })
    .await;
    acknowledged.insert("after".to_owned());
    let rows: Vec<(String,)> = sqlx::query_as("select dedupe_key from events")
        .fetch_all(&mut own.database.connect().await)
        .await
        .unwrap();
    let stored: BTreeSet<String> = rows.into_iter().map(|(key,)| key).collect();
    assert!(acknowledged.is_subset(&stored));
    assert_eq!(
        create(&mut server.events(), event(&spirit_id)).await.sequence,
        i64::try_from(stored.len()).unwrap() + 1
    );
    server.stop().await.unwrap();
}
