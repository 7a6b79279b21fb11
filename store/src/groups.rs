//! Verifying a part of an object alone: chaining values of its aligned groups, merged up to its hash.
//!
//! BLAKE3 is a binary tree over the content. A [`Groups`] holds the tree's nodes at the level of groups of
//! [`GROUP_BYTES`]; from them follows the proof of a range: the nodes on the way down from the root, each as the pair of
//! its children, parents before children and left before right. A receiver checks each pair against the value that
//! the pair above it named, and each group against the last. (BLAKE3 specification, sections 2.1 and 2.4; the order is that of
//! Bao's combined encoding.) Nothing of it is stored: it is computed from the content when it is first asked for.

use std::ops::Range;
use std::sync::Arc;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::cid::Cid;
use crate::error::Error;
use crate::hash::Hash;
use crate::object::Object;
use crate::store::Store;

/// Length of a group; the last one of an object may be shorter.
pub const GROUP_BYTES: u64 = 256 << 10;
/// Bytes of a pair in a proof.
const PAIR_BYTES: usize = 64;

/// The chaining values of an object's groups.
pub struct Groups {
    size_bytes: u64,
    values: Vec<ChainingValue>,
}

impl Groups {
    /// Reads the object, which is verified meanwhile.
    fn of(object: &Object) -> Result<Groups, Error> {
        let (mut values, mut hasher, mut filled) = (Vec::new(), blake3::Hasher::new(), 0);
        object.stream(&mut |mut chunk| {
            while !chunk.is_empty() {
                if filled == GROUP_BYTES {
                    values.push(std::mem::take(&mut hasher).finalize_non_root());
                    hasher.set_input_offset(values.len() as u64 * GROUP_BYTES);
                    filled = 0;
                }
                let (now, later) = chunk.split_at(chunk.len().min((GROUP_BYTES - filled) as usize));
                hasher.update(now);
                filled += now.len() as u64;
                chunk = later;
            }
            Ok(())
        })?;
        // An object of one group is its own root, and has no proof.
        if !values.is_empty() {
            values.push(hasher.finalize_non_root());
        }
        Ok(Groups { size_bytes: object.size_bytes(), values })
    }

    /// Length of the object in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The groups that hold any of `range`, as a range of bytes inside the object.
    pub fn covering(size_bytes: u64, range: Range<u64>) -> Range<u64> {
        let start = range.start.min(size_bytes.saturating_sub(1)) / GROUP_BYTES * GROUP_BYTES;
        let end = range.end.min(size_bytes).div_ceil(GROUP_BYTES).saturating_mul(GROUP_BYTES);
        start..end.min(size_bytes).max(start)
    }

    /// What proves the groups that hold any of `range`.
    pub fn proof(&self, range: Range<u64>) -> Vec<u8> {
        let mut proof = Vec::new();
        self.prove(0, self.size_bytes, &Groups::covering(self.size_bytes, range), &mut proof);
        proof
    }

    fn prove(&self, start: u64, len: u64, range: &Range<u64>, proof: &mut Vec<u8>) {
        if len <= GROUP_BYTES || !meet(range, start, len) {
            return;
        }
        let left = left_subtree_len(len);
        proof.extend_from_slice(&self.value(start, left));
        proof.extend_from_slice(&self.value(start + left, len - left));
        self.prove(start, left, range, proof);
        self.prove(start + left, len - left, range, proof);
    }

    fn value(&self, start: u64, len: u64) -> ChainingValue {
        if len <= GROUP_BYTES {
            return self.values[(start / GROUP_BYTES) as usize];
        }
        let left = left_subtree_len(len);
        merge_subtrees_non_root(&self.value(start, left), &self.value(start + left, len - left), Mode::Hash)
    }
}

fn meet(range: &Range<u64>, start: u64, len: u64) -> bool {
    range.start < start + len && start < range.end
}

/// Checks `bytes`, which are to be the groups that hold any of `range`, of the object `hash` of `size_bytes` bytes. That it is
/// so long is shown only by its last group. Says what is wrong.
pub fn verify_groups(
    hash: &Hash,
    size_bytes: u64,
    range: Range<u64>,
    proof: &[u8],
    bytes: &[u8],
) -> Result<(), &'static str> {
    let range = Groups::covering(size_bytes, range);
    if bytes.len() as u64 != range.end - range.start {
        return Err("the bytes have another length than the range");
    }
    if size_bytes <= GROUP_BYTES {
        let honest = proof.is_empty() && Hash::of(bytes) == *hash;
        return honest.then_some(()).ok_or("the bytes are not the object's");
    }
    let mut check = Check { range, proof, bytes };
    check.node(0, size_bytes, &|left, right| merge_subtrees_root(left, right, Mode::Hash) == hash.0)?;
    check.proof.is_empty().then_some(()).ok_or("the proof is too long")
}

