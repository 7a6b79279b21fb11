//! Streams over one connection: yamux, with its limits and the length of its frames set here.
//!
//! libp2p-yamux leaves both as they are: 1 GiB may wait unread on a connection, and a frame has 16 KiB, which costs a tenth of
//! the time of a transfer. Nothing else differs: this is yamux for libp2p (`/yamux/1.0.0`).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode};

/// Bytes of a frame at most: what another stream waits for.
const FRAME_BYTES: usize = 64 << 10;
/// Bytes that may wait unread on a connection, of all its streams: twice the least that [`MAX_STREAMS`] can do with.
const UNREAD_BYTES: usize = 64 << 20;
/// Streams on one connection, ours and libp2p's. Each may have 256 KiB unread, and more if it is fast.
pub const MAX_STREAMS: usize = 128;

/// Makes a connection one of many streams.
#[derive(Clone)]
pub struct Mux(Config);

impl Mux {
    /// With our limits.
    pub fn new() -> Mux {
        let mut config = Config::default();
        // In this order: the one must suffice for the other.
        config.set_max_num_streams(MAX_STREAMS).set_max_connection_receive_window(Some(UNREAD_BYTES));
        config.set_split_send_size(FRAME_BYTES);
        Mux(config)
    }
}

impl UpgradeInfo for Mux {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Mux {
    type Output = Muxed<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxed::new(Connection::new(stream, self.0, Mode::Server))))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Mux {
    type Output = Muxed<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxed::new(Connection::new(stream, self.0, Mode::Client))))
    }
}

/// A connection of many streams.
pub struct Muxed<C> {
    connection: Connection<C>,
    /// Streams that the peer opened while nobody asked for one: yamux gets on only by being asked. There are no more than
    /// [`MAX_STREAMS`].
    opened: VecDeque<yamux::Stream>,
    /// Who waits for one.
    waiting: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxed<C> {
    fn new(connection: Connection<C>) -> Muxed<C> {
        Muxed { connection, opened: VecDeque::new(), waiting: None }
    }

    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        Poll::Ready(ready!(self.connection.poll_next_inbound(cx)).unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxed<C> {
    type Substream = yamux::Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        if let Some(stream) = self.opened.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let opened = self.poll_opened(cx);
        if opened.is_pending() {
            self.waiting = Some(cx.waker().clone());
        }
        opened
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let stream = ready!(self.poll_opened(cx))?;
        self.opened.push_back(stream);
        self.waiting.take().into_iter().for_each(Waker::wake);
        // There may be more; others have their turn before.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
