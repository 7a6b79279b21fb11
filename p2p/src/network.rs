//! The handle to a node's network: who it is, whom it knows, what it asks of them.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use gridfs_store::{Cid, Hash, Store};
use libp2p::identity::{Keypair, PublicKey, ed25519};
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::error::{Error, Refusal};
use crate::limits::Limits;
use crate::node::{self, Command};
use crate::peers::{Peer, Peers};
use crate::wire::Kind;

/// Commands that wait for the node.
const MAX_COMMANDS: usize = 256;

/// How to start a [`Network`].
pub struct Config {
    /// The node's Ed25519 secret. Its peer id follows from it.
    pub seed: [u8; 32],
    /// Where to listen. With none nothing listens: the node asks others, and they can't ask it but over its own connections.
    pub listen: Vec<Multiaddr>,
    /// What is remembered of peers lies here.
    pub dir: PathBuf,
    /// The name of a grid of one's own; part of all protocol names, so that others are strangers to it.
    pub grid: Option<String>,
    /// The only peers that connections are made with, if it is to be private.
    pub allow: Option<Vec<PeerId>>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Whether to relay between peers that don't reach each other, within libp2p's limits.
    pub relay: bool,
    /// What it allows others, and itself.
    pub limits: Limits,
}

/// A call for a peer to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRequest {
    /// The call, in its deterministic CBOR.
    pub parms: Vec<u8>,
    /// The promise it is made under: the first of the parms.
    pub promise: Cid,
    /// The capability token that gives the right to it, where one is demanded.
    pub token: Option<Vec<u8>>,
    /// How long the caller waits.
    pub deadline: Duration,
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallAnswer {
    /// The result. To be fetched from who gave it, or from anybody.
    pub result: Cid,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes; 0 for a directory.
    pub size_bytes: u64,
    /// The signed receipt: who says that it is the result. Empty if there is none, or it is longer than 1 MiB.
    pub claim: Vec<u8>,
}

/// The names that a node publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The head, signed by the node.
    pub signed: Vec<u8>,
    /// The table that it names.
    pub table: Vec<u8>,
}

/// What the node above answers its peers. Each future is dropped when the peer no longer wants its answer.
pub trait Answers: Send + Sync + 'static {
    /// Makes a call for a peer, by the right of its token, within the deadline.
    fn call(&self, from: PeerId, request: CallRequest) -> BoxFuture<'static, Result<CallAnswer, Refusal>>;

    /// The signed claims known under a memo key; at most 16 of 1 MiB are told.
    fn claims(&self, from: PeerId, key: Hash) -> BoxFuture<'static, Vec<Vec<u8>>>;

    /// The names that the node with this key publishes, if that is this one, or one whose names it knows.
    fn head(&self, from: PeerId, node: [u8; 32]) -> BoxFuture<'static, Option<Head>>;

    /// Whether a peer may read an object, and with it all that belongs to it. May look into files: it is asked on threads
    /// that may wait. A result that [`Answers::call`] gave is asked for next.
    fn may_read(&self, from: PeerId, cid: &Cid) -> bool;
}

/// What a network did since it was started, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Peers connected now.
    pub connected: u64,
    /// Requests of peers that were taken on.
    pub requests: u64,
    /// Bytes of chunks and ranges sent.
    pub sent_bytes: u64,
    /// Bytes of chunks and ranges received.
    pub received_bytes: u64,
    /// Provider records kept for others.
    pub provider_records: u64,
    /// Keys that this node provides.
    pub announced_keys: u64,
}

/// The counts behind [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    pub connected: AtomicU64,
    pub requests: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub received_bytes: AtomicU64,
    pub provider_records: AtomicU64,
    pub announced_keys: AtomicU64,
}

/// What the handle, the node and its tasks share.
pub(crate) struct Shared {
    pub id: PeerId,
    pub store: Arc<Store>,
    pub peers: Peers,
    pub limits: Limits,
    pub counters: Counters,
    /// Where the node can be reached.
    pub addresses: watch::Sender<Vec<Multiaddr>>,
}

