//! Two servers behind a balancer, restarted one after the other under load: no call is lost that its client
//! makes again.
//!
//! Needs haproxy; without it the test says so and ends.

use std::collections::HashSet;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{CreateEventRequest, GetEventRequest, OnDuplicate};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::harness::{Place, Server, event, eventually};

const CALLERS: usize = 6;
/// Calls that all callers together make between two restarts.
const CALLS: usize = 150;
/// How often a call is made again, and the pause before.
const RETRIES: (usize, Duration) = (50, Duration::from_millis(100));

/// Asks every server's health and sends connections to those that serve.
struct Balancer {
    _process: Child,
    addr: String,
}

impl Balancer {
    async fn start(place: &Place, servers: [&str; 2]) -> Option<Self> {
        // The program takes no socket and tells no port, so that a free one is looked for first.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap().to_string();
        drop(free);
        let [first, second] = servers;
        let config = format!(
            "defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
frontend grpc
  bind {addr}
  default_backend servers
backend servers
  balance roundrobin
  option redispatch
  retries 3
  default-server check inter 200ms fall 1 rise 1 on-marked-down shutdown-sessions
  server first {first}
  server second {second}
"
        );
        let process = Command::new("haproxy")
            .args(["-db", "-f", &place.file("haproxy.cfg", config)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let balancer = Self {
            _process: process,
            addr,
        };
        eventually("the balancer lets calls through", async || {
            balancer.connect().await.ok()
        })
        .await;
        Some(balancer)
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr)).unwrap();
        endpoint.connect().await
    }
}

/// Whether a client makes the call again: the service says so, or the connection ended.
fn passes(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Pauses before a call is made again, or gives up.
async fn again(status: Status, left: &mut usize) {
    assert!(passes(&status) && *left > 0, "{status:?}");
    *left -= 1;
    sleep(RETRIES.1).await;
}

/// Creates an event and reads it, each again and again until it is answered.
async fn create_and_get(events: &mut EventServiceClient<Channel>, request: CreateEventRequest) {
    let mut left = RETRIES.0;
    let created = loop {
        match events.create_event(request.clone()).await {
            Ok(created) => break created.into_inner(),
            Err(status) => again(status, &mut left).await,
        }
    };
    let request = GetEventRequest {
        event_id: created.event.unwrap().id,
        ..GetEventRequest::default()
    };
    while let Err(status) = events.get_event(request.clone()).await {
        again(status, &mut left).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_that_is_made_again() {
    let place = Place::new();
    let home = Server::start(&place).await;
    // Two servers on the first one's database, each with a place for its log.
    let password = std::fs::read_to_string(place.data.join("password")).unwrap();
    let run = place.data.join("run");
    let url = format!(
        "postgres://elephantasm:{password}@localhost/events?host={}",
        run.to_str().unwrap().replace('/', "%2F")
    );
    let places = [Place::new(), Place::new()];
    let start = async |place: &Place, addr: &str| {
        let mut command = place.command(&["--listen-addr", addr, "--drain-seconds", "10"]);
        Server::run(place, command.env("DATABASE_URL", &url)).await
    };
    let mut servers = [
        start(&places[0], "127.0.0.1:0").await,
        start(&places[1], "127.0.0.1:0").await,
    ];
    let addrs = [servers[0].addr.clone(), servers[1].addr.clone()];
    let Some(balancer) = Balancer::start(&place, [&addrs[0], &addrs[1]]).await else {
        eprintln!("SKIPPED: no haproxy here; apt-get install haproxy");
        return;
    };

    let spirit_id = home.spirit("Ada").await;
    let (told, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let channel = balancer.connect().await.unwrap();
        let (spirit_id, told, done) = (spirit_id.clone(), Arc::clone(&told), Arc::clone(&done));
        callers.spawn(async move {
            let mut events = EventServiceClient::new(channel);
            let mut keys = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let key = format!("{caller}-{}", keys.len());
                let request = CreateEventRequest {
                    dedupe_key: Some(key.clone()),
                    on_duplicate: OnDuplicate::ReturnExisting.into(),
                    ..event(&spirit_id)
                };
                create_and_get(&mut events, request).await;
                keys.push(key);
                done.fetch_add(1, Ordering::Relaxed);
            }
            keys
        });
    }
    let more = async || {
        let enough = done.load(Ordering::Relaxed) + CALLS;
        eventually("calls go on", async || {
            (done.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    };
    for (server, (place, addr)) in servers.iter_mut().zip(places.iter().zip(&addrs)) {
        more().await;
        server.signal("TERM").await;
        assert_eq!(server.ended().await.0, Some(0), "{}", server.log());
        more().await;
        *server = start(place, addr).await;
    }
    more().await;
    told.store(true, Ordering::Relaxed);
    let keys: HashSet<String> = callers.join_all().await.into_iter().flatten().collect();

    let rows: Vec<(String, i64)> =
        sqlx::query_as("select dedupe_key, sequence from events order by sequence")
            .fetch_all(&mut place.connect().await)
            .await
            .unwrap();
    assert!(
        rows.iter()
            .map(|(_, sequence)| *sequence)
            .eq(1..=i64::try_from(rows.len()).unwrap())
    );
    let stored: HashSet<String> = rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(stored, keys);
    for server in servers {
        server.stop().await;
    }
    home.stop().await;
}
