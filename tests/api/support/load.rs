//! Callers under load while something breaks: what each is told, how soon, and whether what was
//! acknowledged is there afterwards.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{CreateOutcome, Event, GetEventRequest, OnDuplicate};
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{create, keyed, list};
use crate::support::connections::CONNECTIONS_MAX;
use crate::support::harness::{PATIENCE, Settings, TestServer, eventually};

const CALLERS: usize = 8;
/// How their keys begin; other events of a test have other ones.
const OWN_KEYS: &str = "load ";
/// The limits of a server under test; a call may meet several of them one after another.
const LIMIT: Duration = Duration::from_secs(1);
/// In which every call is answered, whatever has happened to the database: acquiring a connection, a
/// statement or a flush that is tried twice, and a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub fn impatient(settings: &mut Settings) {
    settings.store.acquire_timeout = LIMIT;
    settings.store.statement_timeout = LIMIT;
    settings.store.ingest.flush_timeout = LIMIT;
}

/// Callers that create and read without pause, each create with a key of its own. One that is refused is sent again
/// until it is acknowledged.
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

#[derive(Default)]
pub struct Refusals {
    /// The longest that a caller waited to be refused.
    pub slowest: Duration,
    pub reasons: BTreeSet<String>,
}

/// The spirit, sequence, key and id of an event.
type Stored = (String, i64, String, String);

impl Load {
    /// All of it about one spirit.
    pub async fn start(server: &TestServer, spirit_id: &str) -> Self {
        Self::start_about(server, &[spirit_id.to_owned()]).await
    }

    /// Each caller about a spirit of its own.
    pub async fn start_apart(server: &TestServer) -> Self {
        let mut spirits = Vec::new();
        for _ in 0..CALLERS {
            spirits.push(server.spirit().await);
        }
        Self::start_about(server, &spirits).await
    }

    async fn start_about(server: &TestServer, spirits: &[String]) -> Self {
        let shared = Arc::<Shared>::default();
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let spirit_id = &spirits[number % spirits.len()];
            let first = keyed(spirit_id, &format!("{OWN_KEYS}{number}-first"));
            let caller = Caller {
                number,
                is_alone: spirits.len() == CALLERS,
                events: server.events(),
                last: create(&mut server.events(), first).await,
                shared: Arc::clone(&shared),
            };
            callers.spawn(caller.call());
        }
        Self { shared, callers }
    }

    /// Waits until so many more creates were acknowledged.
    pub async fn stores(&self, more: usize) {
        grows(&self.shared.stored, more, "creates are acknowledged").await;
    }

    /// Waits until so many more calls were refused.
    pub async fn is_refused(&self, more: usize) {
        grows(&self.shared.refused, more, "calls are refused").await;
    }

    /// What callers were told when they were refused since this was asked before.
    pub fn refusals(&self) -> Refusals {
        std::mem::take(&mut *self.shared.refusals.lock().unwrap())
    }

    /// Ends it; what was acknowledged is in the database once and nothing of it besides, and no spirit has a gap.
    pub async fn ends_all_there(self, connection: &mut PgConnection) {
        self.shared.done.store(true, Ordering::Release);
        let ended = timeout(PATIENCE, self.callers.join_all())
            .await
            .expect("callers end");
        let mut acknowledged: Vec<Stored> = ended.into_iter().flatten().collect();
        acknowledged.sort_unstable();
        let mut stored: Vec<Stored> = sqlx::query_as(
            "select spirit_id::text, sequence, dedupe_key, id::text from events where starts_with(dedupe_key, $1)",
        )
        .bind(OWN_KEYS)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        stored.sort_unstable();
        assert_eq!(stored, acknowledged, "each once, nothing lost, nothing besides");
        no_gaps(connection).await;
    }

    /// The same, and the server has no more connections than its settings say.
    pub async fn ends_within_bounds(self, connection: &mut PgConnection) {
        assert!(connections(connection).await <= CONNECTIONS_MAX);
        self.ends_all_there(connection).await;
    }
}

/// Each spirit has events of all the numbers that it has given.
async fn no_gaps(connection: &mut PgConnection) {
    let spirits: Vec<(i64, Vec<i64>)> = sqlx::query_as(
        "select last_sequence, array(select sequence from events where spirit_id = spirits.id order by sequence)
         from spirits",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    for (last, sequences) in spirits {
        assert!(sequences.into_iter().eq(1..=last), "a gap");
    }
}

