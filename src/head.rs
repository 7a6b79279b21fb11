//! The head of a table of names that a node publishes: which table it is, signed with the node's key.
//!
//! Heads of one node have numbers that only grow. So who knows one is not talked into an older one, and two different heads
//! with one number show that the node told different things to different peers.

use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Cid, Codec, Hash, Tree};
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, NodeId, Purpose};
use crate::names::check_name;
use crate::receipt::cid_of;

/// Version of heads.
const VERSION: u64 = 1;
/// What a head's signature is for.
const PURPOSE: Purpose = Purpose("gridfs head 1");
/// Most names that one node publishes.
pub const MAX_NAMES: usize = 4096;

/// Why bytes are no head, or no table that goes with it.
pub type Flaw = &'static str;

/// One state of what a node publishes. A dag-cbor map; keys in deterministic order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Version, 1.
    v: u64,
    /// The node that publishes, and signs.
    pub node: NodeId,
    /// The table: a tree of names that stand for files and directories.
    pub table: Cid,
    /// Greater than those of all heads before.
    pub number: u64,
    /// When it was signed, in milliseconds since 1970.
    pub time_ms: u64,
    /// The node's, over the document with this field empty.
    signature: Bytes,
}

impl Head {
    /// The head of a table, signed after the head before it. The number is the time, unless the clock was set back: so it grows even if
    /// what was remembered of the head before is lost.
    pub fn sign(identity: &Identity, table: Cid, before: Option<&Head>, time_ms: u64) -> Head {
        let number = before.map_or(0, |before| before.number.saturating_add(1)).max(time_ms);
        let unsigned = Head { v: VERSION, node: identity.id(), table, number, time_ms, signature: Bytes(Vec::new()) };
        let signature = identity.sign(PURPOSE, &cbor::to_vec(&unsigned));
        Head { signature, ..unsigned }
    }

    /// The head that these bytes are, if `node` signed it.
    pub fn read(bytes: &[u8], node: &NodeId) -> Result<Head, Flaw> {
        let head: Head = cbor::from_slice(bytes).map_err(|_| "a head that can't be read")?;
        if head.v != VERSION {
            return Err("a head of another version; an upgrade may read it");
        }
        if head.node != *node {
            return Err("the head of another node");
        }
        if head.table.codec != Codec::DagCbor {
            return Err("a head whose table is a file");
        }
        let unsigned = Head { signature: Bytes(Vec::new()), ..head.clone() };
        match node.verifies(PURPOSE, &cbor::to_vec(&unsigned), &head.signature) {
            true => Ok(head),
            false => Err("a head that its node did not sign"),
        }
    }

    /// The table of this head that these bytes are.
    pub fn read_table(&self, bytes: &[u8]) -> Result<Tree, Flaw> {
        if Hash::of(bytes) != self.table.hash {
            return Err("a table that is not the one of its head");
        }
        let tree = Tree::decode(bytes).map_err(|_| "a table that is no directory")?;
        if tree.entries().len() > MAX_NAMES {
            return Err("a table of more than 4,096 names");
        }
        for entry in tree.entries() {
            if cid_of(&entry.target).is_none() {
                return Err("a table with a link in it");
            }
            if !std::str::from_utf8(&entry.name).is_ok_and(|name| check_name(name).is_ok()) {
                return Err("a table with a name that can be none");
            }
        }
        Ok(tree)
    }

    /// As it travels and is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }
}

#[cfg(test)]
mod tests {
    use gridfs_p2p::wire::{MAX_HEAD_BYTES, MAX_TABLE_BYTES};
    use gridfs_store::{Target, TreeEntry};

    use super::*;

    fn table(entries: Vec<(&str, Target)>) -> Tree {
        let entry = |(name, target): (&str, Target)| TreeEntry { name: name.into(), target };
        Tree::new(entries.into_iter().map(entry).collect()).unwrap()
    }

    fn file() -> Target {
        Target::File { cid: Cid::of(Codec::Raw, b"x"), size_bytes: u64::MAX, executable: true }
    }

    fn signed(tree: &Tree) -> Head {
        Head::sign(&Identity::of_seed([7; 32]), Cid::of(Codec::DagCbor, &tree.encode()), None, 9)
    }

    #[test]
    fn golden_head() {
        let bytes = signed(&table(vec![("a", file())])).to_bytes();
        assert!(bytes.len() as u64 <= MAX_HEAD_BYTES);
        assert_eq!(Hash::of(&bytes).to_string(), "f21d2b0f7db56279f917bfe88be8013cdb546a812d9a4f479c4175d7f668089b");
        let value: ciborium::Value = ciborium::from_reader(bytes.as_slice()).unwrap();
        let keys: Vec<String> =
            value.into_map().unwrap().into_iter().map(|(key, _)| key.into_text().unwrap()).collect();
        assert_eq!(keys, ["v", "node", "table", "number", "time_ms", "signature"]);
    }

    #[test]
    fn no_bit_of_a_head_can_be_changed() {
        let head = signed(&table(vec![]));
        let (bytes, node) = (head.to_bytes(), head.node);
        assert_eq!(Head::read(&bytes, &node), Ok(head));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::read(&flipped, &node).is_err(), "bit {bit}");
        }
        (0..bytes.len()).for_each(|end| assert!(Head::read(&bytes[..end], &node).is_err()));
        assert_eq!(Head::read(&bytes, &NodeId([7; 32])), Err("the head of another node"));
    }

    #[test]
    fn numbers_grow_whatever_the_clock_and_the_memory_do() {
        let (identity, table) = (Identity::of_seed([7; 32]), Cid::of(Codec::DagCbor, b"table"));
        let sign = |before: Option<&Head>, time_ms| Head::sign(&identity, table, before, time_ms);
        let first = sign(None, 1_000);
        let set_back = sign(Some(&first), 5);
        let forgotten = sign(None, 2_000);
        assert_eq!([first.number, set_back.number, forgotten.number], [1_000, 1_001, 2_000]);
        assert_eq!(set_back.time_ms, 5);
    }

    #[test]
    fn a_table_holds_names_of_files_and_directories_and_not_too_many() {
        let refused = |tree: &Tree| signed(tree).read_table(&tree.encode()).err();
        let directory = Target::Directory { cid: Cid::of(Codec::DagCbor, b"d") };
        assert_eq!(refused(&table(vec![("a", file()), ("b c", directory)])), None);
        let link = Target::Symlink { target: b"/etc/passwd".to_vec() };
        assert_eq!(refused(&table(vec![("a", link)])), Some("a table with a link in it"));
        for name in [".grid", "-l", &Cid::of(Codec::Raw, b"").to_string()] {
            assert_eq!(refused(&table(vec![(name, file())])), Some("a table with a name that can be none"), "{name}");
        }
        let names: Vec<String> = (0..=MAX_NAMES).map(|number| format!("{number:0>255}")).collect();
        let of = |count: usize| table(names[..count].iter().map(|name| (name.as_str(), file())).collect());
        assert_eq!(refused(&of(MAX_NAMES)), None);
        assert!(of(MAX_NAMES).encode().len() as u64 <= MAX_TABLE_BYTES, "what may be published can be sent");
        assert_eq!(refused(&of(MAX_NAMES + 1)), Some("a table of more than 4,096 names"));
        let head = signed(&table(vec![]));
        assert_eq!(head.read_table(&of(1).encode()), Err("a table that is not the one of its head"));
        let other = Head::sign(&Identity::of_seed([7; 32]), Cid::of(Codec::DagCbor, b"?"), None, 9);
        assert_eq!(other.read_table(b"?"), Err("a table that is no directory"));
    }
}
