//! What this node answers its peers: results that it remembers under promises that share, its claims to them, the names that it or
//! whom it follows publishes, and objects that are shared. What went by a name of this node, or holds for a while only, is not told: its receipt says the names, and it may
//! not hold elsewhere.
//!
//! A call whose result is not remembered is run for a peer if the owner lets calls be run (`workload.rs`) and the promise names this
//! node among those that it believes: elsewhere the result would count for nothing. It goes the way of all calls, by the
//! peer's own right, and ends when the peer no longer waits for it.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use gridfs_modules::Class;
use gridfs_p2p::{Answers, CallAnswer, CallRequest, Code as Peer, Kind, PeerId, Refusal, peer_key};
use gridfs_store::{Cid, Hash, Target};

use crate::authority::Authority;
use crate::capability::Token;
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::marks::SHARED;
use crate::module::{Caller, Reply};
use crate::parms::Parms;
use crate::receipt::cid_of;

type Answered<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers by a kernel, while there is one.
pub struct Answering {
    kernel: Weak<Kernel>,
}

impl Answering {
    /// Answers for `kernel`, which it does not keep.
    pub fn new(kernel: Weak<Kernel>) -> Answering {
        Answering { kernel }
    }
}

impl Answers for Answering {
    fn call(&self, from: PeerId, request: CallRequest) -> Answered<std::result::Result<CallAnswer, Refusal>> {
        let kernel = self.kernel.upgrade();
        Box::pin(async move {
            let kernel = kernel.ok_or_else(stopping)?;
            let asked = Asked::of(&kernel, from, &request)?;
            let (looking, known) = (kernel.clone(), asked.clone());
            // The store is read, which may wait for the disk.
            let known = tokio::task::spawn_blocking(move || looking.known_to_peer(&known)).await;
            match known.map_err(|_| stopping())? {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => kernel.run_for_peer(asked).await.map_err(|error| refusal(&error)),
                Err(error) => Err(refusal(&error)),
            }
        })
    }

    fn claims(&self, _from: PeerId, key: Hash) -> Answered<Vec<Vec<u8>>> {
        let kernel = self.kernel.upgrade();
        Box::pin(async move {
            let Some(kernel) = kernel else { return Vec::new() };
            let claims = tokio::task::spawn_blocking(move || kernel.shared_claim(&key));
            claims.await.ok().and_then(Result::ok).flatten().into_iter().collect()
        })
    }

    fn head(&self, _from: PeerId, node: [u8; 32]) -> Answered<Option<gridfs_p2p::Head>> {
        let kernel = self.kernel.upgrade();
        Box::pin(async move {
            let (kernel, node) = (kernel?, NodeId(node));
            let looked = tokio::task::spawn_blocking(move || match node == kernel.identity.id() {
                true => kernel.published.head(&kernel.identity),
                false => crate::followed::pass_on(&kernel.store, &node),
            });
            match looked.await.ok()? {
                Ok(head) => head,
                Err(error) => {
                    tracing::warn!(%node, %error, "a peer can't be told the names of a node");
                    None
                }
            }
        })
    }

    fn may_read(&self, from: PeerId, cid: &Cid) -> bool {
        let Some(kernel) = self.kernel.upgrade() else { return false };
        // What can't be told is not told.
        let lent = &kernel.peers.lent;
        lent.is_lent(from, cid) || lent.has(from, cid) || kernel.is_shared(cid).unwrap_or(false)
    }
}

/// A peer's call, for which it has the right.
#[derive(Clone)]
struct Asked {
    from: PeerId,
    parms: Parms,
    /// Of who only wants to know.
    authority: Authority,
}

impl Asked {
    fn of(kernel: &Kernel, from: PeerId, request: &CallRequest) -> std::result::Result<Asked, Refusal> {
        let parms = Parms::from_bytes(&request.parms);
        let parms = parms.map_err(|e| Refusal::new(Peer::Malformed, format!("these are no parms: {e}")))?;
        if parms.promise != request.promise {
            return Err(Refusal::new(Peer::Malformed, "the parms are led by another promise"));
        }
        // What its owner may not do here, nobody may.
        let promise = kernel.check_rights(&Authority::Owner, &parms).map_err(|error| refusal(&error))?;
        if !promise.share {
            let why = format!("calls under the promise {} are not answered to peers", parms.promise);
            return Err(Refusal::new(Peer::NotAccepted, why));
        }
        let no_authority = |error: Error| Refusal::new(Peer::NoAuthority, error.to_string());
        let authority = kernel.authority_of(from, request.token.as_deref()).map_err(no_authority)?;
        kernel.check_rights(&authority, &parms).map_err(no_authority)?;
        Ok(Asked { from, parms, authority })
    }
}

fn stopping() -> Refusal {
    Refusal::new(Peer::Busy, "the node is stopping")
}

impl Kernel {
    /// Whether peers may read an object: it was shared, a published name stands for it, or it is the result of a call under a promise
    /// that shares.
    pub fn is_shared(&self, cid: &Cid) -> Result<bool> {
        Ok(self.peers.offers(cid) || SHARED.has(&self.store, cid)? || self.published.shares(cid)?)
    }

