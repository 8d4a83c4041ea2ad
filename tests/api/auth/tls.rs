//! TLS: who is let in, and new certificates while streams go on.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use elephantasm_events::config::{ClientAuth, TlsFiles};
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{CreateSpiritRequest, ListSpiritsRequest, WatchEventsRequest};
use elephantasm_events::server::Tls;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::support::builders::event;
use crate::support::certificates::{Authority, Pair};
use crate::support::harness::{PATIENCE, TestServer, eventually};

/// What TLS says last to a client that it does not understand.
const ALERT_BYTES: usize = 7;

/// The files of a server, and the server.
struct Secured {
    dir: TempDir,
    tls: Tls,
    server: TestServer,
}

impl Secured {
    async fn start(pair: &Pair) -> Self {
        Self::start_with(pair, None).await
    }

    async fn start_with(pair: &Pair, clients: Option<(&Authority, ClientAuth)>) -> Self {
        let dir = TempDir::new().unwrap();
        write(&dir, pair);
        let client_ca = clients.map(|(authority, auth)| {
            let path = dir.path().join("client_ca");
            fs::write(&path, authority.pem()).unwrap();
            (path, auth)
        });
        let files = TlsFiles {
            cert: dir.path().join("cert"),
            key: dir.path().join("key"),
            client_ca,
        };
        let tls = Tls::open(files).await.unwrap();
        let server = TestServer::start_with(|settings| settings.server.tls = Some(tls.clone())).await;
        Self { dir, tls, server }
    }

    /// Makes a connection and a call on it.
    async fn greet(&self, tls: ClientTlsConfig) -> Result<Channel, String> {
        let channel = connect(self.server.addr, tls).await?;
        let call = SpiritServiceClient::new(channel.clone())
            .list_spirits(ListSpiritsRequest::default())
            .await;
        call.map(|_| channel).map_err(|status| format!("{status:?}"))
    }
}

fn write(dir: &TempDir, pair: &Pair) {
    fs::write(dir.path().join("cert"), &pair.cert).unwrap();
    fs::write(dir.path().join("key"), &pair.key).unwrap();
}

async fn connect(addr: SocketAddr, tls: ClientTlsConfig) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("https://{addr}")).unwrap();
    let connecting = endpoint.tls_config(tls).unwrap();
    connecting.connect().await.map_err(|error| format!("{error:?}"))
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()))
}

fn showing(pair: &Pair) -> Identity {
    Identity::from_pem(&pair.cert, &pair.key)
}

#[tokio::test]
async fn a_client_is_served_that_trusts_the_servers_authority_and_no_other() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let secured = Secured::start(&ours.issue()).await;
    secured.greet(trusting(&ours)).await.unwrap();
    let by_name = trusting(&ours).domain_name("localhost");
    secured.greet(by_name).await.unwrap();
    let refused = secured.greet(trusting(&foreign)).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let elsewhere = trusting(&ours).domain_name("elsewhere.example");
    let refused = secured.greet(elsewhere).await.unwrap_err();
    assert!(refused.contains("NotValidForName"), "{refused}");
}

#[tokio::test]
async fn a_servers_expired_certificate_is_not_trusted() {
    let ours = Authority::new("ours");
    let secured = Secured::start(&ours.issue_expired()).await;
    let refused = secured.greet(trusting(&ours)).await.unwrap_err();
    assert!(refused.contains("Expired"), "{refused}");
}

#[tokio::test]
async fn certificates_of_clients_are_checked_and_asked_for_as_set() {
    let (ours, theirs, foreign) = (
        Authority::new("ours"),
        Authority::new("theirs"),
        Authority::new("foreign"),
    );
    let (good, expired, wrong) = (theirs.issue(), theirs.issue_expired(), foreign.issue());
    let none = || trusting(&ours);
    let with = |pair| none().identity(showing(pair));
    for (auth, let_in_without) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
        let secured = Secured::start_with(&ours.issue(), Some((&theirs, auth))).await;
        for (who, tls, let_in) in [
            ("a good certificate", with(&good), true),
            ("none", none(), let_in_without),
            ("an expired one", with(&expired), false),
            ("one of a foreign authority", with(&wrong), false),
        ] {
            let greeted = secured.greet(tls).await;
            assert_eq!(greeted.is_ok(), let_in, "{auth:?}, {who}: {greeted:?}");
        }
    }
}

