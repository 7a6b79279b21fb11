//! Garbage collection: marks what the roots reach, and gives back the space of the rest, while puts and reads go on.
//!
//! 1. From the beginning on, what is stored anew is kept by its position, and what is found stored is noted (lease.rs).
//! 2. The caller marks its roots (mark.rs).
//! 3. At one moment, under the locks of all leases, everything that is neither marked nor noted becomes invisible
//!    ([`Gate`]). Whoever puts it again stores it anew.
//! 4. Meta packs with dead directories or manifests are rewritten without them, then data packs that are mostly dead: live
//!    members are copied to the end of the store, and the copies' commit retires the pack. Then its file is removed.
//!
//! Invariants: what is visible is complete, at any moment and after any crash, because everything composed of other
//! things is gone for good before anything it is composed of. A pack with damage is not touched. The last pack of each
//! class is never retired, so that pack ids are not used again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::batch::Batch;
use crate::error::Error;
use crate::hash::Hash;
use crate::index::Position;
use crate::lease::prefix;
use crate::location::Location;
use crate::mark::{Marker, Weight};
use crate::pack::{Class, FILE_HEADER_BYTES, Packs};
use crate::record::Kind;
use crate::rewrite::{self, Damage, Place, Rewrite};
use crate::store::Store;
use crate::walk::{Depth, Found, Step, Walk};
use crate::writer::Durability;

/// A data pack is rewritten when at least one part in so many is dead.
const DATA_PARTS: u64 = 10;
/// A meta pack is rewritten when at least one part in so many is dead, and whenever a dead object is in it.
const META_PARTS: u64 = 4;
/// Less than this is not worth a rewrite.
const WORTH_BYTES: u64 = 4096;

/// What a collection found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Files below the roots, each counted as often as it is met.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// Chunks and objects kept.
    pub live: u64,
    /// Chunks and objects that nothing needs.
    pub dead: u64,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Of these, what holds kept data.
    pub live_bytes: u64,
    /// Remembered values let go.
    pub forgotten: u64,
    /// Packs to be rewritten or removed; in a dry run, that would be.
    pub packs: u64,
    /// Bytes given back to the file system; in a dry run, an estimate of what would be.
    pub freed_bytes: u64,
    /// Packs that were left as they are because they are damaged.
    pub damaged_packs: u64,
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// So many chunks and objects have been reached.
    Marking(u64),
    /// So many packs of so many are done.
    Sweeping(u64, u64),
}

/// What is visible while dead data is being removed.
pub struct Gate {
    live: HashSet<u64>,
    /// Memos that are let go.
    forgotten: HashSet<Hash>,
    /// What lies after this was stored since, and is visible.
    before: Position,
    packs: Arc<Packs>,
}

impl Gate {
    /// Whether a chunk or object is hidden. `None` if that hangs on a pack that is gone: the index knows better by now.
    pub fn hides(&self, hash: &Hash, location: &Location) -> Option<bool> {
        if self.live.contains(&prefix(hash)) {
            Some(false)
        } else {
            Some(!self.is_after(location.pack, location.offset)?)
        }
    }

    /// The same of a memo.
    pub fn hides_memo(&self, key: &Hash, location: &Location) -> Option<bool> {
        if self.forgotten.contains(key) { Some(!self.is_after(location.pack, location.offset)?) } else { Some(false) }
    }

    /// Whether what lies there was stored since. `None` if the pack is gone.
    fn is_after(&self, pack: u32, offset: u64) -> Option<bool> {
        let frontier = match self.packs.class_of(pack)? {
            Class::Data => (self.before.data_id, self.before.data_end),
            Class::Meta => (self.before.meta_id, self.before.meta_end),
        };
        Some((pack, offset) >= frontier)
    }

    /// The same for the collection itself: no pack goes but by its own hand.
    fn is_new(&self, pack: u32, offset: u64) -> bool {
        self.is_after(pack, offset).unwrap_or(false)
    }
}

