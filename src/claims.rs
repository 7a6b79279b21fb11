//! Results that peers claim, as a module: it accepts calls under promises that believe others, asks peers what they claim, and
//! fetches what enough of the trusted ones agree on.
//!
//! Who signs two results for one call is a liar, and so is who claims what another run does not give. The claims are kept as
//! evidence, its claims count no more, and what it gave is forgotten with all that it went into.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_modules::Class;
use gridfs_p2p::{Fetch, Network, PeerId};
use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Cid, Codec, Durability};
use tokio::task::JoinSet;

use crate::describe::Runner;
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::marks::EVIDENCE;
use crate::module::{Acceptance, Call, Handling, Module, Reply};
use crate::parms::ABI_PROFILE;
use crate::peers::{HEAD_START, MAX_ASKED, SEARCH};
use crate::promise::{Listed, Source, Trust};
use crate::receipt::{self, Memo, Receipt, cid_of};
use crate::syscalls::Steps;

/// What the syscall tree knows the module by; of one peer with its id behind.
pub const ID: &str = "peers";

/// The module.
pub struct Claims;

impl Module for Claims {
    fn id(&self) -> &str {
        ID
    }

    fn accept(&self, call: &Call) -> Result<Acceptance> {
        if call.again || call.kernel.peers.network().is_none() || call.module.runner == Runner::Cas {
            return Ok(Acceptance::of_call(false));
        }
        let accepts = call.promise.source != Source::Local && call.promise.trust != Trust::OWN;
        Ok(Acceptance { accepts, about: Some(1) })
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(async {
            let peers = &call.kernel.peers;
            let unavailable = |why| Error::new(Code::Unavailable, why);
            let network = peers.network().ok_or_else(|| unavailable("the network was stopped"))?;
            if let Some(error) = peers.absent(&call.key) {
                return Err(error);
            }
            let claimed = claimed(call, network).await;
            if let Err(error) = &claimed {
                peers.note_absent(&call.key, error);
            }
            claimed
        })
    }
}

/// A claim as it came.
pub(crate) struct Claim {
    from: PeerId,
    bytes: Vec<u8>,
    receipt: Receipt,
}

/// A peer, when it was asked, and the claims that it answered with.
pub(crate) type Answer = (PeerId, Instant, std::result::Result<Vec<Vec<u8>>, gridfs_p2p::Error>);

/// The claims to one call, by their result.
#[derive(Default)]
pub(crate) struct Gathered(BTreeMap<Cid, Vec<Claim>>);

impl Gathered {
    /// Takes a claim in; returns its signer's other claim, if that has another result.
    fn add(&mut self, claim: Claim) -> Option<Vec<u8>> {
        let (issuer, result) = (claim.receipt.issuer, claim.receipt.result);
        let others = self.0.iter().filter(|(other, _)| **other != result).flat_map(|(_, claims)| claims);
        let other = others.into_iter().find(|other| other.receipt.issuer == issuer).map(|other| other.bytes.clone());
        let claims = self.0.entry(result).or_default();
        if claims.iter().all(|known| known.receipt.issuer != issuer || known.from != claim.from) {
            claims.push(claim);
        }
        other
    }

    fn forget(&mut self, issuer: &NodeId) {
        self.0.values_mut().for_each(|claims| claims.retain(|claim| claim.receipt.issuer != *issuer));
    }

    /// How many of the keys that the promise lists claim the same result.
    pub(crate) fn agreeing(&self, call: &Call) -> usize {
        let listed = |claims: &Vec<Claim>| {
            let issuers: BTreeSet<NodeId> = claims.iter().map(|claim| claim.receipt.issuer).collect();
            issuers.iter().filter(|issuer| call.promise.trust.lists(issuer)).count()
        };
        self.0.values().map(listed).max().unwrap_or(0)
    }

    /// The claims to a result that the promise believes.
    pub(crate) fn believed(&self, call: &Call) -> Option<&[Claim]> {
        let own = call.kernel.identity.id();
        let is_believed = |claims: &&Vec<Claim>| {
            let issuers: BTreeSet<NodeId> = claims.iter().map(|claim| claim.receipt.issuer).collect();
            call.promise.trust.believes(&own, &issuers)
        };
        self.0.values().find(is_believed).map(Vec::as_slice)
    }
}

async fn claimed(call: &Call, network: &Network) -> Result<Reply> {
    let (mut gathered, mut asking) = (Gathered::default(), JoinSet::new());
    // What came before the time was over counts.
    let asked = tokio::time::timeout(SEARCH, gather(call, network, &mut gathered, &mut asking)).await;
    if let Ok(Err(error)) = asked {
        return Err(error);
    }
    settle(call, network, gathered, asking).await
}

