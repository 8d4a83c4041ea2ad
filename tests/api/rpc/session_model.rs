//! Sessions against a model: after any creates, deletions and restores on two servers, lists, counts and times are
//! those of the events.

use std::collections::BTreeMap;
use std::sync::Arc;

use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, GetSessionRequest, ListSessionsRequest, RestoreEventRequest,
    RestoreEventsRequest, Session, SessionFilter, SoftDeleteEventsRequest,
};
use futures_util::future::join_all;
use prost_types::Timestamp;
use sqlx::PgConnection;

use crate::support::builders::{at, event, event_at};
use crate::support::harness::{Database, TestServer};
use crate::support::live::Rng;
use crate::support::model::{delete, store};

const SESSIONS: [&str; 6] = ["a", "b", "c", "d", "é", "z"];
const STEPS: usize = 2_000;
/// Steps between two comparisons of everything.
const STEPS_COMPARED: usize = 20;

/// Two servers on one database, a spirit, and its events as they should be.
struct Fixture {
    servers: [TestServer; 2],
    database: Arc<Database>,
    spirit_id: String,
    events: Vec<Event>,
    deletions: Vec<Timestamp>,
    random: Rng,
}

impl Fixture {
    async fn new() -> Self {
        let database = Arc::new(Database::create().await);
        let servers = [
            TestServer::start_on(Arc::clone(&database), |_| {}).await,
            TestServer::start_on(Arc::clone(&database), |_| {}).await,
        ];
        Self {
            spirit_id: servers[0].spirit().await,
            servers,
            database,
            events: Vec::new(),
            deletions: Vec::new(),
            random: Rng::new(),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap()
    }

    /// A create in a random session, or in none, within ten minutes.
    fn create(&mut self) -> CreateEventRequest {
        let seconds = i64::try_from(self.below(600)).unwrap();
        match SESSIONS.get(self.below(SESSIONS.len() + 1)) {
            Some(session_id) => event_at(&self.spirit_id, session_id, seconds),
            None => CreateEventRequest {
                occurred_at: Some(at(seconds)),
                ..event(&self.spirit_id)
            },
        }
    }

    /// One random change on one of the servers, and the same in the model.
    async fn step(&mut self) {
        let server = self.below(2);
        let mut client = self.servers[server].events();
        match self.below(12) {
            0..=4 => {
                let requests = vec![self.create()];
                self.events.extend(store(&mut client, requests).await);
            }
            5 => {
                // Some batches are large enough for COPY.
                let size = [3, 150][usize::from(self.below(40) == 0)];
                let requests = (0..size).map(|_| self.create()).collect();
                self.events.extend(store(&mut client, requests).await);
            }
            6 | 7 if !self.events.is_empty() => {
                let index = self.below(self.events.len());
                if !self.events[index].is_deleted {
                    delete(&mut client, &mut self.events[index]).await;
                }
            }
            8 | 9 if !self.events.is_empty() => {
                let index = self.below(self.events.len());
                let request = RestoreEventRequest {
                    event_id: self.events[index].id.clone(),
                    ..RestoreEventRequest::default()
                };
                let restored = client.restore_event(request).await.unwrap().into_inner().event;
                self.events[index] = restored.unwrap();
            }
            10 => self.delete_many(server).await,
            _ => self.restore_many(server).await,
        }
    }

    /// Deletes the events of a session, or of all, after a sequence.
    async fn delete_many(&mut self, server: usize) {
        let session_id = SESSIONS
            .get(self.below(2 * SESSIONS.len()))
            .map(|&id| id.to_owned());
        let after = i64::try_from(self.below(self.events.len() + 1)).unwrap();
        let request = SoftDeleteEventsRequest {
            spirit_id: self.spirit_id.clone(),
            session_id: session_id.clone(),
            after_sequence: Some(after),
            ..SoftDeleteEventsRequest::default()
        };
        let mut client = self.servers[server].events();
        let reply = client.soft_delete_events(request).await.unwrap().into_inner();
        let mut count = 0;
        for event in self.events.iter_mut().filter(|event| {
            event.sequence > after
                && !event.is_deleted
                && (session_id.is_none() || event.session_id == session_id)
        }) {
            event.is_deleted = true;
            event.deleted_at = reply.deleted_at;
            count += 1;
        }
        assert_eq!(reply.deleted_count, count);
        assert_eq!(reply.deleted_at.is_some(), count > 0);
        self.deletions.extend(reply.deleted_at);
    }

    /// Undoes a random earlier deletion.
    async fn restore_many(&mut self, server: usize) {
        if self.deletions.is_empty() {
            return;
        }
        let index = self.below(self.deletions.len());
        let deleted_at = Some(self.deletions[index]);
        let request = RestoreEventsRequest {
            spirit_id: self.spirit_id.clone(),
            deleted_at,
            session_id: None,
        };
        let mut client = self.servers[server].events();
        let reply = client.restore_events(request).await.unwrap().into_inner();
        let mut count = 0;
        for event in self
            .events
            .iter_mut()
            .filter(|event| event.is_deleted && event.deleted_at == deleted_at)
        {
            event.is_deleted = false;
            event.deleted_at = None;
            count += 1;
        }
        assert_eq!(reply.restored_count, count);
    }

    /// Asserts that lists and single sessions are those of the model.
    async fn compare(&mut self) {
        let server = self.below(2);
        let page_size = i32::try_from(1 + self.below(7)).unwrap();
        let mut client = self.servers[server].sessions();
        let expected = expected_sessions(&self.spirit_id, &self.events);
        let mut request = ListSessionsRequest {
            spirit_id: self.spirit_id.clone(),
            page_size,
            filter: Some(SessionFilter {
                include_empty: true,
                ..SessionFilter::default()
            }),
            ..ListSessionsRequest::default()
        };
        let mut listed = Vec::new();
        loop {
            let page = client.list_sessions(request.clone()).await.unwrap().into_inner();
            listed.extend(page.sessions);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(listed, expected);
        let index = self.below(expected.len().max(1));
        if let Some(session) = expected.get(index) {
            let request = GetSessionRequest {
                spirit_id: self.spirit_id.clone(),
                session_id: session.session_id.clone(),
            };
            let found = client.get_session(request).await.unwrap().into_inner().session;
            assert_eq!(found.as_ref(), Some(session));
        }
    }
}

/// The sessions of these events, in the order of lists.
fn expected_sessions(spirit_id: &str, events: &[Event]) -> Vec<Session> {
    let mut by_id: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        if let Some(session_id) = &event.session_id {
            by_id.entry(session_id).or_default().push(event);
        }
    }
    let mut sessions: Vec<Session> = by_id
        .into_iter()
        .map(|(session_id, events)| {
            let live = || events.iter().filter(|event| !event.is_deleted);
            let times = || live().map(|event| event.occurred_at.unwrap().seconds);
            Session {
                spirit_id: spirit_id.to_owned(),
                session_id: session_id.to_owned(),
                event_count: Some(i64::try_from(live().count()).unwrap()),
                first_occurred_at: times().min().map(at),
                last_occurred_at: times().max().map(at),
                last_sequence: events.iter().map(|event| event.sequence).max().unwrap(),
                ..Session::default()
            }
        })
        .collect();
    // A stable sort: sessions of one minute stay in the byte order of the map.
    sessions.sort_by_key(|session| {
        session
            .last_occurred_at
            .map_or(0, |time| -time.seconds.div_euclid(60) - 1)
    });
    sessions.sort_by_key(|session| session.last_occurred_at.is_none());
    sessions
}

/// Asserts that every session is recorded in the minute of its newest live event.
pub async fn assert_active_minutes_are_exact(connection: &mut PgConnection) {
    let wrong: Vec<(String, String)> = sqlx::query_as(
        "select coalesce(stored.session_id, found.session_id), stored.active_minute || ' <> ' || found.minute
         from (
             select spirit_id, session_id,
                 date_trunc('minute', max(occurred_at) filter (where not is_deleted), 'UTC') as minute
             from events
             where session_id is not null
             group by spirit_id, session_id
         ) as found
         full join sessions as stored using (spirit_id, session_id)
         where stored.active_minute is distinct from found.minute
         or stored.session_id is null",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    assert_eq!(wrong, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_those_of_the_events_after_any_creates_deletions_and_restores_on_two_servers() {
    let mut fixture = Fixture::new().await;
    for step in 1..=STEPS {
        fixture.step().await;
        if step % STEPS_COMPARED == 0 {
            fixture.compare().await;
        }
    }
    let mut connection = fixture.database.connect().await;
    assert_active_minutes_are_exact(&mut connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn active_minutes_are_exact_after_concurrent_creates_deletions_and_restores_on_two_servers() {
    const CALLERS: u64 = 8;
    const ROUNDS: i64 = 150;
    let fixture = Arc::new(Fixture::new().await);
    let callers = (0..CALLERS).map(|caller| {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move {
            let mut client = fixture.servers[usize::from(caller % 2 == 0)].events();
            for round in 0..ROUNDS {
                // Mostly rising times, so that the creates of one caller follow the deletions of another.
                let session_id = SESSIONS[usize::try_from(round % 3).unwrap()];
                let request = event_at(&fixture.spirit_id, session_id, round * 20);
                let mut created = store(&mut client, vec![request]).await;
                if (caller + u64::try_from(round).unwrap()) % 3 == 0 {
                    delete(&mut client, &mut created[0]).await;
                }
                if caller == 7 && round % 10 == 0 {
                    let request = SoftDeleteEventsRequest {
                        spirit_id: fixture.spirit_id.clone(),
                        session_id: Some(session_id.to_owned()),
                        after_sequence: Some((created[0].sequence - 5).max(0)),
                        ..SoftDeleteEventsRequest::default()
                    };
                    let deleted = client.soft_delete_events(request).await.unwrap().into_inner();
                    let request = RestoreEventsRequest {
                        spirit_id: fixture.spirit_id.clone(),
                        deleted_at: deleted.deleted_at,
                        session_id: None,
                    };
                    if round % 20 == 0 && deleted.deleted_at.is_some() {
                        client.restore_events(request).await.unwrap();
                    }
                }
            }
        })
    });
    for ended in join_all(callers).await {
        ended.unwrap();
    }
    let mut connection = fixture.database.connect().await;
    assert_active_minutes_are_exact(&mut connection).await;
}