/// A proof being followed: what is left of it and of the bytes.
struct Check<'a> {
    range: Range<u64>,
    proof: &'a [u8],
    bytes: &'a [u8],
}

impl Check<'_> {
    /// Takes the pair of a node above groups, which `is_right` knows, and all below it.
    fn node(
        &mut self,
        start: u64,
        len: u64,
        is_right: &dyn Fn(&ChainingValue, &ChainingValue) -> bool,
    ) -> Result<(), &'static str> {
        let (pair, rest) = self.proof.split_first_chunk::<PAIR_BYTES>().ok_or("the proof is cut short")?;
        self.proof = rest;
        let left = pair[..32].try_into().expect("the first 32 of 64 bytes");
        let right = pair[32..].try_into().expect("the last 32 of 64 bytes");
        if !is_right(left, right) {
            return Err("the proof does not lead to the object's hash");
        }
        let left_len = left_subtree_len(len);
        self.child(start, left_len, left)?;
        self.child(start + left_len, len - left_len, right)
    }

    fn child(&mut self, start: u64, len: u64, value: &ChainingValue) -> Result<(), &'static str> {
        if !meet(&self.range, start, len) {
            return Ok(());
        }
        if len > GROUP_BYTES {
            return self.node(start, len, &|left, right| merge_subtrees_non_root(left, right, Mode::Hash) == *value);
        }
        let (group, rest) = self.bytes.split_at(len as usize);
        self.bytes = rest;
        let found = blake3::Hasher::new().set_input_offset(start).update(group).finalize_non_root();
        (found == *value).then_some(()).ok_or("a group does not hash to its value")
    }
}

impl Store {
    /// What proves parts of an object. Reads all of it when it is asked for first; some are kept in memory.
    pub fn groups(self: &Arc<Self>, cid: &Cid) -> Result<Arc<Groups>, Error> {
        if let Some(groups) = self.groups_cache().get(&cid.hash) {
            return Ok(groups);
        }
        let object = self.object(cid)?.ok_or(Error::NotFound { cid: *cid })?;
        let groups = Arc::new(Groups::of(&object)?);
        let weight = size_of::<Groups>() + groups.values.len() * size_of::<ChainingValue>();
        self.groups_cache().insert(cid.hash, Arc::clone(&groups), weight);
        Ok(groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::Codec;
    use crate::store::Options;
    use crate::writer::Durability;

    const G: u64 = GROUP_BYTES;

    #[test]
    fn any_part_is_proved_alone_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), Options::default()).unwrap());
        let mut bytes = vec![0; 5 * G as usize + 77];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        for size in [0, 1, G - 1, G, G + 1, 2 * G, 3 * G + 5, 5 * G + 77] {
            let content = &bytes[..size as usize];
            let mut batch = store.batch();
            let cid = batch.put_bytes(Codec::Raw, content).unwrap();
            batch.commit(Durability::Durable).unwrap();
            let groups = store.groups(&cid).unwrap();
            for (from, to) in [(0, 1), (0, size), (G, G + 1), (G - 1, 2 * G + 1), (size / 2, size), (size, size + 9)] {
                let covered = Groups::covering(size, from..to);
                let part = &content[covered.start as usize..covered.end as usize];
                let proof = groups.proof(from..to);
                let verify = |proof: &[u8], part: &[u8]| verify_groups(&cid.hash, size, from..to, proof, part);
                assert_eq!(verify(&proof, part), Ok(()), "{from}..{to} of {size}");
                for at in (0..part.len()).step_by(4099) {
                    let mut wrong = part.to_vec();
                    wrong[at] ^= 1;
                    assert!(verify(&proof, &wrong).is_err(), "byte {at} of {from}..{to} of {size}");
                }
                for at in 0..proof.len() {
                    let mut wrong = proof.clone();
                    wrong[at] ^= 1;
                    assert!(verify(&wrong, part).is_err(), "byte {at} of the proof of {from}..{to} of {size}");
                }
                assert!(verify(&[&proof[..], &[0; 64]].concat(), part).is_err(), "a longer proof");
                let other_size = verify_groups(&cid.hash, size + G, size..size + 1, &proof, part);
                assert!(other_size.is_err(), "another length than {size}");
            }
        }
    }

    #[test]
    fn a_proof_is_as_long_as_the_way_down() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), Options::default()).unwrap());
        let mut batch = store.batch();
        let cid = batch.put_bytes(Codec::Raw, &vec![7; 64 * G as usize]).unwrap();
        batch.commit(Durability::Durable).unwrap();
        let groups = store.groups(&cid).unwrap();
        assert_eq!(groups.proof(0..1).len(), 6 * 64);
        assert_eq!(groups.proof(0..64 * G).len(), 63 * 64);
    }
}
