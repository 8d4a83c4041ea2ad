//! Servers that require API keys, and clients that send them.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::domain::access::Role;
use elephantasm_events::domain::ids::SpiritId;
use elephantasm_events::domain::key::GeneratedKey;
use elephantasm_events::grpc::pb::access_service_client::AccessServiceClient;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::purge_service_client::PurgeServiceClient;
use elephantasm_events::grpc::pb::session_service_client::SessionServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{CreateSpiritRequest, Event, ListSpiritsRequest};
use elephantasm_events::store::{NewApiKey, Store};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::builders::{event, refused};
use crate::support::harness::{Database, Settings, TestServer, eventually};

/// A channel that sends an `authorization` header with every call.
pub type KeyedChannel = InterceptedService<Channel, Authorization>;

/// Adds the `authorization` header to every call.
#[derive(Clone)]
pub struct Authorization(String);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = self.0.parse().expect("a valid header value");
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// An API key, with its secret.
#[derive(Clone)]
pub struct Key {
    pub prefix: String,
    pub text: String,
}

impl Key {
    /// A client of this server that sends the API key.
    pub fn caller(&self, server: &TestServer) -> Caller {
        self.caller_over(server.channel())
    }

    /// A client of this channel that sends the API key.
    pub fn caller_over(&self, channel: Channel) -> Caller {
        Caller {
            key: self.clone(),
            channel: InterceptedService::new(channel, Authorization(format!("Bearer {}", self.text))),
        }
    }
}

/// A channel to the server that sends this `authorization` header.
pub fn channel_with_authorization(server: &TestServer, header: &str) -> KeyedChannel {
    InterceptedService::new(server.channel(), Authorization(header.to_owned()))
}

/// A client with an API key.
pub struct Caller {
    pub key: Key,
    pub channel: KeyedChannel,
}

impl Caller {
    pub fn events(&self) -> EventServiceClient<KeyedChannel> {
        EventServiceClient::new(self.channel.clone())
    }

    pub fn purges(&self) -> PurgeServiceClient<KeyedChannel> {
        PurgeServiceClient::new(self.channel.clone())
    }

    pub fn sessions(&self) -> SessionServiceClient<KeyedChannel> {
        SessionServiceClient::new(self.channel.clone())
    }

    pub fn access(&self) -> AccessServiceClient<KeyedChannel> {
        AccessServiceClient::new(self.channel.clone())
    }

    pub fn spirits(&self) -> SpiritServiceClient<KeyedChannel> {
        SpiritServiceClient::new(self.channel.clone())
    }

    /// Creates a spirit with this name and returns its id.
    pub async fn spirit(&self, name: &str) -> String {
        let request = CreateSpiritRequest {
            name: name.to_owned(),
            ..CreateSpiritRequest::default()
        };
        let response = self.spirits().create_spirit(request).await.unwrap();
        response.into_inner().spirit.unwrap().id
    }

    /// Creates an event in the session `s` of the spirit.
    pub async fn event(&self, spirit_id: &str) -> Event {
        let mut request = event(spirit_id);
        request.session_id = Some("s".to_owned());
        let response = self.events().create_event(request).await.unwrap();
        response.into_inner().event.unwrap()
    }

    /// Makes a call, which succeeds while the API key is valid.
    pub async fn call(&self) -> Result<(), Status> {
        let request = ListSpiritsRequest::default();
        self.spirits().list_spirits(request).await.map(|_| ())
    }

    /// Waits until the server refuses the API key.
    pub async fn wait_until_refused(&self) {
        let status = eventually("the server refuses the API key", async || self.call().await.err()).await;
        refused(Err::<(), _>(status), Code::Unauthenticated, "INVALID_KEY");
    }
}

/// Creates and revokes the API keys of a database.
pub struct Keys(Store);

impl Keys {
    /// Migrates the database, if it is not migrated yet.
    pub async fn open(database: &Database) -> Self {
        let store = Store::open(database.connect.clone(), Settings::default().store);
        store.migrate().await.unwrap();
        Self(store)
    }

    /// Creates an API key; without `spirit_ids` it has access to every spirit.
    pub async fn create(&self, role: Role, spirit_ids: Option<&[&str]>, expires_in: Option<Duration>) -> Key {
        let GeneratedKey { text, digest } = GeneratedKey::generate().unwrap();
        let prefix = digest.prefix.clone();
        let spirit_id = |id: &&str| SpiritId(id.parse().unwrap());
        let new = NewApiKey {
            digest,
            name: format!("a {}", role.name()),
            role,
            spirit_ids: spirit_ids.map(|ids| ids.iter().map(spirit_id).collect()),
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

/// A server that requires API keys: the first one was created before the server started.
pub struct KeyedServer {
    pub server: TestServer,
    pub keys: Keys,
    /// A client with role admin on every spirit.
    pub admin: Caller,
}

impl KeyedServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(set: impl FnOnce(&mut Settings)) -> Self {
        let database = Arc::new(Database::create().await);
        let keys = Keys::open(&database).await;
        let admin_key = keys.create(Role::Admin, None, None).await;
        let server = TestServer::start_on(database, set).await;
        let admin = admin_key.caller(&server);
        Self { server, keys, admin }
    }

    /// A client with a new API key for these spirits.
    pub async fn caller(&self, role: Role, spirit_ids: &[&str]) -> Caller {
        let key = self.keys.create(role, Some(spirit_ids), None).await;
        key.caller(&self.server)
    }
}
