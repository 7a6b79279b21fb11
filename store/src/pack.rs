//! Pack files: append-only sequences of records, `packs/XXXXXXXX.data` and `.meta`.
//!
//! ```text
//! 0          8              10      11  12       16      20
//! | gridpack | version u16 1 | class | 0 | id u32 | 0 u32 | crc32 [0..20] | records ...
//! ```
//!
//! Ids ascend over both classes. A pack that has a successor of its class is never written again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use crate::cache::Cache;
use crate::error::Error;
use crate::record::Record;

pub const FILE_HEADER_BYTES: u64 = 24;
/// Free space never used for packs, so that the index does not meet a full disk.
pub const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
const VERSION: u16 = 1;
const MAX_OPEN_FILES: usize = 128;

/// What a pack holds: bulk bytes, or trees, manifests, memos and the commit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Data = 1,
    Meta = 2,
}

impl Class {
    fn extension(self) -> &'static str {
        match self {
            Class::Data => "data",
            Class::Meta => "meta",
        }
    }
}

/// One open pack.
pub struct PackFile {
    pub id: u32,
    pub path: PathBuf,
    file: File,
}

impl PackFile {
    pub fn size_bytes(&self) -> Result<u64, Error> {
        let metadata = self.file.metadata().map_err(Error::io("look at", &self.path))?;
        Ok(metadata.len())
    }

    /// Reads exactly `buf`.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        match self.file.read_exact_at(buf, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(offset, "the file ends before the record does"))
            }
            other => other.map_err(Error::io("read", &self.path)),
        }
    }

    /// Reads and checks the record at `offset`.
    pub fn read_record(&self, offset: u64, record_bytes: u32) -> Result<Record, Error> {
        let mut bytes = vec![0; record_bytes as usize];
        self.read_at(offset, &mut bytes)?;
        Record::decode(bytes).map_err(|what| self.corrupt(offset, what))
    }

    /// Writes `bytes` at `end`, or leaves the file as it was.
    pub fn append(&self, end: u64, bytes: &[u8]) -> Result<(), Error> {
        check_space(&self.path, bytes.len() as u64)?;
        match self.file.write_all_at(bytes, end) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.truncate(end)?;
                Err(write_error(&self.path, bytes.len() as u64, error))
            }
        }
    }

    pub fn truncate(&self, size_bytes: u64) -> Result<(), Error> {
        self.file.set_len(size_bytes).map_err(Error::io("truncate", &self.path))
    }

    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    pub fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Error::Corrupt { pack: self.path.clone(), offset, what }
    }
}

fn write_error(path: &Path, needed_bytes: u64, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free_bytes = free_bytes(path).unwrap_or(0);
            Error::Full { path: path.to_owned(), needed_bytes: needed_bytes + RESERVE_BYTES, free_bytes }
        }
        _ => Error::io("write", path)(error),
    }
}

