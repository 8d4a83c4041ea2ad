//! A load of concurrent callers during faults: checks that each call is answered soon, with a correct reply
//! or a retryable error, and that every acknowledged event is stored afterwards.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{CreateEventRequest, CreateOutcome, Event, GetEventRequest, OnDuplicate};
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{keyed, list};
use crate::support::connections::CONNECTIONS_MAX;
use crate::support::harness::{PATIENCE, Settings, TestServer, eventually};

/// Number of concurrent callers.
pub const CALLERS: usize = 8;
/// Prefix of the callers' dedupe keys; other events of a test have other keys.
const KEY_PREFIX: &str = "load ";
/// Timeouts of a server under load on an idle machine; a call may run into several of them one after another.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time within which every call is answered on an idle machine, whatever has happened to the database: covers
/// acquiring a connection, and a statement or flush that is tried twice.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Factor by which time limits grow at most.
const SLOWNESS_MAX: f64 = 10.0;

/// Sets short database timeouts, which are longer on a busy machine: opening a connection takes a hundred turns of
/// several processes, each of which waits for its turn.
pub fn short_timeouts(settings: &mut Settings) {
    let timeout = SHORT_TIMEOUT.mul_f64(slowness());
    settings.store.acquire_timeout = timeout;
    settings.store.statement_timeout = timeout;
    settings.store.ingest.flush_timeout = timeout;
}

/// Average number of processes that have waited for each CPU in the last minute, at least one.
pub fn slowness() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load
        .split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    (load / f64::from(cpus) - 1.0).clamp(1.0, SLOWNESS_MAX)
}

/// Creates an event that has a dedupe key and returns it. Sends it again while it is refused, as with short timeouts on a
/// busy machine.
pub async fn acknowledged(
    client: &mut EventServiceClient<Channel>,
    mut request: CreateEventRequest,
) -> Event {
    request.set_on_duplicate(OnDuplicate::ReturnExisting);
    let created = eventually("a create is acknowledged", async || {
        client.create_event(request.clone()).await.ok()
    });
    created.await.into_inner().event.unwrap()
}

/// Callers that create and read without pause, each create with a dedupe key of its own. A refused create is
/// sent again until it is acknowledged.
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<Vec<Stored>>,
}

#[derive(Default)]
struct Shared {
    stored: AtomicUsize,
    refused: AtomicUsize,
    refusals: Mutex<Refusals>,
    done: AtomicBool,
}

/// Refused calls.
#[derive(Default)]
pub struct Refusals {
    /// Longest time until a call was refused.
    pub slowest: Duration,
    pub reasons: BTreeSet<String>,
}

/// Spirit id, sequence, dedupe key and id of an event.
type Stored = (String, i64, String, String);

impl Load {
    /// Starts callers that share one spirit.
    pub async fn start(server: &TestServer, spirit_id: &str) -> Self {
        Self::start_on(server, &[spirit_id.to_owned()]).await
    }

    /// Starts callers that have a spirit each.
    pub async fn start_with_own_spirits(server: &TestServer) -> Self {
        let mut spirits = Vec::new();
        for _ in 0..CALLERS {
            spirits.push(server.spirit().await);
        }
        Self::start_on(server, &spirits).await
    }

    async fn start_on(server: &TestServer, spirits: &[String]) -> Self {
        let shared = Arc::<Shared>::default();
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let spirit_id = &spirits[number % spirits.len()];
            let first = keyed(spirit_id, &format!("{KEY_PREFIX}{number}-first"));
            let caller = Caller {
                number,
                owns_spirit: spirits.len() == CALLERS,
                events: server.events(),
                last: acknowledged(&mut server.events(), first).await,
                shared: Arc::clone(&shared),
            };
            callers.spawn(caller.call());
        }
        Self { shared, callers }
    }

    /// Waits until this many more creates are acknowledged.
    pub async fn wait_for_creates(&self, more: usize) {
        wait_for_increase(&self.shared.stored, more, "creates are acknowledged").await;
    }

    /// Waits until this many more calls are refused.
    pub async fn wait_for_refusals(&self, more: usize) {
        wait_for_increase(&self.shared.refused, more, "calls are refused").await;
    }

    /// Takes the refusals since the previous call of this function.
    pub fn refusals(&self) -> Refusals {
        std::mem::take(&mut *self.shared.refusals.lock().unwrap())
    }

    /// Ends the load and verifies that exactly the acknowledged events are stored, each once, and that no
    /// spirit has a gap in its sequences.
    pub async fn finish_and_verify(self, connection: &mut PgConnection) {
        self.shared.done.store(true, Ordering::Release);
        let ended = timeout(PATIENCE, self.callers.join_all())
            .await
            .expect("the callers end within the time limit");
        let mut acknowledged: Vec<Stored> = ended.into_iter().flatten().collect();
        acknowledged.sort_unstable();
        let mut stored: Vec<Stored> = sqlx::query_as(
            "select spirit_id::text, sequence, dedupe_key, id::text from events where starts_with(dedupe_key, $1)",
        )
        .bind(KEY_PREFIX)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        stored.sort_unstable();
        assert_eq!(
            stored, acknowledged,
            "exactly the acknowledged events are stored, each once"
        );
        assert_no_gaps(connection).await;
    }

    /// Like [`finish_and_verify`](Self::finish_and_verify); also verifies that the server has no more
    /// connections than its settings allow.
    pub async fn finish_and_verify_connections(self, connection: &mut PgConnection) {
        assert!(connections(connection).await <= CONNECTIONS_MAX);
        self.finish_and_verify(connection).await;
    }
}

