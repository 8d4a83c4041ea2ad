//! Tests of TLS by flags and environment variables, for the server and for every command that connects to it.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::certificates::{Authority, Pair};
use crate::harness::{Exited, PATIENCE, Server, TestDir, eventually, finish};

const GARDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/garden.jsonl");

/// Error texts for a refused client certificate. The client gets the reason only if it has not sent its call yet.
const REFUSED: &[&str] = &["error: ", "transport error"];

/// A directory with a certificate authority, and certificates of a server and a client.
struct TlsTestDir {
    test_dir: TestDir,
    authority: Authority,
}

impl TlsTestDir {
    fn new() -> Self {
        let (test_dir, authority) = (TestDir::new(), Authority::new("ours"));
        test_dir.file("ca", authority.pem());
        write(&test_dir, "server", &authority.issue());
        write(&test_dir, "client", &authority.issue());
        Self { test_dir, authority }
    }

    fn path(&self, name: &str) -> String {
        self.test_dir.path().join(name).to_str().unwrap().to_owned()
    }

    async fn serve(&self, arguments: &[&str]) -> Server {
        let mut command = self.test_dir.command(&[&["serve"], arguments].concat());
        command
            .env("EVENTS_TLS_CERT", self.path("server.cert"))
            .env("EVENTS_TLS_KEY", self.path("server.key"));
        Server::run(&self.test_dir, &mut command).await
    }

    /// A command that trusts the authority and presents the client's certificate.
    fn command(&self, server: &Server, arguments: &[&str]) -> Command {
        let mut command = self.test_dir.command(arguments);
        command
            .env("EVENTS_ADDR", format!("https://{}", server.addr))
            .env("EVENTS_CA", self.path("ca"))
            .env("EVENTS_CERT", self.path("client.cert"))
            .env("EVENTS_KEY", self.path("client.key"));
        command
    }

    async fn run(&self, server: &Server, arguments: &[&str]) -> Exited {
        finish(&mut self.command(server, arguments)).await.exits_with(0)
    }
}

fn write(test_dir: &TestDir, name: &str, pair: &Pair) {
    test_dir.file(&format!("{name}.cert"), &pair.cert);
    test_dir.file(&format!("{name}.key"), &pair.key);
}

