//! What is remembered of a call: the memo, found by its key, and the receipt it points to.
//!
//! A receipt is a claim, signed by the node that ran the module: these parms gave this result. It says all that the result
//! came from, so that it can be explained, computed again, and compared.

use std::sync::Arc;

use gridfs_modules::{Class, Limits};
use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Cid, Hash, Store, Target};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::identity::{Identity, NodeId, Purpose};
use crate::module::Reply;
use crate::parms::{ABI_PROFILE, Parms};
use crate::promise::PromiseLimits;

/// Version of receipts.
pub const VERSION: u64 = 2;
/// What a receipt's signature is for.
const PURPOSE: Purpose = Purpose("gridfs receipt 2");
/// Largest receipt read back.
const MAX_BYTES: u64 = 64 << 20;

/// How one result came to be, and who says so. Stored as a dag-cbor map; keys in deterministic order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version, [`VERSION`].
    pub v: u64,
    /// The ABI that the evaluation followed.
    pub abi: String,
    /// The nested calls, in the order they were made: their parms and their results.
    pub deps: Vec<(Parms, Cid)>,
    /// Fuel burnt.
    pub fuel: u64,
    /// The weakest class of the module and of all results below.
    pub class: Class,
    /// Names that nested calls resolved, with what they stood for: the result holds while they do.
    pub names: Vec<(String, Cid)>,
    /// The call.
    pub parms: Parms,
    /// What the module opened below `/grid`, as it spelled it, with what stood there. While all of it is the same, and the
    /// module itself is pure, the result is the same.
    pub reads: Vec<(String, Cid)>,
    /// The engine that ran it, with its version.
    pub engine: String,
    /// The node that ran it and signs.
    pub issuer: NodeId,
    /// What it could use.
    pub limits: PromiseLimits,
    /// The result.
    pub result: Cid,
    /// What the module wrote to standard error, if it did.
    pub stderr: Option<Cid>,
    /// When it was computed, or last found to hold, in milliseconds since 1970.
    pub time_ms: u64,
    /// Wall-clock time taken, in milliseconds.
    pub wall_ms: u64,
    /// Until when a volatile result holds, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until_ms: Option<u64>,
    /// The issuer's, over the document with this field empty.
    pub signature: Bytes,
}

impl Receipt {
    /// The same, signed by this node.
    pub fn signed_by(self, identity: &Identity) -> Receipt {
        let unsigned = Receipt { issuer: identity.id(), signature: Bytes(Vec::new()), ..self };
        let signature = identity.sign(PURPOSE, &cbor::to_vec(&unsigned));
        Receipt { signature, ..unsigned }
    }

    /// Whether its issuer signed it.
    pub fn is_signed(&self) -> bool {
        let unsigned = Receipt { signature: Bytes(Vec::new()), ..self.clone() };
        self.issuer.verifies(PURPOSE, &cbor::to_vec(&unsigned), &self.signature)
    }

    /// The key of the evaluation that it tells of.
    pub fn key(&self) -> Hash {
        self.parms.memo_key(&Limits::from(self.limits))
    }

    /// Reads a stored receipt. `None` if this version of gridfs does not know its layout.
    pub fn read(store: &Arc<Store>, cid: &Cid) -> Result<Option<Receipt>> {
        /// What all versions have.
        #[derive(Deserialize)]
        struct Versioned {
            v: u64,
        }
        let bytes = store.read(cid, MAX_BYTES)?;
        let wrong = |e| Error::caused(Code::Corrupt, format!("the receipt {cid} can't be read"), e);
        match cbor::from_slice::<Receipt>(&bytes) {
            Ok(receipt) if receipt.v == VERSION && receipt.abi == ABI_PROFILE => Ok(Some(receipt)),
            Ok(_) => Ok(None),
            Err(e) => match ciborium::from_reader::<Versioned, _>(bytes.as_slice()) {
                Ok(versioned) if versioned.v != VERSION => Ok(None),
                _ => Err(wrong(e)),
            },
        }
    }
}

/// What the store keeps under a memo key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memo {
    /// Version, 1.
    pub v: u64,
    /// Size of a blob result in bytes; absent for a tree.
    pub size: Option<u64>,
    /// Whether the receipt lists names: then it must be asked whether they still hold.
    pub named: bool,
    /// The result.
    pub result: Cid,
    /// The receipt.
    pub receipt: Cid,
    /// When it was computed, as the receipt says; absent: look there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub time_ms: Option<u64>,
    /// Until when it holds, in milliseconds since 1970; absent: for ever.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until_ms: Option<u64>,
}

impl Memo {
    /// What is remembered of a reply with this receipt, which lists names or does not.
    pub fn of(reply: &Reply, receipt: Cid, named: bool) -> Memo {
        let (size, result) = match &reply.result {
            Target::File { cid, size_bytes, .. } => (Some(*size_bytes), *cid),
            Target::Directory { cid } => (None, *cid),
            Target::Symlink { .. } => unreachable!("a call results in a file or a directory"),
        };
        Memo { v: 1, size, named, result, receipt, time_ms: reply.time_ms, until_ms: reply.until_ms }
    }

