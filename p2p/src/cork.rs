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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::dice::Dice;

    /// What a stream does when it is used next.
    #[derive(Clone, Copy, Debug)]
    enum Turn {
        /// Takes so many bytes at most.
        Take(usize),
        /// Wants to be polled again.
        Wait,
        /// Fails, and for ever.
        Fail,
    }

    /// A stream that does what it is told, then takes everything. It is closed once, and not written to after that.
    #[derive(Default)]
    struct Stream {
        turns: VecDeque<Turn>,
        writes: usize,
        taken: Vec<u8>,
        /// How many of them are flushed.
        flushed: usize,
        closed: bool,
    }

    impl Stream {
        fn turn(&mut self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
            assert!(!self.closed, "it is closed");
            match self.turns.pop_front().unwrap_or(Turn::Take(usize::MAX)) {
                Turn::Take(count) => Poll::Ready(Ok(count)),
                Turn::Wait => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Turn::Fail => {
                    self.turns.push_front(Turn::Fail);
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                }
            }
        }
    }

    impl AsyncWrite for Stream {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            assert!(!bytes.is_empty(), "there is something to write");
            let count = ready!(self.turn(cx))?.min(bytes.len());
            self.writes += 1;
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            ready!(self.turn(cx))?;
            self.flushed = self.taken.len();
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            ready!(self.turn(cx))?;
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A corked stream, and what was written to it.
    struct Written {
        cork: Cork<Stream>,
        bytes: Vec<u8>,
        woken: Arc<Woken>,
    }

    type Polled<T> = Poll<Result<T, io::ErrorKind>>;

    impl Written {
        fn to(turns: impl IntoIterator<Item = Turn>) -> Written {
            let stream = Stream { turns: turns.into_iter().collect(), ..Stream::default() };
            Written { cork: Cork::new(stream), bytes: Vec::new(), woken: Arc::default() }
        }

        /// Polls once. Who is to wait is woken, or nobody would ever poll again.
        fn poll<T>(
            &mut self,
            poll: impl FnOnce(Pin<&mut Cork<Stream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
        ) -> Polled<T> {
            let waker = Waker::from(self.woken.clone());
            let before = self.woken.0.load(Ordering::Relaxed);
            let polled = poll(Pin::new(&mut self.cork), &mut Context::from_waker(&waker));
            assert!(polled.is_ready() || self.woken.0.load(Ordering::Relaxed) > before, "it would wait for ever");
            assert!(self.cork.gathered.len() <= CORKED_BYTES);
            polled.map_err(|error| error.kind())
        }

        fn write(&mut self, bytes: &[u8]) -> Polled<usize> {
            let polled = self.poll(|cork, cx| cork.poll_write(cx, bytes));
            if let Poll::Ready(Ok(count)) = polled {
                self.bytes.extend_from_slice(&bytes[..count]);
            }
            polled
        }

        fn flush(&mut self) -> Polled<()> {
            self.poll(|cork, cx| cork.poll_flush(cx))
        }

        fn close(&mut self) -> Polled<()> {
            self.poll(|cork, cx| cork.poll_close(cx))
        }

        fn stream(&self) -> &Stream {
            &self.cork.stream
        }

        /// What went down is the beginning of what was written.
        fn check(&self) {
            assert!(self.bytes.starts_with(&self.stream().taken));
            let left = &self.cork.gathered[self.cork.taken..];
            assert!(self.bytes.ends_with(left) && self.bytes.len() == self.stream().taken.len() + left.len());
        }
    }

    const DONE: Polled<()> = Poll::Ready(Ok(()));

    #[test]
    fn a_flush_takes_along_what_is_written_before_the_task_is_polled_again() {
        let mut written = Written::to([]);
        assert_eq!(written.write(b"head"), Poll::Ready(Ok(4)));
        assert_eq!(written.flush(), Poll::Pending);
        assert_eq!(written.write(b"body"), Poll::Ready(Ok(4)));
        assert_eq!(written.flush(), Poll::Pending, "something new was written");
        assert_eq!((written.stream().writes, written.stream().flushed), (0, 0));
        assert_eq!(written.flush(), DONE);
        assert_eq!((written.stream().writes, written.stream().flushed), (1, 8));
        assert_eq!(written.stream().taken, b"headbody");
        assert_eq!(written.flush(), DONE, "there is nothing to put off");
        assert_eq!(written.stream().writes, 1);
    }

    #[test]
    fn a_flush_is_over_once_everything_has_gone_down() {
        // A byte at a time, and a pause before each; a pause before the flush of the stream itself, too.
        let mut written = Written::to([Turn::Wait, Turn::Take(1)].repeat(5).into_iter().chain([Turn::Wait]));
        assert_eq!(written.write(b"bytes"), Poll::Ready(Ok(5)));
        // The first puts it off, then each meets one pause.
        for polls in 0..7 {
            assert_eq!(written.flush(), Poll::Pending, "poll {polls}");
            written.check();
        }
        assert_eq!(written.flush(), DONE);
        assert_eq!((&written.stream().taken[..], written.stream().flushed), (&b"bytes"[..], 5));
    }

    #[test]
    fn what_is_written_while_a_flush_is_under_way_goes_behind() {
        let mut written = Written::to([Turn::Take(2), Turn::Wait, Turn::Take(1)]);
        assert_eq!(written.write(b"one "), Poll::Ready(Ok(4)));
        assert_eq!([written.flush(), written.flush()], [Poll::Pending; 2]);
        assert_eq!(written.stream().taken, b"on");
        assert_eq!(written.write(b"two"), Poll::Ready(Ok(3)));
        assert_eq!([written.flush(), written.flush()], [Poll::Pending, DONE]);
        assert_eq!((&written.stream().taken[..], written.stream().flushed), (&b"one two"[..], 7));
    }

    #[test]
    fn who_writes_more_than_is_gathered_waits_for_the_stream() {
        let mut written = Written::to([Turn::Take(1), Turn::Wait, Turn::Take(CORKED_BYTES), Turn::Wait]);
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 * CORKED_BYTES).collect();
        assert_eq!(written.write(&bytes), Poll::Ready(Ok(CORKED_BYTES)));
        assert_eq!(written.stream().writes, 0);
        assert_eq!(written.write(&bytes[CORKED_BYTES..]), Poll::Pending);
        written.check();
        assert_eq!(written.write(&bytes[CORKED_BYTES..]), Poll::Ready(Ok(CORKED_BYTES)));
        assert_eq!((written.stream().taken.len(), written.stream().flushed), (CORKED_BYTES, 0));
        written.check();
        assert_eq!(written.write(&bytes[2 * CORKED_BYTES..]), Poll::Pending);
        assert_eq!(written.close(), DONE);
        assert_eq!(written.stream().taken, bytes[..2 * CORKED_BYTES]);
    }

    #[test]
    fn closing_writes_what_was_gathered_first() {
        let mut written = Written::to([Turn::Take(3), Turn::Wait, Turn::Take(9), Turn::Wait]);
        assert_eq!(written.write(b"farewell"), Poll::Ready(Ok(8)));
        assert_eq!([written.close(), written.close()], [Poll::Pending; 2]);
        assert_eq!((&written.stream().taken[..], written.stream().closed), (&b"farewell"[..], false));
        assert_eq!(written.close(), DONE);
        assert!(written.stream().closed);
    }

    #[test]
    fn a_stream_that_fails_or_takes_nothing_fails_who_writes_flushes_or_closes() {
        for (turn, kind) in [(Turn::Fail, io::ErrorKind::ConnectionReset), (Turn::Take(0), io::ErrorKind::WriteZero)] {
            let failed = Poll::Ready(Err(kind));
            let full = || {
                let mut written = Written::to([Turn::Take(10), turn]);
                assert_eq!(written.write(&[7; CORKED_BYTES]), Poll::Ready(Ok(CORKED_BYTES)));
                written
            };
            let mut written = full();
            assert_eq!(written.write(b"more"), failed.map_ok(|()| 0));
            written.check();
            let mut written = full();
            assert_eq!([written.flush(), written.flush()], [Poll::Pending, failed]);
            assert_eq!(written.stream().flushed, 0);
            written.check();
            let mut written = full();
            assert_eq!(written.close(), failed);
            assert!(!written.stream().closed);
        }
    }

    /// How a stream behaves for a while: it may fail at the end.
    fn turns(dice: &mut Dice) -> Vec<Turn> {
        let turn = |dice: &mut Dice| match dice.below(4) {
            0 => Turn::Wait,
            1 => Turn::Take(1),
            2 => Turn::Take(1 + dice.below(1_000) as usize),
            _ => Turn::Take(1 + dice.below(2 * CORKED_BYTES as u64) as usize),
        };
        let mut turns: Vec<Turn> = (0..dice.below(200)).map(|_| turn(dice)).collect();
        if dice.one_in(4) {
            turns.push(*dice.pick(&[Turn::Fail, Turn::Take(0)]));
        }
        turns
    }

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order() {
        let (mut closed, mut failed) = (0, 0);
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut written = Written::to(turns(&mut dice));
            let bytes: Vec<u8> = (0..2 * CORKED_BYTES).map(|_| dice.roll() as u8).collect();
            for _ in 0..dice.below(300) {
                let most = *dice.pick(&[12, 1_000, 2 * CORKED_BYTES as u64]);
                let from = dice.below(most) as usize;
                let is_flush = dice.one_in(3);
                let outcome = match is_flush {
                    true => written.flush(),
                    false => written.write(&bytes[from..most as usize]).map_ok(drop),
                };
                written.check();
                if is_flush && outcome == DONE {
                    assert_eq!(written.stream().flushed, written.bytes.len(), "seed {seed}");
                }
                if matches!(outcome, Poll::Ready(Err(_))) {
                    break;
                }
            }
            let end = (0..1_000).map(|_| written.close()).find(Poll::is_ready).expect("each turn comes once");
            written.check();
            match end {
                DONE => {
                    assert!(written.stream().closed && written.stream().taken == written.bytes, "seed {seed}");
                    closed += 1;
                }
                _ => failed += 1,
            }
        }
        assert!(closed > 100 && failed > 5, "{closed} were closed, {failed} failed");
    }
}
