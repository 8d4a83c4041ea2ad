//! TLS: verification of server and client certificates, reloading of certificate files, and handshake limits.

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

/// Length of a TLS alert record, the last bytes sent to a client whose handshake fails.
const ALERT_BYTES: usize = 7;

/// A server with TLS and the directory of its certificate files.
struct TlsServer {
    dir: TempDir,
    tls: Tls,
    server: TestServer,
}

impl TlsServer {
    async fn start(pair: &Pair) -> Self {
        Self::start_with(pair, None).await
    }

    async fn start_with(pair: &Pair, clients: Option<(&Authority, ClientAuth)>) -> Self {
        let dir = TempDir::new().unwrap();
        write_files(&dir, pair);
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

    /// Connects and makes a call.
    async fn connect_and_call(&self, tls: ClientTlsConfig) -> Result<Channel, String> {
        let channel = connect(self.server.addr, tls).await?;
        let call = SpiritServiceClient::new(channel.clone())
            .list_spirits(ListSpiritsRequest::default())
            .await;
        call.map(|_| channel).map_err(|status| format!("{status:?}"))
    }
}

fn write_files(dir: &TempDir, pair: &Pair) {
    fs::write(dir.path().join("cert"), &pair.cert).unwrap();
    fs::write(dir.path().join("key"), &pair.key).unwrap();
}

async fn connect(addr: SocketAddr, tls: ClientTlsConfig) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("https://{addr}")).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap();
    endpoint.connect().await.map_err(|error| format!("{error:?}"))
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()))
}

fn identity(pair: &Pair) -> Identity {
    Identity::from_pem(&pair.cert, &pair.key)
}

#[tokio::test]
async fn a_tls_client_connects_only_if_it_trusts_the_servers_authority_and_name() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let tls_server = TlsServer::start(&ours.issue()).await;
    tls_server.connect_and_call(trusting(&ours)).await.unwrap();
    let by_name = trusting(&ours).domain_name("localhost");
    tls_server.connect_and_call(by_name).await.unwrap();
    let error = tls_server.connect_and_call(trusting(&foreign)).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let by_wrong_name = trusting(&ours).domain_name("elsewhere.example");
    let error = tls_server.connect_and_call(by_wrong_name).await.unwrap_err();
    assert!(error.contains("NotValidForName"), "{error}");
}

#[tokio::test]
async fn a_tls_client_rejects_an_expired_server_certificate() {
    let ours = Authority::new("ours");
    let tls_server = TlsServer::start(&ours.issue_expired()).await;
    let error = tls_server.connect_and_call(trusting(&ours)).await.unwrap_err();
    assert!(error.contains("Expired"), "{error}");
}

#[tokio::test]
async fn client_certificates_are_verified_and_required_according_to_the_setting() {
    let (ours, theirs, foreign) = (
        Authority::new("ours"),
        Authority::new("theirs"),
        Authority::new("foreign"),
    );
    let (valid, expired, untrusted) = (theirs.issue(), theirs.issue_expired(), foreign.issue());
    let none = || trusting(&ours);
    let with = |pair| none().identity(identity(pair));
    for (auth, accepts_none) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
        let tls_server = TlsServer::start_with(&ours.issue(), Some((&theirs, auth))).await;
        for (case, tls, is_accepted) in [
            ("a valid certificate", with(&valid), true),
            ("no certificate", none(), accepts_none),
            ("an expired certificate", with(&expired), false),
            ("a certificate of a foreign authority", with(&untrusted), false),
        ] {
            let result = tls_server.connect_and_call(tls).await;
            assert_eq!(result.is_ok(), is_accepted, "{auth:?}, {case}: {result:?}");
        }
    }
}

#[tokio::test]
async fn plaintext_connections_are_closed_when_tls_is_enabled() {
    let ours = Authority::new("ours");
    let tls_server = TlsServer::start(&ours.issue()).await;
    let mut socket = TcpStream::connect(tls_server.server.addr).await.unwrap();
    // The HTTP/2 connection preface and an empty SETTINGS frame.
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
            .expect("the connection is closed"),
    );
    assert!(answer.len() <= ALERT_BYTES, "more than an alert: {answer:?}");
    tls_server.connect_and_call(trusting(&ours)).await.unwrap();
}