    /// The reply that it remembers.
    pub fn reply(&self) -> Reply {
        let immutable = !self.named && self.until_ms.is_none();
        let (until_ms, time_ms) = (self.until_ms, self.time_ms);
        Reply { result: self.target(), receipt: Some(self.receipt), immutable, until_ms, time_ms }
    }

    /// The result as a file or directory.
    pub fn target(&self) -> Target {
        match self.size {
            Some(size_bytes) => Target::File { cid: self.result, size_bytes, executable: false },
            None => Target::Directory { cid: self.result },
        }
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }
}

/// The CID of a file or directory; a symbolic link has none.
pub fn cid_of(target: &Target) -> Option<Cid> {
    match target {
        Target::File { cid, .. } | Target::Directory { cid } => Some(*cid),
        Target::Symlink { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::Codec;

    use super::*;

    fn identity() -> Identity {
        Identity::open(tempfile::tempdir().unwrap().path()).unwrap()
    }

    fn receipt() -> Receipt {
        let cid = Cid::of(Codec::Raw, b"x");
        let parms = Parms { promise: cid, module: cid, arguments: Vec::new() };
        Receipt {
            v: VERSION,
            abi: ABI_PROFILE.into(),
            deps: vec![(parms.clone(), cid)],
            fuel: 7,
            class: Class::Pure,
            names: vec![("wc".into(), cid)],
            parms,
            reads: vec![("local/wc/x".into(), cid)],
            engine: "wasmtime 1".into(),
            issuer: NodeId([0; 32]),
            limits: PromiseLimits { fuel: 1, wall_ms: 2, memory_bytes: 3, output_bytes: 4 },
            result: cid,
            stderr: None,
            time_ms: 8,
            wall_ms: 9,
            until_ms: Some(10),
            signature: Bytes(Vec::new()),
        }
    }

    /// Keys of an encoded map in the order they stand.
    fn keys(bytes: &[u8]) -> Vec<String> {
        let value: ciborium::Value = ciborium::from_reader(bytes).unwrap();
        value.into_map().unwrap().into_iter().map(|(key, _)| key.into_text().unwrap()).collect()
    }

    fn is_deterministic(keys: &[String]) -> bool {
        keys.is_sorted_by_key(|key| (key.len(), key.clone()))
    }

    #[test]
    fn memos_and_receipts_read_back_and_stand_in_order() {
        let receipt = receipt().signed_by(&identity());
        let bytes = cbor::to_vec(&receipt);
        assert_eq!(cbor::from_slice::<Receipt>(&bytes).unwrap(), receipt);
        assert!(is_deterministic(&keys(&bytes)), "{:?}", keys(&bytes));
        let cid = receipt.result;
        for (size, time_ms, until_ms) in [(Some(5), None, None), (Some(5), Some(4), None), (None, Some(4), Some(6))] {
            let memo = Memo { v: 1, size, named: true, result: cid, receipt: cid, time_ms, until_ms };
            assert_eq!(cbor::from_slice::<Memo>(&memo.to_bytes()).unwrap(), memo);
            assert!(is_deterministic(&keys(&memo.to_bytes())));
            assert_eq!(Memo::of(&memo.reply(), cid, true), memo);
        }
    }

    #[test]
    fn golden_receipt() {
        let bytes = cbor::to_vec(&receipt());
        assert_eq!(Hash::of(&bytes).to_string(), "16466b5018fcf67aaa75c1d0dd292253df0b3d9677b3ded815b8cfde18e664d6");
        let signed = receipt().signed_by(&Identity::of_seed([7; 32]));
        assert_eq!(
            Hash::of(&signed.signature.0).to_string(),
            "4cd2c5c41d02d6c5245503881b29df8152afc9e4d75ba72b22fccce0db4cbc57"
        );
        assert_eq!(receipt().key(), receipt().parms.memo_key(&receipt().limits.into()));
    }

    #[test]
    fn no_bit_of_a_signed_receipt_can_be_changed() {
        let identity = identity();
        let receipt = receipt().signed_by(&identity);
        assert!(receipt.is_signed() && receipt.issuer == identity.id());
        let bytes = cbor::to_vec(&receipt);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!cbor::from_slice::<Receipt>(&flipped).is_ok_and(|other| other.is_signed()), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(cbor::from_slice::<Receipt>(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn receipts_of_other_versions_are_told_from_damaged_ones() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path(), gridfs_store::Options::default()).unwrap());
        let stored = |bytes: &[u8]| {
            let mut batch = store.batch();
            let cid = batch.put_bytes(Codec::DagCbor, bytes).unwrap();
            batch.commit(gridfs_store::Durability::Lazy).unwrap();
            Receipt::read(&store, &cid)
        };
        assert_eq!(stored(&cbor::to_vec(&receipt())).unwrap(), Some(receipt()));
        assert_eq!(stored(&cbor::to_vec(&Receipt { v: 3, ..receipt() })).unwrap(), None);
        assert_eq!(stored(&cbor::to_vec(&Receipt { abi: "grid-9".into(), ..receipt() })).unwrap(), None);
        assert_eq!(stored(&[0xa1, 0x61, b'v', 1]).unwrap(), None, "the version before had other fields");
        for damaged in [&[0xa1, 0x61, b'v', 2][..], b"?"] {
            assert_eq!(stored(damaged).unwrap_err().code, Code::Corrupt);
        }
    }
}