/// Fetches and remembers the result that the promise believes. Who is still being asked is heard too.
pub(crate) async fn settle(
    call: &Call,
    network: &Network,
    gathered: Gathered,
    asking: JoinSet<Answer>,
) -> Result<Reply> {
    let Some(claims) = gathered.believed(call) else {
        let issuers: BTreeSet<String> =
            gathered.0.values().flatten().map(|claim| claim.receipt.issuer.to_string()).collect();
        let why = match issuers.is_empty() {
            true => "no peer that was asked claims a result".to_owned(),
            false => format!("results are claimed by {issuers:?}; the promise believes {}", call.promise.trust),
        };
        return Err(Error::new(Code::Unavailable, why));
    };
    let result = claims[0].receipt.result;
    let providers = claims.iter().map(|claim| claim.from).collect();
    let wanted = Fetch {
        cid: result,
        providers,
        max_bytes: call.limits.output_bytes,
        durability: Durability::Lazy,
        progress: None,
    };
    let fetched = network.fetch(wanted).await?;
    let reply = record(call, &claims[0])?;
    drop(fetched);
    if is_audited(call)? {
        let claims = claims.iter().map(|claim| (claim.receipt.issuer, claim.bytes.clone())).collect();
        tokio::spawn(audit(call.clone(), result, claims));
    }
    tokio::spawn(compare(call.clone(), gathered, asking));
    call.kernel.counters.claimed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ok(reply)
}

/// Hears who was asked as well, though a result is believed already: a claim that contradicts another tells of a liar.
async fn compare(call: Call, mut gathered: Gathered, mut asking: JoinSet<Answer>) {
    while let Some(answer) = asking.join_next().await {
        let Ok((peer, began, answer)) = answer else { continue };
        if let Err(error) = take(&call, &mut gathered, peer, began, answer) {
            tracing::warn!(%error, "a claim could not be compared");
        }
    }
}