impl Store {
    /// Removes everything that `roots` does not mark, while others put and read. `dry_run` only looks.
    ///
    /// Memos are kept unless the marker is told to forget them. What is being put or read, or is kept by a
    /// [`Lease`](crate::Lease), is kept.
    pub fn collect<E: From<Error>>(
        self: &Arc<Self>,
        dry_run: bool,
        progress: &mut dyn FnMut(Phase),
        roots: impl FnOnce(&mut Marker<'_>) -> Result<(), E>,
    ) -> Result<Collected, E> {
        let _alone = self.collecting().lock().map_err(|_| Error::CollectionFailed)?;
        let before = self.leases().begin(|| self.index().indexed());
        let marked = {
            let mut told = |count| progress(Phase::Marking(count));
            let mut marker = Marker::new(self, &mut told);
            roots(&mut marker).and_then(|()| Ok(decide(marker, before, dry_run)?))
        };
        self.leases().end();
        let swept = marked.and_then(|mut collection| Ok(collection.run(dry_run, progress)?));
        self.set_gate(None);
        swept
    }
}

/// Keeps what the leases keep, at one moment, and closes the gate.
fn decide(mut marker: Marker<'_>, before: Position, dry_run: bool) -> Result<Collection, Error> {
    let store = Arc::clone(marker.store());
    // What there is to mark by now is marked before the locks are taken; what little is added meanwhile, under them.
    marker.complete(before)?;
    for cid in store.leases().take_whole() {
        marker.keep(&cid)?;
    }
    let mut forgotten = std::mem::take(&mut marker.forgotten);
    let weight = marker.weight();
    let packs = Arc::clone(store.packs());
    let gate = store.leases().decide(|held, reading| {
        for cid in held.iter().flat_map(|held| &held.whole).copied().chain(reading) {
            marker.keep(&cid)?;
        }
        let mut live = marker.into_live();
        for held in held {
            if held.overflow && !dry_run {
                return Err(Error::LargePutUnderWay);
            }
            live.extend(&held.found);
            forgotten.retain(|key| !held.found.contains(&prefix(key)));
        }
        let gate = Arc::new(Gate { live, forgotten, before, packs });
        if !dry_run {
            store.set_gate(Some(Arc::clone(&gate)));
        }
        Ok(gate)
    })?;
    Ok(Collection { store, gate, weight })
}

/// A collection that has decided what is dead.
struct Collection {
    store: Arc<Store>,
    gate: Arc<Gate>,
    weight: Weight,
}

/// How much of one pack is needed.
struct Usage {
    id: u32,
    class: Class,
    stored_bytes: u64,
    live_bytes: u64,
    live: u64,
    dead: u64,
}

impl Usage {
    fn is_worth_rewriting(&self) -> bool {
        let dead_bytes = self.stored_bytes - self.live_bytes;
        let parts = if self.class == Class::Data { DATA_PARTS } else { META_PARTS };
        let mostly = dead_bytes >= WORTH_BYTES && dead_bytes * parts >= self.stored_bytes;
        mostly || (self.class == Class::Meta && self.dead > 0)
    }
}

impl Collection {
    fn run(&mut self, dry_run: bool, progress: &mut dyn FnMut(Phase)) -> Result<Collected, Error> {
        let mut report = Collected { files: self.weight.files, file_bytes: self.weight.bytes, ..Collected::default() };
        report.forgotten = self.gate.forgotten.len() as u64;
        if !dry_run {
            self.forget()?;
        }
        let mut wanted = self.wanted(Class::Meta, &mut report)?;
        let meta_is_damaged = report.damaged_packs > 0;
        let mut data = self.wanted(Class::Data, &mut report)?;
        // What frees most for the least room comes first.
        data.sort_by_key(|usage| usage.live_bytes);
        // Dead objects in a damaged pack stay visible, so what they are composed of must stay too.
        if !meta_is_damaged {
            wanted.append(&mut data);
        }
        report.packs = wanted.len() as u64;
        report.freed_bytes = wanted.iter().map(|usage| usage.stored_bytes - usage.live_bytes).sum();
        if !dry_run {
            report.freed_bytes = self.sweep(&wanted, progress)?;
        }
        Ok(report)
    }

    /// The packs of a class that are worth rewriting.
    fn wanted(&self, class: Class, report: &mut Collected) -> Result<Vec<Usage>, Error> {
        let mut wanted = Vec::new();
        for id in self.store.packs().ids(class) {
            wanted.extend(self.usage(id, class, report)?.filter(Usage::is_worth_rewriting));
        }
        Ok(wanted)
    }

    /// Lets go of memos, but not of those written since the collection began.
    fn forget(&self) -> Result<(), Error> {
        let _alone = self.store.memo_order().write().expect("nothing panics while it is held");
        let mut batch = Batch::for_copies(Arc::clone(&self.store));
        for key in &self.gate.forgotten {
            let location = self.store.index().memo(key)?;
            if location.is_some_and(|location| !self.gate.is_new(location.pack, location.offset)) {
                batch.forget_memo(*key)?;
            }
        }
        batch.commit(Durability::Durable)?;
        Ok(())
    }

