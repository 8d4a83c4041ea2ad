//! Runs the real binary, in a place of its own.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{CreateEventRequest, CreateSpiritRequest};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// After which something that a test waits for will not come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory for the files of one test, and the binary run in it.
pub struct Place {
    dir: TempDir,
    /// Where the private PostgreSQL keeps its data.
    pub data: PathBuf,
}

impl Place {
    /// One that PostgreSQL's user can pass through.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("elephantasm-cli-").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join("data");
        Self { dir, data }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The binary with no settings but a free port and this place for its data.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elephantasm-events"));
        command
            .args(arguments)
            .env_clear()
            .env("EVENTS_DATA_DIR", &self.data)
            .env("EVENTS_LISTEN_ADDR", "127.0.0.1:0")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for inherited in ["PATH", "PG_BIN_DIR"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        command
    }

    /// A connection to the private PostgreSQL that runs here, as its superuser.
    pub async fn connect(&self) -> PgConnection {
        self.connect_options(&fs::read_to_string(self.data.join("password")).unwrap())
            .connect()
            .await
            .unwrap()
    }

    pub fn connect_options(&self, password: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.data.join("run"))
            .username("elephantasm")
            .password(password)
            .database("events")
    }

    /// Where PostgreSQL says that it runs.
    pub fn postmaster_file(&self) -> PathBuf {
        self.data.join("pgdata/postmaster.pid")
    }

    /// The process of the private PostgreSQL.
    pub fn postmaster(&self) -> u32 {
        let text = fs::read_to_string(self.postmaster_file()).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// Waits until the private PostgreSQL has ended in order: then it removes this file.
    pub async fn postgres_ended(&self) {
        eventually("PostgreSQL ends by itself", async || {
            (!self.postmaster_file().exists()).then_some(())
        })
        .await;
    }
}

/// Runs a command to its end.
pub async fn finish(command: &mut Command) -> Ended {
    let output = timeout(PATIENCE, command.output())
        .await
        .expect("the command ends")
        .unwrap();
    Ended::from(output)
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// It must have ended with this code; the whole is shown otherwise.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// It must have said all of this on stderr.
    #[track_caller]
    pub fn saying(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }
}

/// A server that is ready.
pub struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    pub addr: String,
}

impl Server {
    pub async fn start(place: &Place) -> Self {
        Self::run(place, &mut place.command(&[])).await
    }

    /// Waits for the one line that says it is ready. Its log is the file `log`.
    pub async fn run(place: &Place, command: &mut Command) -> Self {
        let log = place.path().join("log");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line))
            .await
            .expect("a line comes")
            .unwrap();
        let addr = line
            .strip_prefix("listening on ")
            .and_then(|line| line.strip_suffix('\n'))
            .unwrap_or_else(|| panic!("{line:?}\n{}", fs::read_to_string(&log).unwrap()))
            .to_owned();
        Self {
            child,
            stdout,
            log,
            addr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) {
        signal(self.child.id().unwrap(), name).await;
    }

    /// Waits until it has ended; its exit code and what it wrote to stdout since it was ready.
    pub async fn ended(&mut self) -> (Option<i32>, String) {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("the server ends")
            .unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).await.unwrap();
        (status.code(), rest)
    }

    /// Ends it in order.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        assert_eq!(self.ended().await, (Some(0), String::new()), "{}", self.log());
    }

    /// Kills it without a chance to do anything.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// A command that talks to it, run to its end.
    pub async fn command(&self, place: &Place, arguments: &[&str]) -> Ended {
        finish(place.command(arguments).env("EVENTS_ADDR", &self.addr)).await
    }

    /// The same with something on stdin.
    pub async fn command_reading(&self, place: &Place, arguments: &[&str], input: &str) -> Ended {
        let mut child = place
            .command(arguments)
            .env("EVENTS_ADDR", &self.addr)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        Ended::from(output.expect("the command ends").unwrap())
    }

    /// The id of a new spirit of this name.
    pub async fn spirit(&self, name: &str) -> String {
        let request = CreateSpiritRequest {
            name: name.to_owned(),
            ..CreateSpiritRequest::default()
        };
        let mut spirits = SpiritServiceClient::new(self.channel().await);
        let response = spirits.create_spirit(request).await.unwrap();
        response.into_inner().spirit.unwrap().id
    }

    pub async fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel().await)
    }
}

/// A create with all that is required, in the session `s`.
pub fn event(spirit_id: &str) -> CreateEventRequest {
    CreateEventRequest {
        spirit_id: spirit_id.to_owned(),
        event_type: "message.in".to_owned(),
        content: Some("hello".to_owned()),
        session_id: Some("s".to_owned()),
        ..CreateEventRequest::default()
    }
}

/// Sends a signal to one process.
pub async fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .await
        .unwrap();
    assert!(status.success());
}

/// Asks again and again until there is an answer, or patience ends.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        sleep(PAUSE).await;
    }
}