#[tokio::test]
async fn reloaded_certificates_apply_to_new_connections_while_open_streams_continue() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tls_server = TlsServer::start(&old.issue()).await;
    let channel = tls_server.connect_and_call(trusting(&old)).await.unwrap();
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

    write_files(&tls_server.dir, &new.issue());
    let channel = eventually("the new files are loaded", async || {
        tls_server.connect_and_call(trusting(&new)).await.ok()
    })
    .await;
    let error = tls_server.connect_and_call(trusting(&old)).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    for mut client in [events, EventServiceClient::new(channel)] {
        client.create_event(event(&spirit_id)).await.unwrap();
        let item = timeout(PATIENCE, watch.message())
            .await
            .expect("an event arrives");
        assert!(item.unwrap().unwrap().item.is_some());
    }
}

#[tokio::test]
async fn invalid_certificate_files_leave_the_previous_certificate_in_use() {
    let (ours, new) = (Authority::new("ours"), Authority::new("new"));
    let tls_server = TlsServer::start(&ours.issue()).await;
    let path = |name| tls_server.dir.path().join(name);
    let valid = ours.issue();
    for (case, cert, key) in [
        (
            "a truncated certificate",
            &valid.cert[..valid.cert.len() / 2],
            &valid.key[..],
        ),
        ("a certificate that is not PEM", "nothing", &valid.key),
        ("the key of another certificate", &valid.cert, &ours.issue().key),
        ("an empty key", &valid.cert, ""),
    ] {
        fs::write(path("cert"), cert).unwrap();
        fs::write(path("key"), key).unwrap();
        tls_server.tls.reload().await;
        let result = tls_server.connect_and_call(trusting(&ours)).await;
        assert!(result.is_ok(), "{case}: {result:?}");
    }
    fs::remove_file(path("cert")).unwrap();
    tls_server.tls.reload().await;
    tls_server.connect_and_call(trusting(&ours)).await.unwrap();
    write_files(&tls_server.dir, &new.issue());
    tls_server.tls.reload().await;
    tls_server.connect_and_call(trusting(&new)).await.unwrap();
}

#[tokio::test]
async fn a_tls_session_is_not_resumed_after_the_client_authority_changes() {
    let (ours, theirs, others) = (
        Authority::new("ours"),
        Authority::new("theirs"),
        Authority::new("others"),
    );
    let tls_server = TlsServer::start_with(&ours.issue(), Some((&theirs, ClientAuth::Required))).await;
    // An endpoint offers its TLS sessions to the server on the next connection.
    let tls = trusting(&ours).identity(identity(&theirs.issue()));
    let endpoint = Endpoint::from_shared(format!("https://{}", tls_server.server.addr))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    let connect_and_call = async || {
        let channel = endpoint.connect().await.ok()?;
        let mut spirits = SpiritServiceClient::new(channel);
        spirits.list_spirits(ListSpiritsRequest::default()).await.ok()
    };
    connect_and_call().await.expect("the certificate is accepted");
    fs::write(tls_server.dir.path().join("client_ca"), others.pem()).unwrap();
    tls_server.tls.reload().await;
    assert!(
        connect_and_call().await.is_none(),
        "the certificate of the replaced authority is still accepted"
    );
}

#[tokio::test]
async fn a_connection_without_a_complete_handshake_is_closed_with_and_without_tls() {
    const LIMIT: Duration = Duration::from_millis(200);
    let ours = Authority::new("ours");
    let tls_server = TlsServer::start(&ours.issue()).await;
    for tls in [None, Some(tls_server.tls.clone())] {
        let server = TestServer::start_with(|settings| {
            settings.server.connections.handshake = LIMIT;
            settings.server.tls = tls;
        })
        .await;
        for sent in ["", "PRI * HTTP", "\u{16}\u{3}\u{1}"] {
            let mut silent = TcpStream::connect(server.addr).await.unwrap();
            silent.write_all(sent.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let ended = timeout(PATIENCE, silent.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "the connection stays open after {sent:?}");
            assert!(answer.len() <= ALERT_BYTES, "{sent:?}: {answer:?}");
        }
    }
}
