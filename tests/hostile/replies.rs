//! Replies that clients do not take.

use std::future::pending;
use std::time::{Duration, Instant};

use elephantasm_events::grpc::pb::{GetEventRequest, ListEventsRequest};
use h2::client;
use http::Method;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, duplex, split};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::harness::{PATIENCE, event, eventually, finish};
use crate::support::{CREATE_EVENT, Host, LIST_EVENTS, MIB, Raw, details, framed, peak};

/// Small budgets, which few connections exhaust.
const LIMITS: [&str; 4] = [
    "--max-reply-bytes",
    "67108864",
    "--max-connection-reply-bytes",
    "8388608",
];
const SERVER_BYTES: usize = 64 * MIB;
const CONNECTION_BYTES: usize = 8 * MIB;
/// Bytes of a page: 20 events of 100 kB.
const PAGE_BYTES: usize = 2_000_000;
const EVENTS: i32 = 20;
/// Memory beside the budgets: pages that are being read, connections, and the allocator's slack.
const SLACK: usize = 96 * MIB;

impl Host {
    /// Stores a page of events and returns the id of their spirit.
    async fn page(&self) -> String {
        let id = self.server.spirit("Ada").await;
        let mut connection = self.test_dir.connect().await;
        for statement in [
            "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id)
             select gen_random_uuid(), $1::text::uuid, n, 'x', repeat('x', 100000), to_timestamp(n), 's'
             from generate_series(1, $2) as n",
            "update spirits set last_sequence = $2 where id = $1::text::uuid",
        ] {
            let stored = sqlx::query(statement).bind(&id).bind(EVENTS);
            stored.execute(&mut connection).await.unwrap();
        }
        id
    }
}

fn list(spirit_id: &str) -> ListEventsRequest {
    ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        page_size: 200,
        ..ListEventsRequest::default()
    }
}

/// Calls whose replies nobody takes. Dropping it closes their connections.
struct Stalled {
    calls: JoinSet<()>,
    /// Statuses of calls that were answered with one, and h2 errors of those that were not.
    ended: mpsc::UnboundedReceiver<Result<Status, h2::Error>>,
    sender: mpsc::UnboundedSender<Result<Status, h2::Error>>,
}

impl Stalled {
    fn new() -> Self {
        let (sender, ended) = mpsc::unbounded_channel();
        Self {
            calls: JoinSet::new(),
            ended,
            sender,
        }
    }

    /// Opens a connection with this window for each reply, and lists a spirit's events over it.
    async fn list(&mut self, host: &Host, spirit_id: &str, window: u32, key: &str, calls: usize) {
        let mut builder = client::Builder::new();
        builder.initial_window_size(window);
        let raw = Raw::connect_with(host.addr(), &builder).await;
        let body = framed(&list(spirit_id).encode_to_vec());
        let authorization = format!("Bearer {key}");
        let headers = [
            ("content-type", "application/grpc"),
            ("authorization", &authorization),
        ];
        for _ in 0..calls {
            let response = raw.open(Method::POST, LIST_EVENTS, &headers, body.clone()).await;
            let (sender, raw) = (self.sender.clone(), raw.clone());
            self.calls.spawn(async move {
                let _connection = raw;
                let mut response = match response.unwrap().await {
                    Ok(response) => response,
                    Err(error) => return drop(sender.send(Err(error))),
                };
                if let Some(status) = Status::from_header_map(response.headers()) {
                    return drop(sender.send(Ok(status)));
                }
                // Without more window the data ends only with the connection.
                while let Some(data) = response.body_mut().data().await {
                    if let Err(error) = data {
                        return drop(sender.send(Err(error)));
                    }
                }
            });
        }
    }

    async fn next(&mut self) -> Result<Status, h2::Error> {
        let next = timeout(PATIENCE, self.ended.recv()).await;
        next.expect("a call ends in time").unwrap()
    }
}

