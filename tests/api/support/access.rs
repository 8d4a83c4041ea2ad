//! Servers with keys, and callers that show them.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::domain::access::Role;
use elephantasm_events::domain::ids::SpiritId;
use elephantasm_events::domain::key::GeneratedKey;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{CreateSpiritRequest, Event, ListSpiritsRequest};
use elephantasm_events::store::{NewKey, Store};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::builders::{event, refused};
use crate::support::harness::{Database, Settings, TestServer, eventually};

/// A channel whose calls show a key.
pub type KeyedChannel = InterceptedService<Channel, Bearer>;

/// Puts a key into each call.
#[derive(Clone)]
pub struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let shown = self.0.parse().expect("a header's value");
        request.metadata_mut().insert("authorization", shown);
        Ok(request)
    }
}

/// A key as its owner has it.
#[derive(Clone)]
pub struct Key {
    pub prefix: String,
    pub text: String,
}

impl Key {
    /// Somebody who shows it to this server.
    pub fn at(&self, server: &TestServer) -> Caller {
        Caller {
            key: self.clone(),
            channel: showing(server, &format!("Bearer {}", self.text)),
        }
    }
}

/// A channel whose calls show this in the place of a key.
pub fn showing(server: &TestServer, shown: &str) -> KeyedChannel {
    InterceptedService::new(server.channel(), Bearer(shown.to_owned()))
}

/// Somebody with a key.
pub struct Caller {
    pub key: Key,
    pub channel: KeyedChannel,
}

impl Caller {
    pub fn events(&self) -> EventServiceClient<KeyedChannel> {
        EventServiceClient::new(self.channel.clone())
    }

    pub fn spirits(&self) -> SpiritServiceClient<KeyedChannel> {
        SpiritServiceClient::new(self.channel.clone())
    }

    /// The id of a new spirit of this name.
    pub async fn spirit(&self, name: &str) -> String {
        let request = CreateSpiritRequest {
            name: name.to_owned(),
            ..CreateSpiritRequest::default()
        };
        let response = self.spirits().create_spirit(request).await.unwrap();
        response.into_inner().spirit.unwrap().id
    }

    /// A new event of the spirit, in the session `s`.
    pub async fn event(&self, spirit_id: &str) -> Event {
        let mut request = event(spirit_id);
        request.session_id = Some("s".to_owned());
        let response = self.events().create_event(request).await.unwrap();
        response.into_inner().event.unwrap()
    }

    /// Any call: whether the key is still good.
    pub async fn call(&self) -> Result<(), Status> {
        let request = ListSpiritsRequest::default();
        self.spirits().list_spirits(request).await.map(|_| ())
    }

    /// Waits until the key is refused.
    pub async fn refused(&self) {
        let status = eventually("the key is refused", async || self.call().await.err()).await;
        refused(Err::<(), _>(status), Code::Unauthenticated, "INVALID_KEY");
    }
}

/// The keys of a database.
pub struct Keys(Store);

impl Keys {
    /// Of a database that need not be migrated yet.
    pub async fn of(database: &Database) -> Self {
        let store = Store::open(database.connect.clone(), Settings::default().store);
        store.migrate().await.unwrap();
        Self(store)
    }

    /// A new key.
    pub async fn make(&self, role: Role, spirit_ids: Option<&[&str]>, expires_in: Option<Duration>) -> Key {
        let GeneratedKey { text, digest } = GeneratedKey::generate().unwrap();
        let prefix = digest.prefix.clone();
        let id = |id: &&str| SpiritId(id.parse().unwrap());
        let new = NewKey {
            digest,
            name: format!("a {}", role.name()),
            role,
            spirit_ids: spirit_ids.map(|ids| ids.iter().map(id).collect()),
            expires_in,
        };
        self.0.keys.create(new).await.unwrap();
        Key { prefix, text }
    }

    pub async fn revoke(&self, key: &Key) {
        let revoked = self.0.keys.revoke(&key.prefix).await.unwrap();
        assert!(revoked.unwrap().revoked_at.is_some());
    }
}

/// A server whose first key was made before it started.
pub struct Guarded {
    pub server: TestServer,
    pub keys: Keys,
    /// Who has a key of role admin, for every spirit.
    pub admin: Caller,
}

impl Guarded {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(set: impl FnOnce(&mut Settings)) -> Self {
        let database = Arc::new(Database::create().await);
        let keys = Keys::of(&database).await;
        let first = keys.make(Role::Admin, None, None).await;
        let server = TestServer::start_on(database, set).await;
        let admin = first.at(&server);
        Self { server, keys, admin }
    }

    /// Somebody with a new key for these spirits.
    pub async fn caller(&self, role: Role, spirit_ids: &[&str]) -> Caller {
        let key = self.keys.make(role, Some(spirit_ids), None).await;
        key.at(&self.server)
    }
}