/// Asserts that each spirit has an event for every sequence up to `last_sequence`.
async fn assert_no_gaps(connection: &mut PgConnection) {
    let spirits: Vec<(i64, Vec<i64>)> = sqlx::query_as(
        "select last_sequence, array(select sequence from events where spirit_id = spirits.id order by sequence)
         from spirits",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    for (last, sequences) in spirits {
        assert!(sequences.into_iter().eq(1..=last), "a gap in the sequences");
    }
}

async fn wait_for_increase(counter: &AtomicUsize, more: usize, what: &str) {
    let target = counter.load(Ordering::Acquire) + more;
    eventually(what, async || {
        (counter.load(Ordering::Acquire) >= target).then_some(())
    })
    .await;
}

struct Caller {
    number: usize,
    /// Whether no other caller creates events of the spirit.
    owns_spirit: bool,
    events: EventServiceClient<Channel>,
    /// The last acknowledged event.
    last: Event,
    shared: Arc<Shared>,
}

impl Caller {
    /// Makes calls until the load ends; returns the acknowledged events.
    async fn call(mut self) -> Vec<Stored> {
        let mut acknowledged = vec![stored(&self.last)];
        let mut is_retry = false;
        while is_retry || !self.shared.done.load(Ordering::Acquire) {
            let key = format!("{KEY_PREFIX}{}-{}", self.number, acknowledged.len());
            let is_created = self.create(&key, is_retry).await;
            if is_created {
                acknowledged.push(stored(&self.last));
            }
            is_retry = !is_created;
            let is_got = self.get().await;
            let is_listed = self.list(is_created).await;
            if !is_created && !is_got && !is_listed {
                sleep(Duration::from_millis(20)).await; // back-off, as in a client
            }
        }
        acknowledged
    }

    async fn create(&mut self, key: &str, is_retry: bool) -> bool {
        let mut request = keyed(self.last.spirit_id(), key);
        // Half of the callers accept a duplicate even at the first attempt.
        if is_retry || self.number.is_multiple_of(2) {
            request.on_duplicate = OnDuplicate::ReturnExisting.into();
        }
        let since = Instant::now();
        let created = self.events.create_event(request).await;
        let Some(created) = self.shared.record(since, created) else {
            return false;
        };
        let outcome = created.outcome();
        assert_ne!(outcome, CreateOutcome::DuplicateDifferent);
        assert!(
            is_retry || outcome == CreateOutcome::Created,
            "a first attempt cannot be a duplicate"
        );
        let event = created.event.unwrap();
        let expected = (self.last.spirit_id(), key);
        assert_eq!((event.spirit_id(), event.dedupe_key()), expected, "a wrong reply");
        self.last = event;
        self.shared.stored.fetch_add(1, Ordering::AcqRel);
        true
    }

    async fn get(&mut self) -> bool {
        let request = GetEventRequest {
            event_id: self.last.id.clone(),
            ..GetEventRequest::default()
        };
        let since = Instant::now();
        let got = self.shared.record(since, self.events.get_event(request).await);
        if let Some(got) = &got {
            assert_eq!(got.event.as_ref(), Some(&self.last), "a wrong reply");
        }
        got.is_some()
    }

    /// `is_newest`: no create of this caller can have been stored since its last acknowledged event.
    async fn list(&mut self, is_newest: bool) -> bool {
        let spirit_id = self.last.spirit_id();
        let since = Instant::now();
        let listed = self.events.list_events(list(spirit_id)).await;
        let Some(listed) = self.shared.record(since, listed) else {
            return false;
        };
        let all_of_spirit = listed.events.iter().all(|event| event.spirit_id() == spirit_id);
        assert!(
            all_of_spirit && !listed.events.is_empty(),
            "a wrong reply: {listed:?}"
        );
        let is_first = listed.events.first() == Some(&self.last);
        assert!(
            is_first || !is_newest || !self.owns_spirit,
            "{:?} is not the newest of {listed:?}",
            self.last
        );
        true
    }
}

fn stored(event: &Event) -> Stored {
    (
        event.spirit_id().to_owned(),
        event.sequence,
        event.dedupe_key().to_owned(),
        event.id.clone(),
    )
}

impl Shared {
    /// Returns the reply. Asserts that a failed call was answered in time with a retryable error, and records
    /// it.
    fn record<T>(&self, since: Instant, result: Result<Response<T>, Status>) -> Option<T> {
        let took = since.elapsed();
        let in_time = took < ANSWER_WITHIN || took < ANSWER_WITHIN.mul_f64(slowness());
        assert!(in_time, "{took:?} for {:?}", result.err());
        let status = match result {
            Ok(response) => return Some(response.into_inner()),
            Err(status) => status,
        };
        // RESOURCE_EXHAUSTED: connections that do not answer keep the pool busy.
        let retryable = [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted];
        assert!(retryable.contains(&status.code()), "{status:?}");
        let reason = status.get_details_error_info().expect("ErrorInfo").reason;
        let mut refusals = self.refusals.lock().unwrap();
        refusals.slowest = refusals.slowest.max(took);
        refusals.reasons.insert(reason);
        self.refused.fetch_add(1, Ordering::AcqRel);
        None
    }
}

/// Number of the server's open connections to the database.
pub async fn connections(connection: &mut PgConnection) -> i64 {
    let (count,) = sqlx::query_as(
        "select count(*) from pg_stat_activity where application_name like 'elephantasm-events%'",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    count
}
