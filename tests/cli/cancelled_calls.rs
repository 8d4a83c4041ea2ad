//! A hundred thousand calls are cancelled at various moments: the server leaks neither memory nor database
//! connections, and every acknowledged event is stored.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use elephantasm_events::grpc::pb::{
    CreateEventRequest, CreateEventResponse, GetEventRequest, ListEventsRequest, StreamSessionEventsRequest,
    WatchEventsRequest,
};
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest, handshake};
use http::Request;
use prost::Message;
use prost::bytes::Bytes;
use sqlx::PgConnection;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::connections::CONNECTIONS_MAX;
use crate::harness::{PATIENCE, Server, TestDir, event, eventually};

const CALLS: usize = 100_000;
/// Memory is measured after each round; a leak grows from round to round.
const ROUNDS: usize = 6;
const CALLERS: usize = 8;
/// Length of the prefix of a gRPC message.
const PREFIX_BYTES: usize = 5;
/// Allowed growth of the resident memory from the second round to the smaller value of the last two rounds: 170 bytes
/// for each call in between. Memory that the allocator retains stays below this.
const GROWTH_MAX_KIB: u64 = 8 * 1024;

/// The moment at which a call is cancelled.
#[derive(Clone, Copy)]
enum Moment {
    /// Before its message is sent.
    BeforeMessage,
    /// Right after its message is sent.
    AfterMessage,
    /// After this time or its reply, whichever is first.
    After(Duration),
    /// Not cancelled.
    Never,
}

impl Moment {
    fn of(call: usize) -> Self {
        match call % 40 {
            0 => Self::Never,
            n if n % 4 == 1 => Self::BeforeMessage,
            n if n % 4 == 2 => Self::After(Duration::from_micros(200)),
            n if n % 4 == 3 => Self::After(Duration::from_millis(3)),
            _ => Self::AfterMessage,
        }
    }
}

/// The server, spirit and event that the calls refer to.
#[derive(Clone)]
struct Target {
    addr: String,
    spirit_id: String,
    event_id: String,
}

/// Method and message of a call. Every method is combined with every moment.
fn method_and_message(target: &Target, caller: usize, call: usize) -> (&'static str, Vec<u8>) {
    let spirit_id = target.spirit_id.clone();
    match (call / 40) % 5 {
        0 => {
            let request = CreateEventRequest {
                dedupe_key: Some(format!("{caller}-{call}")),
                ..event(&spirit_id)
            };
            ("CreateEvent", request.encode_to_vec())
        }
        1 => {
            let request = GetEventRequest {
                event_id: target.event_id.clone(),
                ..GetEventRequest::default()
            };
            ("GetEvent", request.encode_to_vec())
        }
        2 => {
            let request = ListEventsRequest {
                spirit_id,
                ..ListEventsRequest::default()
            };
            ("ListEvents", request.encode_to_vec())
        }
        3 => {
            let request = StreamSessionEventsRequest {
                spirit_id,
                session_id: "s".to_owned(),
                follow: call % 2 == 1,
                ..StreamSessionEventsRequest::default()
            };
            ("StreamSessionEvents", request.encode_to_vec())
        }
        _ => {
            let request = WatchEventsRequest {
                spirit_id,
                ..WatchEventsRequest::default()
            };
            ("WatchEvents", request.encode_to_vec())
        }
    }
}

async fn connect(addr: &str) -> SendRequest<Bytes> {
    let (requests, connection) = handshake(TcpStream::connect(addr).await.unwrap()).await.unwrap();
    // The server may close a connection that cancels calls faster than they are processed.
    tokio::spawn(async { drop(connection.await) });
    requests
}

