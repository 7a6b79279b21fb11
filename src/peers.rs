//! What this node gets from its peers: objects that a call needs and that are not stored here.
//!
//! The protocol is gridfs-p2p's (`p2p/PROTOCOL.md`); whom to ask, and for what, is decided here. What is fetched proves itself by
//! its hash. Nobody is asked unless the promise's source allows it, and what nobody had is not asked for again for a while.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, RwLock, Weak};
use std::time::Duration;

use gridfs_p2p::{Config, Fetch, Limits, Multiaddr, Network, Part, PeerId, Protocol};
use gridfs_store::{Cid, Durability, Hash};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::answers::Answering;
use crate::authority::Authority;
use crate::cache::Failures;
use crate::describe::Runner;
use crate::error::{Code, Error, Result};
use crate::flights::Flights;
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::lent::Lent;
use crate::lineage::Remembered;
use crate::module::{Call, Reply};
use crate::promise::Source;
use crate::receipt::cid_of;
use crate::workload::Workload;
use crate::{followed, partial, published};

/// Peers asked for one object.
pub(crate) const MAX_ASKED: usize = 8;
/// How long connected peers alone are asked, before the hash table is too.
pub(crate) const HEAD_START: Duration = Duration::from_millis(100);
/// How long the hash table is searched for one object, and how long claims are gathered.
pub(crate) const SEARCH: Duration = Duration::from_secs(5);

/// The settings of `[peers]` in config.toml.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Where to listen when this node serves.
    pub listen: Vec<Multiaddr>,
    /// Serve whenever the daemon runs.
    pub serve: bool,
    /// The name of a grid of one's own.
    pub grid: Option<String>,
    /// The only peers that connections are made with.
    pub allow: Option<Vec<PeerId>>,
    /// Look for peers on the local network.
    pub mdns: bool,
    /// Relay between peers that don't reach each other.
    pub relay: bool,
    /// How many calls are run for peers at a time; 0: none is.
    pub run: usize,
}

impl Settings {
    /// TCP and QUIC on all interfaces.
    pub fn default_listen() -> Vec<Multiaddr> {
        let addresses = ["/ip4/0.0.0.0/tcp/4747", "/ip4/0.0.0.0/udp/4747/quic-v1"];
        addresses.iter().map(|address| address.parse().expect("they are addresses")).collect()
    }
}

impl Default for Settings {
    fn default() -> Settings {
        let listen = Settings::default_listen();
        Settings { listen, serve: false, grid: None, allow: None, mdns: false, relay: false, run: 0 }
    }
}

/// The peer id of a node.
pub fn peer_id(node: &NodeId) -> Result<PeerId> {
    gridfs_p2p::peer_id(&node.0)
        .ok_or_else(|| Error::new(Code::Usage, format!("{node} is not a key that a node can have")))
}

/// A peer's id, and its address without that, from an address that ends with it.
pub fn split(text: &str) -> Result<(PeerId, Multiaddr)> {
    let wrong = |why: &str| {
        let example = "/ip4/192.0.2.7/tcp/4747/p2p/12D3KooW...";
        Error::new(Code::Usage, format!("{text:?} is no peer's address, {why}; it looks like {example}"))
    };
    let mut address: Multiaddr = text.parse().map_err(|_| wrong("for it can't be read"))?;
    match address.pop() {
        Some(Protocol::P2p(peer)) if !address.is_empty() => Ok((peer, address)),
        _ => Err(wrong("for it does not end with the peer's id")),
    }
}

/// A node's peers, as its kernel knows them.
pub struct Peers {
    running: OnceCell<Running>,
    fetches: Arc<Flights<()>>,
    absent: Failures,
    /// Results of calls under promises that share with all. Known once the network runs.
    results: RwLock<HashSet<Cid>>,
    /// Signers whose claims count no more.
    liars: RwLock<HashSet<NodeId>>,
    /// What is lent for calls.
    pub lent: Lent,
    /// What is run for peers.
    pub workload: Workload,
}

/// A network, and what tells it what to announce and looks for news: all of it ends with the kernel.
struct Running {
    network: Network,
    _tasks: JoinSet<()>,
}

impl Peers {
    /// No network yet; objects will be fetched by tasks on `runtime`.
    pub fn new(runtime: Handle) -> Peers {
        Peers {
            running: OnceCell::new(),
            fetches: Flights::new(runtime),
            absent: Failures::default(),
            results: RwLock::default(),
            liars: RwLock::default(),
            lent: Lent::default(),
            workload: Workload::default(),
        }
    }

    /// Why something was not to be had from peers not long ago.
    pub(crate) fn absent(&self, key: &Hash) -> Option<Error> {
        self.absent.recall(key)
    }

