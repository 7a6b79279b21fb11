//! Requests about peers: who they are, what is shared with them, and what a ticket names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gridfs_p2p::{Fetch, Multiaddr, Network, Peer, PeerId, Progress};
use gridfs_store::{Cid, Durability, Lease, Target};
use tokio::sync::mpsc;

use super::{Answer, Event, PeerRow, PeersRow, PinRow, Service};
use crate::authority::Authority;
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::marks::SHARED;
use crate::module::Caller;
use crate::parms::Parms;
use crate::partial;
use crate::peers::{peer_id, split};
use crate::receipt::{Receipt, cid_of};
use crate::resolve::{Reach, Resolver};
use crate::ticket::{Shared, Ticket};
use crate::time;
use crate::workload::Load;

/// Most calls whose inputs are shared with a result.
const MAX_SHARED: usize = 65_536;

impl Service {
    pub(super) async fn peers(&self, peer: Option<&str>) -> Result<Answer> {
        let wanted = peer.map(parse_peer).transpose()?;
        let network = self.node.network().await?;
        let connected: BTreeSet<PeerId> = network.connected().await?.into_iter().collect();
        let is_wanted = |(id, _): &(PeerId, Peer)| wanted.is_none_or(|wanted| wanted == *id);
        let known = network.peers().into_iter().filter(is_wanted);
        let evidence = crate::claims::evidence(&self.node.kernel)?;
        let against = |id: &PeerId| {
            let about = evidence.iter().filter(|(node, _)| gridfs_p2p::peer_id(&node.0).as_ref() == Some(id));
            about.map(|(_, why)| why.clone()).collect()
        };
        let load = |id: &PeerId| self.node.kernel.peers.workload.of(id);
        let row = |(id, peer): (PeerId, Peer)| row(id, &peer, connected.contains(&id), load(&id), against(&id));
        let peers: Vec<PeerRow> = known.map(row).collect();
        if let (Some(peer), true) = (peer, peers.is_empty()) {
            return Err(unknown(peer));
        }
        let stats = network.stats();
        Ok(Answer::Peers(PeersRow {
            node: self.node.kernel.identity.id().to_string(),
            addresses: whole(network),
            connected: stats.connected,
            announced_keys: stats.announced_keys,
            provider_records: stats.provider_records,
            requests: stats.requests,
            sent_bytes: stats.sent_bytes,
            received_bytes: stats.received_bytes,
            peers,
        }))
    }

    pub(super) async fn add_peer(&self, address: &str) -> Result<Answer> {
        let (peer, address) = split(address)?;
        let network = self.node.network().await?;
        network.add_peer(peer, &[address]).await?;
        Ok(Answer::Text(peer.to_string()))
    }

    pub(super) async fn ban(&self, peer: &str, banned: bool) -> Result<Answer> {
        self.node.network().await?.ban(parse_peer(peer)?, banned).await?;
        Ok(Answer::Done)
    }

    /// Shares what a CID, a name or a grid path stands for. With a call its module and inputs are shared, so that others may run
    /// it themselves.
    pub(super) async fn share(&self, what: &str) -> Result<Answer> {
        let network = self.node.kernel.peers.network().filter(|network| !network.addresses().is_empty());
        let network = network.ok_or_else(|| {
            let why = "this node does not listen, so nobody could use the ticket";
            Error::new(Code::NoDaemon, format!("{why}; start it with `gridfs serve` or `gridfs mount --serve`"))
        })?;
        let (shared, objects) = match self.shared_call(what).await? {
            Some((parms, objects)) => (Shared::Call(parms), objects),
            None => {
                let target = self.target(what).await?;
                let cid = cid_of(&target).ok_or_else(|| Error::new(Code::Usage, format!("{what} is a link")))?;
                (Shared::Object(cid), BTreeSet::from([cid]))
            }
        };
        let store = &self.node.kernel.store;
        let _kept: Vec<Lease> = objects.iter().map(|cid| self.hold(cid)).collect::<Result<_>>()?;
        for cid in &objects {
            if partial::is(store, cid)? {
                let why =
                    format!("{what} stands for names that another node publishes, and what they stand for is there");
                return Err(Error::new(Code::Usage, why));
            }
        }
        SHARED.set_all(store, &objects, what)?;
        network.provide(objects.iter().map(|cid| cid.hash).collect()).await?;
        let ticket = Ticket { node: self.node.kernel.identity.id(), addresses: network.addresses(), what: shared };
        Ok(Answer::Text(ticket.to_string()))
    }

