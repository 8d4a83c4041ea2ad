//! Where log lines go: to a thread that writes them to stderr, several at once when there are many.
//!
//! A call must not wait for whoever reads the log. If the reader is too slow, lines are dropped and
//! counted, not the service held up.

use std::io::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const WAITING_MAX: usize = 8_192;
/// Bytes that are written at once, about.
const WRITTEN_BYTES: usize = 64 * 1024;
/// How long the end of the process waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

static LINES: LazyLock<Option<SyncSender<Message>>> = LazyLock::new(|| {
    let (sender, messages) = sync_channel(WAITING_MAX);
    let started = std::thread::Builder::new()
        .name("events-log".to_owned())
        .spawn(move || write_all(&messages));
    started.is_ok().then_some(sender)
});

enum Message {
    Line(Vec<u8>),
    /// Everything before it is written: answer.
    Flush(SyncSender<()>),
}

/// Takes lines, each in one write.
#[derive(Clone, Copy)]
pub(super) struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(lines) = &*LINES else {
            return io::stderr().write(line); // no thread could be started
        };
        if let Err(TrySendError::Full(_)) = lines.try_send(Message::Line(line.to_vec())) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines that were dropped because the log was not read fast enough.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until the lines up to now are written; to be called before the process ends.
pub fn flush() {
    let (sender, flushed) = sync_channel(1);
    let Some(lines) = &*LINES else { return };
    if lines.try_send(Message::Flush(sender)).is_ok() {
        // An error means that nobody reads; there is nowhere to say so.
        flushed.recv_timeout(FLUSH_LIMIT).unwrap_or_default();
    }
}

fn write_all(messages: &Receiver<Message>) {
    let mut written = Vec::with_capacity(WRITTEN_BYTES);
    while let Ok(first) = messages.recv() {
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => written.extend_from_slice(&line),
                Message::Flush(answer) => waiting.push(answer),
            }
            next = (written.len() < WRITTEN_BYTES)
                .then(|| messages.try_recv().ok())
                .flatten();
        }
        // Where stderr is closed nothing can be said any more.
        io::stderr().write_all(&written).unwrap_or_default();
        written.clear();
        for answer in waiting {
            answer.send(()).unwrap_or_default();
        }
    }
}
