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
//! the entries. Small commits wait for a transaction in memory (recent.rs), and transactions go to the file lazily
//! ([`Index::flush`]), so a crash takes the index back to an earlier one, and the packs replay the rest.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition};

pub use crate::checkpoint::{Checkpoint, Counters, Position};

use crate::checkpoint::CHECKPOINT_BYTES;
use crate::error::Error;
use crate::hash::Hash;
use crate::location::{Entry, LOCATION_BYTES, Location};
use crate::recent::{MAX_RECENT, Recent, Replaced};

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
    /// What readers see. There until the index is closed.
    newest: RwLock<Option<Newest>>,
    /// Held by who writes.
    writing: Mutex<()>,
    /// There is something that is not in the file yet.
    unflushed: AtomicBool,
}

struct Newest {
    /// The last transaction.
    snapshot: Arc<Snapshot>,
    /// What came after it.
    recent: Recent,
    /// How far both go, and what they count.
    checkpoint: Checkpoint,
}

/// One state of the index: what is changed later is not seen in it.
pub struct Snapshot {
    objects: ReadOnlyTable<Key, &'static [u8; LOCATION_BYTES]>,
    memos: ReadOnlyTable<Key, &'static [u8]>,
    labels: ReadOnlyTable<Label, ()>,
    retired: BTreeSet<u32>,
    checkpoint: Checkpoint,
}

