//! A stress test with random creates through two servers: acknowledged creates are stored exactly once,
//! refused ones are not stored.

mod checks;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::ingest_events_response::Result as Answer;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CreateEventRequest, CreateEventResponse, CreateOutcome,
    IngestEventsRequest, OnDuplicate, RestoreSpiritRequest, SoftDeleteSpiritRequest,
};
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Response};
use tonic_types::{ErrorInfo, RpcStatusExt as _, StatusExt as _};

use crate::support::builders::event;
use crate::support::harness::{PATIENCE, TestServer};
use crate::support::validation::UNKNOWN_ID;

const CREATES: usize = 10_000;
const CALLERS: usize = 64;
const SPIRITS: usize = 12;
/// Number of spirits, the first ones, that are soft-deleted and restored during the test.
const TOGGLED_SPIRITS: usize = 3;
/// Number of dedupe keys, few enough that about half of the keys sent are taken.
const DEDUPE_KEYS: u32 = 300;

/// The result of one create, as known to its caller.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Stored {
        id: String,
        sequence: i64,
    },
    /// The event with this id holds its dedupe key.
    Duplicate {
        id: String,
    },
    Refused,
    /// The caller did not wait for the answer.
    Unknown,
}

/// Creates sent in one request or stream; each has a unique content.
struct Sent {
    kind: Kind,
    items: Vec<(CreateEventRequest, Outcome)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// All or nothing.
    Atomic,
    /// Stored in order, per spirit.
    Stream,
    Other,
}

struct Caller {
    name: usize,
    sent_count: usize,
    rng: Rng,
    events: EventServiceClient<Channel>,
    spirits: SpiritServiceClient<Channel>,
    spirit_ids: Arc<[String]>,
    /// Last known sequence by spirit, for `expected_last_sequence`.
    last: HashMap<String, i64>,
    sent: Vec<Sent>,
}

impl Caller {
    async fn run(mut self) -> Vec<Sent> {
        while self.sent_count < CREATES.div_ceil(CALLERS) {
            match self.rng.u32(0..20) {
                0 => self.toggle_deletion().await,
                1 => self.batch(BatchMode::Atomic).await,
                2 => self.batch(BatchMode::Partial).await,
                3 => self.stream().await,
                _ => self.single().await,
            }
        }
        self.sent
    }

    /// A valid create, one in twenty with a dedupe key that may be taken.
    fn valid_request(&mut self) -> CreateEventRequest {
        let spirit_id = &self.spirit_ids[self.rng.usize(..SPIRITS)];
        let content = Some(format!("{}-{}", self.name, self.sent_count));
        self.sent_count += 1;
        let dedupe_key = (self.rng.u32(0..20) == 0).then(|| format!("k{}", self.rng.u32(0..DEDUPE_KEYS)));
        CreateEventRequest {
            content,
            dedupe_key,
            ..event(spirit_id)
        }
    }

    /// A create that may be invalid, guarded, deduplicated, or of an unknown spirit.
    fn random_request(&mut self) -> CreateEventRequest {
        let mut request = self.valid_request();
        match self.rng.u32(0..10) {
            0 => request.event_type = String::new(),
            1 if self.rng.bool() => UNKNOWN_ID.clone_into(&mut request.spirit_id),
            2 => {
                let last = self.last.get(&request.spirit_id).copied();
                request.expected_last_sequence = Some(last.unwrap_or_default());
            }
            kind @ 3..=6 => {
                request.dedupe_key = Some(format!("k{}", self.rng.u32(0..DEDUPE_KEYS)));
                if kind % 2 == 0 {
                    request.on_duplicate = OnDuplicate::ReturnExisting.into();
                }
            }
            _ => {}
        }
        request
    }

