//! What results came from and what came from them: the remembered receipts, read as a graph.
//!
//! Nothing is kept for it: a question about all results reads all receipts, as often as the longest chain is long.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use gridfs_store::{Cid, Durability, Hash, Store, Target, cbor};

use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::receipt::{Memo, Receipt, cid_of};

/// A remembered call.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Its memo key.
    pub key: Hash,
    /// What is remembered.
    pub memo: Memo,
    /// How it came to be.
    pub receipt: Receipt,
}

/// Which results an object went into, and which it came from.
#[derive(Default)]
pub struct Affected {
    /// Calls that the object went into, or a result that it went into. One call is remembered more than once if it was made
    /// with other limits, or by callers of different right.
    pub calls: HashMap<Hash, Remembered>,
    /// Calls whose result it is, or is in.
    pub origins: HashMap<Hash, Remembered>,
}

/// Told now and then while a question is answered; may end it.
pub type Heard<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

impl Kernel {
    /// The calls that an object went into, however indirectly.
    pub fn affected(&self, object: &Cid, heard: Heard<'_>) -> Result<Affected> {
        let mut affected = Affected::default();
        let mut itself = Sought::new(&self.store, *object);
        // With the results that it went into, which others may have been given.
        let mut derived = Sought::new(&self.store, *object);
        let mut calls = HashSet::new();
        self.each_remembered(heard, &mut |call| {
            if itself.is_in(&call.memo.result)? {
                affected.origins.insert(call.key, call);
            }
            Ok(())
        })?;
        loop {
            let before = affected.calls.len();
            self.each_remembered(heard, &mut |call| {
                let Receipt { parms, deps, reads, .. } = &call.receipt;
                if affected.calls.contains_key(&call.key) {
                    return Ok(());
                }
                let mut went_into = derived.any_in(parms.inputs())?;
                // What was called is known, so an equal result of another call is none of it.
                for (below, result) in deps {
                    went_into |= calls.contains(below) || itself.is_in(result)? || derived.any_in(below.inputs())?;
                }
                if went_into || itself.any_in(reads.iter().map(|(_, found)| *found))? {
                    derived.add(&call.memo.target())?;
                    calls.insert(parms.clone());
                    affected.calls.insert(call.key, call);
                }
                Ok(())
            })?;
            if affected.calls.len() == before {
                return Ok(affected);
            }
        }
    }

    /// Forgets the results that an object went into, and those that gave it, durably: they are computed again when they are
    /// asked for. Returns their paths.
    pub fn revoke(&self, object: &Cid, heard: Heard<'_>) -> Result<BTreeSet<String>> {
        let Affected { mut calls, origins } = self.affected(object, heard)?;
        calls.extend(origins);
        let mut batch = self.store.batch();
        for key in calls.keys() {
            batch.forget_memo(*key)?;
        }
        batch.commit(Durability::Durable)?;
        self.forget_replies();
        Ok(self.paths_of(calls.values()))
    }

    /// The canonical paths of remembered calls, each once.
    pub fn paths_of<'a>(&self, calls: impl Iterator<Item = &'a Remembered>) -> BTreeSet<String> {
        calls.map(|call| self.path_of(call)).collect()
    }

    /// The remembered call of this key, if it can be explained.
    pub fn remembered(&self, key: &Hash) -> Result<Option<Remembered>> {
        let Some(memo) = crate::cache::memo(&self.store, key)? else { return Ok(None) };
        if !self.store.contains(&memo.receipt)? {
            return Ok(None);
        }
        let receipt = Receipt::read(&self.store, &memo.receipt)?;
        Ok(receipt.map(|receipt| Remembered { key: *key, memo, receipt }))
    }

    /// For each object that is the result of a remembered call, the key of one.
    pub fn origins(&self, heard: Heard<'_>) -> Result<HashMap<Cid, Hash>> {
        let mut origins = HashMap::new();
        for memo in self.store.memos(b"")? {
            let (_, key) = memo?;
            listen(heard)?;
            if let Some(memo) = self.store.memo(&key)?.and_then(|value| cbor::from_slice::<Memo>(&value).ok()) {
                origins.entry(memo.result).or_insert(key);
            }
        }
        Ok(origins)
    }

    /// The canonical path of a remembered call.
    pub fn path_of(&self, call: &Remembered) -> String {
        let parms = &call.receipt.parms;
        // Of a module that is gone, all arguments stand in one component.
        let required = self.modules.get(&parms.module).map_or(0, |module| module.required());
        parms.path(required)
    }

    pub(crate) fn each_remembered(
        &self,
        heard: Heard<'_>,
        each: &mut dyn FnMut(Remembered) -> Result<()>,
    ) -> Result<()> {
        for memo in self.store.memos(b"")? {
            let (_, key) = memo?;
            listen(heard)?;
            let Some(value) = self.store.memo(&key)? else { continue };
            // Marks and aliases are memos of the store too.
            if cbor::from_slice::<Memo>(&value).is_err() {
                continue;
            }
            if let Some(call) = self.remembered(&key)? {
                each(call)?;
            }
        }
        Ok(())
    }
}

fn listen(heard: Heard<'_>) -> Result<()> {
    match heard() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(Code::Interrupted, "the command went away")),
    }
}

/// An object and all that came from it, and the directories known to hold any of it or none.
struct Sought<'a> {
    store: &'a Arc<Store>,
    objects: HashSet<Cid>,
    holding: HashSet<Cid>,
    /// Of which `objects` has grown since.
    without: HashMap<Cid, usize>,
}

impl<'a> Sought<'a> {
    fn new(store: &'a Arc<Store>, object: Cid) -> Sought<'a> {
        Sought { store, objects: HashSet::from([object]), holding: HashSet::new(), without: HashMap::new() }
    }

    fn any_in(&mut self, cids: impl Iterator<Item = Cid>) -> Result<bool> {
        for cid in cids {
            if self.is_in(&cid)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether an object is sought, or is a directory in which something sought is.
    fn is_in(&mut self, cid: &Cid) -> Result<bool> {
        if self.objects.contains(cid) || self.holding.contains(cid) {
            return Ok(true);
        }
        if self.without.get(cid) == Some(&self.objects.len()) || !crate::describe::is_tree(self.store, cid) {
            return Ok(false);
        }
        for entry in self.store.tree(cid)?.entries() {
            if let Some(inner) = cid_of(&entry.target)
                && self.is_in(&inner)?
            {
                self.holding.insert(*cid);
                return Ok(true);
            }
        }
        self.without.insert(*cid, self.objects.len());
        Ok(false)
    }

    /// Seeks a result too, and if it is a directory what is in it.
    fn add(&mut self, target: &Target) -> Result<()> {
        let Some(cid) = cid_of(target) else { return Ok(()) };
        if self.objects.insert(cid)
            && let Target::Directory { .. } = target
        {
            for entry in self.store.tree(&cid)?.entries() {
                self.add(&entry.target)?;
            }
        }
        Ok(())
    }
}
