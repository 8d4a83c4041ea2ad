//! The operators' view: liveness, readiness and the metrics of the store.

use std::time::Duration;

use tokio::net::TcpStream;
use tonic::Code;

use crate::support::builders::{create, event, keyed, lock_spirit, refused, statements_are_blocked};
use crate::support::harness::{TestServer, eventually, set_pool_of_calls};
use crate::support::live::{beginning, watch};
use crate::support::scrape::{Scrape, get, metric_reaches};

#[tokio::test]
async fn a_serving_server_reports_alive_and_ready() {
    let server = TestServer::start().await;
    assert_eq!(get(server.admin, "/healthz").await, (200, "alive\n".to_owned()));
    assert_eq!(get(server.admin, "/readyz").await, (200, "serving\n".to_owned()));
    assert_eq!(get(server.admin, "/secrets").await.0, 404);
    let scrape = Scrape::of(&server).await;
    for up in ["events_ready", "events_database_up"] {
        assert_eq!(scrape.count(up), 1, "{up}");
    }
    metric_reaches(&server, "events_listen_up", 1).await;
}

#[tokio::test]
async fn a_draining_server_reports_alive_but_not_ready_until_its_admin_port_closes() {
    let server = TestServer::start().await;
    let (addr, spirit_id) = (server.admin, server.spirit().await);
    let mut connection = server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &spirit_id).await;
    let mut events = server.events();
    let waiting_create = tokio::spawn(async move { create(&mut events, event(&spirit_id)).await });
    metric_reaches(&server, "events_ingest_queue_events{share=\"calls\"}", 1).await;

    server.shut_down();
    eventually("/readyz reports draining", async || {
        let (status, body) = get(addr, "/readyz").await;
        (status == 503 && body.contains("draining")).then_some(())
    })
    .await;
    assert_eq!(get(addr, "/healthz").await.0, 200);
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.count("events_ready"), 0);
    assert_eq!(scrape.count("events_database_up"), 1, "the database is up");
    spirit_lock.rollback().await.unwrap();
    waiting_create.await.unwrap();
    server.stop().await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn metrics_count_queued_events_flushes_and_overload_refusals() {
    let server = TestServer::start_with(|settings| settings.store.ingest.queue_items_max = 4).await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), keyed(&spirit_id, "k")).await;
    let taken = server.events().create_event(keyed(&spirit_id, "k")).await;
    refused(taken, Code::AlreadyExists, "DUPLICATE_EVENT");
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.count("events_stored_total"), 1);
    assert_eq!(scrape.count("events_duplicates_total"), 1);
    assert_eq!(scrape.count("events_flush_events_count"), 2);
    assert_eq!(scrape.count("events_flush_events_sum"), 2);
    assert!(scrape.seconds("events_flush_seconds_sum") > 0.0);
    assert_eq!(scrape.count("events_ingest_queue_events_max{share=\"calls\"}"), 2);

    let mut connection = server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &spirit_id).await;
    let waiting_creates = [0, 1].map(|_| {
        let (mut events, request) = (server.events(), event(&spirit_id));
        tokio::spawn(async move { create(&mut events, request).await })
    });
    metric_reaches(&server, "events_ingest_queue_events{share=\"calls\"}", 2).await;
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.count("events_ingest_queue_events{share=\"streams\"}"), 0);
    assert_eq!(scrape.count("events_ingest_queue_bytes{share=\"calls\"}"), 2048);
    for _ in 0..3 {
        let refusal = server.events().create_event(event(&spirit_id)).await;
        refused(refusal, Code::ResourceExhausted, "OVERLOADED");
    }
    spirit_lock.rollback().await.unwrap();
    for create in waiting_creates {
        create.await.unwrap();
    }
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.count("events_overload_refusals_total"), 3);
    assert_eq!(scrape.count("events_stored_total"), 3);
    metric_reaches(&server, "events_ingest_queue_events{share=\"calls\"}", 0).await;
    metric_reaches(&server, "events_ingest_queue_bytes{share=\"calls\"}", 0).await;
}

#[tokio::test]
async fn metrics_report_pool_connections_in_use_and_calls_waiting_for_one() {
    let server = TestServer::start_with(|settings| set_pool_of_calls(settings, 1)).await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &spirit_id).await;
    let edits = [0, 1, 2].map(|number| {
        let mut spirits = server.spirits();
        let request = elephantasm_events::grpc::pb::UpdateSpiritRequest {
            spirit_id: spirit_id.clone(),
            name: Some(format!("name {number}")),
            ..Default::default()
        };
        tokio::spawn(async move { spirits.update_spirit(request).await.unwrap() })
    });
    // The first edit holds the only connection while it waits for the spirit's row lock.
    statements_are_blocked(&server, 1).await;
    metric_reaches(&server, "events_pool_waiting", 2).await;
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.count("events_pool_connections{state=\"in_use\"}"), 1);
    assert_eq!(scrape.count("events_pool_connections{state=\"idle\"}"), 0);
    assert_eq!(scrape.count("events_pool_connections_max"), 1);
    spirit_lock.rollback().await.unwrap();
    for edit in edits {
        edit.await.unwrap();
    }
    metric_reaches(&server, "events_pool_connections{state=\"idle\"}", 1).await;
    metric_reaches(&server, "events_pool_waiting", 0).await;
}

#[tokio::test]
async fn metrics_report_live_streams_and_their_delivery_lag() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut reader = watch(&server, beginning(&spirit_id)).await.unwrap();
        assert_eq!(reader.sequences(1).await, [1]);
        assert_eq!(reader.caught_up().await, 1);
        readers.push(reader);
    }
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.count("events_live_streams"), 2);
    assert_eq!(scrape.count("events_live_spirits"), 1);
    let lag_metric = "events_delivery_lag_seconds";
    assert_eq!(
        scrape.count(&format!("{lag_metric}_count")),
        0,
        "events sent while catching up count no lag"
    );

    create(&mut server.events(), event(&spirit_id)).await;
    for reader in &mut readers {
        assert_eq!(reader.sequences(1).await, [2]);
    }
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.count(&format!("{lag_metric}_count")), 2);
    let seconds = scrape.seconds(&format!("{lag_metric}_sum"));
    assert!((0.0..20.0).contains(&seconds), "{seconds}");
    drop(readers);
    metric_reaches(&server, "events_live_streams", 0).await;
    metric_reaches(&server, "events_live_spirits", 0).await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn metrics_report_the_resources_of_the_process() {
    let server = TestServer::start().await;
    let scrape = Scrape::of(&server).await;
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let age = now.as_secs_f64() - scrape.seconds("process_start_time_seconds");
    let day = Duration::from_secs(86_400).as_secs_f64();
    assert!((-2.0..day).contains(&age), "{age}");
    assert!(scrape.seconds("process_cpu_seconds_total") >= 0.0);
    assert!(scrape.count("process_resident_memory_bytes") > 1_000_000);
    let (open, max) = (scrape.count("process_open_fds"), scrape.count("process_max_fds"));
    assert!(3 < open && open < max, "{open} of {max}");
}
