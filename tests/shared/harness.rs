//! Runs the real binary, with a separate directory for each test.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{CreateEventRequest, CreateSpiritRequest};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// Time limit of every wait; a test fails when it is exceeded.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The directory of one test, which holds the data and the log of the binaries that it runs.
pub struct TestDir {
    dir: TempDir,
    /// Data directory of the private PostgreSQL.
    pub data: PathBuf,
    /// Whether the first server creates the data itself, instead of starting with a copy of an empty database.
    creates_data: bool,
    /// The empty database that was copied, which is kept for other tests.
    template: OnceLock<Arc<TestDir>>,
}

/// Data of a server that was started and stopped, as long as a test uses it.
static EMPTY_DATABASE: Mutex<Weak<TestDir>> = Mutex::const_new(Weak::new());

impl TestDir {
    /// Creates a directory that PostgreSQL's user can enter. The first server in it starts with a copy of an empty
    /// database, which takes a third of the time of a new one.
    pub fn new() -> Self {
        Self {
            creates_data: false,
            ..Self::without_database()
        }
    }

    /// Creates a directory in which the first server creates the data.
    pub fn without_database() -> Self {
        let dir = TempDir::with_prefix("elephantasm-cli-").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join("data");
        Self {
            dir,
            data,
            creates_data: true,
            template: OnceLock::new(),
        }
    }

    /// Copies an empty database into this directory, if it is to start with one and holds no data.
    async fn prepare(&self) {
        if self.creates_data || self.data.exists() {
            return;
        }
        let template = empty_database().await;
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&template.data).arg(&self.data);
        assert!(copy.status().await.unwrap().success());
        self.template.get_or_init(|| template);
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a command that runs the binary without settings except a free port and this directory for its
    /// data.
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

    /// Connects to this directory's private PostgreSQL as its superuser.
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
}

/// Returns a directory with an empty database.
async fn empty_database() -> Arc<TestDir> {
    let mut shared = EMPTY_DATABASE.lock().await;
    if let Some(template) = shared.upgrade() {
        return template;
    }
    let template = Arc::new(TestDir::without_database());
    let server = Server::run(&template, &mut template.command(&[])).await;
    server.stop().await;
    let pid_file = template.data.join("pgdata/postmaster.pid");
    let ended = timeout(PATIENCE, async {
        while pid_file.exists() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    ended.await.expect("PostgreSQL ends");
    *shared = Arc::downgrade(&template);
    template
}

/// Runs a command and waits until it exits.
pub async fn finish(command: &mut Command) -> Exited {
    let output = timeout(PATIENCE, command.output())
        .await
        .expect("the command exits in time")
        .unwrap();
    Exited::from(output)
}

/// Exit code and output of a command that has exited.
#[derive(Debug)]
pub struct Exited {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Exited {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Exited {
    /// Asserts the exit code and returns `self`; a failure shows the whole output.
    #[track_caller]
    pub fn exits_with(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "{stdout}\n{stderr}");
        self
    }
}

/// A server process that accepts calls.
pub struct Server {
    pub(super) child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    pub addr: String,
}

impl Server {
    /// Runs the command and waits for the line on stdout that reports the listen address. The log goes to the file
    /// `log`.
    pub async fn run(test_dir: &TestDir, command: &mut Command) -> Self {
        Box::pin(test_dir.prepare()).await;
        let log = test_dir.path().join("log");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line))
            .await
            .expect("the server prints its address in time")
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

    /// Waits until the server has exited; returns its exit code and its output on stdout after the first line.
    pub async fn wait_for_exit(&mut self) -> (Option<i32>, String) {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("the server exits in time")
            .unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).await.unwrap();
        (status.code(), rest)
    }

    /// Shuts the server down with SIGTERM, which must exit with code 0.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        assert_eq!(
            self.wait_for_exit().await,
            (Some(0), String::new()),
            "{}",
            self.log()
        );
    }

    /// Creates a spirit with this name and returns its id.
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

/// A request with the required fields, for the session `s`.
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

/// Calls `poll` until it returns a value; panics after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        sleep(PAUSE).await;
    }
}
