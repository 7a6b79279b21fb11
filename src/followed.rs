//! Nodes whose published names this node follows. The table of each stands under one name of the own symbol table, as a directory of
//! which only the list is here (`partial.rs`): so history, rollback and calls on it work as for any other directory, with or without
//! a network.
//!
//! The node itself is asked for its head, and if it is away who is connected: whoever follows it can pass it on, for it is
//! signed. A head that is older than the one known is refused. Two heads with one number are kept as evidence, and their
//! signer is not believed any more. A name that was removed or bound to something else is left alone until its update is asked for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use gridfs_p2p::{Network, PeerId};
use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Codec, Durability, Hash, Store, Target};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::error::{Code, Error, Result};
use crate::head::Head;
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::names::check_name;
use crate::partial;
use crate::peers::{MAX_ASKED, peer_id};
use crate::receipt::cid_of;
use crate::records::Records;

/// What is remembered of each node that is followed.
pub const FOLLOWED: Records = Records("followed/");
/// Most nodes followed.
const MAX_FOLLOWED: usize = 256;
/// How long after the network's start the nodes are asked for the first time.
pub const FIRST: Duration = Duration::from_secs(10);
/// How often they are asked from then on; up to half of it is added by chance, so that not all ask at once.
const EVERY: Duration = Duration::from_secs(600);

/// A node that is followed. A dag-cbor map; keys in deterministic order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Followed {
    v: u64,
    head: Bytes,
    /// The name that stands for its table.
    pub name: String,
    /// Since when it is followed, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A head that was checked, as it came, with its table.
struct Offer {
    head: Head,
    told: gridfs_p2p::Head,
}

impl Followed {
    fn read(node: &NodeId, bytes: &[u8]) -> Result<Followed> {
        cbor::from_slice(bytes)
            .map_err(|e| Error::caused(Code::Corrupt, format!("what is remembered of {node} can't be read"), e))
    }

    /// The newest head known.
    pub fn head(&self, node: &NodeId) -> Result<Head> {
        let unreadable = |flaw| Error::new(Code::Corrupt, format!("what is remembered of {node} is {flaw}"));
        Head::read(&self.head.0, node).map_err(unreadable)
    }
}

/// The nodes that are followed, by name.
pub fn all(store: &Arc<Store>) -> Result<Vec<(NodeId, Followed)>> {
    let read = |(id, bytes): (String, Vec<u8>)| {
        let node = id.parse()?;
        Ok((node, Followed::read(&node, &bytes)?))
    };
    let mut all: Vec<_> = FOLLOWED.all(store)?.into_iter().map(read).collect::<Result<_>>()?;
    all.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    Ok(all)
}

fn get(store: &Arc<Store>, node: &NodeId) -> Result<Option<Followed>> {
    FOLLOWED.get(store, &node.to_string())?.map(|bytes| Followed::read(node, &bytes)).transpose()
}

/// The head of a node that is followed, and its table, to be passed on.
pub fn pass_on(store: &Arc<Store>, node: &NodeId) -> Result<Option<gridfs_p2p::Head>> {
    let Some(followed) = get(store, node)? else { return Ok(None) };
    let table = followed.head(node)?.table;
    if !store.contains(&table)? {
        return Ok(None);
    }
    let table = store.read(&table, gridfs_p2p::wire::MAX_TABLE_BYTES)?;
    Ok(Some(gridfs_p2p::Head { signed: followed.head.0, table }))
}

/// Follows a node from now on, under this name or one made from its id; durable when it returns. The name.
pub async fn follow(kernel: &Arc<Kernel>, network: &Network, node: NodeId, name: Option<String>) -> Result<String> {
    if node == kernel.identity.id() {
        return Err(Error::new(Code::Usage, "this node itself need not be followed: its names are here"));
    }
    let all = all(&kernel.store)?;
    let known = all.iter().find(|(other, _)| *other == node).map(|(_, followed)| followed.name.clone());
    let name = match (known, name) {
        (Some(known), Some(name)) if known != name => {
            let why = format!("{node} is followed as {known:?}; `gridfs name unfollow {known}` ends that");
            return Err(Error::new(Code::Usage, why));
        }
        (Some(known), _) => known,
        (None, _) if all.len() >= MAX_FOLLOWED => {
            let why = format!("a node follows {MAX_FOLLOWED} others at most; `gridfs name unfollow` ends one");
            return Err(Error::new(Code::Usage, why));
        }
        (None, name) => new_name(kernel, &node, name)?,
    };
    let offer =
        newest(kernel, network, &node, None).await?.expect("no head is known that there could be no newer one than");
    adopt(kernel, node, Some(name.clone()), offer).await?;
    Ok(name)
}

