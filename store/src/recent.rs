//! What the index was told lately and no transaction holds yet. A transaction costs as much for one entry as for a hundred, so
//! small commits gather here first, and are found here.

use std::collections::{HashMap, HashSet};

use crate::checkpoint::Counters;
use crate::hash::Hash;
use crate::location::{Entry, Location};

/// Most entries that wait for a transaction.
pub const MAX_RECENT: usize = 256;

/// A memo's location and label; none for one that was let go of.
type Memo = Option<(Location, Vec<u8>)>;

/// The entries of the commits since the last transaction.
#[derive(Default)]
pub struct Recent {
    /// In the order in which they came.
    entries: Vec<Entry>,
    objects: HashMap<Hash, Location>,
    memos: HashMap<Hash, Memo>,
}

/// The rows that entries replace, as the last transaction left them.
#[derive(Default)]
pub struct Replaced {
    pub objects: HashMap<Hash, Location>,
    pub memos: HashSet<Hash>,
}

impl Recent {
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where a chunk or manifest lies, if that was told lately.
    pub fn object(&self, hash: &Hash) -> Option<Location> {
        self.objects.get(hash).copied()
    }

    /// Where a memo lies, if that was told lately; `Some(None)` if it was let go of.
    pub fn memo(&self, key: &Hash) -> Option<Option<Location>> {
        self.memos.get(key).map(|memo| memo.as_ref().map(|(location, _)| *location))
    }

    /// Memos whose rows no longer hold, and the labels that begin with `prefix` of those told lately, in order.
    pub fn labels(&self, prefix: &[u8]) -> (HashSet<Hash>, Vec<(Vec<u8>, Hash)>) {
        let labelled = |(key, memo): (&Hash, &Memo)| Some((memo.as_ref()?.1.clone(), *key));
        let mut labels: Vec<_> = self.memos.iter().filter_map(labelled).collect();
        labels.retain(|(label, _)| label.starts_with(prefix));
        labels.sort();
        (self.memos.keys().copied().collect(), labels)
    }

    /// Adds entries, and counts them as a transaction will.
    pub fn add(&mut self, entries: &[Entry], replaced: &Replaced, counters: &mut Counters) {
        for entry in entries {
            match &entry.label {
                None => self.add_object(entry, replaced, counters),
                Some(label) => self.add_memo(entry, label, replaced, counters),
            }
        }
        self.entries.extend_from_slice(entries);
    }

    fn add_object(&mut self, entry: &Entry, replaced: &Replaced, counters: &mut Counters) {
        let mut location = entry.location;
        if let Some(old) = self.objects.get(&entry.key).or(replaced.objects.get(&entry.key)) {
            counters.take(old);
            location.whole |= old.whole;
        }
        counters.count(&location);
        self.objects.insert(entry.key, location);
    }

    fn add_memo(&mut self, entry: &Entry, label: &[u8], replaced: &Replaced, counters: &mut Counters) {
        let memo = (!entry.forgets()).then(|| (entry.location, label.to_vec()));
        counters.memos += u64::from(memo.is_some());
        let was_there = match self.memos.insert(entry.key, memo) {
            Some(old) => old.is_some(),
            None => replaced.memos.contains(&entry.key),
        };
        counters.memos -= u64::from(was_there);
    }
}
