//! By what right a caller calls.
//!
//! A promise may demand a capability: then only the node's owner calls under it, and who holds a token (`capability.rs`). Nested
//! calls are made by the right of the outermost caller.

use std::collections::BTreeSet;
use std::sync::Arc;

use gridfs_modules::Limits;
use gridfs_p2p::PeerId;
use gridfs_store::{Cid, Hash};

use crate::capability::{Grant, Presented, Refusal, Token};
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::parms::Parms;
use crate::promise::{Promise, Source};
use crate::time;

/// The right of one caller. What is kept in front of the kernel's checks may answer [`Authority::Owner`] alone: all others
/// must pass [`Authority::check`] each time, and are told only what they might compute themselves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Authority {
    /// The node's owner, who may all that the accepted promises allow.
    #[default]
    Owner,
    /// What a token gives, and nothing else, whoever presents it.
    Grant(Arc<Grant>),
    /// Another user of the machine: whatever demands no capability.
    Nobody,
    /// A peer that has a call run here, by the right of its token if it has one.
    Peer(PeerId, Option<Arc<Grant>>),
    /// What a token gives at another node. Nothing is run here by it: that node is asked to.
    Elsewhere(Arc<Elsewhere>),
}

/// A token that holds at another node.
#[derive(Debug, Eq, PartialEq)]
pub struct Elsewhere {
    /// Where it holds.
    pub node: NodeId,
    /// The token, as it travels.
    pub token: Vec<u8>,
    /// This node, which holds it.
    here: NodeId,
    /// What it gives there.
    grant: Grant,
}

impl Authority {
    /// Refuses a call for which there is no authority.
    pub fn check(&self, promise: &Promise, parms: &Parms) -> Result<()> {
        self.check_promise(promise, &parms.promise)?;
        let Some(grant) = self.grant() else { return Ok(()) };
        grant.check(parms, promise.issuer, time::now_ms()).map_err(|refusal| {
            Error::from(refusal).during(format!("no authority for /{}/{}", parms.promise, parms.module))
        })
    }

    fn grant(&self) -> Option<&Grant> {
        match self {
            Authority::Owner | Authority::Nobody => None,
            Authority::Grant(grant) => Some(grant),
            Authority::Peer(_, grant) => grant.as_deref(),
            Authority::Elsewhere(elsewhere) => Some(&elsewhere.grant),
        }
    }

    /// Refuses who may make no call under a promise, whatever it is. A token is looked at call by call.
    pub fn check_promise(&self, promise: &Promise, cid: &Cid) -> Result<()> {
        match self {
            Authority::Elsewhere(elsewhere) => return elsewhere.check_promise(promise),
            Authority::Peer(..) if !promise.share => {
                let why = format!("calls under the promise {cid} are not answered to peers");
                return Err(Error::new(Code::NotAccepted, why));
            }
            Authority::Nobody | Authority::Peer(_, None) if promise.capability => {}
            _ => return Ok(()),
        }
        let why = format!(
            "no authority for /{cid}: the promise demands a capability; ask the node's owner for a token \
             (`gridfs cap grant`) and call with `grid --cap TOKEN`"
        );
        Err(Error::new(Code::NotAccepted, why))
    }

    /// The limits of a call, lowered by the token's.
    pub fn lower(&self, limits: Limits) -> Limits {
        self.grant().map_or(limits, |grant| limits.lowered_by(Some(grant.limits())))
    }

    /// The right that a token gives at this node to who holds `holder`.
    pub fn of_token(kernel: &Kernel, token: &Token, holder: NodeId) -> Result<Arc<Grant>> {
        granted(kernel, token, kernel.identity.id(), holder).map(Arc::new)
    }

