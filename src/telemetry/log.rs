//! Writes the log to stderr on a separate thread.
//!
//! A call never waits for the process that reads the log: if that is too slow, lines are dropped and counted.

use std::io::{BufWriter, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Maximum number of lines that wait to be written; further lines are dropped.
const QUEUED_LINES_MAX: usize = 8_192;
/// Size of the buffer, the most bytes that one write sends.
const BUFFER_BYTES: usize = 64 * 1024;

static THREAD: Mutex<Option<WorkerGuard>> = Mutex::new(None);
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts the thread and returns a writer that queues lines for it.
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

/// Writes the queued lines and ends the log, within about a second at most. Must be called before the process
/// exits.
pub fn flush() {
    let thread = THREAD.lock().take();
    // If the queue is full, the guard reports that on stdout, which panics if stdout is closed.
    catch_unwind(AssertUnwindSafe(|| drop(thread))).unwrap_or_default();
}
