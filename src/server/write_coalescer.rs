//! A connection that coalesces small writes.
//!
//! HTTP/2 writes each reply separately, with one or two system calls each, even if a single commit has
//! answered thirty calls. [`WriteCoalescer`] buffers writes until the writing task has yielded once; replies
//! that become ready in that time join the same write. No timer is involved. A yield wakes another thread of the
//! runtime, so most yields are skipped while they join nothing, as with a single call in flight.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Size from which the buffer is sent before further bytes are accepted.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Number of flushes without a yield after a yield that joined nothing.
const SKIPPED_YIELDS: u8 = 15;

/// A connection whose writes are buffered until the next flush.
#[derive(Debug)]
pub struct WriteCoalescer<IO> {
    io: IO,
    buffer: Vec<u8>,
    /// Number of bytes of the buffer that have been sent.
    sent: usize,
    /// The length of the buffer when the writing task yielded, if it has yielded since the last flush.
    yielded_at: Option<usize>,
    /// Number of coming flushes without a yield.
    skipped_yields: u8,
}

impl<IO> WriteCoalescer<IO> {
    /// Wraps a connection.
    pub const fn new(io: IO) -> Self {
        Self {
            io,
            buffer: Vec::new(),
            sent: 0,
            yielded_at: None,
            skipped_yields: 0,
        }
    }
}

impl<IO: AsyncWrite + Unpin> WriteCoalescer<IO> {
    /// Returns whether the writing task has to yield before the buffer is sent.
    fn has_to_yield(&mut self) -> bool {
        match self.yielded_at {
            Some(length) => {
                if self.buffer.len() == length {
                    self.skipped_yields = SKIPPED_YIELDS;
                }
                false
            }
            None if self.skipped_yields > 0 => {
                self.skipped_yields -= 1;
                false
            }
            None => {
                self.yielded_at = Some(self.buffer.len());
                true
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.buffer = Vec::new(); // an idle connection holds no memory
        self.sent = 0;
        self.yielded_at = None;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for WriteCoalescer<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        let before = self.buffer.len();
        for slice in slices {
            self.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(self.buffer.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sent == 0 && !self.buffer.is_empty() && self.has_to_yield() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for WriteCoalescer<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: Connected> Connected for WriteCoalescer<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}