/// Asks connected peers, then those that the hash table names, until a result is believed or nobody is left.
async fn gather(call: &Call, network: &Network, gathered: &mut Gathered, asking: &mut JoinSet<Answer>) -> Result<()> {
    let mut asked = BTreeSet::new();
    let mut ask = |asking: &mut JoinSet<Answer>, peer: PeerId| {
        if asked.len() < 2 * MAX_ASKED && asked.insert(peer) {
            let (network, key) = (network.clone(), call.key);
            asking.spawn(async move { (peer, Instant::now(), network.claims(peer, key).await) });
        }
    };
    let connected = network.connected().await?;
    best_first(call, connected).into_iter().take(MAX_ASKED).for_each(|peer| ask(asking, peer));
    let head_start = tokio::time::sleep(if asking.is_empty() { Duration::ZERO } else { HEAD_START });
    let mut head_start = std::pin::pin!(head_start);
    let (mut found, mut searches) = (None, true);
    while searches || !asking.is_empty() {
        tokio::select! {
            () = &mut head_start, if searches && found.is_none() => found = Some(network.find(call.key, MAX_ASKED).await?),
            peer = next(&mut found), if found.is_some() => match peer {
                Some(peer) => ask(asking, peer),
                None => (found, searches) = (None, false),
            },
            Some(answer) = asking.join_next() => {
                let Ok((peer, began, answer)) = answer else { continue };
                take(call, gathered, peer, began, answer)?;
                if gathered.believed(call).is_some() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

async fn next(found: &mut Option<tokio::sync::mpsc::Receiver<PeerId>>) -> Option<PeerId> {
    found.as_mut()?.recv().await
}

/// Takes a peer's answer in, and keeps the record of the peer.
pub(crate) fn take(
    call: &Call,
    gathered: &mut Gathered,
    peer: PeerId,
    began: Instant,
    answer: std::result::Result<Vec<Vec<u8>>, gridfs_p2p::Error>,
) -> Result<()> {
    let (steps, id) = (Steps::of(&call.parms), id_of(&peer));
    let claims = match answer {
        Ok(claims) => claims,
        Err(error) => {
            call.kernel.syscalls.broken(&steps, &id, &Error::from(error), crate::time::now_ms());
            return Ok(());
        }
    };
    for bytes in claims {
        match checked(call, &bytes) {
            Ok(Some(receipt)) => {
                let latency_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                call.kernel.syscalls.kept(&steps, &id, latency_us, crate::time::now_ms());
                let issuer = receipt.issuer;
                if let Some(other) = gathered.add(Claim { from: peer, bytes: bytes.clone(), receipt }) {
                    gathered.forget(&issuer);
                    denounce(&call.kernel, &issuer, vec![other, bytes], "it signed two results for one call")?;
                }
            }
            Ok(None) => {}
            Err(why) => {
                let error = Error::new(Code::Corrupt, format!("what it claims is wrong: {why}"));
                call.kernel.syscalls.broken(&steps, &id, &error, crate::time::now_ms());
            }
        }
    }
    Ok(())
}

/// What the syscall tree knows a peer by.
fn id_of(peer: &PeerId) -> String {
    format!("{ID} {peer}")
}

/// Peers in the order of their records for such calls.
pub(crate) fn best_first(call: &Call, peers: Vec<PeerId>) -> Vec<PeerId> {
    let ids: Vec<String> = peers.iter().map(id_of).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let losses = call.kernel.syscalls.losses(&Steps::of(&call.parms), &ids, crate::time::now_ms());
    let mut ranked: Vec<(u32, PeerId)> = losses.into_iter().zip(peers).collect();
    ranked.sort_by_key(|(loss, _)| *loss);
    ranked.into_iter().map(|(_, peer)| peer).collect()
}

/// The receipt that these bytes are, if it counts for the call. None if its signer is a liar, or the result may not hold here.
fn checked(call: &Call, bytes: &[u8]) -> std::result::Result<Option<Receipt>, &'static str> {
    let receipt: Receipt = cbor::from_slice(bytes).map_err(|_| "it is no receipt")?;
    if receipt.v != receipt::VERSION || receipt.abi != ABI_PROFILE {
        return Ok(None);
    }
    if receipt.key() != call.key || receipt.parms != call.parms {
        return Err("it is for another call");
    }
    if !receipt.is_signed() {
        return Err("it is not signed by its issuer");
    }
    let tree = call.module.returns_tree(&call.parms.promise);
    if tree != (receipt.result.codec == Codec::DagCbor) {
        return Err("its result is not what the module returns");
    }
    let lasts = receipt.class == Class::Pure && receipt.until_ms.is_none() && receipt.names.is_empty();
    Ok((lasts && !call.kernel.peers.is_liar(&receipt.issuer)).then_some(receipt))
}

/// Whether a result is one of those, as many of a million as the promise says, that are computed here too.
fn is_audited(call: &Call) -> Result<bool> {
    let Trust::Listed(Listed { audit_ppm, .. }) = &call.promise.trust else { return Ok(false) };
    let mut dice = [0; 4];
    getrandom::fill(&mut dice).map_err(|e| Error::caused(Code::General, "the system gives no random bytes", e))?;
    Ok(u64::from(u32::from_le_bytes(dice)) % 1_000_000 < *audit_ppm)
}

/// Runs the module here, though its result is believed already, and compares. Whoever claimed another is a liar.
async fn audit(call: Call, claimed: Cid, claims: Vec<(NodeId, Vec<u8>)>) {
    let audited = async {
        let own = call.kernel.compute_again(call.parms.clone()).await?;
        if cid_of(&own.result) == Some(claimed) {
            return Ok(());
        }
        let why = "another run gave another result";
        claims.into_iter().try_for_each(|(issuer, claim)| denounce(&call.kernel, &issuer, vec![claim], why))
    };
    if let Err(error) = audited.await {
        tracing::warn!(%claimed, %error, "a claim could not be audited");
    }
}

/// Remembers a result with the claim to it.
fn record(call: &Call, claim: &Claim) -> Result<Reply> {
    let store = &call.kernel.store;
    let target = crate::resolve::object(&call.kernel, claim.receipt.result)?;
    let mut batch = store.batch();
    let receipt = batch.put_bytes(Codec::DagCbor, &claim.bytes)?;
    let memo = Memo::of(&Reply { time_ms: Some(claim.receipt.time_ms), ..Reply::stored(target) }, receipt, false);
    batch.put_memo(call.key, &crate::wasm::label(call), &memo.to_bytes())?;
    batch.commit(Durability::Lazy)?;
    Ok(memo.reply())
}

/// Keeps the evidence against a signer, and forgets what it gave.
pub(crate) fn denounce(kernel: &Arc<Kernel>, issuer: &NodeId, claims: Vec<Vec<u8>>, why: &str) -> Result<()> {
    // Two results of its own are for this node to explain: all that it has would go.
    if *issuer == kernel.identity.id() {
        tracing::warn!(why, "this node's own claims differ");
        return Ok(());
    }
    tracing::warn!(%issuer, why, "a peer is not believed any more");
    let claims: Vec<Bytes> = claims.into_iter().map(Bytes).collect();
    let mut batch = kernel.store.batch();
    let evidence = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&claims))?;
    batch.commit(Durability::Durable)?;
    EVIDENCE.set(&kernel.store, &evidence, &format!("{issuer} {why}"))?;
    kernel.peers.add_liar(*issuer);
    let (mut hear, mut given) = (|| ControlFlow::Continue(()), BTreeSet::new());
    kernel.each_remembered(&mut hear, &mut |call| {
        if call.receipt.issuer == *issuer {
            given.insert(call.memo.result);
        }
        Ok(())
    })?;
    let revoked = given.iter().try_for_each(|result| kernel.revoke(result, &mut hear).map(drop));
    kernel.unasked.notify_one();
    revoked
}

/// The evidence against each signer: who, and why.
pub fn evidence(kernel: &Kernel) -> Result<Vec<(NodeId, String)>> {
    let marks = EVIDENCE.all(&kernel.store)?.into_iter();
    Ok(marks
        .filter_map(|mark| {
            let (issuer, why) = mark.note.split_once(' ')?;
            Some((issuer.parse().ok()?, format!("{why}; the evidence is {}", mark.cid)))
        })
        .collect())
}