async fn grows(counter: &AtomicUsize, more: usize, what: &str) {
    let enough = counter.load(Ordering::Acquire) + more;
    eventually(what, async || {
        (counter.load(Ordering::Acquire) >= enough).then_some(())
    })
    .await;
}

struct Caller {
    number: usize,
    /// Whether nobody else creates events of its spirit.
    is_alone: bool,
    events: EventServiceClient<Channel>,
    /// The event that was acknowledged last.
    last: Event,
    shared: Arc<Shared>,
}

impl Caller {
    /// Calls until all is done; returns what was acknowledged.
    async fn call(mut self) -> Vec<Stored> {
        let mut acknowledged = vec![stored(&self.last)];
        let mut again = false;
        while again || !self.shared.done.load(Ordering::Acquire) {
            let key = format!("{OWN_KEYS}{}-{}", self.number, acknowledged.len());
            let is_created = self.create(&key, again).await;
            if is_created {
                acknowledged.push(stored(&self.last));
            }
            again = !is_created;
            let is_got = self.get().await;
            let is_listed = self.list(is_created).await;
            if !is_created && !is_got && !is_listed {
                sleep(Duration::from_millis(20)).await; // as a client would before it tries again
            }
        }
        acknowledged
    }

    async fn create(&mut self, key: &str, again: bool) -> bool {
        let mut request = keyed(self.last.spirit_id(), key);
        // Half of the callers are ready for a duplicate from the first.
        if again || self.number.is_multiple_of(2) {
            request.on_duplicate = OnDuplicate::ReturnExisting.into();
        }
        let since = Instant::now();
        let created = self.events.create_event(request).await;
        let Some(created) = self.shared.note(since, created) else {
            return false;
        };
        let outcome = created.outcome();
        assert_ne!(outcome, CreateOutcome::DuplicateDifferent);
        assert!(
            again || outcome == CreateOutcome::Created,
            "a duplicate of nothing"
        );
        let event = created.event.unwrap();
        let right = (self.last.spirit_id(), key);
        assert_eq!((event.spirit_id(), event.dedupe_key()), right, "a wrong answer");
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
        let got = self.shared.note(since, self.events.get_event(request).await);
        if let Some(got) = &got {
            assert_eq!(got.event.as_ref(), Some(&self.last), "a wrong answer");
        }
        got.is_some()
    }

    /// `is_newest` tells whether nothing can have been stored since the last acknowledgement by this caller.
    async fn list(&mut self, is_newest: bool) -> bool {
        let spirit_id = self.last.spirit_id();
        let since = Instant::now();
        let listed = self.events.list_events(list(spirit_id)).await;
        let Some(listed) = self.shared.note(since, listed) else {
            return false;
        };
        let ours = listed.events.iter().all(|event| event.spirit_id() == spirit_id);
        assert!(ours && !listed.events.is_empty(), "a wrong answer: {listed:?}");
        let is_first = listed.events.first() == Some(&self.last);
        assert!(
            is_first || !is_newest || !self.is_alone,
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
    /// The answer; if there was none, it was refused soon and with an error that says to try again.
    fn note<T>(&self, since: Instant, answer: Result<Response<T>, Status>) -> Option<T> {
        let took = since.elapsed();
        assert!(took < ANSWER_WITHIN, "{took:?} for {:?}", answer.err());
        let status = match answer {
            Ok(response) => return Some(response.into_inner()),
            Err(status) => status,
        };
        let passing = [Code::Unavailable, Code::DeadlineExceeded];
        assert!(passing.contains(&status.code()), "{status:?}");
        let reason = status.get_details_error_info().expect("ErrorInfo").reason;
        let mut refusals = self.refusals.lock().unwrap();
        refusals.slowest = refusals.slowest.max(took);
        refusals.reasons.insert(reason);
        self.refused.fetch_add(1, Ordering::AcqRel);
        None
    }
}

/// Connections of the server, at any time no more than its settings say.
pub async fn connections(connection: &mut PgConnection) -> i64 {
    let (count,) = sqlx::query_as(
        "select count(*) from pg_stat_activity where application_name like 'elephantasm-events%'",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    count
}
