//! The index: which key lies where. sled 0.34 underneath, disposable at any time.
//!
//! One sled tree, so that a batch of facts and the checkpoint are applied together:
//!
//! ```text
//! 'c'                                    checkpoint
//! 'o' hash                               location of a chunk or manifest
//! 'm' key                                location of a memo, then its label
//! 'l' label (00 -> 00 FF) 00 00 key      nothing: the order of labels
//! ```
//!
//! Invariants: counters always agree with the entries; the checkpoint's positions never lie beyond what the
//! entries cover. Nothing here depends on sled's durability: what it lost, the packs replay.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::hash::Hash;
use crate::location::{Entry, LOCATION_BYTES, Location};

const CACHE_BYTES: u64 = 64 * 1024 * 1024;
const CHECKPOINT_KEY: &[u8] = b"c";
const CHECKPOINT_BYTES: usize = 2 * POSITION_BYTES + 32;
const POSITION_BYTES: usize = 32;
/// Entries applied in one sled batch.
const BATCH_ENTRIES: usize = 4096;
/// sled's own threads may hold its lock for a moment after the last handle is dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// A place between two commits of the log, and the data that belongs to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Sequence number of the commit that ends here; 0 before the first.
    pub sequence: u64,
    pub meta_id: u32,
    pub meta_end: u64,
    pub data_id: u32,
    pub data_end: u64,
}

/// What the index counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub objects: u64,
    pub chunks: u64,
    pub memos: u64,
    pub plain_bytes: u64,
}

/// How far the index has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything up to here is in the index.
    pub indexed: Position,
    /// Everything up to here is known to be on disk.
    pub durable: Position,
    counters: Counters,
}

/// The open index.
pub struct Index {
    db: sled::Db,
    /// Also serialises `apply`.
    checkpoint: Mutex<Checkpoint>,
}

impl Index {
    /// Opens or creates; sled's panics on garbage become errors.
    pub fn open(dir: &Path) -> Result<Index, Error> {
        let db = guarded(|| open_patiently(dir))?;
        let stored = guarded(|| db.get(CHECKPOINT_KEY))?;
        let checkpoint = match stored {
            Some(bytes) => decode_checkpoint(&bytes).ok_or(broken("its checkpoint has another form"))?,
            None => Checkpoint::default(),
        };
        Ok(Index { db, checkpoint: Mutex::new(checkpoint) })
    }

    pub fn checkpoint(&self) -> Checkpoint {
        *self.lock()
    }

    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Where a chunk or manifest lies.
    pub fn get(&self, hash: &Hash) -> Result<Option<Location>, Error> {
        self.location(&object_key(hash))
    }

    /// Where a memo lies.
    pub fn memo(&self, key: &Hash) -> Result<Option<Location>, Error> {
        self.location(&memo_key(key))
    }

    fn location(&self, key: &[u8]) -> Result<Option<Location>, Error> {
        let value = self.db.get(key)?;
        value.map(|value| Location::decode(&value).ok_or(broken("a location has another form"))).transpose()
    }

    /// Labels that begin with `prefix`, in order, with their memo keys.
    pub fn labels(&self, prefix: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, Hash), Error>> + use<> {
        let start = [b"l", escape(prefix).as_slice()].concat();
        self.db.scan_prefix(start).keys().map(|key| parse_label(&key?).ok_or(broken("a label has another form")))
    }

    /// Applies entries and then moves the checkpoint. Later entries for a key replace earlier ones.
    pub fn apply(&self, entries: &[Entry], indexed: Position, durable: Position) -> Result<(), Error> {
        self.advance(entries)?;
        let mut checkpoint = self.lock();
        let next = Checkpoint { indexed, durable, counters: checkpoint.counters };
        guarded(|| self.db.insert(CHECKPOINT_KEY, encode_checkpoint(&next).as_slice()))?;
        *checkpoint = next;
        Ok(())
    }

