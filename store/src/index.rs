//! The index: which key lies where. redb underneath, disposable at any time.
//!
//! ```text
//! objects   hash           -> location of a chunk or manifest
//! memos     key            -> location of a memo, then its label
//! labels    (label, key)   -> nothing: the order of labels
//! retired   pack id        -> nothing: what lies there is gone
//! state     "checkpoint"   -> how far the index has got, and what it counts
//! ```
//!
//! Invariants: a transaction moves the checkpoint together with the entries it stands for; counters always agree with
//! the entries. Commits go to the file lazily ([`Index::flush`]), so a crash takes the index back to an earlier
//! transaction, and the packs replay the rest.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition};

pub use crate::checkpoint::{Checkpoint, Counters, Position};

use crate::checkpoint::CHECKPOINT_BYTES;
use crate::error::Error;
use crate::hash::Hash;
use crate::location::{Entry, LOCATION_BYTES, Location};

type Key = &'static [u8; 32];
type Label = (&'static [u8], Key);

const OBJECTS: TableDefinition<'_, Key, &[u8; LOCATION_BYTES]> = TableDefinition::new("objects");
const MEMOS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("memos");
const LABELS: TableDefinition<'_, Label, ()> = TableDefinition::new("labels");
const RETIRED: TableDefinition<'_, u32, ()> = TableDefinition::new("retired");
const STATE: TableDefinition<'_, &str, &[u8; CHECKPOINT_BYTES]> = TableDefinition::new("state");

const CHECKPOINT_KEY: &str = "checkpoint";
/// What a row takes in the file, about.
const ROW_BYTES: u64 = 80;
/// A larger file is not made compact when it is closed: it would take long.
const MAX_COMPACTED_BYTES: u64 = 256 << 20;
/// Pages kept in memory: more than half of the index of 10 million chunks, so that most lookups read no file.
const CACHE_BYTES: usize = 448 << 20;

/// The open index.
pub struct Index {
    path: PathBuf,
    db: Database,
    /// The newest transaction, as readers see it. There until the index is closed.
    newest: RwLock<Option<Arc<Snapshot>>>,
    /// Also serialises writing.
    checkpoint: Mutex<Checkpoint>,
    /// Transactions that are not in the file yet.
    unflushed: AtomicBool,
}

/// One state of the index: what is changed later is not seen in it.
pub struct Snapshot {
    objects: ReadOnlyTable<Key, &'static [u8; LOCATION_BYTES]>,
    memos: ReadOnlyTable<Key, &'static [u8]>,
    labels: ReadOnlyTable<Label, ()>,
    retired: BTreeSet<u32>,
    indexed: Position,
    counters: Counters,
}

impl Index {
    /// Opens or creates the index in `dir`; panics on garbage become errors.
    pub fn open(dir: &Path) -> Result<Index, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let path = dir.join("db");
        let open = || Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path)?);
        let db = guarded(open)?;
        let (checkpoint, newest) = guarded(|| {
            let transaction = db.begin_write()?;
            let stored = {
                let state = transaction.open_table(STATE)?;
                transaction.open_table(OBJECTS)?;
                transaction.open_table(MEMOS)?;
                transaction.open_table(LABELS)?;
                transaction.open_table(RETIRED)?;
                state.get(CHECKPOINT_KEY)?.map(|bytes| Checkpoint::decode(bytes.value()))
            };
            transaction.commit()?;
            let checkpoint = stored.unwrap_or_default();
            Ok((checkpoint, Snapshot::of(&db, &checkpoint)?))
        })?;
        let (newest, checkpoint) = (RwLock::new(Some(Arc::new(newest))), Mutex::new(checkpoint));
        Ok(Index { path, db, newest, checkpoint, unflushed: AtomicBool::new(false) })
    }

    pub fn checkpoint(&self) -> Checkpoint {
        *self.lock()
    }

    /// What is counted, as far as readers see. Waits for nobody.
    pub fn counters(&self) -> Counters {
        self.newest().counters
    }

    /// How far readers see. Waits for nobody.
    pub fn indexed(&self) -> Position {
        self.newest().indexed
    }

    /// Where a chunk or manifest lies.
    pub fn get(&self, hash: &Hash) -> Result<Option<Location>, Error> {
        self.newest().get(hash)
    }

    /// Where a memo lies.
    pub fn memo(&self, key: &Hash) -> Result<Option<Location>, Error> {
        self.newest().memo(key)
    }

    /// The state as it is now. Keeps what is replaced later from being used again: not for long.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.newest()
    }

    /// Labels that begin with `prefix`, in order, with their memo keys.
    pub fn labels(&self, prefix: &[u8]) -> Result<impl Iterator<Item = Result<(Vec<u8>, Hash), Error>> + use<>, Error> {
        let newest = self.newest();
        let rows = guarded(|| Ok(newest.labels.range((prefix, &[0; 32])..)?))?;
        let prefix = prefix.to_vec();
        let label = |row: Result<(redb::AccessGuard<'_, Label>, _), redb::StorageError>| {
            let (key, _) = row.map_err(redb::Error::from)?;
            let (label, key) = key.value();
            Ok((label.to_vec(), Hash(*key)))
        };
        let wanted =
            move |row: &Result<(Vec<u8>, _), Error>| row.as_ref().map_or(true, |row| row.0.starts_with(&prefix));
        Ok(rows.map(label).take_while(wanted))
    }

    /// Packs that are no more. What lies there by the index, is gone.
    pub fn retired(&self) -> BTreeSet<u32> {
        self.newest().retired.clone()
    }

    /// Applies entries, retires packs and moves the checkpoint. Later entries for a key replace earlier ones.
    pub fn apply(&self, entries: &[Entry], retired: &[u32], indexed: Position, durable: Position) -> Result<(), Error> {
        self.change(|tables, next| {
            tables.add_all(entries, &mut next.counters)?;
            retired.iter().try_for_each(|pack| tables.retire(*pack))?;
            (next.indexed, next.durable) = (indexed, durable);
            Ok(())
        })
    }

    /// Applies entries without moving the checkpoint's positions.
    pub fn advance(&self, entries: &[Entry]) -> Result<(), Error> {
        self.change(|tables, next| tables.add_all(entries, &mut next.counters))
    }

    /// Retires packs without moving the checkpoint's positions.
    pub fn retire(&self, packs: &[u32]) -> Result<(), Error> {
        self.change(|tables, _| packs.iter().try_for_each(|pack| tables.retire(*pack)))
    }

    /// Removes what is still said to lie in `pack` of these keys.
    pub fn remove(&self, objects: &[Hash], memos: &[Hash], pack: u32) -> Result<(), Error> {
        self.change(|tables, next| {
            objects.iter().try_for_each(|hash| tables.remove_object(hash, pack, &mut next.counters))?;
            memos.iter().try_for_each(|key| tables.remove_memo(key, |at| at.pack == pack, &mut next.counters))
        })
    }

    /// Says that nothing refers to these packs any more.
    pub fn unretire(&self, packs: &[u32]) -> Result<(), Error> {
        self.change(|tables, _| packs.iter().try_for_each(|pack| tables.unretire(*pack)))
    }

    /// Removes whatever is said to lie in retired packs. Goes through everything.
    pub fn purge(&self) -> Result<(), Error> {
        let retired = self.retired();
        let (mut objects, mut memos) = (Vec::new(), Vec::new());
        let newest = self.newest();
        newest.each_object(&mut |hash, at| {
            if retired.contains(&at.pack) {
                objects.push((hash, at.pack));
            }
        })?;
        newest.each_memo(&mut |key, at| {
            if retired.contains(&at.pack) {
                memos.push(key);
            }
        })?;
        self.change(|tables, next| {
            let counters = &mut next.counters;
            objects.iter().try_for_each(|(hash, pack)| tables.remove_object(hash, *pack, counters))?;
            memos.iter().try_for_each(|key| tables.remove_memo(key, |at| retired.contains(&at.pack), counters))?;
            retired.iter().try_for_each(|pack| tables.unretire(*pack))
        })
    }

    /// Corrects single rows: one that is still at the first location moves to the second, or goes.
    pub fn correct(&self, objects: &[Correction], memos: &[Correction]) -> Result<(), Error> {
        self.change(|tables, next| {
            objects.iter().try_for_each(|row| tables.correct_object(row, &mut next.counters))?;
            memos.iter().try_for_each(|row| tables.correct_memo(row, &mut next.counters))
        })
    }

    fn change(
        &self,
        work: impl FnOnce(&mut Tables<'_>, &mut Checkpoint) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let mut checkpoint = self.lock();
        let mut next = *checkpoint;
        let newest = guarded(|| {
            let mut transaction = self.db.begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut tables = Tables {
                    objects: transaction.open_table(OBJECTS)?,
                    memos: transaction.open_table(MEMOS)?,
                    labels: transaction.open_table(LABELS)?,
                    retired: transaction.open_table(RETIRED)?,
                };
                work(&mut tables, &mut next)?;
                transaction.open_table(STATE)?.insert(CHECKPOINT_KEY, &next.encode())?;
            }
            transaction.commit()?;
            Snapshot::of(&self.db, &next)
        })?;
        *self.newest.write().expect("no code that can panic runs under this lock") = Some(Arc::new(newest));
        *checkpoint = next;
        self.unflushed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Brings the file up to date; whether it was not.
    pub fn flush(&self) -> Result<bool, Error> {
        let _order = self.lock();
        if !self.unflushed.swap(false, Ordering::Relaxed) {
            return Ok(false);
        }
        guarded(|| Ok(self.db.begin_write()?.commit()?))?;
        Ok(true)
    }

    pub fn size_on_disk(&self) -> Result<u64, Error> {
        Ok(fs::metadata(&self.path).map_err(Error::io("look at", &self.path))?.len())
    }

    fn newest(&self) -> Arc<Snapshot> {
        let newest = self.newest.read().expect("no code that can panic runs under this lock");
        Arc::clone(newest.as_ref().expect("it is there until the index is closed"))
    }

    fn lock(&self) -> MutexGuard<'_, Checkpoint> {
        self.checkpoint.lock().expect("panics under this lock are caught")
    }
}

