//! `tail`: prints events as they are stored, and resumes when the server is available again.

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
use super::printable::printable;
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

    /// Start after this position: the `sequence` of an event, or with --session its `cursor` in --json
    #[arg(long, value_name = "SEQUENCE|CURSOR", conflicts_with_all = ["last", "from_beginning"])]
    after: Option<String>,

    /// Start with this number of last events of the session [default: 10]
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

/// Default of `--last`.
const LAST_DEFAULT: i32 = 10;
/// Back-off before the stream is resumed: the first and the longest pause.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Time limit for printing the current line when the command is stopped.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(500);

impl TailArgs {
    fn start(&self) -> Result<Start, BadSettings> {
        Ok(match (&self.after, &self.session) {
            (Some(cursor), Some(_)) => Start::Cursor(cursor.clone()),
            (Some(sequence), None) => match sequence.parse() {
                Ok(sequence @ 0..) => Start::Sequence(sequence),
                _ => {
                    return Err(BadSettings(format!(
                        "--after {sequence} is not a sequence; a cursor needs --session"
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
    let stop = CancellationToken::new();
    let result = tokio::select! {
        result = tail.print(channel, &stop) => result,
        stopped = wait_for_stop(&stop) => stopped,
    };
    if tail.moved {
        eprintln!("resume with --after {}", tail.start);
    }
    result.map(|()| ExitCode::SUCCESS)
}

struct Tail {
    source: Source,
    /// The position to resume from.
    start: Start,
    /// Whether the server has sent anything, so that `start` is a position to resume from.
    moved: bool,
    form: Form,
    out: Stdout,
}

/// The reason for the end of printing.
enum Stop {
    Requested,
    Server(Status),
    Output(io::Error),
}

impl Tail {
    /// Prints until it is stopped or the output is closed. Resumes whenever the server is available again.
    async fn print(&mut self, channel: Connection, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut pause = BACKOFF.0;
        let mut is_resuming = false;
        loop {
            let mut has_received = false;
            let status = match self.print_stream(channel.clone(), stop, &mut has_received).await {
                Stop::Requested => return Ok(()),
                Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Stop::Output(error) => return Err(error).context("cannot write"),
                Stop::Server(status) if is_transient(&status) => status,
                Stop::Server(status) => return Err(explain(status)),
            };
            if !self.moved
                && let Some(start) = Start::of(&status)
            {
                self.start = start;
            }
            if has_received {
                (pause, is_resuming) = (BACKOFF.0, false);
            }
            if !is_resuming {
                eprintln!(
                    "the stream ended ({:?}: {}); trying to resume",
                    status.code(),
                    printable(status.message())
                );
                is_resuming = true;
            }
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return Ok(());
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn print_stream(
        &mut self,
        channel: Connection,
        stop: &CancellationToken,
        has_received: &mut bool,
    ) -> Stop {
        let opening = self.source.open(channel, &self.start);
        let mut steps = match stop.run_until_cancelled(opening).await {
            Some(Ok(steps)) => steps,
            Some(Err(status)) => return Stop::Server(status),
            None => return Stop::Requested,
        };
        loop {
            let step = match stop.run_until_cancelled(steps.next()).await {
                Some(Some(Ok(step))) => step,
                Some(Some(Err(status))) => return Stop::Server(status),
                Some(None) => return Stop::Server(Status::unavailable("the server ended the stream")),
                None => return Stop::Requested,
            };
            *has_received = true;
            if let Err(error) = self.take(step).await {
                return Stop::Output(error);
            }
        }
    }

    /// Prints the event of a step, if it has one, and then advances the position to resume from.
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

/// Returns true if a retry can succeed: the server is unavailable, a deadline passed, the server ended the
/// stream because this client stalled, or the connection broke (such a status has a source).
fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
        || std::error::Error::source(status).is_some()
}

/// Waits for SIGINT, SIGTERM or a closed stdout, cancels `stop`, and returns after [`LAST_LINE_TIMEOUT`], in
/// which the current line can be printed.
async fn wait_for_stop(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stdout_closed() => {}
    }
    stop.cancel();
    sleep(LAST_LINE_TIMEOUT).await;
    Ok(())
}

/// Resolves when the reading end of stdout is closed. Never resolves if stdout is not a pipe.
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
