//! The store: one directory of packs, one index, one writer, any number of readers.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::batch::Batch;
use crate::cache::Cache;
use crate::cid::Cid;
use crate::error::Error;
use crate::flusher::Flusher;
use crate::hash::Hash;
use crate::index::Index;
use crate::location::{Location, split_memo};
use crate::object::{Object, Slice};
use crate::pack::Packs;
use crate::press::Press;
use crate::record::Record;
use crate::recovery;
use crate::tree::Tree;
use crate::writer::{Limits, Writer};

const FORMAT: &str = "gridfs store 1\n";
const RECORD_CACHE_BYTES: usize = 64 << 20;
const TREE_CACHE_BYTES: usize = 16 << 20;
/// Largest encoded directory that [`Store::tree`] decodes.
pub const MAX_TREE_BYTES: u64 = 64 << 20;

/// How to open a store.
#[derive(Default)]
pub struct Options<'a> {
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
    /// Remembered results.
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
    // Stops before the index and the lock go.
    flusher: Flusher,
    press: Press,
    writer: Arc<Writer>,
    packs: Arc<Packs>,
    index: Arc<Index>,
    /// Decoded records by pack and offset.
    records: Cache<(u32, u64), Arc<Record>>,
    trees: Cache<Hash, Arc<Tree>>,
    /// Held while the store is open.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, creating it if there is none. Only one process can have it open.
    pub fn open(dir: &Path, options: Options<'_>) -> Result<Store, Error> {
        Store::open_limited(dir, options, Limits::default())
    }

    pub(crate) fn open_limited(dir: &Path, options: Options<'_>, limits: Limits) -> Result<Store, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock(dir.join("lock"))?;
        check_format(dir)?;
        let packs = Arc::new(Packs::open(dir.join("packs"))?);
        let mut ignore = |_| ();
        let progress = options.progress.unwrap_or(&mut ignore);
        let (index, start) = recovery::run(dir, &packs, progress)?;
        let index = Arc::new(index);
        let writer = Arc::new(Writer::new(Arc::clone(&packs), Arc::clone(&index), limits, start));
        Ok(Store {
            flusher: Flusher::start(Arc::clone(&writer)),
            press: Press::start().map_err(Error::io("start threads for", dir))?,
            writer,
            packs,
            index,
            records: Cache::new(RECORD_CACHE_BYTES),
            trees: Cache::new(TREE_CACHE_BYTES),
            _lock: lock,
        })
    }

    /// An object, or `None` if it was never committed.
    pub fn object(self: &Arc<Self>, cid: &Cid) -> Result<Option<Object>, Error> {
        let location = self.index.get(&cid.hash)?;
        location.map(|location| Object::open(Arc::clone(self), *cid, location)).transpose()
    }

    /// Whether an object was committed.
    pub fn contains(&self, cid: &Cid) -> Result<bool, Error> {
        Ok(self.index.get(&cid.hash)?.is_some())
    }

    /// A whole object of at most `max_bytes`, verified against its name.
    pub fn read(self: &Arc<Self>, cid: &Cid, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let object = self.object(cid)?.ok_or(Error::NotFound { cid: *cid })?;
        let size_bytes = object.size_bytes();
        if size_bytes > max_bytes {
            return Err(Error::TooLarge { cid: *cid, size_bytes, max_bytes });
        }
        let mut bytes = Vec::new();
        object.stream(&mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(bytes)
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
        let Some(location) = self.index.memo(key)? else { return Ok(None) };
        let slice = self.slice(key, &location)?;
        match split_memo(slice.bytes()) {
            Ok((_, value)) => Ok(Some(value.to_vec())),
            Err(what) => Err(self.corrupt(&location, what)),
        }
    }

    /// Labels that begin with `label_prefix`, in order, with the keys of their memos.
    pub fn memos(
        &self,
        label_prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, Hash), Error>> + use<>, Error> {
        Ok(self.index.labels(label_prefix))
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

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn press(&self) -> &Press {
        &self.press
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The verified bytes at `location`, which the index gives for `key`.
    pub(crate) fn slice(&self, key: &Hash, location: &Location) -> Result<Slice, Error> {
        let record = self.record(location)?;
        let member = usize::from(location.member);
        match record.members.get(member) {
            Some(found) if found.key == *key => Ok(Slice { record, member }),
            _ => Err(self.corrupt(location, "the record holds other keys than the index says")),
        }
    }

    pub(crate) fn has_decoded(&self, location: &Location) -> bool {
        self.records.get(&(location.pack, location.offset)).is_some()
    }

    fn record(&self, location: &Location) -> Result<Arc<Record>, Error> {
        let place = (location.pack, location.offset);
        if let Some(record) = self.records.get(&place) {
            return Ok(record);
        }
        let pack = self.packs.get(location.pack)?;
        let pack = pack.ok_or_else(|| self.corrupt(location, "the pack file is gone"))?;
        let record = Arc::new(pack.read_record(location.offset, location.record_bytes)?);
        self.records.insert(place, Arc::clone(&record), record.weight());
        Ok(record)
    }

    fn corrupt(&self, location: &Location, what: &'static str) -> Error {
        Error::Corrupt { pack: self.packs.path_of(location.pack), offset: location.offset, what }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flusher.stop();
        let closed = self.writer.sync().and_then(|()| self.index.flush());
        if let Err(error) = closed {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing the store");
        }
    }
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
