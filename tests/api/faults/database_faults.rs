//! A degraded database: connections exhausted, read-only, locked or out of disk space. Calls fail fast with a
//! retryable error, health reports NOT_SERVING where no call works, acknowledged events stay committed, and the
//! service recovers without a restart.

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
use crate::support::load::{CALLERS, Load, connections, short_timeouts};

const TERMINATE_SERVER_CONNECTIONS: &str = "
    select pg_terminate_backend(pid)
    from pg_stat_activity
    where application_name like 'elephantasm-events%'";

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_unavailable_while_the_database_has_no_free_connection() {
    // The service's maximum, and one connection of the test.
    let max_connections = (CONNECTIONS_MAX + 1).to_string();
    let cluster = Cluster::start(&[
        ("fsync", "off"),
        ("max_connections", &max_connections),
        ("superuser_reserved_connections", "0"),
    ])
    .await;
    let mut first = cluster.database.connect().await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), short_timeouts).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    // Take every free connection, and terminate the server's until those are taken too. A connection that the server
    // is just opening is not yet listed, but its slot is already in use.
    let mut others = Vec::new();
    let all = usize::try_from(CONNECTIONS_MAX).unwrap();
    eventually("the test holds every connection", async || {
        sqlx::query(TERMINATE_SERVER_CONNECTIONS)
            .execute(&mut first)
            .await
            .unwrap();
        while let Ok(other) = cluster.database.connect.connect().await {
            others.push(other);
        }
        (others.len() == all).then_some(())
    })
    .await;
    health.wait_for(NotServing).await;
    load.wait_for_refusals(CALLERS).await;
    for other in others {
        other.close().await.unwrap();
    }
    health.wait_for(Serving).await;
    load.wait_for_creates(50).await;
    load.finish_and_verify(&mut first).await;
    server.stop().await.unwrap();
    drop(first);
}

/// Changes a setting of the whole cluster and reloads it.
async fn alter_system(connection: &mut PgConnection, setting: &str) {
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
async fn a_temporarily_read_only_database_serves_reads_and_rejects_creates() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), short_timeouts).await;
    let spirit_id = server.spirit().await;
    let mut observer = cluster.database.connect().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    alter_system(&mut observer, "default_transaction_read_only = on").await;
    load.wait_for_refusals(CALLERS).await;
    let mut events = server.events();
    let mut attempts = 0;
    let rejected = eventually("a create is rejected", async || {
        attempts += 1;
        let request = keyed(&spirit_id, &format!("own {attempts}"));
        events.create_event(request).await.err()
    })
    .await;
    assert_eq!(rejected.code(), Code::Unavailable);
    let listed = events.list_events(list(&spirit_id)).await.unwrap().into_inner();
    assert!(!listed.events.is_empty(), "reads still work");
    // ALTER SYSTEM counts as a write, so this PostgreSQL session has to leave read-only mode first.
    sqlx::query("set default_transaction_read_only = off")
        .execute(&mut observer)
        .await
        .unwrap();
    alter_system(&mut observer, "default_transaction_read_only = off").await;
    load.wait_for_creates(50).await;
    load.finish_and_verify(&mut observer).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_blocked_by_a_table_lock_time_out_and_work_again_after_it() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), short_timeouts).await;
    let spirit_id = server.spirit().await;
    let (mut holder, mut observer) = (cluster.database.connect().await, cluster.database.connect().await);
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    let connections_before = connections(&mut observer).await;
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("lock table events, spirits in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    load.wait_for_refusals(CALLERS).await;
    assert!(
        connections(&mut observer).await <= connections_before + 10,
        "blocked statements open no further connections"
    );
    lock.rollback().await.unwrap();
    load.wait_for_creates(50).await;
    load.finish_and_verify(&mut observer).await;
    server.stop().await.unwrap();
}

/// A small in-memory file system (tmpfs). Mounting it needs root, and some containers do not allow it.
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
async fn a_full_disk_rejects_creates_and_loses_no_acknowledged_event() {
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
    let cluster = Cluster::start_at(data_dir, &settings).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), short_timeouts).await;
    let spirit_id = server.spirit().await;
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 30 * 1024 * 1024]).unwrap();

    let mut events = server.events();
    let mut acknowledged = BTreeSet::new();
    // Random characters hardly compress.
    let content = || {
        std::iter::repeat_with(fastrand::alphanumeric)
            .take(300_000)
            .collect()
    };
    let rejected = loop {
        let key = acknowledged.len().to_string();
        let request = CreateEventRequest {
            content: Some(content()),
            ..keyed(&spirit_id, &key)
        };
        match events.create_event(request).await {
            Ok(_) => acknowledged.insert(key),
            Err(status) => break status,
        };
        assert!(acknowledged.len() < 2_000, "the disk never fills up");
    };
    assert_eq!(rejected.code(), Code::Unavailable, "{rejected:?}");
    std::fs::remove_file(&ballast).unwrap();
    eventually("a create succeeds once space is free", async || {
        server
            .events()
            .create_event(keyed(&spirit_id, "after"))
            .await
            .ok()
    })
    .await;
    acknowledged.insert("after".to_owned());
    let rows: Vec<(String,)> = sqlx::query_as("select dedupe_key from events")
        .fetch_all(&mut cluster.database.connect().await)
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