impl Drop for Index {
    /// Many transactions between two flushes leave holes in the file. A small file is made compact again; in a large one
    /// they are used in time.
    fn drop(&mut self) {
        *self.newest.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let counters = self.checkpoint().counters;
        // Most objects are chunks too.
        let needed_bytes = (counters.objects.max(counters.chunks) + 2 * counters.memos) * ROW_BYTES;
        let file_bytes = self.size_on_disk().unwrap_or(0);
        if file_bytes < MAX_COMPACTED_BYTES && file_bytes > needed_bytes * 3 / 2 + (1 << 20) {
            let compacted = guarded(|| self.db.compact().map(drop).map_err(redb::Error::from));
            if let Err(error) = compacted {
                tracing::warn!(error = &error as &dyn std::error::Error, "making the index's file compact");
            }
        }
    }
}

/// A row that says something false, and where its key lies indeed, if anywhere.
#[derive(Clone, Copy, Debug)]
pub struct Correction {
    pub key: Hash,
    pub from: Location,
    pub to: Option<Location>,
}

impl Snapshot {
    /// How far this state goes.
    pub fn indexed(&self) -> Position {
        self.indexed
    }

    pub fn retired(&self) -> &BTreeSet<u32> {
        &self.retired
    }

    /// Where a chunk or manifest lies.
    pub fn get(&self, hash: &Hash) -> Result<Option<Location>, Error> {
        let found = guarded(|| Ok(self.objects.get(&hash.0)?.map(|value| Location::decode(value.value()))))?;
        Ok(found.filter(|location| !self.retired.contains(&location.pack)))
    }

