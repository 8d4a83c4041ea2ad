//! A hundred thousand calls that are cancelled at any moment: the server's process keeps nothing of them,
//! neither memory nor connections to the database, and of what it acknowledged nothing is missing.

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
use crate::harness::{PATIENCE, Place, Server, event, eventually};

const CALLS: usize = 100_000;
/// After each the memory is looked at; what grows goes on growing.
const ROUNDS: usize = 6;
const CALLERS: usize = 8;
/// The bytes before a message of a gRPC call.
const HEAD_BYTES: usize = 5;
/// That the process may hold more after the last two rounds, whichever left less, than after the second: 170 bytes for
/// each call between. What an allocator happens to keep is less.
const GROWTH_MAX_KIB: u64 = 8 * 1024;

/// When a call is cancelled.
#[derive(Clone, Copy)]
enum Moment {
    /// Its message has not been sent.
    Begun,
    /// All of it has been sent, and nothing has been looked at since.
    Sent,
    /// After this time or its answer, whichever comes first.
    After(Duration),
    /// Not at all.
    Never,
}

impl Moment {
    fn of(call: usize) -> Self {
        match call % 40 {
            0 => Self::Never,
            n if n % 4 == 1 => Self::Begun,
            n if n % 4 == 2 => Self::After(Duration::from_micros(200)),
            n if n % 4 == 3 => Self::After(Duration::from_millis(3)),
            _ => Self::Sent,
        }
    }
}

/// Whom a caller calls about.
#[derive(Clone)]
struct Subject {
    addr: String,
    spirit_id: String,
    event_id: String,
}

/// A call's path and message; each kind meets each moment.
fn kind(subject: &Subject, caller: usize, call: usize) -> (&'static str, Vec<u8>) {
    let spirit_id = subject.spirit_id.clone();
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
                event_id: subject.event_id.clone(),
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
    // The server may close one whose calls are cancelled faster than it takes them up.
    tokio::spawn(async { drop(connection.await) });
    requests
}

/// Makes calls and cancels them; returns the events that were acknowledged.
async fn call_and_cancel(subject: Subject, caller: usize, calls: std::ops::Range<usize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut requests = connect(&subject.addr).await;
    for call in calls {
        let (rpc, message) = kind(&subject, caller, call);
        let moment = Moment::of(call);
        let length = u32::try_from(message.len()).unwrap();
        let body = Bytes::from([&[0], &length.to_be_bytes()[..], &message].concat());
        let request = Request::post(format!(
            "http://{}/elephantasm.events.v1.EventService/{rpc}",
            subject.addr
        ))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
        let sent = match requests.clone().ready().await {
            Ok(mut ready) => ready.send_request(request, false),
            Err(error) => Err(error),
        };
        let Ok((response, mut sending)) = sent else {
            requests = connect(&subject.addr).await;
            continue;
        };
        if !matches!(moment, Moment::Begun) && sending.send_data(body, true).is_err() {
            continue;
        }
        match moment {
            Moment::Begun | Moment::Sent => {}
            Moment::After(time) => drop(timeout(time, response).await),
            Moment::Never if rpc == "CreateEvent" => {
                let answer = timeout(PATIENCE, message_of::<CreateEventResponse>(response)).await;
                let created = answer.expect("an answer comes");
                acknowledged.extend(created.and_then(|created| created.event).map(|event| event.id));
            }
            Moment::Never => drop(timeout(PATIENCE, response).await.expect("an answer comes")),
        }
        sending.send_reset(Reason::CANCEL);
    }
    acknowledged
}

/// What a call is answered with, if its connection lasts so long.
async fn message_of<M: Message + Default>(response: ResponseFuture) -> Option<M> {
    let mut body = response.await.ok()?.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        bytes.extend(data.ok()?);
    }
    Some(M::decode(bytes.get(HEAD_BYTES..)?).unwrap())
}

/// The server's connections: all of them, and those with a statement under way.
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

/// Memory of a process; on systems without `/proc` it is not known.
fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_cancelled_calls_leave_nothing_behind() {
    let place = Place::new();
    let server = Server::run(&place, &mut place.command(&["--log", "info,calls=warn"])).await;
    let spirit_id = server.spirit("Ada").await;
    let mut events = server.events().await;
    let first = events.create_event(event(&spirit_id)).await.unwrap().into_inner();
    let first = first.event.unwrap();
    let subject = Subject {
        addr: server.addr.clone(),
        spirit_id: spirit_id.clone(),
        event_id: first.id.clone(),
    };
    let get = || GetEventRequest {
        event_id: first.id.clone(),
        ..GetEventRequest::default()
    };
    let mut database = place.connect().await;
    let mut acknowledged = vec![first.id.clone()];
    let mut resident = Vec::new();
    for round in 0..ROUNDS {
        let calls = CALLS / ROUNDS / CALLERS;
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let calls = round * calls..(round + 1) * calls;
            callers.spawn(call_and_cancel(subject.clone(), caller, calls));
        }
        // Meanwhile others are served, from a bounded number of connections.
        while !callers.is_empty() {
            let got = timeout(PATIENCE, events.get_event(get())).await;
            got.expect("others are served").unwrap();
            let (open, _) = connections(&mut database).await;
            assert!(open <= CONNECTIONS_MAX, "{open} connections");
            while let Some(ended) = callers.try_join_next() {
                acknowledged.extend(ended.unwrap());
            }
        }
        eventually("no statement is under way", async || {
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