fn new_name(kernel: &Kernel, node: &NodeId, name: Option<String>) -> Result<String> {
    let id = node.to_string();
    // All ids begin alike.
    let name = name.unwrap_or_else(|| format!("peer-{}", &id[id.len() - 8..]));
    check_name(&name)?;
    match kernel.names.get(&name) {
        None => Ok(name),
        Some(_) => {
            let why = format!("the name {name:?} stands for something already; choose another with --as NAME");
            Err(Error::new(Code::Usage, why))
        }
    }
}

/// Asks again what the node followed under this name publishes, and lets the name stand for it.
pub async fn update(kernel: &Arc<Kernel>, network: &Network, node: NodeId) -> Result<()> {
    let offer = newest(kernel, network, &node, None).await?.expect("no head was said to be known");
    adopt(kernel, node, None, offer).await
}

/// Follows the node under this name no longer, durably. The name goes, unless it was bound to something else.
pub fn unfollow(kernel: &Kernel, name: &str) -> Result<()> {
    let _order = kernel.following.lock().expect("no panic while it is held");
    let (node, _) = named(&kernel.store, name)?;
    FOLLOWED.remove(&kernel.store, &node.to_string())?;
    if stands_for_table(kernel, name)? {
        kernel.names.change(&[(name.to_owned(), None)])?;
    }
    Ok(())
}

/// The node that is followed under this name.
pub fn named(store: &Arc<Store>, name: &str) -> Result<(NodeId, Followed)> {
    all(store)?.into_iter().find(|(_, followed)| followed.name == name).ok_or_else(|| {
        Error::new(Code::UnknownName, format!("nobody is followed as {name:?}; `gridfs name follow` shows who is"))
    })
}

/// Whether a name stands for what some node publishes or published.
fn stands_for_table(kernel: &Kernel, name: &str) -> Result<bool> {
    match kernel.names.get(name).as_ref().and_then(cid_of) {
        Some(cid) => partial::is(&kernel.store, &cid),
        None => Ok(false),
    }
}

/// The newest head that is to be had, unless the one with the hash `known` is.
async fn newest(kernel: &Arc<Kernel>, network: &Network, node: &NodeId, known: Option<Hash>) -> Result<Option<Offer>> {
    if kernel.peers.is_liar(node) {
        let why = format!("{node} is not believed any more; `gridfs peer show {node}` says why");
        return Err(Error::new(Code::Untrusted, why));
    }
    let peer = peer_id(node)?;
    let refused = match ask(network, peer, node, known).await {
        Ok(offer) => return Ok(offer),
        Err(error) => error,
    };
    let connected = network.connected().await?.into_iter().filter(|other| *other != peer).take(MAX_ASKED);
    let mut asking = JoinSet::new();
    for other in connected {
        let (network, node) = (network.clone(), *node);
        asking.spawn(async move { ask(&network, other, &node, known).await });
    }
    let asked = asking.len();
    let (mut newest, mut is_known) = (None::<Offer>, false);
    while let Some(answer) = asking.join_next().await {
        match answer {
            Ok(Ok(Some(offer))) if newest.as_ref().is_none_or(|newest| offer.head.number > newest.head.number) => {
                newest = Some(offer);
            }
            Ok(Ok(None)) => is_known = true,
            Ok(Err(error)) => tracing::debug!(%node, %error, "a peer does not pass names on"),
            _ => {}
        }
    }
    if newest.is_none() && !is_known {
        let why = format!(
            "the names of {node} are not to be had: {refused}; of {asked} other connected peers none passes them on"
        );
        return Err(Error::new(Code::Unavailable, why));
    }
    Ok(newest)
}

