//! The marking of a collection: which objects are reached from the roots.
//!
//! A tree reaches its entries, an object of several chunks its manifest's nodes and chunks. What is not stored here is
//! passed over; what can't be read is an error, for nobody knows what it holds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::cid::{Cid, Codec};
use crate::error::Error;
use crate::hash::Hash;
use crate::index::Position;
use crate::ingest::MAX_DEPTH;
use crate::lease::prefix;
use crate::manifest::Node;
use crate::pack::{Class, FILE_HEADER_BYTES};
use crate::record::Kind;
use crate::store::{MAX_TREE_BYTES, Store};
use crate::tree::{Target, Tree};
use crate::walk::{Depth, Found, Step, Walk};

/// Marks what is to be kept.
pub struct Marker<'a> {
    store: &'a Arc<Store>,
    live: HashSet<u64>,
    /// Trees gone through. Not in `live`: the same bytes may be kept as a plain file too.
    trees: HashSet<u64>,
    pub(crate) forgotten: HashSet<Hash>,
    weights: HashMap<u64, Weight>,
    weight: Weight,
    progress: &'a mut dyn FnMut(u64),
}

/// What lies below a directory, each file counted as often as it is met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub files: u64,
    pub bytes: u64,
}

impl Weight {
    fn add(&mut self, other: Weight) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl<'a> Marker<'a> {
    pub(crate) fn new(store: &'a Arc<Store>, progress: &'a mut dyn FnMut(u64)) -> Marker<'a> {
        Marker {
            store,
            live: HashSet::new(),
            trees: HashSet::new(),
            forgotten: HashSet::new(),
            weights: HashMap::new(),
            weight: Weight::default(),
            progress,
        }
    }

    /// The store that is collected.
    pub fn store(&self) -> &Arc<Store> {
        self.store
    }

    /// Keeps an object with all that belongs to it. One that is not stored here is passed over.
    pub fn keep(&mut self, cid: &Cid) -> Result<(), Error> {
        let mut waiting = vec![*cid];
        while let Some(cid) = waiting.pop() {
            if self.object(&cid.hash)? && cid.codec == Codec::DagCbor && self.trees.insert(prefix(&cid.hash)) {
                self.entries(&cid, &mut waiting)?;
            }
        }
        Ok(())
    }

    /// Keeps an object, but not what it links to.
    pub fn keep_alone(&mut self, cid: &Cid) -> Result<(), Error> {
        self.object(&cid.hash).map(drop)
    }

    /// Whether an object is stored and kept so far.
    pub fn keeps(&self, cid: &Cid) -> Result<bool, Error> {
        Ok(self.live.contains(&prefix(&cid.hash)) && self.store.contains(cid)?)
    }

    /// Lets go of a remembered value. A dry run only counts it.
    pub fn forget(&mut self, key: Hash) {
        self.forgotten.insert(key);
    }

    fn entries(&mut self, cid: &Cid, waiting: &mut Vec<Cid>) -> Result<(), Error> {
        // Every other record is a leaf to the store: what it links to is for its owner to keep.
        let Ok(tree) = Tree::decode(&self.store.read_unannounced(cid, MAX_TREE_BYTES)?) else { return Ok(()) };
        for entry in tree.entries() {
            match &entry.target {
                Target::File { cid, .. } | Target::Directory { cid } => waiting.push(*cid),
                Target::Symlink { .. } => {}
            }
        }
        Ok(())
    }

    /// Counts the files that `target` stands for as a user sees them: each as often as it is met.
    pub fn count(&mut self, target: &Target) -> Result<(), Error> {
        let weight = self.weigh(target, 0)?;
        self.weight.add(weight);
        Ok(())
    }

    pub(crate) fn into_live(self) -> HashSet<u64> {
        self.live
    }

    pub(crate) fn weight(&self) -> Weight {
        self.weight
    }

    fn weigh(&mut self, target: &Target, depth: usize) -> Result<Weight, Error> {
        let cid = match target {
            Target::File { size_bytes, .. } => return Ok(Weight { files: 1, bytes: *size_bytes }),
            Target::Directory { cid } if depth < MAX_DEPTH && self.store.contains(cid)? => *cid,
            Target::Directory { .. } | Target::Symlink { .. } => return Ok(Weight::default()),
        };
        if let Some(known) = self.weights.get(&prefix(&cid.hash)) {
            return Ok(*known);
        }
        // A pinned record that is no directory.
        let Ok(tree) = self.store.tree(&cid) else { return Ok(Weight::default()) };
        let mut weight = Weight::default();
        for entry in tree.entries() {
            weight.add(self.weigh(&entry.target, depth + 1)?);
        }
        self.weights.insert(prefix(&cid.hash), weight);
        Ok(weight)
    }

    /// Marks a chunk, or an object with its manifest; false if it is not stored.
    fn object(&mut self, hash: &Hash) -> Result<bool, Error> {
        let Some(location) = self.store.locate(hash)? else { return Ok(false) };
        let new = self.live.insert(prefix(hash));
        if new && self.live.len().is_multiple_of(4096) {
            (self.progress)(self.live.len() as u64);
        }
        if new && location.manifest {
            self.manifest(hash)?;
        }
        Ok(true)
    }

    /// Keeps what composed objects after `from` are made of: they are kept by their place, and somebody else's lease, when
    /// their own has ended, no longer keeps what was found stored when they were put.
    pub(crate) fn complete(&mut self, from: Position) -> Result<(), Error> {
        let store = Arc::clone(self.store);
        let to = store.index().indexed();
        for id in store.packs().ids(Class::Meta).into_iter().filter(|id| (from.meta_id..=to.meta_id).contains(id)) {
            let Some(pack) = store.packs().get(id)? else { continue };
            let start = if id == from.meta_id { from.meta_end } else { FILE_HEADER_BYTES };
            let end = if id == to.meta_id { to.meta_end } else { u64::MAX };
            for step in Walk::new(&pack, start, end, Depth::Full)? {
                if let Step::Record(found) = step? {
                    self.compositions(&found)?;
                }
            }
        }
        Ok(())
    }

    fn compositions(&mut self, found: &Found) -> Result<(), Error> {
        for member in &found.members {
            match found.kind {
                Kind::Manifests => drop(self.object(&member.key)?),
                Kind::Chunks if member.whole => self.keep(&Cid { codec: Codec::DagCbor, hash: member.key })?,
                _ => {}
            }
        }
        Ok(())
    }

    fn manifest(&mut self, object: &Hash) -> Result<(), Error> {
        let mut waiting = vec![*object];
        while let Some(hash) = waiting.pop() {
            let Some(location) = self.store.locate(&hash)? else { continue };
            let slice = self.store.slice(&hash, &location)?;
            let bad = |what| Error::Manifest { object: *object, what };
            let node = Node::parse(slice.bytes()).map_err(bad)?;
            for child in node.hashes() {
                self.live.insert(prefix(&child));
                if node.level > 0 {
                    waiting.push(child);
                }
            }
        }
        Ok(())
    }
}
