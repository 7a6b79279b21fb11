//! The task that owns the swarm: carries out commands, and hands streams of peers to tasks that answer them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use gridfs_store::Hash;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::identity::Keypair;
use libp2p::kad::{self, GetClosestPeersError, GetProvidersOk, QueryId, QueryResult, RecordKey};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, dcutr, identify, mdns, ping};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::announce::{self, Announcer};
use crate::behaviour::{self, Behaviour, BehaviourEvent};
use crate::error::Error;
use crate::network::{Answers, Config, Shared};
use crate::peers::{self, file};
use crate::providers::Providers;
use crate::serve::Server;
use crate::streams::{Inbound, Opened, Rank};

/// How often is looked at what is due.
const TICK: Duration = Duration::from_millis(200);
/// How often what is known of peers is saved, if it changed.
const SAVE_PEERS: Duration = Duration::from_secs(30);
/// How often expired records are removed, and the others saved.
const SAVE_RECORDS: Duration = Duration::from_secs(900);
/// How long listening may take to begin.
const LISTEN: Duration = Duration::from_secs(5);
/// How often a relay that was lost is asked again.
const ASK_RELAY: Duration = Duration::from_secs(30);
/// How long addresses of one kind are tried before those of slower kinds are tried as well.
const HEAD_START: Duration = Duration::from_secs(1);
/// Known peers dialled at the start.
const MAX_DIALLED: usize = 32;
/// Searches under way.
const MAX_FINDS: usize = 256;
/// Whoever waits for one connection.
const MAX_WAITERS: usize = 256;
/// Addresses taken from what a peer says of itself.
const MAX_TOLD: usize = 16;
/// Addresses told with an announcement.
const MAX_TOLD_OF_OWN: usize = 4;
/// Peers being told of announcements.
const MAX_TELLING: usize = 512;
/// Longest file of provider records that is read.
const MAX_RECORDS_BYTES: u64 = 1 << 30;

/// What the handle asks for.
pub enum Command {
    Connect { peer: PeerId, addresses: Vec<Multiaddr>, done: Done },
    Connected(oneshot::Sender<Vec<PeerId>>),
    Open { peer: PeerId, opened: Opened },
    Find { key: Hash, limit: usize, found: mpsc::Sender<PeerId> },
    Provide(Vec<Hash>),
    Withdraw(Vec<Hash>),
    Ban(PeerId, bool),
    Stop(oneshot::Sender<()>),
}

/// Told whether a connection came about, or why not.
type Done = oneshot::Sender<Result<(), String>>;

/// A peer being dialled.
struct Dial {
    waiting: Vec<Done>,
    began: Instant,
    /// Attempts under way.
    attempts: Vec<ConnectionId>,
    /// Addresses on slower transports, to be tried next.
    slower: Vec<Multiaddr>,
    /// What libp2p knows itself was tried, which comes last.
    asked_all: bool,
    /// Why it did not come about so far.
    why: Vec<String>,
}

/// A search for providers.
struct Find {
    found: mpsc::Sender<PeerId>,
    known: HashSet<PeerId>,
    limit: usize,
}

/// The relays over which a node that can't be reached listens.
struct Relays {
    /// Those that it listens at.
    at: HashMap<ListenerId, Multiaddr>,
    /// Those that are to be asked again.
    lost: Vec<Multiaddr>,
    asked: Instant,
}

struct Node {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    server: Arc<Server>,
    answering: JoinSet<()>,
    dials: HashMap<PeerId, Dial>,
    relays: Relays,
    finds: HashMap<QueryId, Find>,
    announcer: Announcer,
    telling: JoinSet<()>,
    records: PathBuf,
    saved_peers: Instant,
    saved_records: Instant,
}

