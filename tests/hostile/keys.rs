//! Callers who try many API keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use elephantasm_events::grpc::pb::ListSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;
use uuid::Uuid;

use crate::harness::finish;
use crate::replies::with_key;
use crate::support::{Host, LIST_EVENTS, MIB, Raw};

const GUESSERS: usize = 900;
/// Longest time of a call, apart from the time in which the server waits for a CPU that other processes use.
const CALL_TIME_MAX: Duration = Duration::from_millis(500);
const GROWTH_MAX: usize = 64 * MIB;

/// A key of the right form that does not exist.
fn guess() -> String {
    let (prefix, secret) = (Uuid::now_v7().simple(), Uuid::new_v4().simple());
    format!("Bearer ek_{}_{secret}{secret}", &prefix.to_string()[20..])
}

async fn try_keys(raw: Raw, tried: Arc<AtomicUsize>, is_over: Arc<AtomicBool>) {
    let message = elephantasm_events::grpc::pb::ListEventsRequest::default();
    while !is_over.load(Ordering::Relaxed) {
        let key = guess();
        let reply = raw.grpc(LIST_EVENTS, &[("authorization", &key)], &message).await;
        assert_eq!(reply.grpc_status().code(), Code::Unauthenticated);
        tried.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_hundred_connections_of_guesses_do_not_delay_good_keys() {
    let host = Host::start(&[]).await;
    let key = host.key("admin").await;
    let new = finish(
        &mut host
            .test_dir
            .command(&["key", "create", "--name", "new", "--role", "reader"]),
    )
    .await;
    let new = new.exits_with(0).stdout.trim().to_owned();
    let mut spirits = SpiritServiceClient::new(host.server.channel().await);
    let mut others = SpiritServiceClient::new(host.server.channel().await);
    spirits
        .list_spirits(with_key(ListSpiritsRequest::default(), &key))
        .await
        .unwrap();

    let (tried, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut guessers = JoinSet::new();
    for _ in 0..GUESSERS {
        let raw = Raw::connect(host.addr()).await;
        guessers.spawn(try_keys(raw, Arc::clone(&tried), Arc::clone(&is_over)));
    }
    sleep(Duration::from_secs(2)).await;
    let scheduled = host.scheduled();
    let (before, started, mut times) = (host.resident(), Instant::now(), Vec::new());
    while started.elapsed() < Duration::from_secs(10) {
        let begun = Instant::now();
        spirits
            .list_spirits(with_key(ListSpiritsRequest::default(), &key))
            .await
            .unwrap();
        times.push(begun.elapsed());
        if times.len() == 3 {
            let begun = Instant::now();
            others
                .list_spirits(with_key(ListSpiritsRequest::default(), &new))
                .await
                .unwrap();
            println!("first call of a key: {:?}", begun.elapsed());
            times.push(begun.elapsed());
        }
        sleep(Duration::from_millis(50)).await;
    }
    let growth = host.resident().saturating_sub(before);
    let (ran, waited) = host.scheduled();
    let ran = ran.saturating_sub(scheduled.0);
    let waited = waited.saturating_sub(scheduled.1);
    let slowdown = (ran + waited).as_secs_f64() / ran.as_secs_f64().max(0.001);
    is_over.store(true, Ordering::Relaxed);
    while let Some(guesser) = guessers.join_next().await {
        guesser.unwrap();
    }
    let (longest, calls) = (times.iter().max().unwrap(), times.len());
    let tried = tried.load(Ordering::Relaxed);
    println!(
        "{tried} guesses, {calls} calls, longest {longest:?}, {} MiB",
        growth / MIB
    );
    println!("the server ran {ran:?} and waited for a CPU {waited:?}");
    assert!(calls > 3 && tried > GUESSERS, "{calls} calls, {tried} guesses");
    assert!(*longest < CALL_TIME_MAX.mul_f64(slowdown.max(1.0)), "{longest:?}");
    assert!(growth < GROWTH_MAX, "{} MiB", growth / MIB);
    host.server.stop().await;
}
