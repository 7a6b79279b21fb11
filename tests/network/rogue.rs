//! A peer that speaks the protocols by hand, and keeps every byte that it is sent, of each stream as it comes out of encryption
//! and multiplexer: what anybody learns from a node who connects to it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use gridfs_p2p::streams::{Inbound, Opened, Streams};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use libp2p::core::transport::{Boxed, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, identify, noise, ping, quic, tcp, tls, yamux};
use tokio::sync::{mpsc, oneshot};

/// Messages of Kademlia, by their number in its protocol.
pub const ADD_PROVIDER: u8 = 2;
pub const GET_PROVIDERS: u8 = 3;
pub const FIND_NODE: u8 = 4;

/// Longest message of Kademlia.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: Streams,
    grid: Streams,
}

/// The protocols that a rogue opens streams of.
#[derive(Clone, Copy)]
pub enum Speaks {
    Kademlia,
    Grid,
}

/// What a rogue encrypts with.
#[derive(Clone, Copy, Debug)]
pub enum Over {
    Noise,
    Tls,
    Quic,
}

/// All that came, stream by stream.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Rogue {
    pub id: PeerId,
    pub heard: Heard,
    /// Keys that others told it that they provide.
    pub told: Arc<Mutex<Vec<[u8; 32]>>>,
    opens: mpsc::UnboundedSender<(Speaks, Opened)>,
}

impl Rogue {
    /// Connects to the node at an address that ends with its id, or is refused.
    pub async fn meet(address: &str) -> Option<Rogue> {
        Rogue::meet_over(Over::Noise, address).await
    }

    pub async fn meet_over(over: Over, address: &str) -> Option<Rogue> {
        let (peer, address) = gridfs::peers::split(address).unwrap();
        let heard = Heard::default();
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_other_transport(|keys| tapped(over, keys, heard.clone()))
            .unwrap()
            .with_behaviour(|keys| Behaviour {
                identify: identify::Behaviour::new(identify::Config::new("gridfs/1".into(), keys.public())),
                ping: ping::Behaviour::default(),
                kad: Streams::new(StreamProtocol::new("/gridfs/kad/1")),
                grid: Streams::new(StreamProtocol::new("/gridfs/1")),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        // Whoever listens is taken into the tables of others.
        let listen = match over {
            Over::Noise | Over::Tls => "/ip4/127.0.0.1/tcp/0",
            Over::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        swarm.listen_on(listen.parse().unwrap()).unwrap();
        while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
        swarm.dial(address.with_p2p(peer).unwrap()).unwrap();
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => break,
                SwarmEvent::OutgoingConnectionError { .. } => return None,
                _ => {}
            }
        }
        let (opens, wanted) = mpsc::unbounded_channel();
        let (id, told) = (*swarm.local_peer_id(), Arc::default());
        tokio::spawn(run(swarm, peer, wanted, Arc::clone(&told)));
        Some(Rogue { id, heard, told, opens })
    }

    /// A stream to the node.
    pub async fn open(&self, speaks: Speaks) -> Result<Stream, String> {
        let (opened, stream) = oneshot::channel();
        self.opens.send((speaks, opened)).map_err(|_| "the rogue has gone".to_owned())?;
        stream.await.map_err(|_| "the connection was closed".to_owned())?
    }

    /// Says something, all that it has to say or not, and hears the answer to its end.
    pub async fn ask(&self, speaks: Speaks, request: &[u8], is_all: bool) {
        let mut stream = self.open(speaks).await.unwrap();
        let exchange = async {
            stream.write_all(request).await?;
            match is_all {
                true => stream.close().await?,
                false => stream.flush().await?,
            }
            stream.read_to_end(&mut Vec::new()).await
        };
        // What makes no sense may be answered by a reset, or not at all.
        let _ = tokio::time::timeout(Duration::from_secs(2), exchange).await;
    }
}

async fn run(
    mut swarm: libp2p::Swarm<Behaviour>,
    peer: PeerId,
    mut wanted: mpsc::UnboundedReceiver<(Speaks, Opened)>,
    told: Arc<Mutex<Vec<[u8; 32]>>>,
) {
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Kad(Inbound { stream, .. })) => {
                    tokio::spawn(know_nothing(stream, Arc::clone(&told)));
                }
                SwarmEvent::Behaviour(BehaviourEvent::Grid(Inbound { mut stream, .. })) => {
                    // What it is asked it hears, and closes without an answer.
                    tokio::spawn(async move { stream.read(&mut vec![0; 64 << 10]).await });
                }
                _ => {}
            },
            open = wanted.recv() => match open {
                Some((Speaks::Kademlia, opened)) => swarm.behaviour_mut().kad.open(peer, opened),
                Some((Speaks::Grid, opened)) => swarm.behaviour_mut().grid.open(peer, opened),
                None => return,
            },
        }
    }
}