    fn known_to_peer(&self, asked: &Asked) -> Result<Option<CallAnswer>> {
        let Asked { from, parms, authority } = asked;
        let module = match self.modules.get(&parms.module) {
            // The peer may give it with its call.
            Err(error) if error.code == Code::Unavailable => return Ok(None),
            module => module?,
        };
        module.check(&parms.arguments)?;
        let limits = authority.lower(self.limits(&parms.promise, &module)?);
        let reply = self.known_to(authority, &parms.memo_key(&limits))?.filter(|reply| reply.immutable);
        reply.map(|reply| self.told(*from, reply)).transpose()
    }

    /// Runs a call for a peer, on what the peer gives for it.
    async fn run_for_peer(self: &Arc<Self>, asked: Asked) -> Result<CallAnswer> {
        let Asked { from, parms, authority } = asked;
        let place = self.peers.workload.enter(from)?;
        let promise = self.promise(&parms.promise)?;
        if !promise.trust.lists(&self.identity.id()) {
            let why = format!("the promise {} does not believe this node, so it runs nothing under it", parms.promise);
            return Err(Error::new(Code::NotAccepted, why));
        }
        let stopped = || Error::new(Code::Busy, "the node is stopping");
        let network = self.peers.network().ok_or_else(stopped)?;
        let lease = self.store.lease();
        parms.inputs().for_each(|cid| lease.keep(&cid));
        if self.modules.get(&parms.module).is_err() {
            self.take_input(network, from, parms.module).await?;
        }
        if self.modules.get(&parms.module)?.class != Class::Pure {
            let why = "a result that holds for a while holds only where the module was run";
            return Err(Error::new(Code::NotAccepted, why));
        }
        for cid in parms.inputs().filter(|cid| *cid != parms.module) {
            // With a token it may call on what lies here.
            if !(matches!(authority, Authority::Grant(_)) && self.store.contains(&cid)?) {
                self.take_input(network, from, cid).await?;
            }
        }
        let grant = match authority {
            Authority::Grant(grant) => Some(grant),
            _ => None,
        };
        self.counters.served.fetch_add(1, Ordering::Relaxed);
        let caller = Caller { authority: Authority::Peer(from, grant), ..Caller::default() };
        let reply = self.call(caller, parms).await;
        place.end(reply.is_ok());
        let reply = reply?;
        if !reply.immutable {
            let why = "the module went by a name, or by what holds for a while, so its result holds only here";
            return Err(Error::new(Code::NotAccepted, why));
        }
        self.told(from, reply)
    }

    /// A result as it is told to a peer, which may read it from now on, whoever else may.
    fn told(&self, from: PeerId, reply: Reply) -> Result<CallAnswer> {
        let claim = match reply.receipt {
            Some(receipt) => self.store.read(&receipt, gridfs_p2p::wire::MAX_CLAIM_BYTES)?,
            None => Vec::new(),
        };
        let (kind, size_bytes) = match &reply.result {
            Target::File { size_bytes, executable: false, .. } => (Kind::File, *size_bytes),
            Target::File { size_bytes, executable: true, .. } => (Kind::Executable, *size_bytes),
            Target::Directory { .. } | Target::Symlink { .. } => (Kind::Directory, 0),
        };
        let result = cid_of(&reply.result).expect("a result is a file or a directory");
        self.peers.lent.note(from, result);
        Ok(CallAnswer { result, kind, size_bytes, claim })
    }

    /// A peer is its key: what a token gives to that key, or what demands no capability.
    fn authority_of(&self, from: PeerId, token: Option<&[u8]>) -> Result<Authority> {
        let Some(token) = token else { return Ok(Authority::Nobody) };
        let key = peer_key(&from).ok_or_else(|| Error::new(Code::NotAccepted, format!("{from} has no Ed25519 key")))?;
        Ok(Authority::Grant(Authority::of_token(self, &Token::from_bytes(token)?, NodeId(key))?))
    }

    /// The signed receipt of this key, if its promise shares results.
    fn shared_claim(&self, key: &Hash) -> Result<Option<Vec<u8>>> {
        let Some(call) = self.remembered(key)? else { return Ok(None) };
        let promise = self.check_rights(&Authority::Nobody, &call.receipt.parms)?;
        if !promise.share || !call.memo.reply().immutable {
            return Ok(None);
        }
        Ok(Some(self.store.read(&call.memo.receipt, gridfs_p2p::wire::MAX_CLAIM_BYTES)?))
    }
}

fn refusal(error: &Error) -> Refusal {
    let code = match error.code {
        Code::NotAccepted => Peer::NotAccepted,
        Code::UnknownName | Code::Unavailable => Peer::Unknown,
        Code::Usage | Code::NotModule => Peer::Malformed,
        Code::TimeLimit | Code::MemoryLimit | Code::OutputLimit | Code::Cycle => Peer::Limit,
        Code::ModuleFailed => Peer::Failed,
        Code::Busy => Peer::Busy,
        _ => Peer::Internal,
    };
    // Of what went wrong inside nothing is told.
    let words = if code == Peer::Internal { "the node failed".into() } else { error.to_string() };
    Refusal::new(code, words)
}
