//! One pack on its way out: what is still needed of it is copied to the end of the store, and its end is committed.
//!
//! Invariants: the commit that retires the pack is the commit of the copies, so after any crash either the pack or the
//! copies hold. The pack must not be the last of its class ([`end_writing`]): pack ids are not used again.

use std::sync::Arc;

use crate::batch::Batch;
use crate::error::Error;
use crate::hash::Hash;
use crate::location::{self, Location};
use crate::pack::{Class, FILE_HEADER_BYTES, PackFile};
use crate::record::{FULL_BYTES, Kind, Member};
use crate::retire;
use crate::store::Store;
use crate::walk::{Depth, Found, Step, Walk};
use crate::writer::{Contribution, Durability};

/// What to do about a flaw in the pack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The rewrite fails.
    Refused,
    /// What lies there is not copied.
    PassedOver,
}

/// Where a chunk or manifest was met.
pub struct Place<'a> {
    pub kind: Kind,
    pub key: &'a Hash,
    pub pack: u32,
    pub offset: u64,
    pub member: usize,
}

impl Place<'_> {
    pub fn is(&self, location: &Location) -> bool {
        is_at(location, self.pack, self.offset, self.member)
    }
}

/// Lets nothing more be appended to a pack, and the index know all of it. What it would be told only with the commit of the
/// copies would look as if it lay elsewhere or nowhere, and then point to a pack that is no more.
pub fn end_writing(store: &Store, id: u32, class: Class) -> Result<(), Error> {
    if store.packs().ids(class).last() == Some(&id) {
        store.writer().roll(class)?;
    }
    store.writer().commit(Contribution::default(), Durability::Lazy)
}

/// What was not copied.
#[derive(Default)]
pub struct Dropped {
    pub objects: Vec<Hash>,
    pub memos: Vec<Hash>,
    /// The pack itself, and packs that a record in it had retired.
    pub retired: Vec<u32>,
}

/// The pack's copies.
pub struct Rewrite<'a> {
    store: &'a Arc<Store>,
    class: Class,
    damage: Damage,
    /// Whether a chunk or manifest is copied.
    keeps: &'a dyn Fn(&Place<'_>) -> Result<bool, Error>,
    batch: Batch,
    /// Memos met, with offset and number.
    memos: Vec<(u64, usize, Member, Vec<u8>)>,
    dropped: Dropped,
}

impl<'a> Rewrite<'a> {
    pub fn new(
        store: &'a Arc<Store>,
        class: Class,
        damage: Damage,
        keeps: &'a dyn Fn(&Place<'_>) -> Result<bool, Error>,
    ) -> Rewrite<'a> {
        let batch = Batch::for_copies(Arc::clone(store));
        Rewrite { store, class, damage, keeps, batch, memos: Vec::new(), dropped: Dropped::default() }
    }

    /// Copies chunks and manifests, and notes the memos.
    pub fn copy(&mut self, pack: &PackFile) -> Result<(), Error> {
        let walk = Walk::new(pack, FILE_HEADER_BYTES, u64::MAX, Depth::Full)?;
        let walk = if self.damage == Damage::PassedOver { walk.past_unreadable() } else { walk };
        for step in walk {
            match step? {
                Step::Record(found) => self.record(pack, &found)?,
                Step::Damage { from, what, .. } | Step::Torn { from, what } => self.flawed(pack.corrupt(from, what))?,
            }
        }
        Ok(())
    }

    fn flawed(&self, error: Error) -> Result<(), Error> {
        if self.damage == Damage::PassedOver { Ok(()) } else { Err(error) }
    }

    fn record(&mut self, pack: &PackFile, found: &Found) -> Result<(), Error> {
        if found.members.iter().any(|member| member.range.len() > FULL_BYTES) {
            return self.flawed(pack.corrupt(found.offset, "a member is too long"));
        }
        if let Some(retired) = retire::decode(&found.plain).filter(|_| found.kind == Kind::Retire) {
            self.dropped.retired.extend(retired);
        }
        let (mut kept, all) = (Vec::new(), found.members.len());
        for (number, member) in found.members.iter().enumerate() {
            if found.kind == Kind::Memos {
                let bytes = found.plain[member.range.clone()].to_vec();
                self.memos.push((found.offset, number, member.clone(), bytes));
                continue;
            }
            let (kind, key, offset) = (found.kind, &member.key, found.offset);
            match (self.keeps)(&Place { kind, key, pack: pack.id, offset, member: number })? {
                true => kept.push(member),
                false => self.dropped.objects.push(member.key),
            }
        }
        if self.class == Class::Data && kept.len() == all && all > 0 {
            return self.copy_whole(pack, found);
        }
        kept.into_iter()
            .try_for_each(|member| self.batch.copy(found.kind, self.class, member, &found.plain[member.range.clone()]))
    }

    fn copy_whole(&mut self, pack: &PackFile, found: &Found) -> Result<(), Error> {
        let mut record = vec![0; found.record_bytes as usize];
        pack.read_at(found.offset, &mut record)?;
        let entries = location::entries(found.kind, found.record_bytes, &found.members, &found.plain)
            .map_err(|what| pack.corrupt(found.offset, what))?;
        self.batch.copy_record(record, entries, found.plain.len() as u64)
    }

    /// Whether the log begins here. As long as there is an older part of it, an index that is restored from that time
    /// is brought up to date from there, and must hear of everything that came to an end since.
    fn is_first(&self, pack: &PackFile) -> bool {
        self.store.packs().ids(Class::Meta).first() == Some(&pack.id)
    }

    /// Copies the memos that still hold. The end of one is copied as long as an older pack may hold its value.
    fn copy_memos(&mut self, pack: &PackFile) -> Result<(), Error> {
        let is_first = self.is_first(pack);
        for (offset, number, member, bytes) in std::mem::take(&mut self.memos) {
            let copied = match self.store.index().memo(&member.key)? {
                Some(location) => is_at(&location, pack.id, offset, number),
                None => !is_first && bytes == location::join_memo(b"", b""),
            };
            match copied {
                true => self.batch.copy(Kind::Memos, Class::Meta, &member, &bytes)?,
                false => self.dropped.memos.push(member.key),
            }
        }
        Ok(())
    }

    /// Commits the copies and retires the pack. What the index still says of it is for the caller to remove.
    pub fn commit_retiring(mut self, pack: &PackFile) -> Result<Dropped, Error> {
        let _alone = self.store.memo_order().write().expect("nothing panics while it is held");
        self.copy_memos(pack)?;
        if self.is_first(pack) {
            self.dropped.retired.clear();
        }
        self.dropped.retired.push(pack.id);
        self.batch.commit_retiring(&self.dropped.retired)?;
        Ok(self.dropped)
    }
}

fn is_at(location: &Location, pack: u32, offset: u64, number: usize) -> bool {
    (location.pack, location.offset, usize::from(location.member)) == (pack, offset, number)
}
