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
