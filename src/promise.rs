//! Promise documents: the terms under which a node runs or serves calls, stored as dag-cbor.
//!
//! Built in, and accepted from the start, are `local` and `pub`, and `accept`, under which modules are asked whether they would
//! handle a call; `reject` leads their answer if they would not. Others are made by a node, signed with its key, and count
//! where they are accepted (`accepted.rs`).

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

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
/// Most keys that a promise trusts.
const MAX_KEYS: usize = 1024;

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
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Trust {
    /// This node's own; as `"self"`.
    Own(OwnOnly),
    /// This node's own, and what enough of these nodes agree on.
    Listed(Listed),
}

/// The text `"self"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum OwnOnly {
    /// It.
    #[serde(rename = "self")]
    Own,
}

/// Nodes whose claims are believed. Fields stand in deterministic CBOR order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Their public keys, each once and in order.
    pub keys: Vec<NodeId>,
    /// How many of them must claim the same, at least 1.
    pub agree: u64,
    /// How many of a million believed claims this node checks by running the module itself.
    pub audit_ppm: u64,
}

impl Trust {
    /// This node's own claims alone.
    pub const OWN: Trust = Trust::Own(OwnOnly::Own);

    /// Whether a result is believed that these nodes claim, seen from the node `own`.
    pub fn believes(&self, own: &NodeId, claimants: &BTreeSet<NodeId>) -> bool {
        let enough = |listed: &Listed| {
            let agreeing = listed.keys.iter().filter(|key| claimants.contains(key)).count();
            agreeing as u64 >= listed.agree
        };
        claimants.contains(own) || matches!(self, Trust::Listed(listed) if enough(listed))
    }

    /// The nodes that are trusted besides this one.
    pub fn keys(&self) -> &[NodeId] {
        match self {
            Trust::Own(_) => &[],
            Trust::Listed(listed) => &listed.keys,
        }
    }

    /// How many of them must claim the same.
    pub fn agree(&self) -> usize {
        match self {
            Trust::Own(_) => 1,
            Trust::Listed(listed) => usize::try_from(listed.agree).unwrap_or(usize::MAX),
        }
    }

    /// Whether a node's claims count.
    pub fn lists(&self, node: &NodeId) -> bool {
        self.keys().binary_search(node).is_ok()
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        let Trust::Listed(Listed { keys, agree, audit_ppm }) = self else { return Ok(()) };
        match () {
            () if keys.len() > MAX_KEYS => Err("it lists more than 1024 trusted keys"),
            () if !keys.is_sorted_by(|a, b| a < b) => Err("its trusted keys are not in order, each once"),
            () if *agree == 0 || *agree > keys.len() as u64 => {
                Err("it asks for none, or for more keys than it lists, to agree")
            }
            () if *audit_ppm > 1_000_000 => Err("it audits more than every claim"),
            () => Ok(()),
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Own(OwnOnly::Own) => f.write_str("self"),
            Trust::Listed(Listed { keys, agree, audit_ppm }) => {
                let (whole, part) = (audit_ppm / 10_000, audit_ppm % 10_000);
                write!(f, "self, or {agree} of {} listed keys; {whole}.{part:04} % audited", keys.len())
            }
        }
    }
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
    /// How long a volatile result holds, in milliseconds; absent: a minute.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl_ms: Option<u64>,
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

impl From<Limits> for PromiseLimits {
    fn from(limits: Limits) -> PromiseLimits {
        let Limits { fuel, wall_ms, memory_bytes, output_bytes } = limits;
        PromiseLimits { fuel, wall_ms, memory_bytes, output_bytes }
    }
}

impl From<PromiseLimits> for Limits {
    fn from(limits: PromiseLimits) -> Limits {
        let PromiseLimits { fuel, wall_ms, memory_bytes, output_bytes } = limits;
        Limits { fuel, wall_ms, memory_bytes, output_bytes }
    }
}

/// Ten seconds, about 3 * 10^10 instructions, 256 MiB of memory, 64 KiB of terms: what a module may use to say if it accepts.
const ASKING_LIMITS: PromiseLimits =
    PromiseLimits { fuel: 30_000_000_000, wall_ms: 10_000, memory_bytes: 256 << 20, output_bytes: 64 << 10 };

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
            trust: Trust::OWN,
            limits: BUILTIN_LIMITS,
            source: Source::Local,
            ttl_ms: None,
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

    /// `accept`: under it a module says whether it will handle a call (`acceptance.rs`); it leads the answer if it will.
    pub fn accept() -> Promise {
        Promise { text: "I will handle this call, on these terms.".into(), limits: ASKING_LIMITS, ..Promise::local() }
    }

