//! The store: one directory of packs, one index, one writer, any number of readers.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use rustix::fs::FlockOperation;

use crate::batch::Batch;
use crate::cache::Cache;
use crate::cid::Cid;
use crate::collect::Gate;
use crate::disk::{Disk, Files};
use crate::error::Error;
use crate::flusher::Flusher;
use crate::groups::Groups;
use crate::hash::Hash;
use crate::index::{Counters, Index};
use crate::lease::{Lease, Leases};
use crate::location::{Location, split_memo};
use crate::object::{Object, Slice};
use crate::pack::Packs;
use crate::press::Press;
use crate::record::Record;
use crate::records::Records;
use crate::recovery;
use crate::tree::Tree;
use crate::writer::{Limits, Writer};

const FORMAT: &str = "gridfs store 1\n";
const PACK_GONE: &str = "the pack file is gone";
const TREE_CACHE_BYTES: usize = 16 << 20;
const GROUPS_CACHE_BYTES: usize = 32 << 20;
/// Largest encoded directory that [`Store::tree`] decodes.
pub const MAX_TREE_BYTES: u64 = 64 << 20;

/// How to open a store.
#[derive(Default)]
pub struct Options<'a> {
    /// Packs may hold so many bytes together. Names and other small records are taken beyond it.
    pub quota_bytes: Option<u64>,
    /// Told how far an index rebuild has got.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
}

/// How far an index rebuild has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of packs gone through.
    pub done_bytes: u64,
    /// Bytes of all packs.
    pub total_bytes: u64,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects put. (One that is also a chunk of an older, larger object counts as that chunk only.)
    pub objects: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Remembered results, and aliases.
    pub memos: u64,
    /// Bytes of all distinct chunks before compression.
    pub plain_bytes: u64,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Number of pack files.
    pub packs: u64,
    /// Bytes of packs and index together.
    pub disk_bytes: u64,
}

/// An open store.
pub struct Store {
    dir: PathBuf,
    // Stops before the index and the lock go.
    flusher: Flusher,
    press: Press,
    writer: Arc<Writer>,
    packs: Arc<Packs>,
    index: Arc<Index>,
    records: Records,
    trees: Cache<Hash, Arc<Tree>>,
    groups: Cache<Hash, Arc<Groups>>,
    leases: Arc<Leases>,
    /// Hides what a collection under way has found to be dead.
    gate: RwLock<Option<Arc<Gate>>>,
    quota_bytes: Option<u64>,
    /// One collection at a time.
    collecting: Mutex<()>,
    /// Held shared by who commits memos, alone by a collection that copies them.
    memo_order: RwLock<()>,
    /// Held while the store is open.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, creating it if there is none. Only one process can have it open.
    pub fn open(dir: &Path, options: Options<'_>) -> Result<Store, Error> {
        Store::open_limited(dir, Arc::new(Files::new(dir.join("packs"))), options, Limits::default())
    }