    /// Where a memo lies.
    pub fn memo(&self, key: &Hash) -> Result<Option<Location>, Error> {
        let found = guarded(|| self.memos.get(&key.0)?.map(|value| memo_location(value.value())).transpose())?;
        Ok(found.filter(|location| !self.retired.contains(&location.pack)))
    }

    /// Goes through all chunks and manifests, those in retired packs included.
    pub fn each_object(&self, visit: &mut dyn FnMut(Hash, Location)) -> Result<(), Error> {
        guarded(|| {
            for row in self.objects.iter()? {
                let (key, value) = row?;
                visit(Hash(*key.value()), Location::decode(value.value()));
            }
            Ok(())
        })
    }

    /// Goes through all memos, those in retired packs included.
    pub fn each_memo(&self, visit: &mut dyn FnMut(Hash, Location)) -> Result<(), Error> {
        guarded(|| {
            for row in self.memos.iter()? {
                let (key, value) = row?;
                visit(Hash(*key.value()), memo_location(value.value())?);
            }
            Ok(())
        })
    }

    fn of(db: &Database, checkpoint: &Checkpoint) -> Result<Snapshot, redb::Error> {
        let transaction = db.begin_read()?;
        let retired = transaction.open_table(RETIRED)?;
        let retired = retired.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, redb::StorageError>>()?;
        Ok(Snapshot {
            retired,
            objects: transaction.open_table(OBJECTS)?,
            memos: transaction.open_table(MEMOS)?,
            labels: transaction.open_table(LABELS)?,
            indexed: checkpoint.indexed,
            counters: checkpoint.counters,
        })
    }
}

