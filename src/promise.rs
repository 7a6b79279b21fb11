//! Promise documents: the terms under which a node runs or serves calls, stored as dag-cbor.
//!
//! Two are built in and accepted from the start: `local` and `pub`. Others are made by a node, signed with its key, and count
//! where they are accepted (`accepted.rs`).

use std::fmt;

use gridfs_modules::Limits;
use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Cid, Codec};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::identity::{Identity, NodeId, Purpose};

/// What a promise's signature is for.
const PURPOSE: Purpose = Purpose("gridfs promise 1");
/// Largest document.
pub const MAX_BYTES: u64 = 1 << 20;
/// Longest text of either side, in bytes.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Where a result may come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This node alone.
    Local,
    /// This node first, then peers.
    Fetch,
    /// This node and peers at once.
    Race,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Local => "local",
            Source::Fetch => "fetch",
            Source::Race => "race",
        })
    }
}

/// Whose claims about results are believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// This node's own.
    #[serde(rename = "self")]
    Own,
}

/// A promise document, version 1. Fields stand in deterministic CBOR order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    pub(crate) v: u64,
    /// What is asked in return.
    pub asks: String,
    /// What is promised.
    pub text: String,
    /// Whether results are offered to others.
    pub share: bool,
    /// Whose claims are believed.
    pub trust: Trust,
    /// Who promises. Absent from the built-in promises, which every node makes for itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub issuer: Option<NodeId>,
    /// What one call may use at most.
    pub limits: PromiseLimits,
    /// Where results may come from.
    pub source: Source,
    /// The modules covered; absent: every module.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub modules: Option<Vec<Cid>>,
    /// When it ends, in milliseconds since 1970; absent: never.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_after: Option<u64>,
    /// The issuer's, over the document without this field.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) signature: Option<Bytes>,
    /// Whether calls need authority: the owner's, or a token's. Absent: everybody who may ask may call.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub capability: bool,
    /// When it begins, in milliseconds since 1970; absent: it has begun.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_before: Option<u64>,
}

/// [`Limits`] with its fields in deterministic CBOR order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromiseLimits {
    /// See [`Limits::fuel`].
    pub fuel: u64,
    /// See [`Limits::wall_ms`].
    pub wall_ms: u64,
    /// See [`Limits::memory_bytes`].
    pub memory_bytes: u64,
    /// See [`Limits::output_bytes`].
    pub output_bytes: u64,
}

impl From<PromiseLimits> for Limits {
    fn from(limits: PromiseLimits) -> Limits {
        let PromiseLimits { fuel, wall_ms, memory_bytes, output_bytes } = limits;
        Limits { fuel, wall_ms, memory_bytes, output_bytes }
    }
}

/// Ten minutes, about 2 * 10^12 instructions, 1 GiB of memory, 64 GiB of output.
const BUILTIN_LIMITS: PromiseLimits =
    PromiseLimits { fuel: 2_000_000_000_000, wall_ms: 600_000, memory_bytes: 1 << 30, output_bytes: 64 << 30 };

impl Promise {
    /// `local`: run here, ask no one, share nothing.
    pub fn local() -> Promise {
        Promise {
            v: 1,
            asks: "Nothing.".into(),
            text: "I run your call on this machine alone. I ask no other node, and I tell no other node.".into(),
            share: false,
            trust: Trust::Own,
            limits: BUILTIN_LIMITS,
            source: Source::Local,
            issuer: None,
            modules: None,
            not_after: None,
            signature: None,
            capability: false,
            not_before: None,
        }
    }

    /// `pub`: run here or fetch, and share.
    pub fn public() -> Promise {
        Promise {
            asks: "Let me offer the result to others, as others offer theirs to you.".into(),
            text: "I answer your call from this machine or from a node that has the answer, and I share the result."
                .into(),
            share: true,
            source: Source::Fetch,
            ..Promise::local()
        }
    }

    /// The document that `bytes` are, if it can be believed to be its issuer's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Promise> {
        let promise: Promise =
            cbor::from_slice(bytes).map_err(|e| Error::caused(Code::Usage, "this is not a promise document", e))?;
        promise.check()?;
        Ok(promise)
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Its CID.
    pub fn cid(&self) -> Cid {
        Cid::of(Codec::DagCbor, &self.to_bytes())
    }

    /// The same promise, made by this node.
    pub fn signed_by(self, identity: &Identity) -> Promise {
        let unsigned = Promise { issuer: Some(identity.id()), signature: None, ..self };
        let signature = identity.sign(PURPOSE, &unsigned.to_bytes());
        Promise { signature: Some(signature), ..unsigned }
    }

    /// Whether calls of `module` are covered.
    pub fn covers(&self, module: &Cid) -> bool {
        self.modules.as_ref().is_none_or(|modules| modules.contains(module))
    }

