//! What a collection must keep although nothing names it yet: objects being put, found again, or read.
//!
//! A batch protects what it appends by position (a collection looks only at what was there before the oldest open
//! lease began) and what it found stored already by name. Every check "is it stored?" of a batch notes the answer
//! under the lease's lock; a collection takes all these locks at the moment it decides. So either the batch's finds
//! are kept, or the batch finds them gone and stores them anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cid::Cid;
use crate::hash::Hash;
use crate::index::Position;

/// Finds that one lease remembers. A batch that found more keeps everything as long as it is open.
const MAX_FOUND: usize = 1 << 20;

/// First bytes of a hash: where a collision only keeps more than it must.
pub fn prefix(hash: &Hash) -> u64 {
    u64::from_le_bytes(hash.0[..8].try_into().expect("a hash has 32 bytes"))
}

/// What one lease keeps.
#[derive(Default)]
pub struct Held {
    /// Chunks and objects by themselves.
    pub found: HashSet<u64>,
    /// Objects with all that belongs to them.
    pub whole: Vec<Cid>,
    /// More was found than is remembered.
    pub overflow: bool,
}

impl Held {
    /// Notes a chunk or object that was found stored.
    pub fn find(&mut self, hash: &Hash) {
        match self.found.len() < MAX_FOUND {
            true => drop(self.found.insert(prefix(hash))),
            false => self.overflow = true,
        }
    }

    /// Keeps an object with all that belongs to it.
    pub fn keep(&mut self, cid: Cid) {
        match self.whole.len() < MAX_FOUND {
            true => self.whole.push(cid),
            false => self.overflow = true,
        }
    }

    fn absorb(&mut self, other: &mut Held) {
        self.found.extend(other.found.drain());
        self.whole.append(&mut other.whole);
        self.overflow |= other.overflow;
    }
}

/// The leases and open objects of a store.
#[derive(Default)]
pub struct Leases(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    next: u64,
    open: BTreeMap<u64, (Position, Arc<Mutex<Held>>)>,
    /// What leases kept that ended since a collection began; there is one only while it marks.
    ended: Option<Held>,
    /// Objects being read, with the number of readers.
    objects: HashMap<Cid, usize>,
}

/// Keeps what is noted in it, and what is stored after it began, until it is dropped.
pub struct Lease {
    leases: Arc<Leases>,
    id: u64,
    held: Arc<Mutex<Held>>,
}

impl Lease {
    /// Keeps an object that is stored, with all that belongs to it.
    pub fn keep(&self, cid: &Cid) {
        self.held().keep(*cid);
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no code that can panic runs under this lock")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut registry = self.leases.lock();
        registry.open.remove(&self.id);
        if let Some(ended) = &mut registry.ended {
            ended.absorb(&mut self.held());
        }
    }
}

/// Keeps one object while it is read.
pub struct Reading {
    leases: Arc<Leases>,
    cid: Cid,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut registry = self.leases.lock();
        if let Some(readers) = registry.objects.get_mut(&self.cid) {
            *readers -= 1;
            if *readers == 0 {
                registry.objects.remove(&self.cid);
            }
        }
    }
}

impl Leases {
    /// Opens a lease for what is stored from `start` on.
    pub fn lease(self: &Arc<Self>, start: impl FnOnce() -> Position) -> Lease {
        let mut registry = self.lock();
        let id = registry.next;
        registry.next += 1;
        let held = Arc::new(Mutex::new(Held::default()));
        registry.open.insert(id, (start(), Arc::clone(&held)));
        Lease { leases: Arc::clone(self), id, held }
    }

    /// Keeps `cid` until the reading ends. Whether it is stored is to be asked afterwards.
    pub fn reading(self: &Arc<Self>, cid: Cid) -> Reading {
        *self.lock().objects.entry(cid).or_default() += 1;
        Reading { leases: Arc::clone(self), cid }
    }

    /// Begins a collection: from where on everything is to be kept.
    pub fn begin(&self, now: impl FnOnce() -> Position) -> Position {
        let mut registry = self.lock();
        registry.ended = Some(Held::default());
        let now = now();
        registry.open.values().map(|(start, _)| *start).min_by_key(|start| start.sequence).unwrap_or(now)
    }

    /// Ends the collection's marking.
    pub fn end(&self) {
        self.lock().ended = None;
    }

    /// Takes the whole objects noted since the last time, and those being read.
    pub fn take_whole(&self) -> Vec<Cid> {
        let mut registry = self.lock();
        let mut whole: Vec<Cid> = registry.objects.keys().copied().collect();
        for (_, held) in registry.open.values() {
            whole.append(&mut held.lock().expect("no code that can panic runs under this lock").whole.clone());
        }
        whole.extend(registry.ended.iter_mut().flat_map(|ended| ended.whole.drain(..)));
        whole
    }

    /// Calls `decide` with everything that is kept, while nothing can be added to it.
    pub fn decide<T>(&self, decide: impl FnOnce(&[&Held], &mut dyn Iterator<Item = Cid>) -> T) -> T {
        let mut registry = self.lock();
        let registry = &mut *registry;
        let open: Vec<_> = registry
            .open
            .values()
            .map(|(_, held)| held.lock().expect("no code that can panic runs under this lock"))
            .collect();
        let all: Vec<&Held> = open.iter().map(|held| &**held).chain(&registry.ended).collect();
        let decided = decide(&all, &mut registry.objects.keys().copied());
        drop(open);
        registry.ended = None;
        decided
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().expect("no code that can panic runs under this lock")
    }
}