#[tokio::test]
async fn every_command_connects_over_tls_with_a_client_certificate() {
    let secured = TlsTestDir::new();
    let server = secured.serve(&["--tls-client-ca", &secured.path("ca")]).await;
    secured
        .run(&server, &["import", GARDEN, "--spirit", "Fern"])
        .await;
    let replay = ["replay", "--spirit", "Fern", "--session", "tomatoes", "--json"];
    let replayed = secured.run(&server, &replay).await.stdout;
    assert!(replayed.lines().count() > 3, "{replayed}");
    let bench = [
        "bench",
        "create",
        "--duration",
        "0.3",
        "--warmup",
        "0.1",
        "--spirits",
        "1",
    ];
    secured.run(&server, &bench).await;
    assert_eq!(secured.run(&server, &["healthcheck"]).await.stdout, "SERVING\n");

    let mut tail = secured
        .command(&server, &["tail", "--spirit", "Fern", "--after", "0", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line())
        .await
        .expect("tail prints an event in time");
    assert!(line.unwrap().unwrap().contains("\"sequence\":1"));
    tail.kill().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_command_reports_why_its_tls_connection_failed() {
    let secured = TlsTestDir::new();
    let foreign = secured.test_dir.file("foreign", Authority::new("foreign").pem());
    let server = secured.serve(&["--tls-client-ca", &secured.path("ca")]).await;
    let addr = format!("https://{}", server.addr);
    let ca = secured.path("ca");
    write(&secured.test_dir, "expired", &secured.authority.issue_expired());
    let (old, old_key) = (secured.path("expired.cert"), secured.path("expired.key"));
    for (description, arguments, code, words) in [
        (
            "a foreign authority",
            &["--ca", &foreign][..],
            1,
            &["UnknownIssuer"][..],
        ),
        ("the system's authorities", &[], 1, &["UnknownIssuer"]),
        (
            "another name",
            &["--ca", &ca, "--server-name", "else.example"],
            1,
            &["else.example"],
        ),
        ("no certificate", &["--ca", &ca], 1, REFUSED),
        (
            "an expired certificate",
            &["--ca", &ca, "--cert", &old, "--key", &old_key],
            1,
            REFUSED,
        ),
        ("no such file", &["--ca", "/nowhere/ca"], 2, &["/nowhere/ca"]),
        ("a certificate without a key", &["--cert", &ca], 2, &["--key"]),
        (
            "plain text",
            &["--ca", &ca, "--addr", "http://localhost:1"],
            2,
            &["http://localhost:1", "--ca"],
        ),
    ] {
        let mut command = secured.test_dir.command(&[&["healthcheck"], arguments].concat());
        let exited = finish(command.env("EVENTS_ADDR", &addr)).await;
        assert_eq!(exited.code, Some(code), "{description}: {exited:#?}");
        exited.reports(words);
    }
    let named = [
        "healthcheck",
        "--addr",
        &server.addr,
        "--server-name",
        "localhost",
    ];
    secured.run(&server, &named).await;
    server.stop().await;
}

#[tokio::test]
async fn sighup_reloads_the_certificate_files() {
    let secured = TlsTestDir::new();
    let server = secured.serve(&[]).await;
    let reload_count = || server.log().matches("reloaded").count();
    server.signal("HUP").await;
    eventually("the reload of unchanged files is logged", async || {
        (reload_count() == 1).then_some(())
    })
    .await;

    secured.test_dir.file("server.key", "nothing");
    server.signal("HUP").await;
    eventually("the unusable key file is logged", async || {
        server
            .log()
            .contains("server.key contains no private key")
            .then_some(())
    })
    .await;
    secured.run(&server, &["healthcheck"]).await;

    write(&secured.test_dir, "server", &secured.authority.issue());
    server.signal("HUP").await;
    eventually("the reload is logged", async || {
        (reload_count() >= 2).then_some(())
    })
    .await;
    secured.run(&server, &["healthcheck"]).await;
    server.stop().await;
}

#[tokio::test]
async fn serve_rejects_incomplete_or_unusable_tls_files_with_code_2() {
    let secured = TlsTestDir::new();
    let (cert, key) = (secured.path("server.cert"), secured.path("server.key"));
    let (ca, other) = (secured.path("ca"), secured.path("client.key"));
    let empty = secured.test_dir.file("empty", "");
    let pair = ["--tls-cert", &cert, "--tls-key", &key];
    for (description, arguments, words) in [
        (
            "no key",
            vec!["--tls-cert", &cert],
            vec!["--tls-cert", "--tls-key"],
        ),
        (
            "no certificate",
            vec!["--tls-key", &key],
            vec!["--tls-cert", "--tls-key"],
        ),
        (
            "client certificates without TLS",
            vec!["--tls-client-ca", &ca],
            vec!["--tls-cert"],
        ),
        (
            "client authentication without an authority",
            [&pair[..], &["--tls-client-auth", "optional"]].concat(),
            vec!["--tls-client-ca"],
        ),
        (
            "no such file",
            vec!["--tls-cert", "/nowhere", "--tls-key", &key],
            vec!["/nowhere"],
        ),
        (
            "an empty file",
            vec!["--tls-cert", &empty, "--tls-key", &key],
            vec![&empty],
        ),
        (
            "the key of another certificate",
            vec!["--tls-cert", &cert, "--tls-key", &other],
            vec![&cert, &other],
        ),
        (
            "an empty authority",
            [&pair[..], &["--tls-client-ca", &empty]].concat(),
            vec![&empty],
        ),
    ] {
        let exited = finish(&mut secured.test_dir.command(&arguments)).await;
        assert_eq!(exited.code, Some(2), "{description}: {exited:#?}");
        exited.reports(&words);
        assert!(
            !Path::exists(&secured.test_dir.data),
            "{description}: data was created"
        );
    }
}
