//! By what right a caller calls.
//!
//! A promise may demand a capability: then only the node's owner calls under it, and who holds a token (`capability.rs`). Nested
//! calls are made by the right of the outermost caller.

use std::collections::BTreeSet;
use std::sync::Arc;

use gridfs_modules::Limits;
use gridfs_store::{Cid, Hash};

use crate::capability::{Grant, Presented, Token};
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::parms::Parms;
use crate::promise::Promise;
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
}

impl Authority {
    /// Refuses a call for which there is no authority.
    pub fn check(&self, promise: &Promise, parms: &Parms) -> Result<()> {
        match self {
            Authority::Owner => Ok(()),
            Authority::Nobody => self.check_promise(promise, &parms.promise),
            Authority::Grant(grant) => grant.check(parms, promise.issuer, time::now_ms()).map_err(|refusal| {
                Error::from(refusal).during(format!("no authority for /{}/{}", parms.promise, parms.module))
            }),
        }
    }

    /// Refuses who may make no call under a promise, whatever it is. A token is looked at call by call.
    pub fn check_promise(&self, promise: &Promise, cid: &Cid) -> Result<()> {
        if !promise.capability || *self != Authority::Nobody {
            return Ok(());
        }
        let why = format!(
            "no authority for /{cid}: the promise demands a capability; ask the node's owner for a token \
             (`gridfs cap grant`) and call with `grid --cap TOKEN`"
        );
        Err(Error::new(Code::NotAccepted, why))
    }

    /// The limits of a call, lowered by the token's.
    pub fn lower(&self, limits: Limits) -> Limits {
        match self {
            Authority::Grant(grant) => limits.lowered_by(Some(grant.limits())),
            Authority::Owner | Authority::Nobody => limits,
        }
    }

    /// The right that a token gives at this node to who holds `holder`.
    pub fn of_token(kernel: &Kernel, token: &Token, holder: NodeId) -> Result<Authority> {
        let node = kernel.identity.id();
        let presented = Presented { now_ms: time::now_ms(), node, holder, roots: &kernel.roots(node) };
        Ok(Authority::Grant(Arc::new(token.verify(&presented)?)))
    }

    /// The evaluation that callers of this right share: one that was refused a nested call must not fail those who may make it.
    pub fn flight(&self, key: Hash) -> Hash {
        match self {
            Authority::Owner => key,
            Authority::Grant(grant) => Hash::of(&[key.0, grant.id().0].concat()),
            Authority::Nobody => Hash::of(&key.0),
        }
    }
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
    }
}
