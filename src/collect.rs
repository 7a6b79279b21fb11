//! What a collection of garbage keeps, and the quota.
//!
//! Roots are the names, the pins, the accepted promises and the built-ins. A remembered result is kept as long as its module and its inputs
//! are: then it can still be asked for, and had again. Of older states of the symbol table the newest
//! [`KEPT_ROOTS`] stay readable, but what only they name goes. Nothing here looks at a clock.
//!
//! Over the quota, results go too, those first that cost least to compute again for the space they take. Never names,
//! pins, or anything that could not be computed again.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use gridfs_store::{Cid, Codec, Collected, Hash, Marker, Phase, Target, cbor};

use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::marks::{self, ACCEPTED, EVIDENCE, PINS, SHARED};
use crate::receipt::{Memo, Receipt, cid_of};

/// Older states of the symbol table that stay readable.
const KEPT_ROOTS: usize = 1000;
/// A store fuller than this, in percent of its quota, is collected before more is put into it.
const FULL_PERCENT: u64 = 90;
/// A collection that must make room goes down to this, in percent of the quota.
const ROOM_PERCENT: u64 = 75;
/// A collection is tried again when the store has grown by one part in so many since the last.
const GROWN_PARTS: u64 = 50;

/// What a memo of the store turns out to be.
enum Remembered {
    /// A pin, or an accepted promise.
    Mark,
    Alias(Cid),
    Result(Memo),
    /// Nobody knows, so nobody can miss it.
    Unknown,
}

impl Remembered {
    fn of(label: &[u8], value: &[u8]) -> Remembered {
        if marks::is_mark(label) {
            return Remembered::Mark;
        }
        match (Cid::from_bytes(value), cbor::from_slice::<Memo>(value)) {
            (Ok(cid), _) => Remembered::Alias(cid),
            (_, Ok(memo)) => Remembered::Result(memo),
            _ => Remembered::Unknown,
        }
    }
}

impl Kernel {
    /// Removes what nothing needs. Blocks; everything else goes on meanwhile.
    pub fn collect(&self, dry_run: bool, progress: &mut dyn FnMut(Phase)) -> Result<Collected> {
        let collected = self.collect_without(dry_run, &HashSet::new(), progress)?;
        self.collected_at.store(self.store.stored_bytes(), Ordering::Relaxed);
        Ok(collected)
    }

    /// Whether the store is nearly full, and collecting garbage has not been tried in vain just before.
    pub fn needs_room(&self) -> bool {
        let Some(quota_bytes) = self.store.quota_bytes() else { return false };
        let stored_bytes = self.store.stored_bytes();
        let last = self.collected_at.load(Ordering::Relaxed);
        stored_bytes >= percent(quota_bytes, FULL_PERCENT) && stored_bytes > last.saturating_add(last / GROWN_PARTS)
    }

