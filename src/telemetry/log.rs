//! The log on stderr, written by a thread of its own.
//!
//! A call never waits for the reader of the log: if the reader is too slow, lines are dropped and counted.

use std::io::{BufWriter, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that may wait to be written.
const QUEUED_LINES_MAX: usize = 8_192;
/// Bytes that are written at once, if so many are waiting.
const BUFFER_BYTES: usize = 64 * 1024;

static THREAD: Mutex<Option<WorkerGuard>> = Mutex::new(None);
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts the thread and returns the writer that hands lines to it.
pub(super) fn start() -> NonBlocking {
    let (writer, thread) = NonBlockingBuilder::default()
        .thread_name("events-log")
        .buffered_lines_limit(QUEUED_LINES_MAX)
        .lossy(true)
        .finish(BufWriter::with_capacity(BUFFER_BYTES, stderr()));
    *THREAD.lock() = Some(thread);
    DROPPED.get_or_init(|| writer.error_counter());
    writer
}

/// Returns the number of lines that were dropped because the log was not read fast enough.
#[must_use]
pub fn dropped_log_lines() -> u64 {
    let dropped = DROPPED.get().map_or(0, ErrorCounter::dropped_lines);
    dropped.try_into().unwrap_or(u64::MAX)
}

/// Writes the queued lines and ends the log, for at most about a second. To be called before the process exits.
pub fn flush() {
    let thread = THREAD.lock().take();
    // If the queue is full, the guard reports that on stdout, which panics if stdout is closed.
    catch_unwind(AssertUnwindSafe(|| drop(thread))).unwrap_or_default();
}