/// A node's network. Cheap to clone; the network stops when [`Network::stop`] is called or the last handle is dropped.
#[derive(Clone)]
pub struct Network {
    pub(crate) shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// The peer id of the node with this Ed25519 public key, unless that is none.
pub fn peer_id(key: &[u8; 32]) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The Ed25519 public key of a peer, which its id holds; `None` for one with another kind of key.
pub fn peer_key(peer: &PeerId) -> Option<[u8; 32]> {
    let multihash = peer.as_ref();
    // Code 0 is the identity: the digest is the key itself, as a message of protocol buffers.
    let key = PublicKey::try_decode_protobuf((multihash.code() == 0).then_some(multihash.digest())?).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

impl Network {
    /// Starts the network on the current runtime, and listens.
    pub async fn start(config: Config, store: Arc<Store>, answers: Arc<dyn Answers>) -> Result<Network, Error> {
        let keys = Keypair::ed25519_from_bytes(config.seed).expect("any 32 bytes are an Ed25519 secret");
        let peers = Peers::open(&config.dir, config.limits.peers)?;
        let shared = Arc::new(Shared {
            id: keys.public().to_peer_id(),
            store,
            peers,
            limits: config.limits,
            counters: Counters::default(),
            addresses: watch::Sender::default(),
        });
        let (commands, received) = mpsc::channel(MAX_COMMANDS);
        // In a task of its own: putting a swarm together takes much of a thread's stack, and whoever asks may stand deep in it.
        let starting = tokio::spawn(node::start(keys, config, Arc::clone(&shared), answers, received));
        match starting.await.map_err(JoinError::try_into_panic) {
            Ok(started) => started?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(Err(_)) => return Err(Error::Stopped),
        }
        Ok(Network { shared, commands })
    }

    /// Saves what is remembered and closes all connections.
    pub async fn stop(&self) {
        let (stopped, ended) = oneshot::channel();
        if self.commands.send(Command::Stop(stopped)).await.is_ok() {
            // An error means that it has stopped as well.
            let _ = ended.await;
        }
    }

    /// Who this node is.
    pub fn id(&self) -> PeerId {
        self.shared.id
    }

    /// Where it can be reached, as far as it knows: where it listens, and what others confirmed.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.shared.addresses.borrow().clone()
    }

    /// What it did and holds.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connected: get(&counters.connected),
            requests: get(&counters.requests),
            sent_bytes: get(&counters.sent_bytes),
            received_bytes: get(&counters.received_bytes),
            provider_records: get(&counters.provider_records),
            announced_keys: get(&counters.announced_keys),
        }
    }

    /// The peers that are known, by id.
    pub fn peers(&self) -> Vec<(PeerId, Peer)> {
        self.shared.peers.all()
    }

    /// Remembers a peer for good, and where it listens. It is dialled now and at each start.
    pub async fn add_peer(&self, peer: PeerId, addresses: &[Multiaddr]) -> Result<(), Error> {
        addresses.iter().for_each(|address| self.shared.peers.located(&peer, address));
        self.shared.peers.update(&peer, |known| known.named = true);
        self.connect(peer, addresses).await
    }

    /// Keeps a peer away, or lets it come again.
    pub async fn ban(&self, peer: PeerId, banned: bool) -> Result<(), Error> {
        self.shared.peers.update(&peer, |known| known.banned = banned);
        self.send(Command::Ban(peer, banned)).await
    }

    /// Connects to a peer, unless it is connected.
    pub async fn connect(&self, peer: PeerId, addresses: &[Multiaddr]) -> Result<(), Error> {
        let (done, outcome) = oneshot::channel();
        self.send(Command::Connect { peer, addresses: addresses.to_vec(), done }).await?;
        let unreachable = |why| Error::Unreachable { peer, why };
        match timeout(self.shared.limits.connect, outcome).await {
            Ok(Ok(connected)) => connected.map_err(unreachable),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(unreachable("no answer in time".into())),
        }
    }

    /// The peers connected now: those named by the user first, then who has kept the most, so that strangers, however many have
    /// come, are asked last.
    pub async fn connected(&self) -> Result<Vec<PeerId>, Error> {
        let (told, answer) = oneshot::channel();
        self.send(Command::Connected(told)).await?;
        let mut connected = answer.await.map_err(|_| Error::Stopped)?;
        connected.sort_by_cached_key(|peer| {
            let known = self.shared.peers.get(peer).unwrap_or_default();
            (!known.named, Reverse(known.kept.saturating_sub(known.broken)))
        });
        Ok(connected)
    }

    /// Announces that this node provides these keys: hashes of objects, and memo keys of claims. Soon, and again before it expires,
    /// until they are withdrawn or the network stops.
    pub async fn provide(&self, keys: Vec<Hash>) -> Result<(), Error> {
        self.send(Command::Provide(keys)).await
    }

    /// Announces these keys no more.
    pub async fn withdraw(&self, keys: Vec<Hash>) -> Result<(), Error> {
        self.send(Command::Withdraw(keys)).await
    }

    /// Asks the distributed hash table who provides a key: at most `limit` peers, as they are found; they are being dialled.
    /// Dropping the receiver ends the search.
    pub async fn find(&self, key: Hash, limit: usize) -> Result<mpsc::Receiver<PeerId>, Error> {
        let (found, finds) = mpsc::channel(limit.max(1));
        self.send(Command::Find { key, limit, found }).await?;
        Ok(finds)
    }

    /// As `find`, all that were found within a time.
    pub async fn providers(&self, key: Hash, limit: usize, within: Duration) -> Result<Vec<PeerId>, Error> {
        let mut finds = self.find(key, limit).await?;
        let mut providers = Vec::new();
        let collect = async {
            while let Some(peer) = finds.recv().await {
                providers.push(peer);
            }
        };
        // What was found before the time was over counts.
        let _ = timeout(within, collect).await;
        Ok(providers)
    }

    /// A stream to a peer, which is dialled if need be.
    pub(crate) async fn open(&self, peer: PeerId) -> Result<Stream, Error> {
        self.connect(peer, &[]).await?;
        let (opened, stream) = oneshot::channel();
        self.send(Command::Open { peer, opened }).await?;
        let unreachable = |why| Error::Unreachable { peer, why };
        match timeout(self.shared.limits.patience, stream).await {
            Ok(Ok(opened)) => opened.map_err(unreachable),
            Ok(Err(_)) => Err(unreachable("the connection was closed".into())),
            Err(_) => Err(Error::Slow { peer }),
        }
    }

    /// Notes whether a peer did what it took on.
    pub(crate) fn note<T>(&self, peer: PeerId, outcome: &Result<T, Error>) {
        match outcome {
            Ok(_) => self.shared.peers.update(&peer, |peer| peer.kept += 1),
            Err(Error::Rubbish(_) | Error::Lost { .. } | Error::Slow { .. }) => {
                self.shared.peers.update(&peer, |peer| peer.broken += 1);
            }
            Err(_) => {}
        }
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Stopped)
    }
}