impl Index {
    /// Opens or creates the index in `dir`; panics on garbage become errors.
    pub fn open(dir: &Path) -> Result<Index, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let path = dir.join("db");
        let open = || Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path)?);
        let db = guarded(open)?;
        let (checkpoint, snapshot) = guarded(|| {
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
        let newest = RwLock::new(Some(Newest { snapshot: Arc::new(snapshot), recent: Recent::default(), checkpoint }));
        Ok(Index { path, db, newest, writing: Mutex::default(), unflushed: AtomicBool::new(false) })
    }

    /// How far readers see, and what is counted. Waits for nobody.
    pub fn checkpoint(&self) -> Checkpoint {
        seen(&self.newest()).checkpoint
    }

    /// What is counted, as far as readers see. Waits for nobody.
    pub fn counters(&self) -> Counters {
        self.checkpoint().counters
    }

    /// How far readers see. Waits for nobody.
    pub fn indexed(&self) -> Position {
        self.checkpoint().indexed
    }

    /// Where a chunk or manifest lies.
    pub fn get(&self, hash: &Hash) -> Result<Option<Location>, Error> {
        let newest = self.newest();
        match seen(&newest).recent.object(hash) {
            Some(location) => Ok(Some(location)),
            None => transaction(newest).get(hash),
        }
    }

    /// Where a memo lies.
    pub fn memo(&self, key: &Hash) -> Result<Option<Location>, Error> {
        let newest = self.newest();
        match seen(&newest).recent.memo(key) {
            Some(location) => Ok(location),
            None => transaction(newest).memo(key),
        }
    }

    /// The state as it is now. Keeps what is replaced later from being used again: not for long.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        let now = self.checkpoint();
        let snapshot = transaction(self.newest());
        if snapshot.checkpoint == now {
            return Ok(snapshot);
        }
        self.change(|_, _| Ok(()))?;
        Ok(transaction(self.newest()))
    }

    /// Labels that begin with `prefix`, in order, with their memo keys.
    pub fn labels(&self, prefix: &[u8]) -> Result<impl Iterator<Item = Result<(Vec<u8>, Hash), Error>> + use<>, Error> {
        let newest = self.newest();
        let (changed, recent) = seen(&newest).recent.labels(prefix);
        let snapshot = transaction(newest);
        let rows = guarded(|| Ok(snapshot.labels.range((prefix, &[0; 32])..)?))?;
        let prefix = prefix.to_vec();
        let label = |row: Result<(redb::AccessGuard<'_, Label>, _), redb::StorageError>| {
            let (key, _) = row.map_err(redb::Error::from)?;
            let (label, key) = key.value();
            Ok((label.to_vec(), Hash(*key)))
        };
        let wanted =
            move |row: &Result<(Vec<u8>, _), Error>| row.as_ref().map_or(true, |row| row.0.starts_with(&prefix));
        let holds = move |row: &Result<(_, Hash), _>| row.as_ref().map_or(true, |(_, key)| !changed.contains(key));
        Ok(merged(rows.map(label).take_while(wanted).filter(holds), recent.into_iter()))
    }

    /// Packs that are no more. What lies there by the index, is gone.
    pub fn retired(&self) -> BTreeSet<u32> {
        seen(&self.newest()).snapshot.retired.clone()
    }

    /// Applies entries, retires packs and moves the checkpoint. Later entries for a key replace earlier ones.
    pub fn apply(&self, entries: &[Entry], retired: &[u32], indexed: Position, durable: Position) -> Result<(), Error> {
        if retired.is_empty() && self.gather(entries, indexed, durable)? {
            return Ok(());
        }
        self.change(|tables, next| {
            tables.add_all(entries, &mut next.counters)?;
            retired.iter().try_for_each(|pack| tables.retire(*pack))?;
            (next.indexed, next.durable) = (indexed, durable);
            Ok(())
        })
    }

    /// Lets entries wait for the next transaction. False if they are too many.
    fn gather(&self, entries: &[Entry], indexed: Position, durable: Position) -> Result<bool, Error> {
        let _order = self.lock();
        let newest = self.newest();
        if seen(&newest).recent.entries().len() + entries.len() > MAX_RECENT {
            return Ok(false);
        }
        let replaced = transaction(newest).rows_of(entries)?;
        let mut newest = self.newest.write().expect("no code that can panic runs under this lock");
        let Newest { recent, checkpoint, .. } = newest.as_mut().expect("it is there until the index is closed");
        recent.add(entries, &replaced, &mut checkpoint.counters);
        (checkpoint.indexed, checkpoint.durable) = (indexed, durable);
        self.unflushed.store(true, Ordering::Relaxed);
        Ok(true)
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
        let snapshot = self.snapshot()?;
        snapshot.each_object(&mut |hash, at| {
            if retired.contains(&at.pack) {
                objects.push((hash, at.pack));
            }
        })?;
        snapshot.each_memo(&mut |key, at| {
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
        let _order = self.lock();
        self.transact(Durability::None, work)?;
        self.unflushed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A transaction of what waits for one, and of `work`. Whoever calls it holds the lock of who writes.
    fn transact(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Tables<'_>, &mut Checkpoint) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let newest = self.newest();
        let Newest { snapshot, recent, checkpoint } = seen(&newest);
        let mut next = Checkpoint { counters: snapshot.checkpoint.counters, ..*checkpoint };
        let snapshot = guarded(|| {
            let mut transaction = self.db.begin_write()?;
            transaction.set_durability(durability)?;
            {
                let mut tables = Tables {
                    objects: transaction.open_table(OBJECTS)?,
                    memos: transaction.open_table(MEMOS)?,
                    labels: transaction.open_table(LABELS)?,
                    retired: transaction.open_table(RETIRED)?,
                };
                tables.add_all(recent.entries(), &mut next.counters)?;
                work(&mut tables, &mut next)?;
                transaction.open_table(STATE)?.insert(CHECKPOINT_KEY, &next.encode())?;
            }
            transaction.commit()?;
            Snapshot::of(&self.db, &next)
        })?;
        drop(newest);
        let newest = Newest { snapshot: Arc::new(snapshot), recent: Recent::default(), checkpoint: next };
        *self.newest.write().expect("no code that can panic runs under this lock") = Some(newest);
        Ok(())
    }

    /// Brings the file up to date; whether it was not.
    pub fn flush(&self) -> Result<bool, Error> {
        let _order = self.lock();
        if !self.unflushed.swap(false, Ordering::Relaxed) {
            return Ok(false);
        }
        self.transact(Durability::Immediate, |_, _| Ok(()))?;
        Ok(true)
    }

    pub fn size_on_disk(&self) -> Result<u64, Error> {
        Ok(fs::metadata(&self.path).map_err(Error::io("look at", &self.path))?.len())
    }

    fn newest(&self) -> Seeing<'_> {
        self.newest.read().expect("no code that can panic runs under this lock")
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().expect("panics under this lock are caught")
    }
}

type Seeing<'a> = RwLockReadGuard<'a, Option<Newest>>;

fn seen<'a>(newest: &'a Seeing<'_>) -> &'a Newest {
    newest.as_ref().expect("it is there until the index is closed")
}

/// The last transaction; it is looked into without keeping anybody from the next.
fn transaction(newest: Seeing<'_>) -> Arc<Snapshot> {
    Arc::clone(&seen(&newest).snapshot)
}

/// Rows in order, with those of `recent`, which is in order too, among them.
fn merged<T: Ord>(
    rows: impl Iterator<Item = Result<T, Error>>,
    recent: impl Iterator<Item = T>,
) -> impl Iterator<Item = Result<T, Error>> {
    let (mut rows, mut recent) = (rows.peekable(), recent.peekable());
    std::iter::from_fn(move || match (rows.peek(), recent.peek()) {
        (Some(Ok(row)), Some(new)) if new < row => recent.next().map(Ok),
        (None, _) => recent.next().map(Ok),
        _ => rows.next(),
    })
}

impl Drop for Index {
    /// Many transactions between two flushes leave holes in the file. A small file is made compact again; in a large one
    /// they are used in time.
    fn drop(&mut self) {
        let counters = self.counters();
        *self.newest.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
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
        self.checkpoint.indexed
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

    /// The rows that entries would replace, those of retired packs included.
    fn rows_of(&self, entries: &[Entry]) -> Result<Replaced, Error> {
        let mut rows = Replaced::default();
        guarded(|| {
            for Entry { key, label, .. } in entries {
                match label {
                    None => {
                        rows.objects.extend(self.objects.get(&key.0)?.map(|row| (*key, Location::decode(row.value()))))
                    }
                    Some(_) => drop(self.memos.get(&key.0)?.map(|_| rows.memos.insert(*key))),
                }
            }
            Ok(())
        })?;
        Ok(rows)
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
            checkpoint: *checkpoint,
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
mod tests;