    /// Applies entries without moving the checkpoint's positions.
    pub fn advance(&self, entries: &[Entry]) -> Result<(), Error> {
        entries.chunks(BATCH_ENTRIES).try_for_each(|chunk| self.apply_batch(chunk))
    }

    fn apply_batch(&self, entries: &[Entry]) -> Result<(), Error> {
        let mut checkpoint = self.lock();
        let mut update = Update { db: &self.db, fresh: HashMap::new(), batch: sled::Batch::default() };
        let mut next = *checkpoint;
        guarded(|| {
            entries.iter().try_for_each(|entry| update.add(entry, &mut next.counters))?;
            update.batch.insert(CHECKPOINT_KEY, encode_checkpoint(&next).as_slice());
            self.db.apply_batch(update.batch)
        })?;
        *checkpoint = next;
        Ok(())
    }

    /// Writes out what is buffered, so that the next open has little to replay.
    pub fn flush(&self) -> Result<(), Error> {
        guarded(|| self.db.flush()).map(|_| ())
    }

    pub fn size_on_disk(&self) -> Result<u64, Error> {
        Ok(self.db.size_on_disk()?)
    }

    fn lock(&self) -> MutexGuard<'_, Checkpoint> {
        self.checkpoint.lock().expect("panics under this lock are caught")
    }
}

/// A sled batch in the making; `fresh` holds what the batch itself will have written.
struct Update<'a> {
    db: &'a sled::Db,
    fresh: HashMap<Vec<u8>, Vec<u8>>,
    batch: sled::Batch,
}

impl Update<'_> {
    fn add(&mut self, entry: &Entry, counters: &mut Counters) -> sled::Result<()> {
        match &entry.label {
            None => self.add_object(entry, counters),
            Some(label) => self.add_memo(entry, label, counters),
        }
    }

    fn add_object(&mut self, entry: &Entry, counters: &mut Counters) -> sled::Result<()> {
        let key = object_key(&entry.key);
        let mut location = entry.location;
        let old = self.old(&key)?.and_then(|value| Location::decode(&value));
        let was_object = old.is_some_and(|old| old.whole || old.manifest);
        location.whole |= old.is_some_and(|old| old.whole);
        counters.objects += u64::from((location.whole || location.manifest) && !was_object);
        if old.is_none() && !location.manifest {
            counters.chunks += 1;
            counters.plain_bytes += u64::from(location.plain_bytes);
        }
        self.put(key.to_vec(), location.encode().to_vec());
        Ok(())
    }

    fn add_memo(&mut self, entry: &Entry, label: &[u8], counters: &mut Counters) -> sled::Result<()> {
        let key = memo_key(&entry.key);
        match self.old(&key)? {
            None => counters.memos += 1,
            Some(old) => {
                let old_label = old.get(LOCATION_BYTES..).unwrap_or_default();
                self.batch.remove(label_key(old_label, &entry.key));
            }
        }
        self.batch.insert(label_key(label, &entry.key), &[]);
        self.put(key.to_vec(), [&entry.location.encode(), label].concat());
        Ok(())
    }

    fn old(&self, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
        match self.fresh.get(key) {
            Some(value) => Ok(Some(value.clone())),
            None => Ok(self.db.get(key)?.map(|value| value.to_vec())),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.insert(key.as_slice(), value.as_slice());
        self.fresh.insert(key, value);
    }
}

fn open_patiently(dir: &Path) -> sled::Result<sled::Db> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).mode(sled::Mode::HighThroughput);
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if is_lock(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// sled wraps the lock error as `Other` with a text of its own.
fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(broken("it panicked")),
    }
}

fn broken(what: &'static str) -> Error {
    Error::IndexBroken { what }
}

fn object_key(hash: &Hash) -> [u8; 33] {
    prefixed(b'o', hash)
}

fn memo_key(key: &Hash) -> [u8; 33] {
    prefixed(b'm', key)
}

fn prefixed(prefix: u8, hash: &Hash) -> [u8; 33] {
    let mut key = [prefix; 33];
    key[1..].copy_from_slice(&hash.0);
    key
}

