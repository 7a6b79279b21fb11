//! Gathers small writes into large ones, as the option of TCP of this name does.
//!
//! yamux writes the head of a frame, then its body of 64 KiB at most, and flushes. Under it lies TLS, where each write becomes a
//! record and each flush a system call. So a flush is put off until the task is polled again, by which time whatever else it
//! had to write is here as well.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// Bytes gathered at most. rustls takes no more at a time.
const CORKED_BYTES: usize = 64 << 10;

/// A stream whose writes are gathered.
pub struct Cork<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How many of them the stream has taken.
    taken: usize,
    /// A flush was put off, and nothing was written since.
    put_off: bool,
}

impl<S> Cork<S> {
    /// Nothing gathered yet.
    pub fn new(stream: S) -> Cork<S> {
        Cork { stream, gathered: Vec::new(), taken: 0, put_off: false }
    }
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.gathered.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.taken..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.taken += count,
            }
        }
        self.gathered.clear();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= CORKED_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        let count = bytes.len().min(CORKED_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..count]);
        self.put_off = false;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() && !self.put_off {
            self.put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, bytes)
    }
}