    /// The call that a path names, made, with all that went into it: its result, module, arguments, and those of the calls below.
    async fn shared_call(&self, what: &str) -> Result<Option<(Parms, BTreeSet<Cid>)>> {
        let kernel = &self.node.kernel;
        let what = self.inside_mount(&super::Source::Path(what.into())).unwrap_or_else(|| what.to_owned());
        if !what.starts_with('/') {
            return Ok(None);
        }
        let resolver = Resolver::new(kernel.clone(), Authority::Owner, Reach::Calls);
        let resolved = resolver.path_parms(&what).await?.expect("a resolver that may call resolves everything");
        let (parms, None) = resolved else { return Ok(None) };
        let reply = kernel.call(Caller::default(), parms.clone()).await?;
        let mut objects: BTreeSet<Cid> = cid_of(&reply.result).into_iter().collect();
        let (mut calls, mut receipts) = (vec![parms.clone()], reply.receipt.into_iter().collect::<Vec<_>>());
        let mut seen = BTreeSet::new();
        while let Some(receipt) = receipts.pop() {
            let Some(receipt) = Receipt::read(&kernel.store, &receipt)? else { continue };
            for (below, _) in receipt.deps {
                if seen.len() == MAX_SHARED {
                    let why = format!("more than {MAX_SHARED} calls went into {what}; share its result by its CID");
                    return Err(Error::new(Code::Usage, why));
                }
                if seen.insert(below.to_bytes()) {
                    receipts.extend(self.receipt_of(&below)?);
                    calls.push(below);
                }
            }
        }
        let inputs = calls.iter().flat_map(Parms::inputs);
        objects.extend(inputs.filter(|cid| kernel.store.contains(cid).unwrap_or(false)));
        Ok(Some((parms, objects)))
    }

    fn receipt_of(&self, parms: &Parms) -> Result<Option<Cid>> {
        let kernel = &self.node.kernel;
        let limits = kernel.limits(&parms.promise, &*kernel.modules.get(&parms.module)?)?;
        Ok(kernel.known(&parms.memo_key(&limits))?.and_then(|reply| reply.receipt))
    }

    pub(super) fn shares(&self) -> Result<Answer> {
        let row = |mark: crate::marks::Mark| PinRow {
            cid: mark.cid.to_string(),
            note: mark.note,
            time: time::text(mark.time_ms),
        };
        Ok(Answer::Pins(SHARED.all(&self.node.kernel.store)?.into_iter().map(row).collect()))
    }

    pub(super) async fn unshare(&self, what: &str) -> Result<Answer> {
        let cid = self.resolver(Authority::Owner).cid(what)?;
        if !SHARED.remove(&self.node.kernel.store, &cid)? {
            let why = format!("{what} is not shared; `gridfs share --list` shows what is");
            return Err(Error::new(Code::UnknownName, why));
        }
        let network = self.node.kernel.peers.network();
        if let (Some(network), false) = (network, self.node.kernel.is_shared(&cid)?) {
            network.withdraw(vec![cid.hash]).await?;
        }
        Ok(Answer::Done)
    }

    /// What a ticket names: fetched from its node, or computed here from what that node shares.
    pub(super) async fn redeem(&self, ticket: &str, events: &mpsc::Sender<Event>) -> Result<Target> {
        let ticket: Ticket = ticket.parse()?;
        let network = self.node.network().await?;
        let peer = peer_id(&ticket.node)?;
        network.connect(peer, &ticket.addresses).await?;
        let kernel = &self.node.kernel;
        match ticket.what {
            Shared::Object(cid) => {
                fetch(network, peer, cid, events).await?;
                crate::resolve::object(kernel, cid)
            }
            Shared::Call(parms) => {
                // Refused before anything is moved.
                kernel.check_rights(&Authority::Owner, &parms)?;
                for cid in parms.inputs() {
                    if kernel.modules.get(&cid).is_err() && !kernel.store.contains(&cid)? {
                        fetch(network, peer, cid, events).await?;
                    }
                }
                Ok(kernel.call(Caller::default(), parms).await?.result)
            }
        }
    }
}

/// Fetches one object from one peer; how far it is is told about every 1 % of it.
async fn fetch(network: &Network, peer: PeerId, cid: Cid, events: &mpsc::Sender<Event>) -> Result<()> {
    let (events, told) = (events.clone(), AtomicU64::new(0));
    let progress = move |Progress { done_bytes, total_bytes }: Progress| {
        let step = total_bytes / 100;
        if done_bytes >= told.load(Ordering::Relaxed).saturating_add(step) || done_bytes == total_bytes {
            told.store(done_bytes, Ordering::Relaxed);
            // Progress that finds no room is superseded by the next.
            let _ = events.try_send(Event::Fetching { done_bytes, total_bytes });
        }
    };
    let wanted = Fetch {
        cid,
        providers: vec![peer],
        max_bytes: u64::MAX,
        durability: Durability::Durable,
        progress: Some(Arc::new(progress)),
    };
    network.fetch(wanted).await?;
    Ok(())
}

/// Where this node can be reached, with its id.
fn whole(network: &Network) -> Vec<String> {
    network.addresses().iter().map(|address| format!("{address}/p2p/{}", network.id())).collect()
}

fn row(id: PeerId, peer: &Peer, connected: bool, load: Load, evidence: Vec<String>) -> PeerRow {
    PeerRow {
        peer: id.to_string(),
        addresses: peer.addresses.iter().map(Multiaddr::to_string).collect(),
        connected,
        named: peer.named,
        banned: peer.banned,
        kept: peer.kept,
        broken: peer.broken,
        seen: (peer.seen_ms > 0).then(|| time::text(peer.seen_ms)),
        served: load.kept,
        failed: load.broken,
        evidence,
    }
}

pub(super) fn parse_peer(text: &str) -> Result<PeerId> {
    let node: NodeId = text.parse().map_err(|_| {
        Error::new(Code::Usage, format!("{text:?} is no peer's id; `gridfs peer list` shows those that are known"))
    })?;
    peer_id(&node)
}

fn unknown(peer: &str) -> Error {
    Error::new(Code::UnknownName, format!("the peer {peer} is not known; `gridfs peer list` shows those that are"))
}