async fn ask(network: &Network, peer: PeerId, node: &NodeId, known: Option<Hash>) -> Result<Option<Offer>> {
    let Some(told) = network.head(peer, node.0, known).await? else { return Ok(None) };
    let wrong = |flaw| Error::new(Code::Corrupt, format!("peer {peer} sent rubbish for the names of {node}: {flaw}"));
    let head = Head::read(&told.signed, node).map_err(wrong)?;
    head.read_table(&told.table).map_err(wrong)?;
    Ok(Some(Offer { head, told }))
}

/// Takes a head over, if it is not older than what is known: stores its table, names it, and remembers it. A node that is not followed is
/// from now on if a name is given.
async fn adopt(kernel: &Arc<Kernel>, node: NodeId, name: Option<String>, offer: Offer) -> Result<()> {
    let kernel = kernel.clone();
    let adopted = tokio::task::spawn_blocking(move || adopt_now(&kernel, node, name, offer)).await;
    adopted.map_err(|e| Error::caused(Code::General, "taking names over broke off", e))?
}

fn adopt_now(kernel: &Arc<Kernel>, node: NodeId, name: Option<String>, offer: Offer) -> Result<()> {
    let _order = kernel.following.lock().expect("no panic while it is held");
    let Offer { head, told } = offer;
    let (name, since_ms) = match (get(&kernel.store, &node)?, name) {
        (Some(known), _) => {
            check_newer(kernel, &node, &known, &head, &told.signed)?;
            (known.name, known.since_ms)
        }
        (None, Some(name)) => (name, crate::time::now_ms()),
        (None, None) => return Err(Error::new(Code::UnknownName, format!("{node} is not followed any more"))),
    };
    let mut batch = kernel.store.batch();
    // One that was here already is complete, or known not to be.
    if !kernel.store.contains(&head.table)? {
        partial::put(&mut batch, &head.table)?;
    }
    batch.put_bytes(Codec::DagCbor, &told.table)?;
    let _kept = batch.commit(Durability::Durable)?;
    let target = Target::Directory { cid: head.table };
    if kernel.names.get(&name).as_ref() != Some(&target) {
        kernel.names.change(&[(name.clone(), Some(target))])?;
    }
    let followed = Followed { v: 1, head: Bytes(told.signed), name, since_ms };
    FOLLOWED.set(&kernel.store, &node.to_string(), &cbor::to_vec(&followed))
}

fn check_newer(kernel: &Arc<Kernel>, node: &NodeId, known: &Followed, head: &Head, signed: &[u8]) -> Result<()> {
    let newest = known.head(node)?;
    if head.number < newest.number {
        let time = crate::time::text;
        let why = format!(
            "the names of {node} were offered as they were at {}, but are known as of {}; \
             ask again when the node itself can be reached",
            time(head.time_ms),
            time(newest.time_ms)
        );
        return Err(Error::new(Code::Untrusted, why));
    }
    if head.number == newest.number && known.head.0 != signed {
        let heads = vec![known.head.0.clone(), signed.to_vec()];
        crate::claims::denounce(kernel, node, heads, "it signed two tables of names with one number")?;
        let why = format!("{node} signed two tables of names with one number, and is not believed any more");
        return Err(Error::new(Code::Untrusted, why));
    }
    Ok(())
}

/// Asks all nodes that are followed now and then, as long as there is a kernel.
pub async fn keep_updated(kernel: Weak<Kernel>, network: Network) {
    let mut wait = FIRST;
    loop {
        tokio::time::sleep(wait).await;
        let Some(kernel) = kernel.upgrade() else { return };
        match all(&kernel.store) {
            Ok(all) => {
                for (node, followed) in all {
                    if let Err(error) = look(&kernel, &network, node, &followed).await {
                        tracing::debug!(name = followed.name, %error, "names are not updated");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "names of other nodes are not updated"),
        }
        let mut dice = [0; 2];
        // Without chance all is well too.
        let _ = getrandom::fill(&mut dice);
        wait = EVERY + EVERY * u32::from(u16::from_le_bytes(dice)) / (2 * u32::from(u16::MAX));
    }
}

async fn look(kernel: &Arc<Kernel>, network: &Network, node: NodeId, followed: &Followed) -> Result<()> {
    if !stands_for_table(kernel, &followed.name)? {
        return Ok(());
    }
    match newest(kernel, network, &node, Some(Hash::of(&followed.head.0))).await? {
        Some(offer) => adopt(kernel, node, None, offer).await,
        None => Ok(()),
    }
}