    /// Packs lie on `disk`, everything else in `dir`.
    pub(crate) fn open_limited(
        dir: &Path,
        disk: Arc<dyn Disk>,
        options: Options<'_>,
        limits: Limits,
    ) -> Result<Store, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock(dir.join("lock"))?;
        check_format(dir)?;
        let packs = Arc::new(Packs::open(disk)?);
        let mut ignore = |_| ();
        let progress = options.progress.unwrap_or(&mut ignore);
        let (index, start) = recovery::run(dir, &packs, progress)?;
        packs.measure()?;
        let index = Arc::new(index);
        let writer = Arc::new(Writer::new(Arc::clone(&packs), Arc::clone(&index), limits, start));
        let records = Records::start(Arc::clone(&packs), Arc::clone(&index)).map_err(Error::Thread)?;
        Ok(Store {
            dir: dir.to_owned(),
            flusher: Flusher::start(Arc::clone(&writer), Arc::clone(&index), limits.lazy_for),
            press: Press::start().map_err(Error::Thread)?,
            writer,
            packs,
            index,
            records,
            trees: Cache::new(TREE_CACHE_BYTES),
            groups: Cache::new(GROUPS_CACHE_BYTES),
            leases: Arc::default(),
            gate: RwLock::default(),
            quota_bytes: options.quota_bytes,
            collecting: Mutex::default(),
            memo_order: RwLock::default(),
            _lock: lock,
        })
    }

    /// An object, or `None` if it was never committed.
    pub fn object(self: &Arc<Self>, cid: &Cid) -> Result<Option<Object>, Error> {
        // First announced, then looked up: a collection either sees the reader, or hides the object from it.
        let reading = Arc::new(self.leases.reading(*cid));
        let location = self.locate(&cid.hash)?;
        location.map(|location| Object::open(Arc::clone(self), *cid, location, Some(reading))).transpose()
    }

    /// Whether an object was committed.
    pub fn contains(&self, cid: &Cid) -> Result<bool, Error> {
        Ok(self.locate(&cid.hash)?.is_some())
    }

    /// A whole object of at most `max_bytes`, verified against its name.
    pub fn read(self: &Arc<Self>, cid: &Cid, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let object = self.object(cid)?.ok_or(Error::NotFound { cid: *cid })?;
        read_whole(&object, max_bytes)
    }

    /// As `read`, for a collection, which keeps its own account of what is being read.
    pub(crate) fn read_unannounced(self: &Arc<Self>, cid: &Cid, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let location = self.locate(&cid.hash)?.ok_or(Error::NotFound { cid: *cid })?;
        read_whole(&Object::open(Arc::clone(self), *cid, location, None)?, max_bytes)
    }

    /// A directory of at most [`MAX_TREE_BYTES`].
    pub fn tree(self: &Arc<Self>, cid: &Cid) -> Result<Arc<Tree>, Error> {
        if let Some(tree) = self.trees.get(&cid.hash) {
            return Ok(tree);
        }
        let bytes = self.read(cid, MAX_TREE_BYTES)?;
        let tree = Tree::decode(&bytes).map_err(|source| Error::Tree { cid: *cid, source })?;
        let tree = Arc::new(tree);
        // Decoded entries take about twice their encoding.
        self.trees.insert(cid.hash, Arc::clone(&tree), 2 * bytes.len());
        Ok(tree)
    }

    /// Begins a batch of puts.
    pub fn batch(self: &Arc<Self>) -> Batch {
        Batch::new(Arc::clone(self))
    }

    /// The value remembered under `key`.
    pub fn memo(&self, key: &Hash) -> Result<Option<Vec<u8>>, Error> {
        self.memo_as(key, |value| Ok(value.to_vec()))
    }

    /// The value remembered under `key`, read by `read`, which says what is wrong with one that can't be.
    pub(crate) fn memo_as<T>(
        &self,
        key: &Hash,
        read: impl FnOnce(&[u8]) -> Result<T, &'static str>,
    ) -> Result<Option<T>, Error> {
        let Some(location) = self.locate_memo(key)? else { return Ok(None) };
        let slice = self.slice_moving(key, &location, || self.index.memo(key))?;
        let value = split_memo(slice.bytes()).and_then(|(_, value)| read(value));
        value.map(Some).map_err(|what| self.corrupt(&location, what))
    }

    /// Labels that begin with `label_prefix`, in order, with the keys of their memos.
    pub fn memos(
        &self,
        label_prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, Hash), Error>> + use<>, Error> {
        self.index.labels(label_prefix)
    }

    /// What is counted anyway. Waits for nobody, whatever is being written.
    pub fn counters(&self) -> Counters {
        self.index.counters()
    }

    /// What the store holds. Costs one look at each pack file.
    pub fn stats(&self) -> Result<Stats, Error> {
        let counters = self.index.counters();
        let (packs, stored_bytes) = self.packs.usage()?;
        Ok(Stats {
            objects: counters.objects,
            chunks: counters.chunks,
            memos: counters.memos,
            plain_bytes: counters.plain_bytes,
            stored_bytes,
            packs,
            disk_bytes: stored_bytes + self.index.size_on_disk()?,
        })
    }

    /// Makes all lazy commits durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.writer.sync()
    }

    /// Keeps what it is told to, and what is stored from now on, from being collected.
    pub fn lease(&self) -> Lease {
        self.leases.lease(|| self.index.indexed())
    }

    /// Where a chunk or manifest lies, unless a collection has found it to be dead.
    pub(crate) fn locate(&self, hash: &Hash) -> Result<Option<Location>, Error> {
        self.visible(|| self.index.get(hash), |gate, location| gate.hides(hash, location))
    }

    fn locate_memo(&self, key: &Hash) -> Result<Option<Location>, Error> {
        self.visible(|| self.index.memo(key), |gate, location| gate.hides_memo(key, location))
    }

    fn visible(
        &self,
        ask: impl Fn() -> Result<Option<Location>, Error>,
        hides: impl Fn(&Gate, &Location) -> Option<bool>,
    ) -> Result<Option<Location>, Error> {
        // The gate first: it may not open between the look and the check.
        let gate = self.gate.read().expect("nothing panics while it is held");
        let Some(gate) = gate.as_deref() else { return ask() };
        let mut gone = None;
        loop {
            let found = ask()?;
            let Some(location) = found else { return Ok(None) };
            match hides(gate, &location) {
                Some(hidden) => return Ok(found.filter(|_| !hidden)),
                // The index names a pack that is not there. Whoever reads from it will be told.
                None if found == gone => return Ok(found),
                // What lay in a pack that was rewritten just now lies elsewhere.
                None => gone = found,
            }
        }
    }

    /// The limit that the store was opened with, in bytes of packs.
    pub fn quota_bytes(&self) -> Option<u64> {
        self.quota_bytes
    }

    /// Bytes of all packs, without a look at the disk.
    pub fn stored_bytes(&self) -> u64 {
        self.packs.stored_bytes()
    }

    /// Whether so much more may be written.
    pub(crate) fn check_quota(&self, needed_bytes: u64) -> Result<(), Error> {
        let (Some(quota_bytes), stored_bytes) = (self.quota_bytes, self.stored_bytes()) else { return Ok(()) };
        match stored_bytes.saturating_add(needed_bytes) > quota_bytes {
            true => Err(Error::Quota { stored_bytes, quota_bytes, needed_bytes }),
            false => Ok(()),
        }
    }

    pub(crate) fn set_gate(&self, gate: Option<Arc<Gate>>) {
        *self.gate.write().expect("nothing panics while it is held") = gate;
        // Decoded directories are found without asking the index.
        self.trees.clear();
    }

    pub(crate) fn groups_cache(&self) -> &Cache<Hash, Arc<Groups>> {
        &self.groups
    }

    pub(crate) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    pub(crate) fn packs(&self) -> &Arc<Packs> {
        &self.packs
    }

    pub(crate) fn memo_order(&self) -> &RwLock<()> {
        &self.memo_order
    }

    pub(crate) fn collecting(&self) -> &Mutex<()> {
        &self.collecting
    }

    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    pub(crate) fn press(&self) -> &Press {
        &self.press
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// The verified bytes at `location`, which the index gave for `key`.
    pub(crate) fn slice(&self, key: &Hash, location: &Location) -> Result<Slice, Error> {
        self.slice_moving(key, location, || self.index.get(key))
    }

    /// The pack may have been retired since the index was asked; then the index knows better now.
    fn slice_moving(
        &self,
        key: &Hash,
        location: &Location,
        ask_again: impl Fn() -> Result<Option<Location>, Error>,
    ) -> Result<Slice, Error> {
        let gone = |error: &Error| matches!(error, Error::Corrupt { what: PACK_GONE, .. });
        let mut location = *location;
        loop {
            match self.slice_at(key, &location) {
                Err(error) if gone(&error) => match ask_again()? {
                    Some(now) if now.pack != location.pack => location = now,
                    _ => return Err(error),
                },
                other => return other,
            }
        }
    }

    /// As `slice`, if the record is decoded.
    pub(crate) fn slice_at_hand(&self, key: &Hash, location: &Location) -> Result<Option<Slice>, Error> {
        let record = self.records.at_hand(location.place());
        record.map(|record| self.member(record, key, location)).transpose()
    }

    fn slice_at(&self, key: &Hash, location: &Location) -> Result<Slice, Error> {
        let record = self.records.get(location.place(), location.record_bytes)?;
        self.member(record.ok_or_else(|| self.corrupt(location, PACK_GONE))?, key, location)
    }

    fn member(&self, record: Arc<Record>, key: &Hash, location: &Location) -> Result<Slice, Error> {
        let member = usize::from(location.member);
        match record.members.get(member) {
            Some(found) if found.key == *key => Ok(Slice { record, member, location: *location }),
            _ => Err(self.corrupt(location, "the record holds other keys than the index says")),
        }
    }

    /// Notes that a reader passed a slice, so that the records after it can be decoded meanwhile.
    pub(crate) fn passed(&self, slice: &Slice) {
        self.records.passed(slice.location.place(), slice.location.record_bytes);
    }

    fn corrupt(&self, location: &Location, what: &'static str) -> Error {
        Error::Corrupt { pack: self.packs.path_of(location.pack), offset: location.offset, what }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flusher.stop();
        let closed = self.writer.sync().and_then(|()| self.index.flush().map(drop));
        if let Err(error) = closed {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing the store");
        }
    }
}

