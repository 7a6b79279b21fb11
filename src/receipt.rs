//! What is remembered of a call: the memo, found by its key, and the receipt it points to.

use gridfs_store::Target;
use gridfs_store::{Cid, cbor};
use serde::{Deserialize, Serialize};

use crate::parms::Parms;

/// How one result came to be. Stored as a dag-cbor map; keys in deterministic order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version, 1.
    pub v: u64,
    /// The nested calls, in the order they were made: their parms and their results.
    pub deps: Vec<(Parms, Cid)>,
    /// Fuel burnt.
    pub fuel: u64,
    /// Names that nested calls resolved, with what they stood for: the result holds while they do.
    pub names: Vec<(String, Cid)>,
    /// The call.
    pub parms: Parms,
    /// The result.
    pub result: Cid,
    /// What the module wrote to standard error, if it did.
    pub stderr: Option<Cid>,
    /// When it was computed, in milliseconds since 1970.
    pub time_ms: u64,
    /// Wall-clock time taken, in milliseconds.
    pub wall_ms: u64,
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
}

impl Memo {
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
        let cid = Cid::of(Codec::Raw, b"x");
        let parms = Parms { promise: cid, module: cid, arguments: Vec::new() };
        let receipt = Receipt {
            v: 1,
            deps: vec![(parms.clone(), cid)],
            fuel: 7,
            names: vec![("wc".into(), cid)],
            parms,
            result: cid,
            stderr: None,
            time_ms: 8,
            wall_ms: 9,
        };
        let bytes = cbor::to_vec(&receipt);
        assert_eq!(cbor::from_slice::<Receipt>(&bytes).unwrap(), receipt);
        assert!(is_deterministic(&keys(&bytes)), "{:?}", keys(&bytes));
        for size in [Some(5), None] {
            let memo = Memo { v: 1, size, named: true, result: cid, receipt: cid };
            assert_eq!(cbor::from_slice::<Memo>(&memo.to_bytes()).unwrap(), memo);
            assert!(is_deterministic(&keys(&memo.to_bytes())));
        }
    }
}