    /// Goes through a pack's tables. `None` for a pack that is damaged.
    fn usage(&self, id: u32, class: Class, report: &mut Collected) -> Result<Option<Usage>, Error> {
        let Some(pack) = self.store.packs().get(id)? else { return Ok(None) };
        let stored_bytes = pack.size_bytes()?;
        report.stored_bytes += stored_bytes;
        let mut usage = Usage { id, class, stored_bytes, live_bytes: FILE_HEADER_BYTES, live: 0, dead: 0 };
        for step in Walk::new(&pack, FILE_HEADER_BYTES, stored_bytes, Depth::Tables)? {
            match step? {
                Step::Record(found) => self.weigh(&found, &mut usage)?,
                // What is being appended just now looks torn.
                Step::Torn { from, .. } if self.gate.is_new(id, from) => usage.live_bytes += stored_bytes - from,
                Step::Damage { .. } | Step::Torn { .. } => {
                    report.damaged_packs += 1;
                    report.live_bytes += stored_bytes;
                    return Ok(None);
                }
            }
        }
        report.live += usage.live;
        report.dead += usage.dead;
        report.live_bytes += usage.live_bytes;
        Ok(Some(usage))
    }

    fn weigh(&self, found: &Found, usage: &mut Usage) -> Result<(), Error> {
        let (mut live, mut live_plain, mut plain) = (0, 0, 0);
        for member in &found.members {
            let needed = self.is_needed(found.kind, &member.key, usage.id, found.offset)?;
            live += u64::from(needed);
            live_plain += if needed { member.range.len() as u64 } else { 0 };
            plain += member.range.len() as u64;
        }
        let members = found.members.len() as u64;
        let whole = self.gate.is_new(usage.id, found.offset) || (members > 0 && live == members);
        usage.live_bytes += match whole {
            true => found.record_bytes.into(),
            false => u64::from(found.record_bytes) * live_plain / plain.max(1),
        };
        if found.kind != Kind::Memos {
            usage.live += live;
            usage.dead += members - live;
        }
        Ok(())
    }

    fn is_needed(&self, kind: Kind, key: &Hash, pack: u32, offset: u64) -> Result<bool, Error> {
        if self.gate.is_new(pack, offset) {
            return Ok(true);
        }
        match kind {
            Kind::Memos if self.gate.forgotten.contains(key) => Ok(false),
            Kind::Memos => Ok(self.store.index().memo(key)?.is_some_and(|at| (at.pack, at.offset) == (pack, offset))),
            _ => Ok(self.gate.live.contains(&prefix(key))),
        }
    }

    /// Rewrites the packs, meta packs first; returns how much smaller the store got.
    fn sweep(&self, wanted: &[Usage], progress: &mut dyn FnMut(Phase)) -> Result<u64, Error> {
        let (_, bytes_before) = self.store.packs().usage()?;
        for (done, usage) in wanted.iter().enumerate() {
            progress(Phase::Sweeping(done as u64, wanted.len() as u64));
            self.rewrite(usage)?;
        }
        progress(Phase::Sweeping(wanted.len() as u64, wanted.len() as u64));
        let (_, bytes_after) = self.store.packs().usage()?;
        Ok(bytes_before.saturating_sub(bytes_after))
    }

    fn rewrite(&self, usage: &Usage) -> Result<(), Error> {
        let store = &self.store;
        rewrite::end_writing(store, usage.id, usage.class)?;
        let Some(pack) = store.packs().get(usage.id)? else { return Ok(()) };
        let keeps = |place: &Place<'_>| self.keeps(place);
        let mut rewrite = Rewrite::new(store, usage.class, Damage::Refused, &keeps);
        rewrite.copy(&pack)?;
        let dropped = rewrite.commit_retiring(&pack)?;
        store.index().remove(&dropped.objects, &dropped.memos, pack.id)?;
        // The index must not go back to before a pack that is gone.
        store.index().flush()?;
        store.packs().remove_retired([pack.id])?;
        store.index().unretire(&dropped.retired)
    }

    /// A chunk that the index finds elsewhere needs no copy.
    fn keeps(&self, place: &Place<'_>) -> Result<bool, Error> {
        match self.store.index().get(place.key)? {
            Some(location) => {
                Ok(place.is(&location) && self.is_needed(place.kind, place.key, place.pack, place.offset)?)
            }
            None => Ok(self.gate.is_new(place.pack, place.offset)),
        }
    }
}