/// The tables of one transaction.
struct Tables<'a> {
    objects: Table<'a, Key, &'static [u8; LOCATION_BYTES]>,
    memos: Table<'a, Key, &'static [u8]>,
    labels: Table<'a, Label, ()>,
    retired: Table<'a, u32, ()>,
}

impl Tables<'_> {
    /// In the order of keys, which spares the tree half its work; entries of one key keep their order.
    fn add_all(&mut self, entries: &[Entry], counters: &mut Counters) -> Result<(), redb::Error> {
        let mut sorted: Vec<&Entry> = entries.iter().collect();
        sorted.sort_by_key(|entry| entry.key.0);
        sorted.into_iter().try_for_each(|entry| self.add(entry, counters))
    }

    fn add(&mut self, entry: &Entry, counters: &mut Counters) -> Result<(), redb::Error> {
        match &entry.label {
            None => self.add_object(entry, counters),
            Some(_) if entry.forgets() => self.remove_memo(&entry.key, |_| true, counters),
            Some(label) => self.add_memo(entry, label, counters),
        }
    }

    fn add_object(&mut self, entry: &Entry, counters: &mut Counters) -> Result<(), redb::Error> {
        let mut location = entry.location;
        let old = self.objects.get(&entry.key.0)?.map(|value| Location::decode(value.value()));
        if let Some(old) = &old {
            counters.take(old);
            location.whole |= old.whole;
        }
        counters.count(&location);
        self.objects.insert(&entry.key.0, &location.encode())?;
        Ok(())
    }

    fn retire(&mut self, pack: u32) -> Result<(), redb::Error> {
        self.retired.insert(pack, ())?;
        Ok(())
    }

    fn unretire(&mut self, pack: u32) -> Result<(), redb::Error> {
        self.retired.remove(pack)?;
        Ok(())
    }

    fn remove_object(&mut self, hash: &Hash, pack: u32, counters: &mut Counters) -> Result<(), redb::Error> {
        let old = self.objects.get(&hash.0)?.map(|value| Location::decode(value.value()));
        if let Some(old) = old.filter(|old| old.pack == pack) {
            counters.take(&old);
            self.objects.remove(&hash.0)?;
        }
        Ok(())
    }

    fn correct_object(&mut self, row: &Correction, counters: &mut Counters) -> Result<(), redb::Error> {
        let old = self.objects.get(&row.key.0)?.map(|value| Location::decode(value.value()));
        if old != Some(row.from) {
            return Ok(());
        }
        counters.take(&row.from);
        match &row.to {
            None => drop(self.objects.remove(&row.key.0)?),
            Some(to) => {
                let to = Location { whole: to.whole | row.from.whole, ..*to };
                counters.count(&to);
                self.objects.insert(&row.key.0, &to.encode())?;
            }
        }
        Ok(())
    }

    fn correct_memo(&mut self, row: &Correction, counters: &mut Counters) -> Result<(), redb::Error> {
        match &row.to {
            None => self.remove_memo(&row.key, |at| *at == row.from, counters),
            Some(to) => self.move_memo(&row.key, &row.from, to),
        }
    }

    fn move_memo(&mut self, key: &Hash, from: &Location, to: &Location) -> Result<(), redb::Error> {
        let Some(old) = self.memos.get(&key.0)?.map(|value| value.value().to_vec()) else { return Ok(()) };
        if memo_location(&old)? == *from {
            self.memos.insert(&key.0, [&to.encode(), &old[LOCATION_BYTES..]].concat().as_slice())?;
        }
        Ok(())
    }

    fn add_memo(&mut self, entry: &Entry, label: &[u8], counters: &mut Counters) -> Result<(), redb::Error> {
        self.remove_memo(&entry.key, |_| true, counters)?;
        counters.memos += 1;
        self.labels.insert((label, &entry.key.0), ())?;
        self.memos.insert(&entry.key.0, [&entry.location.encode(), label].concat().as_slice())?;
        Ok(())
    }

    fn remove_memo(
        &mut self,
        key: &Hash,
        wanted: impl FnOnce(&Location) -> bool,
        counters: &mut Counters,
    ) -> Result<(), redb::Error> {
        let Some(old) = self.memos.get(&key.0)?.map(|value| value.value().to_vec()) else { return Ok(()) };
        if wanted(&memo_location(&old)?) {
            counters.memos -= 1;
            self.labels.remove((&old[LOCATION_BYTES..], &key.0))?;
            self.memos.remove(&key.0)?;
        }
        Ok(())
    }
}

