//! What this node answers its peers: results that it remembers under promises that share, its claims to them, and objects that
//! are shared. Nothing is run for a peer. What went by a name of this node, or holds for a while only, is not told: its receipt
//! says the names, and it may not hold elsewhere.

use std::pin::Pin;
use std::sync::Weak;

use gridfs_p2p::{Answers, CallAnswer, CallRequest, Code as Peer, Kind, PeerId, Refusal, peer_key};
use gridfs_store::{Cid, Hash, Target};

use crate::authority::Authority;
use crate::capability::Token;
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::marks::SHARED;
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
            // The store is read, which may wait for the disk.
            let answered = tokio::task::spawn_blocking(move || kernel.answer_call(from, &request)).await;
            answered.map_err(|_| stopping())?
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

    fn may_read(&self, _from: PeerId, cid: &Cid) -> bool {
        // What can't be told is not told.
        self.kernel.upgrade().is_some_and(|kernel| kernel.is_shared(cid).unwrap_or(false))
    }
}

fn stopping() -> Refusal {
    Refusal::new(Peer::Busy, "the node is stopping")
}

impl Kernel {
    /// Whether peers may read an object: it was shared, or is the result of a call under a promise that shares.
    pub fn is_shared(&self, cid: &Cid) -> Result<bool> {
        Ok(self.peers.offers(cid) || SHARED.has(&self.store, cid)?)
    }

    fn answer_call(&self, from: PeerId, request: &CallRequest) -> std::result::Result<CallAnswer, Refusal> {
        let parms = Parms::from_bytes(&request.parms);
        let parms = parms.map_err(|e| Refusal::new(Peer::Malformed, format!("these are no parms: {e}")))?;
        if parms.promise != request.promise {
            return Err(Refusal::new(Peer::Malformed, "the parms are led by another promise"));
        }
        self.known_to_peer(from, &parms, request.token.as_deref()).map_err(|error| refusal(&error))
    }

    fn known_to_peer(&self, from: PeerId, parms: &Parms, token: Option<&[u8]>) -> Result<CallAnswer> {
        let authority = self.authority_of(from, token)?;
        let promise = self.check_rights(&authority, parms)?;
        if !promise.share {
            let why = format!("calls under the promise {} are not answered to peers", parms.promise);
            return Err(Error::new(Code::NotAccepted, why));
        }
        let module = self.modules.get(&parms.module)?;
        module.check(&parms.arguments)?;
        let limits = authority.lower(self.limits(&parms.promise, &module)?);
        let unknown = || Error::new(Code::UnknownName, "this node remembers no result of the call");
        let reply = self.known_to(&authority, parms, &limits)?.filter(|reply| reply.immutable).ok_or_else(unknown)?;
        let claim = match reply.receipt {
            Some(receipt) => self.store.read(&receipt, gridfs_p2p::wire::MAX_CLAIM_BYTES)?,
            None => Vec::new(),
        };
        let (kind, size_bytes) = match &reply.result {
            Target::File { size_bytes, executable: false, .. } => (Kind::File, *size_bytes),
            Target::File { size_bytes, executable: true, .. } => (Kind::Executable, *size_bytes),
            Target::Directory { .. } | Target::Symlink { .. } => (Kind::Directory, 0),
        };
        let result = cid_of(&reply.result).ok_or_else(unknown)?;
        Ok(CallAnswer { result, kind, size_bytes, claim })
    }

    /// A peer is its key: what a token gives to that key, or what demands no capability.
    fn authority_of(&self, from: PeerId, token: Option<&[u8]>) -> Result<Authority> {
        let Some(token) = token else { return Ok(Authority::Nobody) };
        let key = peer_key(&from).ok_or_else(|| Error::new(Code::NotAccepted, format!("{from} has no Ed25519 key")))?;
        Authority::of_token(self, &Token::from_bytes(token)?, NodeId(key))
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
