//! A rolling restart of two servers behind a load balancer, under load: every call succeeds if its client retries.
//!
//! Needs haproxy; the test is skipped without it.

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

use crate::harness::{Server, TestDir, event, eventually};

const CALLERS: usize = 6;
/// Pairs of a create and a read that all callers together complete between two restarts.
const CALLS: usize = 150;
/// Maximum number of retries of a create and its read together, and the pause before each retry.
const RETRIES: (usize, Duration) = (50, Duration::from_millis(100));

/// A haproxy that checks the servers and distributes connections to those that accept connections.
struct Balancer {
    _process: Child,
    addr: String,
}

impl Balancer {
    async fn start(test_dir: &TestDir, servers: [&str; 2]) -> Option<Self> {
        // haproxy neither takes over a socket nor reports its port, so a free port is chosen here.
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
            .args(["-db", "-f", &test_dir.file("haproxy.cfg", config)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let balancer = Self {
            _process: process,
            addr,
        };
        eventually("the balancer accepts connections", async || {
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

/// Returns true if clients retry the call: the service is unavailable, or the connection ended.
fn is_retryable(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Pauses before a retry; panics if the error is not retryable or no retry is left.
async fn pause_before_retry(status: Status, retries_left: &mut usize) {
    assert!(is_retryable(&status) && *retries_left > 0, "{status:?}");
    *retries_left -= 1;
    sleep(RETRIES.1).await;
}

/// Creates an event and reads it; retries both calls until they succeed.
async fn create_and_get(events: &mut EventServiceClient<Channel>, request: CreateEventRequest) {
    let mut retries_left = RETRIES.0;
    let created = loop {
        match events.create_event(request.clone()).await {
            Ok(created) => break created.into_inner(),
            Err(status) => pause_before_retry(status, &mut retries_left).await,
        }
    };
    let request = GetEventRequest {
        event_id: created.event.unwrap().id,
        ..GetEventRequest::default()
    };
    while let Err(status) = events.get_event(request.clone()).await {
        pause_before_retry(status, &mut retries_left).await;
    }
}

/// Callers that create and read events until they are stopped.
struct Callers {
    tasks: JoinSet<Vec<String>>,
    stopped: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl Callers {
    /// Starts callers that connect through the balancer.
    async fn start(balancer: &Balancer, spirit_id: &str) -> Self {
        let (stopped, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for caller in 0..CALLERS {
            let channel = balancer.connect().await.unwrap();
            let (spirit_id, stopped, calls) =
                (spirit_id.to_owned(), Arc::clone(&stopped), Arc::clone(&calls));
            tasks.spawn(async move {
                let mut events = EventServiceClient::new(channel);
                let mut keys = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    let key = format!("{caller}-{}", keys.len());
                    let request = CreateEventRequest {
                        dedupe_key: Some(key.clone()),
                        on_duplicate: OnDuplicate::ReturnExisting.into(),
                        ..event(&spirit_id)
                    };
                    create_and_get(&mut events, request).await;
                    keys.push(key);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                keys
            });
        }
        Self {
            tasks,
            stopped,
            calls,
        }
    }

    /// Waits until the callers have completed [`CALLS`] further pairs of calls.
    async fn progress(&self) {
        let target = self.calls.load(Ordering::Relaxed) + CALLS;
        eventually("further calls succeed", async || {
            (self.calls.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// Stops the callers and returns the dedupe keys of the events that they created.
    async fn stop(self) -> HashSet<String> {
        self.stopped.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retried_calls_all_succeed_during_a_rolling_restart_behind_a_load_balancer() {
    let test_dir = TestDir::new();
    let database_server = Server::start(&test_dir).await;
    // Two servers on the first server's database, each with a directory for its log.
    let password = std::fs::read_to_string(test_dir.data.join("password")).unwrap();
    let run = test_dir.data.join("run");
    let url = format!(
        "postgres://elephantasm:{password}@localhost/events?host={}",
        run.to_str().unwrap().replace('/', "%2F")
    );
    let test_dirs = [TestDir::new(), TestDir::new()];
    let start = async |test_dir: &TestDir, addr: &str| {
        let mut command = test_dir.command(&["--listen-addr", addr, "--drain-timeout", "10s"]);
        Server::run(test_dir, command.env("DATABASE_URL", &url)).await
    };
    let mut servers = [
        start(&test_dirs[0], "127.0.0.1:0").await,
        start(&test_dirs[1], "127.0.0.1:0").await,
    ];
    let addrs = [servers[0].addr.clone(), servers[1].addr.clone()];
    let Some(balancer) = Balancer::start(&test_dir, [&addrs[0], &addrs[1]]).await else {
        eprintln!("SKIPPED: no haproxy here; apt-get install haproxy");
        return;
    };

    let spirit_id = database_server.spirit("Ada").await;
    let callers = Callers::start(&balancer, &spirit_id).await;
    for (server, (test_dir, addr)) in servers.iter_mut().zip(test_dirs.iter().zip(&addrs)) {
        callers.progress().await;
        server.signal("TERM").await;
        assert_eq!(server.wait_for_exit().await.0, Some(0), "{}", server.log());
        callers.progress().await;
        *server = start(test_dir, addr).await;
    }
    callers.progress().await;
    let keys = callers.stop().await;

    let rows: Vec<(String, i64)> =
        sqlx::query_as("select dedupe_key, sequence from events order by sequence")
            .fetch_all(&mut test_dir.connect().await)
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
    database_server.stop().await;
}