fn free_bytes(path: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(path).map_err(Error::io("ask for the free space at", path))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn check_space(path: &Path, len: u64) -> Result<(), Error> {
    let (needed_bytes, free_bytes) = (len + RESERVE_BYTES, free_bytes(path)?);
    if free_bytes < needed_bytes {
        return Err(Error::Full { path: path.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}

/// All packs of a store.
pub struct Packs {
    dir: PathBuf,
    known: RwLock<BTreeMap<u32, Class>>,
    /// Handles for reading.
    open: Cache<u32, Arc<PackFile>>,
    next_id: AtomicU32,
}

impl Packs {
    /// Lists the packs in `dir`, making it if it isn't there.
    pub fn open(dir: PathBuf) -> Result<Packs, Error> {
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let name = entry.map_err(Error::io("list", &dir))?.file_name();
            if let Some((id, class)) = name.to_str().and_then(parse_name) {
                known.insert(id, class);
            }
        }
        let next_id = known.last_key_value().map_or(1, |(id, _)| id + 1);
        let open = Cache::new(MAX_OPEN_FILES);
        Ok(Packs { dir, known: RwLock::new(known), open, next_id: AtomicU32::new(next_id) })
    }

    /// Ids of one class, ascending.
    pub fn ids(&self, class: Class) -> Vec<u32> {
        self.known().iter().filter(|(_, of)| **of == class).map(|(id, _)| *id).collect()
    }

    /// Number of packs and their bytes on disk.
    pub fn usage(&self) -> Result<(u64, u64), Error> {
        let known = self.known().clone();
        let mut total = 0;
        for (id, class) in &known {
            let path = self.path(*id, *class);
            total += fs::metadata(&path).map_err(Error::io("look at", &path))?.len();
        }
        Ok((known.len() as u64, total))
    }

    /// A handle for reading, or `None` for a pack that does not exist.
    pub fn get(&self, id: u32) -> Result<Option<Arc<PackFile>>, Error> {
        if let Some(pack) = self.open.get(&id) {
            return Ok(Some(pack));
        }
        let Some(class) = self.known().get(&id).copied() else { return Ok(None) };
        let path = self.path(id, class);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let pack = Arc::new(PackFile { id, path, file });
        self.open.insert(id, Arc::clone(&pack), 1);
        Ok(Some(pack))
    }

    /// A handle for writing to an existing pack.
    pub fn for_writing(&self, id: u32, class: Class) -> Result<PackFile, Error> {
        let path = self.path(id, class);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(Error::io("open", &path))?;
        Ok(PackFile { id, path, file })
    }

    /// Begins the next pack; its directory entry is durable when this returns.
    pub fn create(&self, class: Class) -> Result<PackFile, Error> {
        check_space(&self.dir, FILE_HEADER_BYTES)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let path = self.path(id, class);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let pack = PackFile { id, path, file };
        self.known.write().expect("map operations do not panic").insert(id, class);
        if let Err(error) = pack.append(0, &file_header(id, class)).and_then(|()| self.sync_dir()) {
            self.remove(id, class)?;
            return Err(error);
        }
        Ok(pack)
    }

    /// Deletes a pack that holds nothing committed.
    pub fn remove(&self, id: u32, class: Class) -> Result<(), Error> {
        let path = self.path(id, class);
        self.known.write().expect("map operations do not panic").remove(&id);
        fs::remove_file(&path).map_err(Error::io("remove", &path))
    }

    /// Where a pack is or was, for messages.
    pub fn path_of(&self, id: u32) -> PathBuf {
        let class = self.known().get(&id).copied().unwrap_or(Class::Data);
        self.path(id, class)
    }

    fn sync_dir(&self) -> Result<(), Error> {
        let sync = || File::open(&self.dir)?.sync_all();
        sync().map_err(Error::io("sync", &self.dir))
    }

    fn path(&self, id: u32, class: Class) -> PathBuf {
        self.dir.join(format!("{id:08x}.{}", class.extension()))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u32, Class>> {
        self.known.read().expect("map operations do not panic")
    }
}

fn parse_name(name: &str) -> Option<(u32, Class)> {
    let (stem, extension) = name.split_once('.')?;
    let class = [Class::Data, Class::Meta].into_iter().find(|class| class.extension() == extension)?;
    let id = u32::from_str_radix(stem, 16).ok()?;
    (format!("{id:08x}") == stem && id > 0).then_some((id, class))
}

/// The first bytes of a pack file.
pub fn file_header(id: u32, class: Class) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut bytes = [0; FILE_HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(b"gridpack");
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10] = class as u8;
    bytes[12..16].copy_from_slice(&id.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_file_header() {
        let header = file_header(0x2a, Class::Meta);
        assert_eq!(header[..20], *b"gridpack\x01\x00\x02\x00\x2a\0\0\0\0\0\0\0");
        assert_eq!(header[20..], crc32fast::hash(&header[..20]).to_le_bytes());
    }

    #[test]
    fn only_our_names_are_packs() {
        assert_eq!(parse_name("0000002a.data"), Some((42, Class::Data)));
        assert_eq!(parse_name("0000002a.meta"), Some((42, Class::Meta)));
        for name in ["2a.data", "0000002A.data", "0000002a.bak", "00000000.data", "0000002a", "+000002a.data"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn packs_are_listed_by_class_and_numbered_on() {
        let dir = tempfile::tempdir().unwrap();
        let packs = Packs::open(dir.path().into()).unwrap();
        for class in [Class::Data, Class::Meta, Class::Data] {
            packs.create(class).unwrap();
        }
        let packs = Packs::open(dir.path().into()).unwrap();
        assert_eq!((packs.ids(Class::Data), packs.ids(Class::Meta)), (vec![1, 3], vec![2]));
        assert_eq!(packs.create(Class::Meta).unwrap().id, 4);
        assert_eq!(packs.usage().unwrap(), (4, 4 * 24));
        assert!(packs.get(9).unwrap().is_none());
    }
}