/// Answers queries of Kademlia with nothing, and takes note of what is announced.
async fn know_nothing(mut stream: Stream, told: Arc<Mutex<Vec<[u8; 32]>>>) -> io::Result<()> {
    loop {
        let message = read_message(&mut stream).await?;
        match message[..] {
            [0x08, ADD_PROVIDER, 0x12, 32, ref rest @ ..] if rest.len() >= 32 => {
                told.lock().unwrap().push(rest[..32].try_into().unwrap());
            }
            [0x08, kind @ (GET_PROVIDERS | FIND_NODE), ..] => {
                stream.write_all(&[2, 0x08, kind]).await?;
                stream.flush().await?;
            }
            _ => {}
        }
    }
}

async fn read_message(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let (mut len, mut shift) = (0, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        len |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    assert!(len <= MAX_MESSAGE_BYTES, "a message of Kademlia of {len} bytes");
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// A message of Kademlia about a key, with its length before it.
pub fn message(kind: u8, key: &[u8; 32], provider: Option<(&PeerId, &Multiaddr)>) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let mut message = [&[0x08, kind][..], &field(0x12, key)].concat();
    if let Some((id, address)) = provider {
        message.extend(field(0x4a, &[field(0x0a, &id.to_bytes()), field(0x12, &address.to_vec())].concat()));
    }
    let len = message.len() as u8;
    // Of more than 127 bytes in two parts of seven bits.
    let prefix = if len < 128 { vec![len] } else { vec![len & 0x7f | 0x80, 1] };
    [prefix, message].concat()
}

/// A transport with what comes over it written down.
fn tapped(over: Over, keys: &Keypair, heard: Heard) -> Boxed<(PeerId, StreamMuxerBox)> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)).upgrade(Version::V1Lazy);
    let yamux = yamux::Config::default();
    let transport = match over {
        Over::Noise => tcp.authenticate(noise::Config::new(keys).unwrap()).multiplex(yamux).boxed(),
        Over::Tls => tcp.authenticate(tls::Config::new(keys).unwrap()).multiplex(yamux).boxed(),
        Over::Quic => {
            let quic = quic::tokio::Transport::new(quic::Config::new(keys));
            quic.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection))).boxed()
        }
    };
    let tap = move |(peer, inner), _| (peer, StreamMuxerBox::new(Tapped { inner, heard }));
    Transport::map(transport, tap).boxed()
}

/// A connection of whose streams everything that comes is written down.
struct Tapped {
    inner: StreamMuxerBox,
    heard: Heard,
}

impl Tapped {
    fn tap(&self, inner: SubstreamBox) -> TappedStream {
        let mut heard = self.heard.lock().unwrap();
        heard.push(Vec::new());
        TappedStream { inner, heard: self.heard.clone(), number: heard.len() - 1 }
    }
}

impl StreamMuxer for Tapped {
    type Substream = TappedStream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<TappedStream>> {
        Pin::new(&mut self.inner).poll_inbound(cx).map_ok(|stream| self.tap(stream))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<TappedStream>> {
        Pin::new(&mut self.inner).poll_outbound(cx).map_ok(|stream| self.tap(stream))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

struct TappedStream {
    inner: SubstreamBox,
    heard: Heard,
    number: usize,
}

impl AsyncRead for TappedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Ok(len)) = &read {
            self.heard.lock().unwrap()[self.number].extend_from_slice(&buffer[..*len]);
        }
        read
    }
}

impl AsyncWrite for TappedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