fn memo_location(value: &[u8]) -> Result<Location, redb::Error> {
    let bytes = value.first_chunk().ok_or(redb::Error::Corrupted("a memo's row is too short".into()))?;
    Ok(Location::decode(bytes))
}

fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::IndexBroken { what: "it panicked" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memo(key: &[u8], label: &[u8], offset: u64) -> Entry {
        let location = Location { offset, ..object(b"").location };
        Entry { key: Hash::of(key), location, label: Some(label.to_vec()) }
    }

    fn object(content: &[u8]) -> Entry {
        let location = Location {
            pack: 1,
            offset: 24,
            record_bytes: 100,
            plain_bytes: content.len() as u32,
            member: 0,
            manifest: false,
            whole: true,
        };
        Entry { key: Hash::of(content), location, label: None }
    }

    #[test]
    fn counting_waits_for_no_writer() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        index.apply(&[object(b"abc")], &[], Position::default(), Position::default()).unwrap();
        let _writing = index.lock();
        assert_eq!(index.counters().objects, 1);
    }

    #[test]
    fn counters_count_distinct_keys_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let position = Position { sequence: 7, meta_id: 2, meta_end: 300, data_id: 1, data_end: 400 };
        let expected = Counters { objects: 2, chunks: 2, memos: 1, plain_bytes: 7 };
        {
            let index = Index::open(dir.path()).unwrap();
            assert_eq!(index.checkpoint(), Checkpoint::default());
            let entries = [object(b"abc"), object(b"abc"), object(b"four"), memo(b"k", b"x", 1), memo(b"k", b"y", 2)];
            index.apply(&entries, &[], position, Position::default()).unwrap();
            index.apply(&[object(b"abc")], &[], position, Position::default()).unwrap();
            assert_eq!(index.counters(), expected);
            index.flush().unwrap();
        }
        let index = Index::open(dir.path()).unwrap();
        assert_eq!((index.counters(), index.checkpoint().indexed), (expected, position));
        assert_eq!(index.get(&Hash::of(b"abc")).unwrap(), Some(object(b"abc").location));
        assert_eq!(index.memo(&Hash::of(b"k")).unwrap().unwrap().offset, 2);
        let labels: Vec<_> = index.labels(b"").unwrap().map(Result::unwrap).collect();
        assert_eq!(labels, [(b"y".to_vec(), Hash::of(b"k"))]);
    }

    #[test]
    fn labels_are_ordered_whatever_bytes_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        let mut labels: Vec<&[u8]> = vec![b"a", b"a\0", b"a\0\0", b"a\0\x01", b"a\x01", b"ab", b"", b"\xff", b"b"];
        let entries: Vec<_> = labels.iter().map(|label| memo(label, label, 0)).collect();
        index.apply(&entries, &[], Position::default(), Position::default()).unwrap();
        labels.sort();
        let got = |prefix: &[u8]| index.labels(prefix).unwrap().map(|label| label.unwrap().0).collect::<Vec<_>>();
        assert_eq!(got(b""), labels);
        let with_zero: Vec<&[u8]> = vec![b"a\0", b"a\0\0", b"a\0\x01"];
        assert_eq!(got(b"a\0"), with_zero);
    }
}