/// Makes the swarm, listens, and starts the task.
pub async fn start(
    keys: Keypair,
    config: Config,
    shared: Arc<Shared>,
    answers: Arc<dyn Answers>,
    commands: mpsc::Receiver<Command>,
) -> Result<(), Error> {
    let swarm = behaviour::swarm(keys, &config, now_s).await?;
    let now = Instant::now();
    let mut node = Node {
        swarm,
        server: Arc::new(Server::new(Arc::clone(&shared), answers)),
        answering: JoinSet::new(),
        dials: HashMap::new(),
        relays: Relays { at: HashMap::new(), lost: Vec::new(), asked: now },
        finds: HashMap::new(),
        announcer: Announcer::new(&config.limits, now),
        telling: JoinSet::new(),
        records: config.dir.join("providers"),
        saved_peers: now,
        saved_records: now,
        shared,
    };
    node.load_records()?;
    node.listen(&config.listen).await?;
    node.meet_known();
    tokio::spawn(node.run(commands));
    Ok(())
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64)
}

impl Node {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stopped = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.event(event),
                command = commands.recv() => match command {
                    Some(Command::Stop(stopped)) => break Some(stopped),
                    Some(command) => self.command(command),
                    None => break None,
                },
                _ = tick.tick() => self.tick(),
            }
        };
        self.stop().await;
        if let Some(stopped) = stopped {
            // Whoever asked may have left.
            let _ = stopped.send(());
        }
    }

    /// Listens, and waits until it is known where.
    async fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), Error> {
        let mut waiting = HashSet::new();
        for address in addresses {
            let error = |source| Error::Listen { address: address.clone(), source: Box::new(source) };
            waiting.insert(self.listen_on(address.clone()).map_err(error)?);
        }
        let settle = async {
            while !waiting.is_empty() {
                let event = self.swarm.select_next_some().await;
                match &event {
                    SwarmEvent::NewListenAddr { listener_id, .. } | SwarmEvent::ListenerClosed { listener_id, .. } => {
                        waiting.remove(listener_id);
                    }
                    _ => {}
                }
                self.event(event);
            }
        };
        if timeout(LISTEN, settle).await.is_err() {
            tracing::warn!("not all addresses are being listened on yet");
        }
        Ok(())
    }

    fn listen_on(&mut self, address: Multiaddr) -> Result<ListenerId, TransportError<std::io::Error>> {
        let listener = self.swarm.listen_on(address.clone())?;
        if Rank::of(&address) == Rank::Relayed {
            self.relays.at.insert(listener, address);
        }
        Ok(listener)
    }

    /// Where this node can be reached: what others confirmed before where it listens, and what only this machine reaches last.
    fn addresses(&self) -> Vec<Multiaddr> {
        let own = Protocol::P2p(self.shared.id);
        let mut addresses = Vec::new();
        for address in self.swarm.external_addresses().chain(self.swarm.listeners()) {
            let mut address = address.clone();
            if address.iter().last() == Some(own.clone()) {
                address.pop();
            }
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.sort_by_key(is_loopback);
        addresses
    }

    /// Keeps banned peers away, dials those named by the user and those seen last.
    fn meet_known(&mut self) {
        let mut known = self.shared.peers.all();
        for (peer, _) in known.iter().filter(|(_, peer)| peer.banned) {
            self.swarm.behaviour_mut().banned.block_peer(*peer);
        }
        known.retain(|(_, peer)| !peer.banned && !peer.addresses.is_empty());
        known.sort_by_key(|(_, peer)| (!peer.named, std::cmp::Reverse(peer.seen_ms)));
        for (peer, _) in known.into_iter().take(MAX_DIALLED) {
            self.dial(peer, Vec::new(), None);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Connect { peer, addresses, done } => self.dial(peer, addresses, Some(done)),
            // Whoever asked may have left.
            Command::Connected(told) => drop(told.send(self.swarm.connected_peers().copied().collect())),
            Command::Open { peer, opened } => self.swarm.behaviour_mut().streams.open(peer, opened),
            Command::Find { key, limit, found } => self.find(key, limit, found),
            Command::Provide(keys) => {
                for key in keys {
                    if self.swarm.behaviour_mut().kad.store_mut().announce(&key) {
                        self.announcer.add(&key.0);
                    }
                }
            }
            Command::Withdraw(keys) => {
                keys.iter().for_each(|key| self.swarm.behaviour_mut().kad.store_mut().withdraw(key));
            }
            Command::Ban(peer, true) => {
                self.swarm.behaviour_mut().banned.block_peer(peer);
            }
            Command::Ban(peer, false) => {
                self.swarm.behaviour_mut().banned.unblock_peer(peer);
            }
            Command::Stop(_) => unreachable!("taken by the loop"),
        }
    }

    /// Connects to a peer: over the fastest of the transports on which it is known to listen, after a moment over the others, then
    /// where Kademlia and the local network say that it is.
    fn dial(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>, done: Option<Done>) {
        let refuse = |done: Option<Done>, why: &str| {
            done.into_iter().for_each(|done| drop(done.send(Err(why.to_owned()))));
        };
        if self.swarm.is_connected(&peer) {
            done.into_iter().for_each(|done| drop(done.send(Ok(()))));
            return;
        }
        if peer == self.shared.id {
            return refuse(done, "it is this node itself");
        }
        if let Some(dial) = self.dials.get_mut(&peer) {
            match dial.waiting.len() < MAX_WAITERS {
                true => dial.waiting.extend(done),
                false => refuse(done, "too many wait for it"),
            }
            return;
        }
        addresses.extend(self.shared.peers.get(&peer).into_iter().flat_map(|known| known.addresses));
        addresses.extend(self.swarm.behaviour_mut().kad.store_mut().addresses(&peer).iter().cloned());
        addresses.retain(|address| !self.is_own(address));
        let fastest = addresses.iter().map(Rank::of).min();
        let (first, slower) = addresses.into_iter().partition(|address| Some(Rank::of(address)) == fastest);
        let (waiting, began) = (done.into_iter().collect(), Instant::now());
        self.dials
            .insert(peer, Dial { waiting, began, attempts: Vec::new(), slower, asked_all: false, why: Vec::new() });
        self.dial_at(peer, first);
    }

    fn dial_at(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Disconnected);
        let options = match addresses.is_empty() {
            true => {
                dial.asked_all = true;
                options.build()
            }
            false => options.addresses(addresses).build(),
        };
        let attempt = options.connection_id();
        dial.attempts.push(attempt);
        if let Err(error) = self.swarm.dial(options) {
            self.not_dialled(peer, attempt, &error);
        }
    }

    fn not_dialled(&mut self, peer: PeerId, attempt: ConnectionId, error: &DialError) {
        // It came to us meanwhile.
        if self.swarm.is_connected(&peer) {
            return self.dialled(peer, &Ok(()));
        }
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        let Some(at) = dial.attempts.iter().position(|known| *known == attempt) else { return };
        dial.attempts.remove(at);
        match error {
            DialError::NoAddresses if !dial.why.is_empty() => {}
            DialError::NoAddresses => dial.why.push("no address of it is known".into()),
            DialError::Transport(tried) => {
                dial.why.extend(tried.iter().map(|(address, error)| format!("{address}: {error}")));
            }
            other => dial.why.push(other.to_string()),
        }
        let slower = std::mem::take(&mut dial.slower);
        if !slower.is_empty() || !dial.asked_all {
            return self.dial_at(peer, slower);
        }
        if !dial.attempts.is_empty() {
            return;
        }
        let why = dial.why.join(", ");
        self.dialled(peer, &Err(why));
    }

    /// Tries slower transports, too, where the fastest has not answered yet: packets to a private address may vanish.
    fn dial_on(&mut self, now: Instant) {
        let waits = |dial: &Dial| !dial.slower.is_empty() && now.duration_since(dial.began) >= HEAD_START;
        let late: Vec<PeerId> = self.dials.iter().filter(|(_, dial)| waits(dial)).map(|(peer, _)| *peer).collect();
        for peer in late {
            let slower = self.dials.get_mut(&peer).map(|dial| std::mem::take(&mut dial.slower));
            self.dial_at(peer, slower.unwrap_or_default());
        }
    }

    /// Asks relays again that were lost, or did not answer.
    fn ask_relays(&mut self, now: Instant) {
        if now.duration_since(self.relays.asked) < ASK_RELAY {
            return;
        }
        self.relays.asked = now;
        for address in std::mem::take(&mut self.relays.lost) {
            if let Err(error) = self.listen_on(address.clone()) {
                tracing::warn!(%address, %error, "a relay can't be asked");
            }
        }
    }

    fn dialled(&mut self, peer: PeerId, outcome: &Result<(), String>) {
        let waiting = self.dials.remove(&peer).map_or(Vec::new(), |dial| dial.waiting);
        waiting.into_iter().for_each(|done| drop(done.send(outcome.clone())));
    }

    fn find(&mut self, key: Hash, limit: usize, found: mpsc::Sender<PeerId>) {
        if self.finds.len() < MAX_FINDS {
            let query = self.swarm.behaviour_mut().kad.get_providers(RecordKey::new(&key.0));
            self.finds.insert(query, Find { found, known: HashSet::new(), limit });
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                if endpoint.is_dialer() {
                    self.shared.peers.located(&peer_id, endpoint.get_remote_address());
                }
                self.shared.peers.update(&peer_id, |peer| peer.seen_ms = now_ms());
                self.dialled(peer_id, &Ok(()));
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), connection_id, error, .. } => {
                self.not_dialled(peer, connection_id, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                // A relay tells its peers where it is reached, and is one only if it can be.
                if self.swarm.behaviour().relays.is_enabled() && !is_loopback(&address) {
                    self.swarm.add_external_address(address);
                }
                self.shared.addresses.send_replace(self.addresses());
            }
            SwarmEvent::ExpiredListenAddr { .. }
            | SwarmEvent::ExternalAddrConfirmed { .. }
            | SwarmEvent::ExternalAddrExpired { .. } => {
                self.shared.addresses.send_replace(self.addresses());
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.shared.addresses.send_replace(self.addresses());
                if let Err(error) = reason {
                    tracing::warn!(?addresses, %error, "listening ended");
                }
                self.relays.lost.extend(self.relays.at.remove(&listener_id));
            }
            _ => {}
        }
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Streams(Inbound { peer, stream }) => {
                while self.answering.try_join_next().is_some() {}
                if let Some(permit) = self.server.admit(peer) {
                    self.answering.spawn(Arc::clone(&self.server).answer(peer, stream, permit));
                }
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. }) => {
                match result {
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                        self.found(id, providers);
                    }
                    QueryResult::GetClosestPeers(Ok(closest)) => self.tell(&id, closest.peers),
                    // Whoever was found in time is told.
                    QueryResult::GetClosestPeers(Err(GetClosestPeersError::Timeout { peers, .. })) => {
                        self.tell(&id, peers);
                    }
                    _ => {}
                }
                if step.last {
                    self.finds.remove(&id);
                }
            }
            // libp2p tells of the second in a row. A peer that lost its network says nothing, and is dialled anew.
            BehaviourEvent::Ping(ping::Event {
                connection,
                result: Err(ping::Failure::Timeout | ping::Failure::Other { .. }),
                ..
            }) => {
                self.swarm.close_connection(connection);
            }
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => self.identified(peer_id, info),
            BehaviourEvent::Dcutr(dcutr::Event { remote_peer_id: peer, result }) => match result {
                Ok(_) => tracing::info!(%peer, "a direct connection takes the relay's place"),
                Err(error) => tracing::info!(%peer, %error, "no direct connection came about; the relay is used on"),
            },
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
                    self.dial(peer, vec![address], None);
                }
            }
            _ => {}
        }
    }

    /// Where a provider listens is known only while the query goes on, so it is dialled at once.
    fn found(&mut self, id: QueryId, providers: HashSet<PeerId>) {
        for peer in providers {
            let Some(find) = self.finds.get_mut(&id) else { return };
            if peer == self.shared.id || !find.known.insert(peer) {
                continue;
            }
            // The channel has room for as many as are wanted.
            let left = find.found.try_send(peer).is_err();
            if left || find.known.len() >= find.limit {
                self.finds.remove(&id);
            }
            self.dial(peer, Vec::new(), None);
        }
        if !self.finds.contains_key(&id)
            && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id)
        {
            query.finish();
        }
    }

    /// Tells the peers that a lookup found of the keys around that this node provides.
    fn tell(&mut self, id: &QueryId, found: Vec<kad::PeerInfo>) {
        let peers: Vec<PeerId> = found.into_iter().map(|peer| peer.peer_id).collect();
        let behaviour = self.swarm.behaviour_mut();
        let keys = self.announcer.found(id, &peers, behaviour.kad.store_mut());
        if keys.is_empty() {
            return;
        }
        let mut addresses = self.shared.addresses.borrow().clone();
        addresses.truncate(MAX_TOLD_OF_OWN);
        let messages = Arc::new(announce::messages(&keys, &self.shared.id, &addresses));
        for peer in peers {
            let (opened, stream) = oneshot::channel();
            behaviour.tells.open(peer, opened);
            self.telling.spawn(announce::tell(stream, Arc::clone(&messages), self.shared.limits));
        }
    }

    fn identified(&mut self, peer: PeerId, info: identify::Info) {
        let kad = &self.swarm.behaviour().kad;
        if !kad.protocol_names().iter().any(|name| info.protocols.contains(name)) {
            return;
        }
        let told = info.listen_addrs.into_iter().take(MAX_TOLD);
        for address in told.filter(|address| is_somewhere(address) && !self.is_own(address)).collect::<Vec<_>>() {
            self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
            self.shared.peers.located(&peer, &address);
        }
    }

    /// Whether an address leads to this node itself. A peer on another machine, or in another private network, may have the same one;
    /// to dial it there along with others would end as soon as this node answered.
    fn is_own(&self, address: &Multiaddr) -> bool {
        self.shared.addresses.borrow().contains(address)
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let connected = self.swarm.connected_peers().count() as u64;
        self.dial_on(now);
        self.ask_relays(now);
        let kad = &mut self.swarm.behaviour_mut().kad;
        while self.telling.try_join_next().is_some() {}
        // With nobody there nobody would hear of it.
        if connected > 0 && self.telling.len() < MAX_TELLING {
            self.announcer.step(kad, now);
        }
        let counters = &self.shared.counters;
        counters.connected.store(connected, Ordering::Relaxed);
        counters.provider_records.store(kad.store_mut().records() as u64, Ordering::Relaxed);
        counters.announced_keys.store(kad.store_mut().announced().len() as u64, Ordering::Relaxed);
        self.finds.retain(|_, find| !find.found.is_closed());
        if now.duration_since(self.saved_peers) >= SAVE_PEERS {
            self.saved_peers = now;
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || log(shared.peers.save()));
        }
        if now.duration_since(self.saved_records) >= SAVE_RECORDS {
            self.saved_records = now;
            kad.store_mut().expire();
            let (bytes, path) = (kad.store_mut().encode(), self.records.clone());
            tokio::task::spawn_blocking(move || log(peers::replace(&path, &bytes)));
        }
    }

    fn load_records(&mut self) -> Result<(), Error> {
        let path = &self.records;
        let found = match std::fs::metadata(path) {
            Ok(found) if found.len() <= MAX_RECORDS_BYTES => std::fs::read(path).map_err(file("read", path))?,
            _ => return Ok(()),
        };
        let providers: &mut Providers = self.swarm.behaviour_mut().kad.store_mut();
        if providers.decode(&found).is_none() {
            tracing::warn!(path = %path.display(), "the file of provider records is damaged; others will tell again");
        }
        Ok(())
    }

    async fn stop(mut self) {
        self.answering.shutdown().await;
        self.telling.shutdown().await;
        let bytes = self.swarm.behaviour_mut().kad.store_mut().encode();
        let (shared, path) = (Arc::clone(&self.shared), self.records.clone());
        let save = move || {
            log(shared.peers.save());
            log(peers::replace(&path, &bytes));
        };
        log(tokio::task::spawn_blocking(save).await);
    }
}

/// Whether an address could be dialled: not one of all interfaces.
fn is_somewhere(address: &Multiaddr) -> bool {
    !address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_unspecified() || ip.is_multicast(),
        Protocol::Ip6(ip) => ip.is_unspecified() || ip.is_multicast(),
        _ => false,
    })
}

fn is_loopback(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

fn log<E: std::error::Error + 'static>(outcome: Result<(), E>) {
    if let Err(error) = outcome {
        tracing::warn!(error = &error as &dyn std::error::Error, "what is known of peers could not be saved");
    }
}