    /// Refuses a call outside the time for which the promise is made.
    pub fn check_time(&self, now_ms: u64) -> Result<()> {
        let refused = |why: &str, limit_ms| {
            let why = format!("the promise {} {why} {}", self.cid(), crate::time::text(limit_ms));
            Err(Error::new(Code::NotAccepted, why))
        };
        match (self.not_before, self.not_after) {
            (Some(from), _) if now_ms < from => refused("holds only from", from),
            (_, Some(to)) if now_ms >= to => refused("ended at", to),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        let bad = |why: &str| Err(Error::new(Code::Usage, format!("the promise document is wrong: {why}")));
        if self.v != 1 {
            return bad("this version of gridfs knows version 1 only");
        }
        if self.asks.len() > MAX_TEXT_BYTES || self.text.len() > MAX_TEXT_BYTES {
            return bad("a text is longer than 64 KiB");
        }
        if self.not_before.zip(self.not_after).is_some_and(|(from, to)| from >= to) {
            return bad("it ends before it begins");
        }
        match (&self.issuer, &self.signature) {
            (None, None) => Ok(()),
            (Some(issuer), Some(signature)) => {
                let unsigned = Promise { signature: None, ..self.clone() };
                match issuer.verifies(PURPOSE, &unsigned.to_bytes(), signature) {
                    true => Ok(()),
                    false => {
                        Err(Error::new(Code::Corrupt, format!("the promise is not signed by its issuer {issuer}")))
                    }
                }
            }
            _ => bad("an issuer and a signature belong together"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_promises_have_fixed_names() {
        for promise in [Promise::local(), Promise::public()] {
            assert_eq!(cbor::from_slice::<Promise>(&promise.to_bytes()).unwrap(), promise);
        }
        // A change here changes every permanent address and memo key: make a new version instead.
        assert_eq!(Promise::local().cid().to_string(), "bafyr4igce42yrwit4lo2he6ibmxwlwrezs3svjx4wgwqbqzsuyhaml5vc4");
        assert_eq!(Promise::public().cid().to_string(), "bafyr4iej3lqpratnibpua3ujouf3xq4zaewyfsfdqx57oabijaoj3zsxbm");
    }

    fn identity() -> (tempfile::TempDir, Identity) {
        let keys = tempfile::tempdir().unwrap();
        let identity = Identity::open(keys.path()).unwrap();
        (keys, identity)
    }

    fn full() -> Promise {
        let modules = Some(vec![Cid::of(Codec::Raw, b"a"), Cid::of(Codec::Raw, b"b")]);
        Promise { modules, capability: true, not_before: Some(1_000), not_after: Some(2_000), ..Promise::public() }
    }

    #[test]
    fn a_signed_promise_reads_back_and_stands_in_order() {
        let (_keys, identity) = identity();
        let promise = full().signed_by(&identity);
        let bytes = promise.to_bytes();
        assert_eq!(Promise::from_bytes(&bytes).unwrap(), promise);
        assert_eq!(promise.issuer, Some(identity.id()));
        let value: ciborium::Value = ciborium::from_reader(&*bytes).unwrap();
        let keys: Vec<String> =
            value.into_map().unwrap().into_iter().map(|(key, _)| key.into_text().unwrap()).collect();
        assert!(keys.is_sorted_by_key(|key| (key.len(), key.clone())), "{keys:?}");
    }

    #[test]
    fn no_byte_of_a_signed_promise_can_be_changed() {
        let (_keys, identity) = identity();
        let bytes = full().signed_by(&identity).to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Promise::from_bytes(&flipped).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(Promise::from_bytes(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn what_is_half_signed_or_nonsense_is_refused() {
        let (_keys, identity) = identity();
        let signed = full().signed_by(&identity);
        let other = Promise { issuer: Some(NodeId([9; 32])), ..signed.clone() };
        let wrong = [
            other,
            Promise { issuer: None, ..signed.clone() },
            Promise { signature: None, ..signed.clone() },
            Promise { v: 2, ..Promise::local() },
            Promise { text: "x".repeat(MAX_TEXT_BYTES + 1), ..Promise::local() },
            Promise { not_before: Some(5), not_after: Some(5), ..Promise::local() },
        ];
        for promise in wrong {
            assert!(Promise::from_bytes(&promise.to_bytes()).is_err(), "{promise:?}");
        }
    }

    #[test]
    fn a_promise_holds_from_its_first_millisecond_to_before_its_last() {
        let promise = full();
        assert!(promise.check_time(999).unwrap_err().to_string().contains("holds only from 1970-01-01T00:00:01Z"));
        promise.check_time(1_000).unwrap();
        promise.check_time(1_999).unwrap();
        assert_eq!(promise.check_time(2_000).unwrap_err().code, Code::NotAccepted);
        Promise::local().check_time(u64::MAX).unwrap();
    }
}
