//! A storm of creates of every kind through two servers: what was acknowledged is stored, once, and
//! what was refused is not.

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
use crate::support::harness::{PATIENCE, Settings, TestServer};
use crate::support::validation::UNKNOWN_ID;

const CREATES: usize = 10_000;
const CALLERS: usize = 64;
const SPIRITS: usize = 12;
/// The first of them are soft-deleted and restored meanwhile.
const UNSTEADY: usize = 3;
/// Few enough that about half of the keys sent are taken.
const KEYS: u32 = 300;

/// What a caller knows of one create.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Stored {
        id: String,
        sequence: i64,
    },
    /// Its key is this event's.
    Duplicate {
        id: String,
    },
    Refused,
    /// The caller did not wait for the answer.
    Unknown,
}

/// Creates that were sent together, each told apart by its content.
struct Sent {
    kind: Kind,
    items: Vec<(CreateEventRequest, Fate)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// All or nothing.
    Atomic,
    /// In order, per spirit.
    Stream,
    Other,
}

struct Caller {
    name: usize,
    made: usize,
    rng: Rng,
    events: EventServiceClient<Channel>,
    spirits: SpiritServiceClient<Channel>,
    spirit_ids: Arc<[String]>,
    /// Last known sequences, for guards.
    last: HashMap<String, i64>,
    sent: Vec<Sent>,
}

impl Caller {
    async fn run(mut self) -> Vec<Sent> {
        while self.made < CREATES.div_ceil(CALLERS) {
            match self.rng.u32(0..20) {
                0 => self.toggle().await,
                1 => self.batch(BatchMode::Atomic).await,
                2 => self.batch(BatchMode::Partial).await,
                3 => self.stream().await,
                _ => self.single().await,
            }
        }
        self.sent
    }

    /// A create of a live spirit; rarely with a key that may be taken.
    fn mild(&mut self) -> CreateEventRequest {
        let spirit_id = &self.spirit_ids[self.rng.usize(..SPIRITS)];
        let content = Some(format!("{}-{}", self.name, self.made));
        self.made += 1;
        let dedupe_key = (self.rng.u32(0..20) == 0).then(|| format!("k{}", self.rng.u32(0..KEYS)));
        CreateEventRequest {
            content,
            dedupe_key,
            ..event(spirit_id)
        }
    }

    /// A create of any kind.
    fn wild(&mut self) -> CreateEventRequest {
        let mut request = self.mild();
        match self.rng.u32(0..10) {
            0 => request.event_type = String::new(),
            1 if self.rng.bool() => UNKNOWN_ID.clone_into(&mut request.spirit_id),
            2 => {
                let last = self.last.get(&request.spirit_id).copied();
                request.expected_last_sequence = Some(last.unwrap_or_default());
            }
            kind @ 3..=6 => {
                request.dedupe_key = Some(format!("k{}", self.rng.u32(0..KEYS)));
                if kind % 2 == 0 {
                    request.on_duplicate = OnDuplicate::ReturnExisting.into();
                }
            }
            _ => {}
        }
        request
    }