    /// Notes that nobody has it, if that is what failed.
    pub(crate) fn note_absent(&self, key: &Hash, error: &Error) {
        if error.code == Code::Unavailable {
            self.absent.remember(key, error);
        }
    }

    /// Whether there is evidence against a signer.
    pub(crate) fn is_liar(&self, signer: &NodeId) -> bool {
        self.liars.read().expect("no panic while it is held").contains(signer)
    }

    /// Believes a signer no more.
    pub(crate) fn add_liar(&self, signer: NodeId) {
        self.liars.write().expect("no panic while it is held").insert(signer);
    }

    /// The network, if it runs.
    pub fn network(&self) -> Option<&Network> {
        self.running.get().map(|running| &running.network)
    }

    /// Starts the network on the current runtime, unless it runs. With no addresses nothing listens.
    pub async fn start(
        kernel: &Arc<Kernel>,
        settings: Settings,
        listen: Vec<Multiaddr>,
        dir: PathBuf,
    ) -> Result<&Network> {
        let begin = async {
            let config = Config {
                seed: kernel.identity.seed(),
                listen,
                dir,
                grid: settings.grid,
                allow: settings.allow,
                mdns: settings.mdns,
                relay: settings.relay,
                limits: Limits::default(),
            };
            for (signer, _) in crate::claims::evidence(kernel)? {
                kernel.peers.add_liar(signer);
            }
            kernel.peers.workload.set_limit(settings.run);
            let answers = Arc::new(Answering::new(Arc::downgrade(kernel)));
            let network = Network::start(config, kernel.store.clone(), answers).await.map_err(Error::from)?;
            let mut tasks = JoinSet::new();
            tasks.spawn(offer_all(Arc::downgrade(kernel), network.clone()));
            let changes = kernel.names.changes();
            tasks.spawn(published::keep_announced(Arc::downgrade(kernel), network.clone(), changes));
            tasks.spawn(followed::keep_updated(Arc::downgrade(kernel), network.clone()));
            Ok::<_, Error>(Running { network, _tasks: tasks })
        };
        Ok(&kernel.peers.running.get_or_try_init(|| begin).await?.network)
    }

    /// Whether a result is one that peers may read.
    pub fn offers(&self, result: &Cid) -> bool {
        self.results.read().expect("no panic while it is held").contains(result)
    }

    /// Lets peers know of a result, if its promise shares it with all of them.
    pub async fn offer(&self, call: &Call, reply: &Reply) {
        let (Some(network), true, Some(result)) = (self.network(), call.promise.offers(), cid_of(&reply.result)) else {
            return;
        };
        if reply.immutable {
            self.results.write().expect("no panic while it is held").insert(result);
            // A network that was stopped announces nothing.
            let _ = network.provide(vec![call.key, result.hash]).await;
        }
    }

    /// Fetches the inputs of a call that are not stored here. A peer gives those of its call with it.
    pub async fn supply_inputs(call: &Call) -> Result<()> {
        if matches!(call.caller.authority, Authority::Peer(..)) {
            return Ok(());
        }
        let inputs: Vec<Cid> = call.parms.inputs().filter(|cid| *cid != call.parms.module).collect();
        Peers::supply(&call.kernel, call.promise.source, inputs.iter().copied()).await?;
        // `cas` opens nothing in a directory, any other module may open all of it.
        if call.module.runner == Runner::Cas || call.promise.source == Source::Local {
            return Ok(());
        }
        for cid in inputs {
            let missing = partial::missing(&call.kernel.store, &cid)?;
            Peers::supply(&call.kernel, call.promise.source, missing).await?;
        }
        Ok(())
    }

    /// Fetches those of these objects that are not stored here.
    pub async fn supply(kernel: &Arc<Kernel>, source: Source, objects: impl IntoIterator<Item = Cid>) -> Result<()> {
        let Some(network) = kernel.peers.network() else { return Ok(()) };
        if source == Source::Local {
            return Ok(());
        }
        for cid in objects {
            if kernel.store.contains(&cid)? {
                continue;
            }
            if let Some(error) = kernel.peers.absent(&cid.hash) {
                return Err(error);
            }
            let (network, store) = (network.clone(), kernel.clone());
            let fetched =
                kernel.peers.fetches.join(cid.hash, None, |_| async move { fetch(&store, &network, cid).await }).await;
            if let Err(error) = &fetched {
                kernel.peers.note_absent(&cid.hash, error);
            }
            fetched?;
        }
        Ok(())
    }