    /// The answer of a call. One call in five is abandoned after a random time and may have no answer.
    async fn maybe_abandon<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        if self.rng.u32(0..5) == 0 {
            timeout(Duration::from_micros(self.rng.u64(0..10_000)), call)
                .await
                .ok()
        } else {
            Some(
                timeout(PATIENCE, call)
                    .await
                    .expect("the call is answered in time"),
            )
        }
    }

    async fn single(&mut self) {
        let request = self.random_request();
        let mut events = self.events.clone();
        let answer = self.maybe_abandon(events.create_event(request.clone())).await;
        let outcome = match answer {
            None => Outcome::Unknown,
            Some(Ok(response)) => created(response.into_inner()),
            Some(Err(status)) => refusal(status.code(), status.get_details_error_info()),
        };
        self.record(Kind::Other, vec![(request, outcome)]);
    }

    async fn batch(&mut self, mode: BatchMode) {
        let atomic = mode == BatchMode::Atomic;
        let requests: Vec<_> = (0..self.rng.usize(2..15))
            .map(|_| {
                if atomic {
                    self.valid_request()
                } else {
                    self.random_request()
                }
            })
            .collect();
        let request = BatchCreateEventsRequest {
            requests: requests.clone(),
            mode: mode.into(),
        };
        let mut events = self.events.clone();
        let answer = self.maybe_abandon(events.batch_create_events(request)).await;
        let outcomes = match answer.map(|answer| answer.map(Response::into_inner)) {
            None => vec![Outcome::Unknown; requests.len()],
            Some(Err(status)) => {
                refusal(status.code(), status.get_details_error_info());
                vec![Outcome::Refused; requests.len()]
            }
            Some(Ok(response)) => response
                .results
                .into_iter()
                .map(|result| match result.result.unwrap() {
                    BatchItem::Created(response) => created(response),
                    BatchItem::Error(error) => {
                        refusal(Code::from_i32(error.code), error.get_details_error_info())
                    }
                })
                .collect(),
        };
        assert_eq!(outcomes.len(), requests.len());
        let kind = if atomic { Kind::Atomic } else { Kind::Other };
        self.record(kind, requests.into_iter().zip(outcomes).collect());
    }

    /// An ingest stream whose answers are read to the end or to a random item before it.
    async fn stream(&mut self) {
        let requests: Vec<_> = (0..self.rng.usize(5..40))
            .map(|_| self.random_request())
            .collect();
        let items: Vec<_> = requests
            .iter()
            .map(|create| IngestEventsRequest {
                create: Some(create.clone()),
                ..IngestEventsRequest::default()
            })
            .collect();
        let mut outcomes = Vec::new();
        let wanted = if self.rng.bool() {
            requests.len()
        } else {
            self.rng.usize(..requests.len())
        };
        let answers = self.events.ingest_events(tokio_stream::iter(items)).await;
        let mut answers = answers.unwrap().into_inner();
        while outcomes.len() < wanted {
            let answer = timeout(PATIENCE, answers.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            outcomes.push(match answer.result.unwrap() {
                Answer::Error(error) => refusal(Code::from_i32(error.code), error.get_details_error_info()),
                Answer::Receipt(receipt) if receipt.outcome() == CreateOutcome::Created => Outcome::Stored {
                    id: receipt.event_id,
                    sequence: receipt.sequence,
                },
                Answer::Receipt(receipt) => Outcome::Duplicate { id: receipt.event_id },
            });
        }
        outcomes.resize(requests.len(), Outcome::Unknown);
        self.record(Kind::Stream, requests.into_iter().zip(outcomes).collect());
    }

    async fn toggle_deletion(&mut self) {
        let spirit_id = self.spirit_ids[self.rng.usize(..TOGGLED_SPIRITS)].clone();
        if self.rng.bool() {
            let request = SoftDeleteSpiritRequest {
                spirit_id,
                ..SoftDeleteSpiritRequest::default()
            };
            self.spirits.soft_delete_spirit(request).await.unwrap();
        } else {
            let request = RestoreSpiritRequest {
                spirit_id,
                ..RestoreSpiritRequest::default()
            };
            self.spirits.restore_spirit(request).await.unwrap();
        }
    }

    fn record(&mut self, kind: Kind, items: Vec<(CreateEventRequest, Outcome)>) {
        for (request, outcome) in &items {
            if let Outcome::Stored { sequence, .. } = outcome {
                if let Some(expected) = request.expected_last_sequence {
                    assert_eq!(
                        *sequence,
                        expected + 1,
                        "the sequence follows expected_last_sequence"
                    );
                }
                self.last.insert(request.spirit_id.clone(), *sequence);
            }
        }
        self.sent.push(Sent { kind, items });
    }
}

fn created(response: CreateEventResponse) -> Outcome {
    let is_new = response.outcome() == CreateOutcome::Created;
    let event = response.event.unwrap();
    let (id, sequence) = (event.id, event.sequence);
    if is_new {
        Outcome::Stored { id, sequence }
    } else {
        Outcome::Duplicate { id }
    }
}

fn refusal(code: Code, info: Option<ErrorInfo>) -> Outcome {
    let mut info = info.expect("every error carries an ErrorInfo");
    match (code, info.reason.as_str()) {
        (Code::AlreadyExists, "DUPLICATE_EVENT") => match info.metadata.remove("existing_event_id") {
            Some(id) => Outcome::Duplicate { id },
            None => Outcome::Refused,
        },
        (Code::InvalidArgument, "INVALID_FIELD")
        | (Code::NotFound, "SPIRIT_NOT_FOUND")
        | (Code::Aborted, "SEQUENCE_MISMATCH") => Outcome::Refused,
        other => panic!("unexpected: {other:?} {info:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_random_creates_are_stored_once_if_acknowledged_and_never_if_refused() {
    let seed = std::env::var("STORM_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("STORM_SEED={seed}"); // printed when the test fails
    let mut rng = Rng::with_seed(seed);
    let server = TestServer::start().await;
    let second_server = TestServer::start_on(Arc::clone(&server.database), |_| {}).await;
    let mut spirit_ids = Vec::new();
    for _ in 0..SPIRITS {
        spirit_ids.push(server.spirit().await);
    }
    let spirit_ids: Arc<[String]> = spirit_ids.into();
    let mut callers = JoinSet::new();
    for name in 0..CALLERS {
        let chosen = if name % 2 == 0 { &server } else { &second_server };
        let caller = Caller {
            name,
            sent_count: 0,
            rng: rng.fork(),
            events: chosen.events(),
            spirits: chosen.spirits(),
            spirit_ids: Arc::clone(&spirit_ids),
            last: HashMap::new(),
            sent: Vec::new(),
        };
        callers.spawn(caller.run());
    }
    let all: Vec<Sent> = callers.join_all().await.into_iter().flatten().collect();
    // Abandoned calls may still be in flight; they end with their server.
    let database = Arc::clone(&server.database);
    server.stop().await.unwrap();
    second_server.stop().await.unwrap();

    let reader = TestServer::start_on(database, |_| {}).await;
    checks::every_outcome_occurred(&all);
    checks::rows_match_answers(&reader, &all).await;
}
