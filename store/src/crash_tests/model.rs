//! What a store is to hold: the reference that it is compared with.
//!
//! Commits are visible in order, each as a whole or not at all. So every commit of a workload carries a memo with
//! its number; what is found under it says how many commits hold, and then every other memo is settled exactly and
//! every object of those commits must be there. An object of a later or a failed commit may be there or not (its
//! chunk may have been covered by somebody else's commit), but if it is, it must be right and complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cid::{Cid, Codec};
use crate::hash::Hash;
use crate::store::Store;
use crate::tree::{Target, Tree};

const MAX_BYTES: u64 = 64 << 20;

/// One commit.
#[derive(Clone, Default)]
pub struct Commit {
    pub objects: Vec<Cid>,
    pub memos: Vec<(Hash, Vec<u8>)>,
}

/// The reference.
#[derive(Clone, Default)]
pub struct Model {
    /// All that was ever put, committed or not.
    pub contents: BTreeMap<Cid, Arc<[u8]>>,
    /// In order, from number 1 on. Those that were not acknowledged are last.
    commits: Vec<Commit>,
    /// So many of them are acknowledged as durable, or covered by one that is.
    durable: usize,
}

/// The label of the memo that carries a commit's number.
const NUMBER: &[u8] = b"number";

impl Model {
    pub fn put(&mut self, codec: Codec, bytes: &[u8]) -> Cid {
        let cid = Cid::of(codec, bytes);
        self.contents.entry(cid).or_insert_with(|| bytes.into());
        cid
    }

    /// The key, label and value that tell of the next commit.
    pub fn next_number(&self) -> (Hash, &'static [u8], Vec<u8>) {
        (Hash::of(NUMBER), NUMBER, (self.commits.len() as u64 + 1).to_le_bytes().to_vec())
    }

    /// A commit is about to be made: from now on it may hold.
    pub fn attempt(&mut self, commit: Commit) {
        self.commits.push(commit);
    }

    /// The commit attempted last failed, and the store lives on: it must not be there.
    pub fn take_back(&mut self) {
        self.commits.pop();
        assert!(self.durable <= self.commits.len(), "what is durable can't be taken back");
    }

    /// The objects of every third commit may go. Returns those that must stay.
    pub fn let_go(&mut self, from: u64) -> BTreeSet<Cid> {
        for (number, commit) in self.commits.iter_mut().enumerate() {
            if (number as u64 + from).is_multiple_of(3) {
                commit.objects.clear();
            }
        }
        self.commits.iter().flat_map(|commit| &commit.objects).copied().collect()
    }

    /// Everything so far was acknowledged as durable.
    pub fn all_durable(&mut self) {
        self.durable = self.commits.len();
    }

    /// How many commits `store` holds; the others never were.
    pub fn settle(&mut self, store: &Arc<Store>) {
        let value = store.memo(&Hash::of(NUMBER)).expect("the number of commits is readable");
        let held = value.map_or(0, |value| u64::from_le_bytes(value.try_into().expect("eight bytes"))) as usize;
        assert!(held >= self.durable, "commits up to {} were durable, only {held} are there", self.durable);
        assert!(held <= self.commits.len(), "{held} commits are there, only {} were made", self.commits.len());
        self.commits.truncate(held);
    }

    /// Compares `store` with what it is to hold, after [`Model::settle`].
    pub fn check(&self, store: &Arc<Store>) {
        let held: BTreeSet<&Cid> = self.commits.iter().flat_map(|commit| &commit.objects).collect();
        for (cid, bytes) in &self.contents {
            let there = store.contains(cid).expect("contains answers");
            assert!(there || !held.contains(cid), "{cid} was committed and is gone");
            if there {
                check_object(store, cid, bytes);
            }
        }
        let memos: BTreeMap<Hash, &[u8]> = self.memos();
        for key in self.commits.iter().flat_map(|commit| &commit.memos).map(|(key, _)| key) {
            let found = store.memo(key).expect("a memo is readable");
            assert!(found.as_deref() == memos.get(key).copied(), "memo {key} has another value");
        }
        let listed = store.memos(b"").expect("memos are listed").collect::<Result<Vec<_>, _>>();
        let listed: BTreeSet<Hash> = listed.expect("each is readable").into_iter().map(|(_, key)| key).collect();
        let number = (!self.commits.is_empty()).then(|| Hash::of(NUMBER));
        assert_eq!(listed, memos.keys().copied().chain(number).collect(), "the memos there are");
    }

    /// The latest values.
    fn memos(&self) -> BTreeMap<Hash, &[u8]> {
        let all = self.commits.iter().flat_map(|commit| &commit.memos);
        all.map(|(key, value)| (*key, value.as_slice())).collect()
    }
}

fn check_object(store: &Arc<Store>, cid: &Cid, bytes: &[u8]) {
    let found = store.read(cid, MAX_BYTES).unwrap_or_else(|error| panic!("{cid} is there, but: {error:?}"));
    assert!(found == bytes, "{cid} reads wrong");
    if cid.codec == Codec::DagCbor {
        check_children(store, cid, bytes);
    }
}

fn check_children(store: &Arc<Store>, cid: &Cid, bytes: &[u8]) {
    for entry in Tree::decode(bytes).expect("only trees are put as such").entries() {
        let (Target::File { cid: child, .. } | Target::Directory { cid: child }) = &entry.target else { continue };
        assert!(store.contains(child).expect("contains answers"), "{cid} is there, its entry {child} is not");
    }
}
