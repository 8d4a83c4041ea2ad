//! `tail`: prints events as they are stored, and goes on by itself when the server comes back.

mod source;

use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures_util::StreamExt as _;
use tokio::io::{AsyncWriteExt as _, Interest, Stdout};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::client::{AddrArgs, Connection, explain};
use super::print::Form;
use super::spirits::{UnknownName, resolve};
use crate::config::BadSettings;
use crate::grpc::pb::EventFilter;
use source::{Source, Start, Step};

#[derive(Args, Debug)]
pub(super) struct TailArgs {
    /// Spirit to watch, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    /// Session to follow: its last events in replay order, then new ones
    #[arg(long, value_name = "ID")]
    session: Option<String>,

    /// Start after this position: the `sequence` of an event, of a session its `cursor` in --json
    #[arg(long, value_name = "SEQUENCE|CURSOR", conflicts_with_all = ["last", "from_beginning"])]
    after: Option<String>,

    /// Start with so many events of the session [default: 10]
    #[arg(long, value_name = "COUNT", requires = "session", conflicts_with = "from_beginning", value_parser = clap::value_parser!(i32).range(1..))]
    last: Option<i32>,

    /// Start with the first event; without it a spirit is watched from now on
    #[arg(long)]
    from_beginning: bool,

    /// Only events of this type; can be repeated
    #[arg(long = "type", value_name = "TYPE")]
    event_types: Vec<String>,

    /// Only events of this role; can be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,

    /// Print a JSON object a line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

/// Events of a session that are shown first.
const LAST_DEFAULT: i32 = 10;
/// Before the first attempt to go on, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// That the line under way has when the command is told to end.
const LAST_LINE: Duration = Duration::from_millis(500);

impl TailArgs {
    fn start(&self) -> Result<Start, BadSettings> {
        Ok(match (&self.after, &self.session) {
            (Some(cursor), Some(_)) => Start::Cursor(cursor.clone()),
            (Some(sequence), None) => match sequence.parse() {
                Ok(sequence @ 0..) => Start::Sequence(sequence),
                _ => {
                    return Err(BadSettings(format!(
                        "--after {sequence} is no sequence; a cursor needs --session"
                    )));
                }
            },
            (None, _) if self.from_beginning => Start::Beginning,
            (None, Some(_)) => Start::Last(self.last.unwrap_or(LAST_DEFAULT)),
            (None, None) => Start::Now,
        })
    }
}

pub(super) async fn run(args: TailArgs) -> anyhow::Result<ExitCode> {
    let start = args.start()?;
    let channel = args.addr.connect().await?;
    let source = Source {
        spirit_id: resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?,
        session_id: args.session,
        filter: EventFilter {
            event_types: args.event_types,
            roles: args.roles,
            ..EventFilter::default()
        },
    };
    let mut tail = Tail {
        source,
        start,
        moved: false,
        form: Form::new(args.json),
        out: tokio::io::stdout(),
    };
    let told = CancellationToken::new();
    let ended = tokio::select! {
        ended = tail.print(channel, &told) => ended,
        told = tell(&told) => told,
    };
    if tail.moved {
        eprintln!("go on with --after {}", tail.start);
    }
    ended.map(|()| ExitCode::SUCCESS)
}

struct Tail {
    source: Source,
    /// Where to go on.
    start: Start,
    /// Whether that is behind something that the server has sent.
    moved: bool,
    form: Form,
    out: Stdout,
}

/// Why printing stopped.
enum Stop {
    Told,
    Server(Status),
    Output(io::Error),
}

impl Tail {
    /// Prints until it is told to end or the output is closed, through every absence of the server.
    async fn print(&mut self, channel: Connection, told: &CancellationToken) -> anyhow::Result<()> {
        let mut pause = PAUSE.0;
        let mut away = false;
        loop {
            let mut heard = false;
            let status = match self.print_stream(channel.clone(), told, &mut heard).await {
                Stop::Told => return Ok(()),
                Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Stop::Output(error) => return Err(error).context("cannot write"),
                Stop::Server(status) if is_passing(&status) => status,
                Stop::Server(status) => return Err(explain(status)),
            };
            if !self.moved
                && let Some(start) = Start::of(&status)
            {
                self.start = start;
            }
            if heard {
                (pause, away) = (PAUSE.0, false);
            }
            if !away {
                eprintln!(
                    "the stream ended ({:?}: {}); trying to go on",
                    status.code(),
                    status.message()
                );
                away = true;
            }
            if told.run_until_cancelled(sleep(pause)).await.is_none() {
                return Ok(());
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn print_stream(
        &mut self,
        channel: Connection,
        told: &CancellationToken,
        heard: &mut bool,
    ) -> Stop {
        let opening = self.source.open(channel, &self.start);
        let mut steps = match told.run_until_cancelled(opening).await {
            Some(Ok(steps)) => steps,
            Some(Err(status)) => return Stop::Server(status),
            None => return Stop::Told,
        };
        loop {
            let step = match told.run_until_cancelled(steps.next()).await {
                Some(Some(Ok(step))) => step,
                Some(Some(Err(status))) => return Stop::Server(status),
                Some(None) => return Stop::Server(Status::unavailable("the server ended it")),
                None => return Stop::Told,
            };
            *heard = true;
            if let Err(error) = self.take(step).await {
                return Stop::Output(error);
            }
        }
    }

    /// Prints the event, if it is one; only then the place behind it is where to go on.
    async fn take(&mut self, Step { event, after }: Step) -> io::Result<()> {
        if let Some(event) = event {
            let cursor = match &after {
                Start::Cursor(cursor) => Some(cursor.as_str()),
                _ => None,
            };
            let mut text = Vec::new();
            self.form.write(&mut text, event, cursor)?;
            self.out.write_all(&text).await?;
            self.out.flush().await?;
        }
        self.start = after;
        self.moved = true;
        Ok(())
    }
}

/// Whether it is worth while to try again: the server is away or the connection broken, which has a
/// source here; or this reader was too slow for its stream.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
        || std::error::Error::source(status).is_some()
}

/// Tells it to end at SIGINT, SIGTERM or a closed stdout; returns when the line under way then should be done.
async fn tell(told: &CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stdout_closed() => {}
    }
    told.cancel();
    sleep(LAST_LINE).await;
    Ok(())
}

/// Returns when nobody can read stdout any more. Of a pipe that is told at once; a file is never closed.
async fn stdout_closed() {
    let watched = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .and_then(pipe::Sender::from_owned_fd_unchecked);
    match watched {
        Ok(stdout) if stdout.ready(Interest::ERROR).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
