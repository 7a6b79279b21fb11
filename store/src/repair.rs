//! The repair of a store, while others put and read: everything that is intact stays, what is lost is forgotten.
//!
//! 1. The whole store is checked.
//! 2. The index is corrected. What is lost is not in it any more, so whoever puts it again stores it again, and objects
//!    that lack a chunk are whole again once that chunk was put. Lost memos are ended, so that no older value returns.
//! 3. Damaged packs are rewritten as by a collection, past the damage, and set aside: nothing is deleted.
//! 4. The store is checked once more, less the data that was just read.
//!
//! Invariant: after a crash at any point, everything intact is still stored, and a repair may be begun again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::Batch;
use crate::check::{self, Roots};
use crate::error::Error;
use crate::finding::Checked;
use crate::hash::Hash;
use crate::index::Correction;
use crate::location::{self, Entry, Location};
use crate::pack::{Class, FILE_HEADER_BYTES};
use crate::record::{Kind, Member};
use crate::rewrite::{self, Damage, Place, Rewrite};
use crate::store::{Progress, Store};
use crate::walk::{Depth, Step, Walk};
use crate::writer::Durability;

/// Entries told to the index at a time.
const BATCH_ENTRIES: usize = 4096;

/// What a repair has to do.
#[derive(Clone, Debug, Default)]
pub struct Mending {
    pub objects: Vec<Correction>,
    pub memos: Vec<Correction>,
    /// Packs with members that the index does not know, and how far these are committed.
    pub unknown: BTreeMap<u32, u64>,
    pub unknown_memos: Vec<(Hash, Location)>,
    /// Packs that are not as they were written.
    pub damaged: BTreeSet<u32>,
}

impl Mending {
    fn is_empty(&self) -> bool {
        let index_is_right = self.objects.is_empty() && self.memos.is_empty() && self.unknown_memos.is_empty();
        index_is_right && self.unknown.is_empty() && self.damaged.is_empty()
    }
}

/// What a repair did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What was wrong before.
    pub found: Checked,
    /// What is wrong still: objects whose chunks are lost, until these are put again.
    pub left: Checked,
    /// Damaged packs as they were, under their new names.
    pub aside: Vec<PathBuf>,
}

impl Store {
    /// Checks every byte and repairs what can be repaired.
    pub fn repair(
        self: &Arc<Self>,
        roots: Roots<'_>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Repaired, Error> {
        let _alone = self.collecting().lock().map_err(|_| Error::CollectionFailed)?;
        let found = check::run(self, true, roots, progress)?;
        if found.mending.is_empty() {
            return Ok(Repaired { left: found.clone(), found, aside: Vec::new() });
        }
        let aside = self.mend(&found.mending)?;
        let left = check::run(self, false, roots, progress)?;
        Ok(Repaired { found, left, aside })
    }

    fn mend(self: &Arc<Self>, mending: &Mending) -> Result<Vec<PathBuf>, Error> {
        self.index().correct(&mending.objects, &[])?;
        self.end_memos(&mending.memos)?;
        mending.unknown.iter().try_for_each(|(pack, end)| self.learn(*pack, *end))?;
        self.learn_memos(&mending.unknown_memos)?;
        let damaged = mending.damaged.iter().filter_map(|id| Some((*id, self.packs().class_of(*id)?)));
        let damaged: Vec<(u32, Class)> = damaged.collect();
        damaged.iter().try_for_each(|(id, class)| self.salvage(*id, *class))?;
        // The index must not go back to before what is gone.
        self.index().flush()?;
        let aside = damaged.iter().map(|(id, class)| self.packs().set_aside(*id, *class)).collect::<Result<_, _>>()?;
        self.index().purge()?;
        Ok(aside)
    }

    /// Ends lost memos in the log and, by that, in the index.
    fn end_memos(self: &Arc<Self>, lost: &[Correction]) -> Result<(), Error> {
        if lost.is_empty() {
            return Ok(());
        }
        let _alone = self.memo_order().write().expect("nothing panics while it is held");
        let mut batch = Batch::for_copies(Arc::clone(self));
        let end = location::join_memo(b"", b"");
        for row in lost {
            if self.index().memo(&row.key)? == Some(row.from) {
                let member = Member { key: row.key, whole: false, range: 0..end.len() };
                batch.copy(Kind::Memos, Class::Meta, &member, &end)?;
            }
        }
        batch.commit(Durability::Durable)?;
        Ok(())
    }

    /// Tells the index of all intact chunks and manifests of a pack that it does not know.
    fn learn(&self, id: u32, end: u64) -> Result<(), Error> {
        let Some(pack) = self.packs().get(id)? else { return Ok(()) };
        let mut pending = Vec::new();
        for step in Walk::new(&pack, FILE_HEADER_BYTES, end, Depth::Full)?.past_unreadable() {
            let Step::Record(found) = step? else { continue };
            // A record that makes no sense was found by the check already.
            for entry in location::entries_of(id, &found).unwrap_or_default() {
                if entry.label.is_none() && self.index().get(&entry.key)?.is_none() {
                    pending.push(entry);
                }
            }
            if pending.len() >= BATCH_ENTRIES {
                self.index().advance(&std::mem::take(&mut pending))?;
            }
        }
        self.index().advance(&pending)
    }

    fn learn_memos(&self, unknown: &[(Hash, Location)]) -> Result<(), Error> {
        let _alone = self.memo_order().write().expect("nothing panics while it is held");
        for memos in unknown.chunks(BATCH_ENTRIES) {
            let mut entries = Vec::new();
            for (key, location) in memos {
                if self.index().memo(key)?.is_none() {
                    let slice = self.slice(key, location)?;
                    let label = location::split_memo(slice.bytes()).map_or(&b""[..], |(label, _)| label).to_vec();
                    entries.push(Entry { key: *key, location: *location, label: Some(label) });
                }
            }
            self.index().advance(&entries)?;
        }
        Ok(())
    }

    /// Copies everything intact that the index places in a damaged pack, or does not know yet, and retires the pack.
    fn salvage(self: &Arc<Self>, id: u32, class: Class) -> Result<(), Error> {
        rewrite::end_writing(self, id, class)?;
        let Some(pack) = self.packs().get(id)? else { return Ok(()) };
        let keeps = |place: &Place<'_>| Ok(self.index().get(place.key)?.is_none_or(|location| place.is(&location)));
        let mut rewrite = Rewrite::new(self, class, Damage::PassedOver, &keeps);
        rewrite.copy(&pack)?;
        rewrite.commit_retiring(&pack).map(drop)
    }
}
