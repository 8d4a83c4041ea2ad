//! The shared harness, and what only the tests of the commands need of it.

#[path = "../shared/harness.rs"]
mod shared;

use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use elephantasm_events::grpc::pb::ListSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

pub use shared::{Exited, PATIENCE, Server, TestDir, event, eventually, finish, signal};

/// Highest resident memory of a process so far; `None` after its end and on systems without `/proc`.
pub fn peak_bytes(pid: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

impl TestDir {
    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The URL of a database of the private PostgreSQL.
    pub fn database_url(&self, database: &str) -> String {
        let password = fs::read_to_string(self.data.join("password")).unwrap();
        let run = self.data.join("run");
        let host = run.to_str().unwrap().replace('/', "%2F");
        format!("postgres://elephantasm:{password}@localhost/{database}?host={host}")
    }

    /// The PID file of the private PostgreSQL, which exists while it runs.
    pub fn postmaster_file(&self) -> PathBuf {
        self.data.join("pgdata/postmaster.pid")
    }

    /// Process id of the private PostgreSQL.
    pub fn postmaster(&self) -> u32 {
        let text = fs::read_to_string(self.postmaster_file()).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// Waits until the private PostgreSQL has shut down cleanly, which removes its PID file.
    pub async fn postgres_ended(&self) {
        eventually("PostgreSQL removes its PID file", async || {
            (!self.postmaster_file().exists()).then_some(())
        })
        .await;
    }
}

/// Runs a command and returns its output and the highest resident memory that was seen.
pub async fn finish_measured(command: &mut Command) -> (Exited, usize) {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id().unwrap();
    let mut output = pin!(child.wait_with_output());
    let mut peak = 0;
    loop {
        peak = peak.max(peak_bytes(pid).unwrap_or_default());
        tokio::select! {
            output = &mut output => return (Exited::from(output.unwrap()), peak),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

impl Exited {
    /// Asserts that stderr contains all of these texts and returns `self`.
    #[track_caller]
    pub fn reports(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }
}

impl Server {
    pub async fn start(test_dir: &TestDir) -> Self {
        Self::run(test_dir, &mut test_dir.command(&[])).await
    }

    /// Returns the id of the only spirit whose name contains this.
    pub async fn spirit_id(&self, name: &str) -> String {
        let request = ListSpiritsRequest {
            name_contains: Some(name.to_owned()),
            ..ListSpiritsRequest::default()
        };
        let mut spirits = SpiritServiceClient::new(self.channel().await);
        let found = spirits.list_spirits(request).await.unwrap().into_inner().spirits;
        let [spirit] = found.try_into().unwrap();
        spirit.id
    }

    /// Kills the server with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Runs a command against this server and waits until it exits.
    pub async fn command(&self, test_dir: &TestDir, arguments: &[&str]) -> Exited {
        finish(test_dir.command(arguments).env("EVENTS_ADDR", &self.addr)).await
    }

    /// Starts a command against this server.
    pub fn spawn(&self, test_dir: &TestDir, arguments: &[&str], stdin: Stdio) -> Child {
        test_dir
            .command(arguments)
            .env("EVENTS_ADDR", &self.addr)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Stores events of the session `s`, one after another.
    pub async fn create_events(&self, spirit_id: &str, count: usize) {
        let mut events = self.events().await;
        for _ in 0..count {
            events.create_event(event(spirit_id)).await.unwrap();
        }
    }

    /// Runs a command against this server with `input` on its stdin and waits until it exits.
    pub async fn command_with_stdin(&self, test_dir: &TestDir, arguments: &[&str], input: &str) -> Exited {
        let mut child = self.spawn(test_dir, arguments, Stdio::piped());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        Exited::from(output.expect("the command exits in time").unwrap())
    }
}
