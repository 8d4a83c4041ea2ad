//! A connection that sends what its tasks have written together.
//!
//! HTTP/2 writes each reply by itself, with a system call or two for each, even where a commit has just
//! answered thirty calls. Here what is written is kept until the writing task has given way once, in which
//! time other replies that are ready join it. Nothing waits for a timer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Bytes that are kept at the most; past it they are sent at once.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// A connection that gathers what is written to it.
#[derive(Debug)]
pub struct WriteCoalescer<IO> {
    io: IO,
    kept: Vec<u8>,
    /// Of those kept, bytes that are sent.
    sent: usize,
    /// Set once the writer has given way since the last flush.
    has_yielded: bool,
}

impl<IO> WriteCoalescer<IO> {
    /// Nothing is kept yet.
    pub const fn new(io: IO) -> Self {
        Self {
            io,
            kept: Vec::new(),
            sent: 0,
            has_yielded: false,
        }
    }
}

impl<IO: AsyncWrite + Unpin> WriteCoalescer<IO> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.kept[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.kept = Vec::new(); // thousands of idle connections are to need no memory
        self.sent = 0;
        self.has_yielded = false;
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
        if self.kept.len() >= KEPT_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        let before = self.kept.len();
        for slice in slices {
            self.kept.extend_from_slice(slice);
        }
        Poll::Ready(Ok(self.kept.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.kept.is_empty() && !self.has_yielded {
            self.has_yielded = true;
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