    /// Collects if the store is nearly full, and lets results go if that does not make room enough. Blocks.
    pub fn make_room(&self) -> Result<()> {
        let Some(quota_bytes) = self.store.quota_bytes().filter(|_| self.needs_room()) else { return Ok(()) };
        let Ok(_alone) = self.making_room.try_lock() else { return Ok(()) };
        self.collect(false, &mut |_| ())?;
        let goal_bytes = percent(quota_bytes, ROOM_PERCENT);
        let mut excess_bytes = self.store.stored_bytes().saturating_sub(goal_bytes);
        // What a result takes on disk is an estimate, so it may take several rounds.
        for _ in 0..3 {
            let evicted = self.cheapest(excess_bytes)?;
            if excess_bytes == 0 || evicted.is_empty() {
                break;
            }
            self.collect_without(false, &evicted, &mut |_| ())?;
            excess_bytes = self.store.stored_bytes().saturating_sub(goal_bytes);
        }
        self.collected_at.store(self.store.stored_bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// As `make_room`, where nobody waits for it.
    pub(crate) fn make_room_if_possible(&self) {
        if let Err(error) = self.make_room() {
            self.report("making room", &error);
        }
    }

    fn collect_without(
        &self,
        dry_run: bool,
        evicted: &HashSet<Hash>,
        progress: &mut dyn FnMut(Phase),
    ) -> Result<Collected> {
        let collected = self.store.collect(dry_run, progress, |marker| {
            self.mark_names(marker)?;
            for pin in PINS.all(&self.store)? {
                marker.keep(&pin.cid)?;
                self.count_pinned(marker, pin.cid)?;
            }
            for marks in [ACCEPTED, SHARED, EVIDENCE] {
                for mark in marks.all(&self.store)? {
                    marker.keep(&mark.cid)?;
                }
            }
            self.mark_remembered(marker, evicted)
        });
        // Also after a failure: something may be gone.
        if !dry_run {
            self.forget_replies();
        }
        collected
    }

    fn count_pinned(&self, marker: &mut Marker<'_>, cid: Cid) -> Result<()> {
        let target = match (cid.codec, self.store.object(&cid)?) {
            (Codec::DagCbor, _) => Target::Directory { cid },
            (Codec::Raw, Some(object)) => Target::File { cid, size_bytes: object.size_bytes(), executable: false },
            (Codec::Raw, None) => return Ok(()),
        };
        Ok(marker.count(&target)?)
    }

    fn mark_names(&self, marker: &mut Marker<'_>) -> Result<()> {
        for entry in self.names.table().entries() {
            if let Some(cid) = cid_of(&entry.target) {
                marker.keep(&cid)?;
            }
            marker.count(&entry.target)?;
        }
        if let Some(builtins) = self.names.builtins()? {
            marker.keep(&builtins)?;
        }
        for (root, state) in self.names.history(KEPT_ROOTS)? {
            marker.keep_alone(&root)?;
            marker.keep_alone(&state.table)?;
        }
        Ok(())
    }

    /// Keeps results whose module and inputs are kept. Results may be inputs of others, so it goes on until no more
    /// are found; what is left is let go.
    fn mark_remembered(&self, marker: &mut Marker<'_>, evicted: &HashSet<Hash>) -> Result<()> {
        let mut undecided = Vec::new();
        for memo in self.store.memos(b"")? {
            let (label, key) = memo?;
            let Some(value) = self.store.memo(&key)? else { continue };
            match Remembered::of(&label, &value) {
                Remembered::Mark => {}
                Remembered::Result(_) if !evicted.contains(&key) => undecided.push(key),
                Remembered::Alias(_) => undecided.push(key),
                Remembered::Result(_) | Remembered::Unknown => marker.forget(key),
            }
        }
        loop {
            let before = undecided.len();
            undecided = undecided
                .into_iter()
                .filter_map(|key| match self.keep_remembered(marker, &key) {
                    Ok(true) => None,
                    Ok(false) => Some(Ok(key)),
                    Err(error) => Some(Err(error)),
                })
                .collect::<Result<_>>()?;
            if undecided.len() == before {
                undecided.into_iter().for_each(|key| marker.forget(key));
                return Ok(());
            }
        }
    }

    fn keep_remembered(&self, marker: &mut Marker<'_>, key: &Hash) -> Result<bool> {
        let Some(value) = self.store.memo(key)? else { return Ok(true) };
        let memo = match Remembered::of(b"", &value) {
            Remembered::Alias(cid) => return Ok(marker.keeps(&cid)?),
            Remembered::Result(memo) => memo,
            Remembered::Mark | Remembered::Unknown => return Ok(true),
        };
        let Some(receipt) = self.receipt(&memo)? else { return Ok(false) };
        for cid in receipt.parms.inputs() {
            if !marker.keeps(&cid)? {
                return Ok(false);
            }
        }
        marker.keep(&memo.result)?;
        marker.keep_alone(&memo.receipt)?;
        receipt.stderr.iter().try_for_each(|stderr| marker.keep_alone(stderr))?;
        Ok(true)
    }

    fn receipt(&self, memo: &Memo) -> Result<Option<Receipt>> {
        if !self.store.contains(&memo.receipt)? || !self.store.contains(&memo.result)? {
            return Ok(None);
        }
        Receipt::read(&self.store, &memo.receipt)
    }

    /// Results that together take `wanted_bytes` or more, those first that cost least to compute again per byte.
    fn cheapest(&self, wanted_bytes: u64) -> Result<HashSet<Hash>> {
        let mut results = Vec::new();
        for memo in self.store.memos(b"")? {
            let (label, key) = memo?;
            let Some(value) = self.store.memo(&key)? else { continue };
            let Remembered::Result(memo) = Remembered::of(&label, &value) else { continue };
            let Some(receipt) = self.receipt(&memo)? else { continue };
            let bytes = self.plain_bytes(&memo.target())?.max(1);
            results.push((u128::from(receipt.wall_ms) * 1_000_000 / u128::from(bytes), bytes, key));
        }
        results.sort_unstable();
        let stats = self.store.stats()?;
        let mut taken = 0u64;
        let mut evicted = HashSet::new();
        for (_, bytes, key) in results {
            if taken >= wanted_bytes {
                break;
            }
            taken += u64::try_from(
                u128::from(bytes) * u128::from(stats.stored_bytes) / u128::from(stats.plain_bytes.max(1)),
            )
            .unwrap_or(u64::MAX)
            .min(bytes);
            evicted.insert(key);
        }
        Ok(evicted)
    }

    fn plain_bytes(&self, target: &Target) -> Result<u64> {
        match target {
            Target::File { size_bytes, .. } => Ok(*size_bytes),
            Target::Symlink { .. } => Ok(0),
            Target::Directory { cid } => {
                let mut bytes = 0u64;
                for entry in self.store.tree(cid)?.entries() {
                    bytes = bytes.saturating_add(self.plain_bytes(&entry.target)?);
                }
                Ok(bytes)
            }
        }
    }

    /// A failure for want of room, with what would make some.
    pub fn explain_quota(&self, error: Error) -> Error {
        if error.code != Code::Full || self.store.quota_bytes().is_none() {
            return error;
        }
        // The advice is an extra: without it the error is still told.
        let Ok(found) = self.collect_without(true, &HashSet::new(), &mut |_| ()) else { return error };
        let mut sizes: Vec<(u64, String)> = Vec::new();
        for entry in self.names.table().entries() {
            let bytes = self.plain_bytes(&entry.target).unwrap_or(0);
            sizes.push((bytes, String::from_utf8_lossy(&entry.name).into_owned()));
        }
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let largest: Vec<String> =
            sizes.iter().take(3).map(|(bytes, name)| format!("{name} ({bytes} bytes)")).collect();
        let freed = found.freed_bytes;
        let advice = format!(
            "`gridfs gc` would free about {freed} bytes; the largest names are {}; \
             after `gridfs name rm NAME` and `gridfs gc` their space is free; or raise quota in config.toml",
            largest.join(", ")
        );
        Error::new(error.code, format!("{error}\n{advice}"))
    }
}

fn percent(of: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(percent) / 100).expect("less than the whole")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memos_tell_what_they_are() {
        let cid = Cid::of(Codec::Raw, b"x");
        let memo = Memo { v: 1, size: Some(5), named: false, result: cid, receipt: cid, time_ms: None, until_ms: None };
        assert!(matches!(Remembered::of(b"pin/x", b""), Remembered::Mark));
        assert!(matches!(Remembered::of(b"", &cid.to_bytes()), Remembered::Alias(found) if found == cid));
        assert!(matches!(Remembered::of(b"a/b", &memo.to_bytes()), Remembered::Result(found) if found == memo));
        assert!(matches!(Remembered::of(b"", b"?"), Remembered::Unknown));
    }
}