    /// `reject`: it leads the answer of a module that will not handle a call. Nothing is called under it.
    pub fn reject() -> Promise {
        Promise { text: "I will not handle this call, for this reason.".into(), ..Promise::accept() }
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

    /// Whether results are offered to all peers. Where a capability is demanded, they are told to who has one.
    pub fn offers(&self) -> bool {
        self.share && !self.capability
    }

    /// Whether calls of `module` are covered.
    pub fn covers(&self, module: &Cid) -> bool {
        self.modules.as_ref().is_none_or(|modules| modules.contains(module))
    }

    /// When it holds, in milliseconds since 1970.
    pub fn span_ms(&self) -> Range<u64> {
        self.not_before.unwrap_or(0)..self.not_after.unwrap_or(u64::MAX)
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
        if let Err(why) = self.trust.check() {
            return bad(why);
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
        for promise in [Promise::local(), Promise::public(), Promise::accept(), Promise::reject()] {
            assert_eq!(cbor::from_slice::<Promise>(&promise.to_bytes()).unwrap(), promise);
        }
        // A change here changes every permanent address and memo key: make a new version instead.
        assert_eq!(Promise::local().cid().to_string(), "bafyr4igce42yrwit4lo2he6ibmxwlwrezs3svjx4wgwqbqzsuyhaml5vc4");
        assert_eq!(Promise::public().cid().to_string(), "bafyr4iej3lqpratnibpua3ujouf3xq4zaewyfsfdqx57oabijaoj3zsxbm");
        assert_eq!(Promise::accept().cid().to_string(), "bafyr4ifkdgadwlkkx54y5wkbby7auoyj6aj2ob6wzzcsnwp6jsoilisbmy");
        assert_eq!(Promise::reject().cid().to_string(), "bafyr4iefkauwqjtxf5eor24qvzxd5gmlaqks5nef5pextqpelrcg5cabcu");
    }

    fn identity() -> (tempfile::TempDir, Identity) {
        let keys = tempfile::tempdir().unwrap();
        let identity = Identity::open(keys.path()).unwrap();
        (keys, identity)
    }

    fn full() -> Promise {
        let modules = Some(vec![Cid::of(Codec::Raw, b"a"), Cid::of(Codec::Raw, b"b")]);
        let trust = Trust::Listed(Listed { keys: vec![NodeId([1; 32]), NodeId([2; 32])], agree: 2, audit_ppm: 50_000 });
        let ttl_ms = Some(5_000);
        let (not_before, not_after) = (Some(1_000), Some(2_000));
        Promise { modules, trust, ttl_ms, capability: true, not_before, not_after, ..Promise::public() }
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
    fn golden_promise() {
        let signed = full().signed_by(&Identity::of_seed([7; 32]));
        assert_eq!(signed.cid().to_string(), "bafyr4iawtasffv3hn3x32wjwxgroktf3myxtp3m2t6bk2jeioxuipmia5i");
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
            trusting(vec![1, 2], 0, 0),
            trusting(vec![1, 2], 3, 0),
            trusting(vec![2, 1], 1, 0),
            trusting(vec![1, 1], 1, 0),
            trusting(vec![1], 1, 1_000_001),
        ];
        for promise in wrong {
            assert!(Promise::from_bytes(&promise.to_bytes()).is_err(), "{promise:?}");
        }
    }

    fn trusting(keys: Vec<u8>, agree: u64, audit_ppm: u64) -> Promise {
        let keys = keys.into_iter().map(|key| NodeId([key; 32])).collect();
        Promise { trust: Trust::Listed(Listed { keys, agree, audit_ppm }), ..Promise::local() }
    }

    #[test]
    fn trust_is_in_oneself_or_in_enough_of_the_listed() {
        let own = NodeId([0; 32]);
        let believes = |promise: &Promise, claimants: &[u8]| {
            promise.trust.believes(&own, &claimants.iter().map(|key| NodeId([*key; 32])).collect())
        };
        for (promise, expected) in [
            (Promise::local(), [false, true, false, false, true]),
            (trusting(vec![1, 2, 3], 2, 0), [false, true, false, true, true]),
            (trusting(vec![1, 2, 3], 1, 0), [false, true, true, true, true]),
        ] {
            let claimants: [&[u8]; 5] = [&[], &[0], &[1, 9], &[1, 3], &[0, 9]];
            assert_eq!(claimants.map(|claimants| believes(&promise, claimants)), expected, "{}", promise.trust);
            Promise::from_bytes(&promise.to_bytes()).unwrap();
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
