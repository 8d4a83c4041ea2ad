//! Prints the items of a live stream, for `tail` and `changes`, and resumes when the server is available again.

mod source;

use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::io::{AsyncWriteExt as _, Interest, Stdout};
use tokio::net::unix::pipe;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::client::{Connection, explain};
use super::print::Form;
use super::printable::printable;
use super::stop;
use source::{Item, Step};

pub(super) use source::{Source, Start};

/// Back-off before the stream is resumed: the first and the longest pause.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Time limit for printing the current line when the command is stopped.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(500);

/// Prints the items of a stream from this start. With `is_endless` it resumes whenever the server is available again,
/// and finally prints the position to resume from; otherwise it ends when the stored items were printed.
pub(super) async fn follow(
    channel: Connection,
    source: Source,
    start: Start,
    form: Form,
    is_endless: bool,
) -> anyhow::Result<ExitCode> {
    let mut printer = Printer {
        source,
        start,
        moved: false,
        form,
        is_endless,
        out: tokio::io::stdout(),
    };
    let stop = CancellationToken::new();
    let result = tokio::select! {
        result = printer.print(channel, &stop) => result,
        stopped = wait_for_stop(&stop) => stopped,
    };
    if printer.moved && is_endless {
        eprintln!("resume with --after {}", printer.start);
    }
    result.map(|()| ExitCode::SUCCESS)
}

struct Printer {
    source: Source,
    /// The position to resume from.
    start: Start,
    /// Whether the server has sent anything, so that `start` is a position to resume from.
    moved: bool,
    form: Form,
    is_endless: bool,
    out: Stdout,
}

/// The reason for the end of printing.
enum Stop {
    Requested,
    /// The stored items were printed.
    CaughtUp,
    Server(Status),
    Output(io::Error),
}

impl Printer {
    /// Prints until it is stopped or the output is closed.
    async fn print(&mut self, channel: Connection, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut pause = BACKOFF.0;
        let mut is_resuming = false;
        loop {
            let mut has_received = false;
            let status = match self.print_stream(channel.clone(), stop, &mut has_received).await {
                Stop::Requested | Stop::CaughtUp => return Ok(()),
                Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Stop::Output(error) => return Err(error).context("cannot write"),
                Stop::Server(status) if self.is_endless && is_transient(&status) => status,
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
            let is_caught_up = step.is_caught_up;
            if let Err(error) = self.take(step).await {
                return Stop::Output(error);
            }
            if is_caught_up && !self.is_endless {
                return Stop::CaughtUp;
            }
        }
    }

    /// Prints the item of a step, if it has one, and then advances the position to resume from.
    async fn take(&mut self, Step { item, after, .. }: Step) -> io::Result<()> {
        let mut text = Vec::new();
        match item {
            Some(Item::Event(event)) => {
                let cursor = match &after {
                    Start::Cursor(cursor) => Some(cursor.as_str()),
                    _ => None,
                };
                self.form.write(&mut text, *event, cursor)?;
            }
            Some(Item::Change(change)) => self.form.write_change(&mut text, *change)?,
            None => {}
        }
        self.out.write_all(&text).await?;
        self.out.flush().await?;
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
    tokio::select! {
        requested = stop::requested() => requested?,
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
