//! Callers under load while something breaks: what each is told, how soon, and whether what was
//! acknowledged is there afterwards.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{Event, GetEventRequest};
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::builders::{create, keyed, list};
use crate::harness::{PATIENCE, Settings, TestServer, eventually};

const CALLERS: usize = 8;
/// The limits of a server under test; a call may meet several of them one after another.
const LIMIT: Duration = Duration::from_secs(1);
/// Of reads; of each of two writers and those of its spirits that wait for a lock; LISTEN, the probe, keys.
pub const CONNECTIONS_MAX: i64 = 8 + 2 * 5 + 3;
/// In which every call is answered, whatever has happened to the database: acquiring a connection, a
/// statement or a flush that is tried twice, and a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub fn impatient(settings: &mut Settings) {
    settings.store.acquire_timeout = LIMIT;
    settings.store.statement_timeout = LIMIT;
    settings.store.ingest.flush_timeout = LIMIT;
}

/// Callers that create and list without pause, each create with a key of its own.
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<BTreeSet<String>>,
}

#[derive(Default)]
struct Shared {
    stored: AtomicUsize,
    refused: AtomicUsize,
    /// The longest that a caller waited to be refused.
    slowest_refusal: Mutex<Duration>,
    done: AtomicBool,
}

impl Load {
    pub async fn start(server: &TestServer, spirit_id: &str) -> Self {
        let first = create(&mut server.events(), keyed(spirit_id, "first")).await;
        let shared = Arc::<Shared>::default();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(call(server.events(), first.clone(), caller, Arc::clone(&shared)));
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

    /// The longest that a caller has waited to be refused, whatever was refused before this call left aside.
    pub fn slowest_refusal(&self) -> Duration {
        std::mem::take(&mut *self.shared.slowest_refusal.lock().unwrap())
    }

    /// Ends it; what was acknowledged is in the database, and that without a gap.
    pub async fn ends_all_there(self, connection: &mut PgConnection) {
        self.shared.done.store(true, Ordering::Release);
        let ended = timeout(PATIENCE, self.callers.join_all())
            .await
            .expect("callers end");
        let acknowledged: BTreeSet<String> = ended.into_iter().flatten().collect();
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select dedupe_key, sequence from events order by sequence")
                .fetch_all(connection)
                .await
                .unwrap();
        let count = i64::try_from(rows.len()).unwrap();
        assert!(rows.iter().map(|(_, sequence)| *sequence).eq(1..=count), "a gap");
        let stored: BTreeSet<String> = rows.into_iter().map(|(key, _)| key).collect();
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
    }
}

async fn grows(counter: &AtomicUsize, more: usize, what: &str) {
    let enough = counter.load(Ordering::Acquire) + more;
    eventually(what, async || {
        (counter.load(Ordering::Acquire) >= enough).then_some(())
    })
    .await;
}

async fn call(
    mut events: EventServiceClient<Channel>,
    first: Event,
    caller: usize,
    shared: Arc<Shared>,
) -> BTreeSet<String> {
    let spirit_id = first.spirit_id.clone().unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut last = first;
    for round in 0.. {
        if shared.done.load(Ordering::Acquire) {
            break;
        }
        let key = format!("{caller}-{round}");
        let since = Instant::now();
        let created = events.create_event(keyed(&spirit_id, &key)).await;
        let created = note(&shared, since, created).map(|created| created.event.unwrap());
        if let Some(event) = &created {
            assert_eq!(event.dedupe_key.as_ref(), Some(&key), "a wrong answer");
            last = event.clone();
            acknowledged.insert(key);
            shared.stored.fetch_add(1, Ordering::AcqRel);
        }
        let since = Instant::now();
        let request = GetEventRequest {
            event_id: last.id.clone(),
            ..GetEventRequest::default()
        };
        let got = note(&shared, since, events.get_event(request).await);
        if let Some(got) = &got {
            assert_eq!(got.event.as_ref(), Some(&last), "a wrong answer");
        }
        let since = Instant::now();
        let listed = note(&shared, since, events.list_events(list(&spirit_id)).await);
        if let Some(listed) = &listed {
            let ours = listed
                .events
                .iter()
                .all(|event| event.spirit_id.as_ref() == Some(&spirit_id));
            assert!(ours && !listed.events.is_empty(), "a wrong answer: {listed:?}");
        }
        if created.is_none() && got.is_none() && listed.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await; // as a client would before it tries again
        }
    }
    acknowledged
}

/// The answer; if there was none, it was refused soon and with an error that says to try again.
fn note<T>(shared: &Shared, since: Instant, answer: Result<Response<T>, Status>) -> Option<T> {
    let took = since.elapsed();
    assert!(took < ANSWER_WITHIN, "{took:?} for {:?}", answer.err());
    let status = match answer {
        Ok(response) => return Some(response.into_inner()),
        Err(status) => status,
    };
    let passing = [Code::Unavailable, Code::DeadlineExceeded];
    assert!(passing.contains(&status.code()), "{status:?}");
    let mut slowest = shared.slowest_refusal.lock().unwrap();
    *slowest = slowest.max(took);
    shared.refused.fetch_add(1, Ordering::AcqRel);
    None
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