#[tokio::test]
async fn plain_text_is_refused_where_tls_is_on() {
    let ours = Authority::new("ours");
    let secured = Secured::start(&ours.issue()).await;
    let mut socket = TcpStream::connect(secured.server.addr).await.unwrap();
    // What an HTTP/2 client sends first, and empty settings.
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut answer = Vec::new();
    // The connection may also be reset.
    drop(
        timeout(PATIENCE, socket.read_to_end(&mut answer))
            .await
            .expect("it ends"),
    );
    assert!(answer.len() <= ALERT_BYTES, "more than an alert: {answer:?}");
    secured.greet(trusting(&ours)).await.unwrap();
}

#[tokio::test]
async fn new_files_are_used_for_new_connections_while_open_streams_go_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let secured = Secured::start(&old.issue()).await;
    let channel = secured.greet(trusting(&old)).await.unwrap();
    let request = CreateSpiritRequest {
        name: "Ada".to_owned(),
        ..CreateSpiritRequest::default()
    };
    let created = SpiritServiceClient::new(channel.clone())
        .create_spirit(request)
        .await;
    let spirit_id = created.unwrap().into_inner().spirit.unwrap().id;
    let mut events = EventServiceClient::new(channel);
    let request = WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        ..WatchEventsRequest::default()
    };
    let mut watch = events.watch_events(request).await.unwrap().into_inner();
    watch.message().await.unwrap().expect("caught up");

    write(&secured.dir, &new.issue());
    let channel = eventually("the new files are seen", async || {
        secured.greet(trusting(&new)).await.ok()
    })
    .await;
    let refused = secured.greet(trusting(&old)).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    for mut client in [events, EventServiceClient::new(channel)] {
        client.create_event(event(&spirit_id)).await.unwrap();
        let item = timeout(PATIENCE, watch.message()).await.expect("an event comes");
        assert!(item.unwrap().unwrap().item.is_some());
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_former_ones_in_force() {
    let (ours, new) = (Authority::new("ours"), Authority::new("new"));
    let secured = Secured::start(&ours.issue()).await;
    let path = |name| secured.dir.path().join(name);
    let good = ours.issue();
    for (what, cert, key) in [
        ("half a file", &good.cert[..good.cert.len() / 2], &good.key[..]),
        ("no PEM", "nothing", &good.key),
        ("another's key", &good.cert, &ours.issue().key),
        ("no key", &good.cert, ""),
    ] {
        fs::write(path("cert"), cert).unwrap();
        fs::write(path("key"), key).unwrap();
        secured.tls.reload().await;
        let greeted = secured.greet(trusting(&ours)).await;
        assert!(greeted.is_ok(), "{what}: {greeted:?}");
    }
    fs::remove_file(path("cert")).unwrap();
    secured.tls.reload().await;
    secured.greet(trusting(&ours)).await.unwrap();
    write(&secured.dir, &new.issue());
    secured.tls.reload().await;
    secured.greet(trusting(&new)).await.unwrap();
}

#[tokio::test]
async fn a_session_of_the_time_before_is_not_resumed_past_a_new_authority() {
    let (ours, theirs, others) = (
        Authority::new("ours"),
        Authority::new("theirs"),
        Authority::new("others"),
    );
    let secured = Secured::start_with(&ours.issue(), Some((&theirs, ClientAuth::Required))).await;
    // One endpoint keeps its sessions for its next connection.
    let tls = trusting(&ours).identity(showing(&theirs.issue()));
    let endpoint = Endpoint::from_shared(format!("https://{}", secured.server.addr))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    let greet = async || {
        let channel = endpoint.connect().await.ok()?;
        let mut spirits = SpiritServiceClient::new(channel);
        spirits.list_spirits(ListSpiritsRequest::default()).await.ok()
    };
    greet().await.expect("theirs are let in");
    fs::write(secured.dir.path().join("client_ca"), others.pem()).unwrap();
    secured.tls.reload().await;
    assert!(greet().await.is_none(), "theirs are let in no longer");
}

#[tokio::test]
async fn who_stays_silent_is_sent_away_with_tls_and_without() {
    const LIMIT: Duration = Duration::from_millis(200);
    let ours = Authority::new("ours");
    let secured = Secured::start(&ours.issue()).await;
    for tls in [None, Some(secured.tls.clone())] {
        let server = TestServer::start_with(|settings| {
            settings.server.connections.handshake = LIMIT;
            settings.server.tls = tls;
        })
        .await;
        for said in ["", "PRI * HTTP", "\u{16}\u{3}\u{1}"] {
            let mut silent = TcpStream::connect(server.addr).await.unwrap();
            silent.write_all(said.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let ended = timeout(PATIENCE, silent.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "{said:?} holds the connection open");
            assert!(answer.len() <= ALERT_BYTES, "{said:?}: {answer:?}");
        }
    }
}