fn read_whole(object: &Object, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let (cid, size_bytes) = (object.cid(), object.size_bytes());
    if size_bytes > max_bytes {
        return Err(Error::TooLarge { cid, size_bytes, max_bytes });
    }
    let mut bytes = Vec::new();
    object.stream(&mut |chunk| {
        bytes.extend_from_slice(chunk);
        Ok(())
    })?;
    Ok(bytes)
}

fn lock(path: PathBuf) -> Result<File, Error> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(Error::io("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path }),
        Err(error) => Err(Error::io("lock", &path)(error)),
    }
}

/// Writes the format file of a new store; refuses a directory that is something else.
fn check_format(dir: &Path) -> Result<(), Error> {
    let path = dir.join("format");
    match fs::read(&path) {
        Ok(found) if found == FORMAT.as_bytes() => Ok(()),
        // Cut short by a crash while the store was being made, before anything could be put.
        Ok(found) if FORMAT.as_bytes().starts_with(&found) => write_format(dir, &path),
        Ok(found) => {
            let found = String::from_utf8_lossy(&found[..found.len().min(64)]).into_owned();
            Err(Error::Version { path, found })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_format(dir, &path),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

fn write_format(dir: &Path, path: &Path) -> Result<(), Error> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(FORMAT.as_bytes())?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    };
    write().map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::Codec;
    use crate::collect::Phase;
    use crate::writer::Durability;

    #[test]
    fn what_moves_between_the_look_and_the_check_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), Options::default()).unwrap());
        let put = |bytes: &[u8]| {
            let mut batch = store.batch();
            let cid = batch.put_bytes(Codec::Raw, bytes).unwrap();
            batch.commit(Durability::Durable).unwrap();
            cid
        };
        put(&(0..4_000u32).flat_map(|n| Hash::of(&n.to_le_bytes()).0).collect::<Vec<u8>>());
        let _keeps_what_follows = store.lease();
        let new = put(b"nothing names it, it is kept by its place").hash;
        let before = store.index.get(&new).unwrap().unwrap();
        let mut looked = false;
        let mut progress = |phase| {
            if !matches!(phase, Phase::Sweeping(done, all) if done == all) {
                return;
            }
            let now = store.index.get(&new).unwrap();
            assert!(now.unwrap().pack != before.pack && store.packs.class_of(before.pack).is_none());
            let answers = std::cell::RefCell::new(vec![now, Some(before)]);
            let ask = || Ok(answers.borrow_mut().pop().unwrap());
            assert_eq!(store.visible(ask, |gate, location| gate.hides(&new, location)).unwrap(), now);
            // The pack may go between any two questions, so what hangs on it is asked once: a check that it is there, then
            // another for its class, hid what had just been stored.
            let gate = store.gate.read().unwrap().clone().unwrap();
            assert_eq!(gate.hides(&new, &before), None);
            assert_eq!(gate.hides(&new, &now.unwrap()), Some(false));
            looked = true;
        };
        store.collect::<Error>(false, &mut progress, |_| Ok(())).unwrap();
        assert!(looked);
    }
}