fn label_key(label: &[u8], key: &Hash) -> Vec<u8> {
    [b"l", escape(label).as_slice(), &[0, 0], &key.0].concat()
}

/// Keeps the order of labels although a key follows them.
fn escape(label: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(label.len() + 2);
    for byte in label {
        escaped.push(*byte);
        if *byte == 0 {
            escaped.push(0xff);
        }
    }
    escaped
}

fn parse_label(key: &[u8]) -> Option<(Vec<u8>, Hash)> {
    let (escaped, hash) = key.get(1..)?.split_last_chunk::<32>()?;
    let escaped = escaped.strip_suffix(&[0, 0])?;
    let mut label = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        label.push(*byte);
        if *byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
    }
    Some((label, Hash(*hash)))
}

fn encode_checkpoint(checkpoint: &Checkpoint) -> [u8; CHECKPOINT_BYTES] {
    let position =
        |p: &Position| [p.sequence, u64::from(p.meta_id) | u64::from(p.data_id) << 32, p.meta_end, p.data_end];
    let c = &checkpoint.counters;
    let counters = [c.objects, c.chunks, c.memos, c.plain_bytes];
    let words = [position(&checkpoint.indexed), position(&checkpoint.durable), counters];
    let mut bytes = [0; CHECKPOINT_BYTES];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words.as_flattened()) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode_checkpoint(bytes: &[u8]) -> Option<Checkpoint> {
    let bytes: &[u8; CHECKPOINT_BYTES] = bytes.try_into().ok()?;
    let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("a slice of eight"));
    let position = |at: usize| Position {
        sequence: word(at),
        meta_id: word(at + 1) as u32,
        data_id: (word(at + 1) >> 32) as u32,
        meta_end: word(at + 2),
        data_end: word(at + 3),
    };
    let counters = Counters { objects: word(8), chunks: word(9), memos: word(10), plain_bytes: word(11) };
    Some(Checkpoint { indexed: position(0), durable: position(4), counters })
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
    fn counters_count_distinct_keys_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let position = Position { sequence: 7, meta_id: 2, meta_end: 300, data_id: 1, data_end: 400 };
        let expected = Counters { objects: 2, chunks: 2, memos: 1, plain_bytes: 7 };
        {
            let index = Index::open(dir.path()).unwrap();
            assert_eq!(index.checkpoint(), Checkpoint::default());
            let entries = [object(b"abc"), object(b"abc"), object(b"four"), memo(b"k", b"x", 1), memo(b"k", b"y", 2)];
            index.apply(&entries, position, Position::default()).unwrap();
            index.apply(&[object(b"abc")], position, Position::default()).unwrap();
            assert_eq!(index.counters(), expected);
            index.flush().unwrap();
        }
        let index = Index::open(dir.path()).unwrap();
        assert_eq!((index.counters(), index.checkpoint().indexed), (expected, position));
        assert_eq!(index.get(&Hash::of(b"abc")).unwrap(), Some(object(b"abc").location));
        assert_eq!(index.memo(&Hash::of(b"k")).unwrap().unwrap().offset, 2);
        let labels: Vec<_> = index.labels(b"").map(Result::unwrap).collect();
        assert_eq!(labels, [(b"y".to_vec(), Hash::of(b"k"))]);
    }

    #[test]
    fn labels_are_ordered_whatever_bytes_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        let mut labels: Vec<&[u8]> = vec![b"a", b"a\0", b"a\0\0", b"a\0\x01", b"a\x01", b"ab", b"", b"\xff", b"b"];
        let entries: Vec<_> = labels.iter().map(|label| memo(label, label, 0)).collect();
        index.apply(&entries, Position::default(), Position::default()).unwrap();
        labels.sort();
        let got = |prefix: &[u8]| index.labels(prefix).map(|label| label.unwrap().0).collect::<Vec<_>>();
        assert_eq!(got(b""), labels);
        let with_zero: Vec<&[u8]> = vec![b"a\0", b"a\0\0", b"a\0\x01"];
        assert_eq!(got(b"a\0"), with_zero);
    }
}