    /// The right that a token gives to this node, here or where it holds.
    pub fn of_own_token(kernel: &Kernel, token: &Token) -> Result<Authority> {
        let here = kernel.identity.id();
        let node = match token {
            Token::Chain(chain) => chain.claims().audience,
            // It does not say where it holds.
            Token::Packed(_) => here,
        };
        if node == here {
            return Ok(Authority::Grant(Authority::of_token(kernel, token, here)?));
        }
        let grant = granted(kernel, token, node, here)?;
        Ok(Authority::Elsewhere(Arc::new(Elsewhere { node, token: token.to_bytes(), here, grant })))
    }

    /// The evaluation that callers of this right share: one that was refused a nested call must not fail those who may make it.
    pub fn flight(&self, key: Hash) -> Hash {
        match self {
            Authority::Owner => key,
            Authority::Grant(grant) => Hash::of(&[key.0, grant.id().0].concat()),
            Authority::Nobody => Hash::of(&key.0),
            Authority::Peer(peer, grant) => {
                let grant = grant.as_ref().map_or(Hash([0; 32]), |grant| grant.id());
                Hash::of(&[b"peer".as_slice(), &key.0, &grant.0, &peer.to_bytes()].concat())
            }
            Authority::Elsewhere(elsewhere) => {
                Hash::of(&[b"elsewhere".as_slice(), &key.0, &elsewhere.grant.id().0].concat())
            }
        }
    }
}

impl Elsewhere {
    /// Refuses a promise under which what the other node says is not asked for, or not believed.
    fn check_promise(&self, promise: &Promise) -> Result<()> {
        if promise.share && promise.source != Source::Local && promise.trust.lists(&self.node) {
            return Ok(());
        }
        let Elsewhere { node, here, .. } = *self;
        let refused = Error::from(Refusal::Audience { wanted: node, here });
        Err(refused.during(format!(
            "calls under this promise are made here alone (one made with `--share --source fetch --trust {node}` is for both)"
        )))
    }
}

fn granted(kernel: &Kernel, token: &Token, node: NodeId, holder: NodeId) -> Result<Grant> {
    let presented = Presented { now_ms: time::now_ms(), node, holder, roots: &kernel.roots(node) };
    Ok(token.verify(&presented)?)
}

impl Kernel {
    /// The keys whose grants count at `node`: its own, and those of the issuers of the promises that this node accepts.
    pub fn roots(&self, node: NodeId) -> BTreeSet<NodeId> {
        let issuers = self.accepted.all().into_iter().filter_map(|(_, promise)| promise.issuer);
        issuers.chain([node]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_than_the_owner_are_refused_where_a_capability_is_demanded() {
        let open = Promise::local();
        let guarded = Promise { capability: true, ..Promise::local() };
        let refused = |authority: Authority, promise: &Promise| authority.check_promise(promise, &promise.cid()).err();
        assert!(refused(Authority::Owner, &guarded).is_none() && refused(Authority::Nobody, &open).is_none());
        let error = refused(Authority::Nobody, &guarded).unwrap();
        assert_eq!(error.code, Code::NotAccepted);
        let shared = |promise: Promise| Promise { share: true, ..promise };
        let peer = || Authority::Peer(PeerId::random(), None);
        assert!(refused(peer(), &shared(open.clone())).is_none());
        for promise in [&open, &shared(guarded.clone())] {
            assert_eq!(refused(peer(), promise).unwrap().code, Code::NotAccepted);
        }
        let words = format!("no authority for /{}: the promise demands a capability; ask", guarded.cid());
        assert!(error.to_string().starts_with(&words), "{error}");
        assert_ne!(open.cid(), guarded.cid());
    }

    #[test]
    fn evaluations_are_shared_among_callers_of_one_right() {
        let (key, other) = (Hash::of(b"a"), Hash::of(b"b"));
        assert_eq!(Authority::Owner.flight(key), key);
        assert_ne!(Authority::Nobody.flight(key), key);
        assert_ne!(Authority::Nobody.flight(key), Authority::Nobody.flight(other));
        let (one, two) = (Authority::Peer(PeerId::random(), None), Authority::Peer(PeerId::random(), None));
        assert_ne!(one.flight(key), two.flight(key));
        assert_ne!(one.flight(key), one.flight(other));
    }
}