/// Makes calls and cancels them; returns the ids of acknowledged events.
async fn call_and_cancel(target: Target, caller: usize, calls: std::ops::Range<usize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut requests = connect(&target.addr).await;
    for call in calls {
        let (rpc, message) = method_and_message(&target, caller, call);
        let moment = Moment::of(call);
        let length = u32::try_from(message.len()).unwrap();
        let body = Bytes::from([&[0], &length.to_be_bytes()[..], &message].concat());
        let request = Request::post(format!(
            "http://{}/elephantasm.events.v1.EventService/{rpc}",
            target.addr
        ))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
        let sent = match requests.clone().ready().await {
            Ok(mut ready) => ready.send_request(request, false),
            Err(error) => Err(error),
        };
        let Ok((response, mut request_body)) = sent else {
            requests = connect(&target.addr).await;
            continue;
        };
        if !matches!(moment, Moment::BeforeMessage) && request_body.send_data(body, true).is_err() {
            continue;
        }
        match moment {
            Moment::BeforeMessage | Moment::AfterMessage => {}
            Moment::After(time) => drop(timeout(time, response).await),
            Moment::Never if rpc == "CreateEvent" => {
                let answer = timeout(PATIENCE, message_of::<CreateEventResponse>(response)).await;
                let created = answer.expect("CreateEvent is answered in time");
                acknowledged.extend(created.and_then(|created| created.event).map(|event| event.id));
            }
            Moment::Never => drop(
                timeout(PATIENCE, response)
                    .await
                    .expect("the call is answered in time"),
            ),
        }
        request_body.send_reset(Reason::CANCEL);
    }
    acknowledged
}

/// The reply message of a call, or `None` if its connection ends first.
async fn message_of<M: Message + Default>(response: ResponseFuture) -> Option<M> {
    let mut body = response.await.ok()?.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        bytes.extend(data.ok()?);
    }
    Some(M::decode(bytes.get(PREFIX_BYTES..)?).unwrap())
}

/// Number of the server's connections, and of those that run a statement.
async fn connections(database: &mut PgConnection) -> (i64, i64) {
    sqlx::query_as(
        "select count(*), count(*) filter (where state <> 'idle')
         from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .fetch_one(database)
    .await
    .unwrap()
}

/// Resident memory of a process; `None` on systems without `/proc`.
fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_cancelled_calls_leak_nothing_and_lose_no_acknowledged_event() {
    let test_dir = TestDir::new();
    let server = Server::run(&test_dir, &mut test_dir.command(&["--log", "info,calls=warn"])).await;
    let spirit_id = server.spirit("Ada").await;
    let mut events = server.events().await;
    let first = events.create_event(event(&spirit_id)).await.unwrap().into_inner();
    let first = first.event.unwrap();
    let target = Target {
        addr: server.addr.clone(),
        spirit_id: spirit_id.clone(),
        event_id: first.id.clone(),
    };
    let get = || GetEventRequest {
        event_id: first.id.clone(),
        ..GetEventRequest::default()
    };
    let mut database = test_dir.connect().await;
    let mut acknowledged = vec![first.id.clone()];
    let mut resident = Vec::new();
    for round in 0..ROUNDS {
        let calls = CALLS / ROUNDS / CALLERS;
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let calls = round * calls..(round + 1) * calls;
            callers.spawn(call_and_cancel(target.clone(), caller, calls));
        }
        // Other callers are served during the round, within the limit of connections. A busy machine may open
        // connections too slowly for a single call.
        while !callers.is_empty() {
            eventually("another caller is served", async || {
                events.clone().get_event(get()).await.ok()
            })
            .await;
            let (open, _) = connections(&mut database).await;
            assert!(open <= CONNECTIONS_MAX, "{open} connections");
            while let Some(ended) = callers.try_join_next() {
                acknowledged.extend(ended.unwrap());
            }
        }
        eventually("no statement is running", async || {
            (connections(&mut database).await.1 == 0).then_some(())
        })
        .await;
        resident.extend(resident_kib(server.pid()));
    }
    if let [_, second, .., last_but_one, last] = resident[..] {
        assert!(
            last.min(last_but_one) < second + GROWTH_MAX_KIB,
            "KiB after each round: {resident:?}, acknowledged {}, and of the callers' process {:?}",
            acknowledged.len(),
            resident_kib(std::process::id())
        );
    }
    let stored: Vec<String> = sqlx::query_scalar("select id::text from events")
        .fetch_all(&mut database)
        .await
        .unwrap();
    let stored: HashSet<String> = stored.into_iter().collect();
    let missing = acknowledged.iter().filter(|id| !stored.contains(*id)).count();
    assert_eq!(missing, 0, "of {} acknowledged", acknowledged.len());
    assert!(acknowledged.len() > CALLS / 40 / 5 / 2, "{}", acknowledged.len());
    server.stop().await;
}