    /// Reads a part of an object that is not stored here, of `first` if it gives it, else of whoever does. A length that was
    /// proved before need not be proved again.
    pub async fn part(
        kernel: &Arc<Kernel>,
        cid: Cid,
        range: Range<u64>,
        size_bytes: Option<u64>,
        first: Option<PeerId>,
    ) -> Result<Part> {
        let unavailable = || Error::new(Code::Unavailable, format!("{cid} is not stored on this node"));
        let network = kernel.peers.network().ok_or_else(unavailable)?;
        if let Some(error) = kernel.peers.absent(&cid.hash) {
            return Err(error);
        }
        let read = |providers: Vec<PeerId>| {
            let range = range.clone();
            async move { Ok(network.fetch_range(cid, range, size_bytes, &providers).await?) }
        };
        if let Some(peer) = first
            && let Ok(part) = read(vec![peer]).await
        {
            return Ok(part);
        }
        let part = ask(network, cid.hash, read).await;
        if let Err(error) = &part {
            kernel.peers.note_absent(&cid.hash, error);
        }
        part
    }
}

/// Fetches an object from whoever has it.
async fn fetch(kernel: &Arc<Kernel>, network: &Network, cid: Cid) -> Result<()> {
    ask(network, cid.hash, |providers| from(network, cid, providers)).await?;
    kernel.counters.fetched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// Asks connected peers, and after a moment those that the hash table names for a key. The first answer counts.
async fn ask<T, F: Future<Output = Result<T>>>(
    network: &Network,
    key: Hash,
    of: impl Fn(Vec<PeerId>) -> F,
) -> Result<T> {
    let connected: Vec<PeerId> = network.connected().await?.into_iter().take(MAX_ASKED).collect();
    let of_connected = of(connected.clone());
    let of_found = async {
        tokio::time::sleep(if connected.is_empty() { Duration::ZERO } else { HEAD_START }).await;
        let found = network.providers(key, MAX_ASKED, SEARCH).await?;
        of(found.into_iter().filter(|peer| !connected.contains(peer)).collect()).await
    };
    let (mut connected_answer, mut found_answer) = (std::pin::pin!(of_connected), std::pin::pin!(of_found));
    tokio::select! {
        answer = &mut connected_answer => match answer {
            Ok(answer) => Ok(answer),
            Err(_) => found_answer.await,
        },
        answer = &mut found_answer => match answer {
            Ok(answer) => Ok(answer),
            Err(_) => connected_answer.await,
        },
    }
}

async fn from(network: &Network, cid: Cid, providers: Vec<PeerId>) -> Result<()> {
    let fetched = network
        .fetch(Fetch { cid, providers, max_bytes: u64::MAX, durability: Durability::Lazy, progress: None })
        .await?;
    for blame in &fetched.blamed {
        tracing::warn!(peer = %blame.peer, what = blame.what, "a peer sent rubbish");
    }
    Ok(())
}

/// Tells the hash table of everything that is shared.
async fn offer_all(kernel: Weak<Kernel>, network: Network) {
    let told = tokio::task::spawn_blocking(move || {
        let Some(kernel) = kernel.upgrade() else { return Ok(Vec::new()) };
        shared_keys(&kernel)
    });
    match told.await {
        // A network that was stopped announces nothing.
        Ok(Ok(keys)) => drop(network.provide(keys).await),
        Ok(Err(error)) => tracing::warn!(%error, "what this node shares is not announced"),
        Err(_) => {}
    }
}

fn shared_keys(kernel: &Arc<Kernel>) -> Result<Vec<Hash>> {
    let mut keys: Vec<Hash> = crate::marks::SHARED.all(&kernel.store)?.into_iter().map(|mark| mark.cid.hash).collect();
    let mut hear = || std::ops::ControlFlow::Continue(());
    kernel.each_remembered(&mut hear, &mut |Remembered { key, memo, receipt }| {
        let shares = kernel.promise(&receipt.parms.promise).is_ok_and(|promise| promise.offers());
        if shares && memo.reply().immutable {
            kernel.peers.results.write().expect("no panic while it is held").insert(memo.result);
            keys.extend([key, memo.result.hash]);
        }
        Ok(())
    })?;
    Ok(keys)
}

impl From<gridfs_p2p::Error> for Error {
    fn from(error: gridfs_p2p::Error) -> Error {
        use gridfs_p2p::Error as Peer;
        match error {
            Peer::Store(error) => Error::from(error),
            Peer::TooLarge { .. } => Error::new(Code::OutputLimit, error.to_string()),
            Peer::Start { .. } | Peer::Listen { .. } | Peer::File { .. } => {
                Error::caused(Code::General, error.to_string(), error)
            }
            _ => Error::new(Code::Unavailable, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::node::Node;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_network_ends_with_its_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(directory.path(), &mut |_| {}).unwrap();
        node.network().await.unwrap();
        let store = node.kernel.store.clone();
        drop(node);
        let ended = async {
            while Arc::strong_count(&store) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(followed::FIRST / 2, ended).await.expect("it does not wait to look for news");
    }
}