    /// The answer, unless the caller goes away first, which one in five does at some moment.
    async fn impatient<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        if self.rng.u32(0..5) == 0 {
            timeout(Duration::from_micros(self.rng.u64(0..10_000)), call)
                .await
                .ok()
        } else {
            Some(timeout(PATIENCE, call).await.expect("an answer comes"))
        }
    }

    async fn single(&mut self) {
        let request = self.wild();
        let mut events = self.events.clone();
        let answer = self.impatient(events.create_event(request.clone())).await;
        let fate = match answer {
            None => Fate::Unknown,
            Some(Ok(response)) => created(response.into_inner()),
            Some(Err(status)) => refusal(status.code(), status.get_details_error_info()),
        };
        self.note(Kind::Other, vec![(request, fate)]);
    }

    async fn batch(&mut self, mode: BatchMode) {
        let atomic = mode == BatchMode::Atomic;
        let requests: Vec<_> = (0..self.rng.usize(2..15))
            .map(|_| if atomic { self.mild() } else { self.wild() })
            .collect();
        let request = BatchCreateEventsRequest {
            requests: requests.clone(),
            mode: mode.into(),
        };
        let mut events = self.events.clone();
        let answer = self.impatient(events.batch_create_events(request)).await;
        let fates = match answer.map(|answer| answer.map(Response::into_inner)) {
            None => vec![Fate::Unknown; requests.len()],
            Some(Err(status)) => {
                refusal(status.code(), status.get_details_error_info());
                vec![Fate::Refused; requests.len()]
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
        assert_eq!(fates.len(), requests.len());
        let kind = if atomic { Kind::Atomic } else { Kind::Other };
        self.note(kind, requests.into_iter().zip(fates).collect());
    }

    /// A stream whose answers are read to the end or to some place before it.
    async fn stream(&mut self) {
        let requests: Vec<_> = (0..self.rng.usize(5..40)).map(|_| self.wild()).collect();
        let items: Vec<_> = requests
            .iter()
            .map(|create| IngestEventsRequest {
                create: Some(create.clone()),
                ..IngestEventsRequest::default()
            })
            .collect();
        let mut fates = Vec::new();
        let wanted = if self.rng.bool() {
            requests.len()
        } else {
            self.rng.usize(..requests.len())
        };
        let answers = self.events.ingest_events(tokio_stream::iter(items)).await;
        let mut answers = answers.unwrap().into_inner();
        while fates.len() < wanted {
            let answer = timeout(PATIENCE, answers.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            fates.push(match answer.result.unwrap() {
                Answer::Error(error) => refusal(Code::from_i32(error.code), error.get_details_error_info()),
                Answer::Receipt(receipt) if receipt.outcome() == CreateOutcome::Created => Fate::Stored {
                    id: receipt.event_id,
                    sequence: receipt.sequence,
                },
                Answer::Receipt(receipt) => Fate::Duplicate { id: receipt.event_id },
            });
        }
        fates.resize(requests.len(), Fate::Unknown);
        self.note(Kind::Stream, requests.into_iter().zip(fates).collect());
    }

    async fn toggle(&mut self) {
        let spirit_id = self.spirit_ids[self.rng.usize(..UNSTEADY)].clone();
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

    fn note(&mut self, kind: Kind, items: Vec<(CreateEventRequest, Fate)>) {
        for (request, fate) in &items {
            if let Fate::Stored { sequence, .. } = fate {
                if let Some(expected) = request.expected_last_sequence {
                    assert_eq!(*sequence, expected + 1, "a guard that held");
                }
                self.last.insert(request.spirit_id.clone(), *sequence);
            }
        }
        self.sent.push(Sent { kind, items });
    }
}

/// On a busy machine a connection may be long in coming, which is no matter here.
fn patient(settings: &mut Settings) {
    settings.store.acquire_timeout = PATIENCE;
}

fn created(response: CreateEventResponse) -> Fate {
    let is_new = response.outcome() == CreateOutcome::Created;
    let event = response.event.unwrap();
    let (id, sequence) = (event.id, event.sequence);
    if is_new {
        Fate::Stored { id, sequence }
    } else {
        Fate::Duplicate { id }
    }
}

fn refusal(code: Code, info: Option<ErrorInfo>) -> Fate {
    let mut info = info.expect("every error has ErrorInfo");
    match (code, info.reason.as_str()) {
        (Code::AlreadyExists, "DUPLICATE_EVENT") => match info.metadata.remove("existing_event_id") {
            Some(id) => Fate::Duplicate { id },
            None => Fate::Refused,
        },
        (Code::InvalidArgument, "INVALID_FIELD")
        | (Code::NotFound, "SPIRIT_NOT_FOUND")
        | (Code::Aborted, "SEQUENCE_MISMATCH") => Fate::Refused,
        other => panic!("unexpected: {other:?} {info:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_the_acknowledged_is_stored_once_and_the_refused_is_not() {
    let seed = std::env::var("STORM_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("STORM_SEED={seed}"); // shown when it fails
    let mut rng = Rng::with_seed(seed);
    let server = TestServer::start_with(patient).await;
    let beside = TestServer::start_on(Arc::clone(&server.database), patient).await;
    let mut spirit_ids = Vec::new();
    for _ in 0..SPIRITS {
        spirit_ids.push(server.spirit().await);
    }
    let spirit_ids: Arc<[String]> = spirit_ids.into();
    let mut callers = JoinSet::new();
    for name in 0..CALLERS {
        let through = if name % 2 == 0 { &server } else { &beside };
        let caller = Caller {
            name,
            made: 0,
            rng: rng.fork(),
            events: through.events(),
            spirits: through.spirits(),
            spirit_ids: Arc::clone(&spirit_ids),
            last: HashMap::new(),
            sent: Vec::new(),
        };
        callers.spawn(caller.run());
    }
    let all: Vec<Sent> = callers.join_all().await.into_iter().flatten().collect();
    // What callers went away from may still be under way; it ends with its server.
    let database = Arc::clone(&server.database);
    server.stop().await.unwrap();
    beside.stop().await.unwrap();

    let reader = TestServer::start_on(database, |_| {}).await;
    checks::every_kind_came(&all);
    checks::stored_as_told(&reader, &all).await;
}