/// Makes calls as other callers do, and returns the longest time that one took.
async fn call_for(host: &Host, spirit_id: &str, time: Duration) -> Duration {
    let mut events = host.server.events().await.max_decoding_message_size(8 * MIB);
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    while started.elapsed() < time {
        let begun = Instant::now();
        let created = events.create_event(event(spirit_id)).await.unwrap();
        let event_id = created.into_inner().event.unwrap().id;
        let get = GetEventRequest {
            event_id,
            ..GetEventRequest::default()
        };
        events.get_event(get).await.unwrap();
        events.list_events(list(spirit_id)).await.unwrap();
        longest = longest.max(begun.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_nobody_takes_are_bounded_and_others_go_on() {
    let host = Host::start(&LIMITS).await;
    let spirit_id = host.page().await;
    call_for(&host, &spirit_id, Duration::from_millis(1)).await;
    assert_eq!(host.metric("events_reply_bytes_max").await, SERVER_BYTES);

    let mut one = Stalled::new();
    one.list(&host, &spirit_id, 0, "", 10).await;
    let refused = one.next().await.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let (reason, delay) = details(&refused);
    assert_eq!(reason, "OVERLOADED");
    assert!(delay.is_some(), "{refused:?}");
    let held = host.metric("events_reply_bytes").await;
    assert!((3 * PAGE_BYTES..=CONNECTION_BYTES).contains(&held), "{held}");
    assert!(host.metric("events_reply_refusals_total").await >= 1);

    let before = host.resident();
    let mut many = Stalled::new();
    let others = async {
        for connection in 0..25 {
            many.list(&host, &spirit_id, connection % 2, "", 10).await;
        }
        call_for(&host, &spirit_id, Duration::from_secs(8)).await
    };
    let (longest, peak) = peak(&host, others).await;
    let growth = peak.saturating_sub(before);
    println!("25 connections: {} MiB, others {longest:?}", growth / MIB);
    assert!(growth < SERVER_BYTES + SLACK, "{} MiB", growth / MIB);
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    drop((one, many));
    eventually("the budget is free", async || {
        (host.metric("events_reply_bytes").await == 0).then_some(())
    })
    .await;
    host.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_takes_nothing_is_closed_and_an_idle_one_is_not() {
    let host = Host::start(&[&LIMITS[..], &["--stall-timeout", "2s"]].concat()).await;
    let spirit_id = host.page().await;
    let mut idle = host.server.events().await.max_decoding_message_size(8 * MIB);
    idle.list_events(list(&spirit_id)).await.unwrap();
    for (description, window) in [("no window", 0), ("a window of a byte", 1)] {
        let mut stalled = Stalled::new();
        stalled.list(&host, &spirit_id, window, "", 2).await;
        let started = Instant::now();
        assert!(stalled.next().await.is_err(), "{description}");
        println!("{description}: closed after {:?}", started.elapsed());
        eventually("the budget is free", async || {
            (host.metric("events_reply_bytes").await == 0).then_some(())
        })
        .await;
    }
    assert_eq!(host.metric("events_stalled_connections_total").await, 2);

    // The call is in progress for longer than the stall timeout.
    let mut connection = host.test_dir.connect().await;
    let mut lock = sqlx::Connection::begin(&mut connection).await.unwrap();
    sqlx::query("lock table events")
        .execute(&mut *lock)
        .await
        .unwrap();
    let slow = tokio::spawn(async move { idle.list_events(list(&spirit_id)).await });
    sleep(Duration::from_secs(5)).await;
    lock.rollback().await.unwrap();
    slow.await.unwrap().unwrap();
    assert_eq!(host.metric("events_stalled_connections_total").await, 2);
    host.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_socket_is_closed() {
    let host = Host::start(&[&LIMITS[..], &["--stall-timeout", "2s"]].concat()).await;
    let spirit_id = host.page().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let socket = socket.connect(host.addr()).await.unwrap();
    let (client, relayed) = duplex(64 * 1024);
    // Forwards what the client sends, and of what the server sends only the greeting.
    let relay = tokio::spawn(async move {
        let (mut from_server, mut to_server) = socket.into_split();
        let (mut from_client, mut to_client) = split(relayed);
        let forwarded = copy(&mut from_client, &mut to_server);
        let greeted = async {
            let mut greeting = [0; 64];
            let read = from_server.read(&mut greeting).await.unwrap();
            to_client.write_all(&greeting[..read]).await.unwrap();
            pending::<()>().await;
        };
        tokio::join!(forwarded, greeted)
    });
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(1 << 30)
        .initial_connection_window_size(1 << 30);
    let (requests, connection) = builder.handshake(client).await.unwrap();
    let connection = tokio::spawn(connection);
    let raw = Raw::over(requests, host.addr());
    let body = framed(&list(&spirit_id).encode_to_vec());
    let headers = [("content-type", "application/grpc")];
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(
            raw.open(Method::POST, LIST_EVENTS, &headers, body.clone())
                .await
                .unwrap(),
        );
    }
    eventually("the connection is closed", async || {
        (host.metric("events_stalled_connections_total").await == 1).then_some(())
    })
    .await;
    eventually("the budget is free", async || {
        (host.metric("events_reply_bytes").await == 0).then_some(())
    })
    .await;
    relay.abort();
    connection.abort();
    host.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_end_with_their_key() {
    let host = Host::start(&LIMITS).await;
    let spirit_id = host.page().await;
    let key = host.key("reader").await;
    let mut stalled = Stalled::new();
    stalled.list(&host, &spirit_id, 0, &key, 2).await;
    eventually("replies wait for their client", async || {
        (host.metric("events_reply_bytes").await >= 2 * PAGE_BYTES).then_some(())
    })
    .await;
    let prefix = key.rsplit_once('_').unwrap().0;
    finish(&mut host.test_dir.command(&["key", "revoke", prefix]))
        .await
        .exits_with(0);
    let revoked = Instant::now();
    assert!(stalled.next().await.is_err());
    println!("closed {:?} after the revocation", revoked.elapsed());
    assert!(
        revoked.elapsed() < Duration::from_secs(15),
        "{:?}",
        revoked.elapsed()
    );
    host.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_not_refused_after_it_was_stored() {
    const CREATES: usize = 12;
    let host = Host::start(&[
        "--max-connection-reply-bytes",
        "4194304",
        "--max-reply-bytes",
        "67108864",
    ])
    .await;
    let spirit_id = host.server.spirit("Ada").await;
    let mut builder = client::Builder::new();
    builder.initial_window_size(0);
    let raw = Raw::connect_with(host.addr(), &builder).await;
    let mut create = event(&spirit_id);
    create.content = Some("x".repeat(900_000));
    let body = framed(&create.encode_to_vec());
    let headers = [("content-type", "application/grpc")];
    let mut calls = JoinSet::new();
    for _ in 0..CREATES {
        let response = raw.open(Method::POST, CREATE_EVENT, &headers, body.clone()).await;
        let response = response.unwrap();
        calls.spawn(async move {
            let response = response.await.unwrap();
            (Status::from_header_map(response.headers()), response)
        });
    }
    let (mut refused, mut stored, mut kept) = (0, 0, Vec::new());
    while let Some(call) = calls.join_next().await {
        let (status, response) = call.unwrap();
        kept.push(response);
        match status.map(|status| status.code()) {
            None => stored += 1,
            Some(Code::ResourceExhausted) => refused += 1,
            Some(Code::DeadlineExceeded) => stored += 1,
            Some(code) => panic!("{code:?}"),
        }
    }
    let mut connection = host.test_dir.connect().await;
    let (count,): (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    println!("{stored} stored, {refused} refused, {count} rows");
    assert_eq!(count, stored, "{refused} refused");
    host.server.stop().await;
}

/// Makes a request with a key.
pub fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {key}").parse::<MetadataValue<_>>().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}
