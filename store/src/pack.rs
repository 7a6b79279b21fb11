//! Pack files: append-only sequences of records, `packs/XXXXXXXX.data` and `.meta`.
//!
//! ```text
//! 0          8              10      11  12       16      20
//! | gridpack | version u16 1 | class | 0 | id u32 | 0 u32 | crc32 [0..20] | records ...
//! ```
//!
//! Ids ascend over both classes. A pack that has a successor of its class is never written again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::cache::Cache;
use crate::disk::{Access, Disk, DiskFile};
use crate::error::Error;
use crate::record::{self, Record};

pub const FILE_HEADER_BYTES: u64 = 24;
/// How far a write may fill the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A put leaves a reserve.
    Plenty,
    /// What makes room, or is small and must always be possible, like removing a name: it leaves what the index needs.
    Reserve,
}

impl Room {
    /// Free bytes to be left.
    fn spare_bytes(self) -> u64 {
        match self {
            Room::Plenty => 16 << 20,
            Room::Reserve => 2 << 20,
        }
    }
}

const VERSION: u16 = 1;
const REWRITE_BYTES: u64 = 1 << 20;
/// So much that was appended is written to the disk at once, while more is made: whoever syncs then waits for the rest alone.
const WRITE_BYTES: u64 = 8 << 20;
const MAX_OPEN_FILES: usize = 128;
/// What the name of a damaged pack that was set aside ends with.
const ASIDE: &str = ".damaged";

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
    file: Box<dyn DiskFile>,
    disk: Arc<dyn Disk>,
    /// Bytes of all packs, this one included.
    stored: Arc<AtomicU64>,
}

impl PackFile {
    pub fn size_bytes(&self) -> Result<u64, Error> {
        self.file.len().map_err(Error::io("look at", &self.path))
    }

    /// Reads exactly `buf`.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buf, offset).map_err(|error| self.read_error(offset, error))
    }

    fn read_error(&self, offset: u64, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt(offset, "the file ends before the record does"),
            _ => Error::io("read", &self.path)(error),
        }
    }

    /// Reads and checks the record at `offset`.
    pub fn read_record(&self, offset: u64, record_bytes: u32) -> Result<Record, Error> {
        let mut bytes = record::buffer(record_bytes as usize);
        self.read_at(offset, &mut bytes)?;
        Record::decode(bytes).map_err(|what| self.corrupt(offset, what))
    }

    /// Reads the record at `offset` as it lies there; its CRCs are checked.
    pub fn read_encoded(&self, offset: u64, record_bytes: u32) -> Result<Vec<u8>, Error> {
        let read = self.file.read_vec_at(record_bytes as usize, offset);
        let bytes = read.map_err(|error| self.read_error(offset, error))?;
        record::check(&bytes).map_err(|what| self.corrupt(offset, what))?;
        Ok(bytes)
    }

    /// Writes `bytes` at `end`, or leaves the file as it was.
    pub fn append(&self, end: u64, bytes: &[u8], room: Room) -> Result<(), Error> {
        self.append_parts(end, [bytes, &[]], room)
    }

    /// As `append`, of two parts one after the other.
    pub fn append_parts(&self, end: u64, [first, second]: [&[u8]; 2], room: Room) -> Result<(), Error> {
        let len = (first.len() + second.len()) as u64;
        check_space(&*self.disk, &self.path, len, room)?;
        let mut written = self.file.write_all_at(first, end);
        if !second.is_empty() {
            written = written.and_then(|()| self.file.write_all_at(second, end + first.len() as u64));
        }
        match written {
            Ok(()) => {
                self.stored.fetch_add(len, Ordering::Relaxed);
                let full = |end: u64| end - end % WRITE_BYTES;
                if full(end) < full(end + len) {
                    self.file.begin_writing(full(end)..full(end + len));
                }
                Ok(())
            }
            Err(error) => {
                self.truncate(end)?;
                Err(write_error(&*self.disk, "write", &self.path, len, error))
            }
        }
    }

    /// Writes what the file holds from `from` on once more, so that the next sync saves it even if one that failed
    /// has left it marked as saved.
    pub fn rewrite(&self, from: u64) -> Result<(), Error> {
        let (mut at, end) = (from, self.size_bytes()?);
        while at < end {
            let mut bytes = vec![0; REWRITE_BYTES.min(end - at) as usize];
            self.read_at(at, &mut bytes)?;
            let written = self.file.write_all_at(&bytes, at);
            written.map_err(|error| write_error(&*self.disk, "write", &self.path, bytes.len() as u64, error))?;
            at += bytes.len() as u64;
        }
        Ok(())
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

fn write_error(disk: &dyn Disk, op: &'static str, path: &Path, needed_bytes: u64, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            // Only for the message: that the disk is full is known already.
            let free_bytes = disk.free_bytes().unwrap_or(0);
            Error::Full { path: path.to_owned(), needed_bytes: needed_bytes + Room::Plenty.spare_bytes(), free_bytes }
        }
        _ => Error::io(op, path)(error),
    }
}

fn check_space(disk: &dyn Disk, path: &Path, len: u64, room: Room) -> Result<(), Error> {
    let free_bytes = disk.free_bytes().map_err(Error::io("ask for the free space at", path))?;
    let needed_bytes = len + room.spare_bytes();
    if free_bytes < needed_bytes {
        return Err(Error::Full { path: path.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}

/// How the packs' directory differs from what is known of it.
pub struct Listing {
    /// Files that are no packs.
    pub strays: Vec<PathBuf>,
    /// Packs whose files are gone.
    pub vanished: Vec<(u32, PathBuf)>,
}

/// All packs of a store.
pub struct Packs {
    disk: Arc<dyn Disk>,
    known: RwLock<BTreeMap<u32, Class>>,
    /// Handles for reading.
    open: Cache<u32, Arc<PackFile>>,
    next_id: AtomicU32,
    stored: Arc<AtomicU64>,
}

impl Packs {
    /// Lists the packs on `disk`, making its directory if it isn't there.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Packs, Error> {
        disk.make().map_err(Error::io("create", disk.dir()))?;
        let names = disk.names().map_err(Error::io("list", disk.dir()))?;
        let known: BTreeMap<_, _> = names.iter().filter_map(|name| parse_name(name.to_str()?)).collect();
        let next_id = known.last_key_value().map_or(1, |(id, _)| id + 1);
        let open = Cache::new(MAX_OPEN_FILES);
        Ok(Packs { disk, known: RwLock::new(known), open, next_id: AtomicU32::new(next_id), stored: Arc::default() })
    }

    /// Counts what there is, once recovery is done cutting.
    pub fn measure(&self) -> Result<(), Error> {
        let (_, stored_bytes) = self.usage()?;
        self.stored.store(stored_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of all packs, without a look at the disk.
    pub fn stored_bytes(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
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
            match self.disk.open(&file_name(*id, *class), Access::Read) {
                Ok(file) => total += file.len().map_err(Error::io("look at", &self.path(*id, *class)))?,
                // Removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at", &self.path(*id, *class))(error)),
            }
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
        match self.disk.open(&file_name(id, class), Access::Read) {
            Ok(file) => {
                let pack = Arc::new(self.pack_file(id, path, file));
                self.open.insert(id, Arc::clone(&pack), 1);
                Ok(Some(pack))
            }
            // Removed just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &path)(error)),
        }
    }

    /// A handle for writing to an existing pack.
    pub fn for_writing(&self, id: u32, class: Class) -> Result<PackFile, Error> {
        self.pack("open", id, class, Access::ReadWrite)
    }

    fn pack(&self, op: &'static str, id: u32, class: Class, access: Access) -> Result<PackFile, Error> {
        let path = self.path(id, class);
        let file = self.disk.open(&file_name(id, class), access).map_err(Error::io(op, &path))?;
        Ok(self.pack_file(id, path, file))
    }

    fn pack_file(&self, id: u32, path: PathBuf, file: Box<dyn DiskFile>) -> PackFile {
        PackFile { id, path, file, disk: Arc::clone(&self.disk), stored: Arc::clone(&self.stored) }
    }

    /// Begins the next pack; its directory entry is durable when this returns.
    pub fn create(&self, class: Class) -> Result<PackFile, Error> {
        check_space(&*self.disk, self.disk.dir(), FILE_HEADER_BYTES, Room::Reserve)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let path = self.path(id, class);
        let file = self
            .disk
            .create(&file_name(id, class))
            .map_err(|error| write_error(&*self.disk, "create", &path, FILE_HEADER_BYTES, error))?;
        let pack = self.pack_file(id, path, file);
        self.known.write().expect("map operations do not panic").insert(id, class);
        if let Err(error) = pack.append(0, &file_header(id, class), Room::Reserve).and_then(|()| self.sync_dir()) {
            self.remove(id, class)?;
            return Err(error);
        }
        Ok(pack)
    }

    /// What a pack holds, if it exists.
    pub fn class_of(&self, id: u32) -> Option<Class> {
        self.known().get(&id).copied()
    }

    /// Deletes packs that were retired, durably.
    pub fn remove_retired(&self, retired: impl IntoIterator<Item = u32>) -> Result<(), Error> {
        let mut removed = false;
        for id in retired {
            if let Some(class) = self.class_of(id) {
                let size_bytes = self.get(id)?.map_or(Ok(0), |pack| pack.size_bytes())?;
                self.remove(id, class)?;
                self.stored.fetch_sub(size_bytes, Ordering::Relaxed);
                removed = true;
            }
        }
        if removed { self.sync_dir() } else { Ok(()) }
    }

    /// Deletes a pack of which nothing is needed any more. A crash before [`Packs::sync_dir`] may bring it back.
    pub fn remove(&self, id: u32, class: Class) -> Result<(), Error> {
        let path = self.path(id, class);
        self.known.write().expect("map operations do not panic").remove(&id);
        self.open.remove(&id);
        self.disk.remove(&file_name(id, class)).map_err(Error::io("remove", &path))
    }

    /// Keeps a retired pack's file under another name, durably: `<name>.damaged`.
    pub fn set_aside(&self, id: u32, class: Class) -> Result<PathBuf, Error> {
        let (name, aside) = (file_name(id, class), format!("{}{ASIDE}", file_name(id, class)));
        self.known.write().expect("map operations do not panic").remove(&id);
        self.open.remove(&id);
        match self.disk.rename(&name, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(Error::io("rename", &self.path(id, class)))?,
        }
        self.sync_dir()?;
        Ok(self.disk.dir().join(aside))
    }

    /// Compares the directory with what is known of it.
    pub fn listing(&self) -> Result<Listing, Error> {
        let known = self.known().clone();
        let names = self.disk.names().map_err(Error::io("list", self.disk.dir()))?;
        let pack = |name: &OsString| {
            let name = name.to_str()?;
            parse_name(name.strip_suffix(ASIDE).unwrap_or(name))
        };
        let strays = names.iter().filter(|name| pack(name).is_none()).map(|name| self.disk.dir().join(name)).collect();
        let is_gone = |(id, class): &(&u32, &Class)| !names.contains(&file_name(**id, **class).into());
        let vanished = known.iter().filter(is_gone).map(|(id, class)| (*id, self.path(*id, *class)));
        // One may have been given up just now.
        Ok(Listing { strays, vanished: vanished.filter(|(id, _)| self.class_of(*id).is_some()).collect() })
    }

    /// Lets no pack that is yet to come have this id.
    pub fn never_again(&self, id: u32) {
        self.next_id.fetch_max(id + 1, Ordering::Relaxed);
    }

    /// Where a pack is or was, for messages.
    pub fn path_of(&self, id: u32) -> PathBuf {
        let class = self.known().get(&id).copied().unwrap_or(Class::Data);
        self.path(id, class)
    }

    /// How many packs there are.
    pub fn count(&self) -> usize {
        self.known().len()
    }

    /// Makes durable which packs there are.
    pub fn sync_dir(&self) -> Result<(), Error> {
        self.disk.sync().map_err(Error::io("sync", self.disk.dir()))
    }

    fn path(&self, id: u32, class: Class) -> PathBuf {
        self.disk.dir().join(file_name(id, class))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u32, Class>> {
        self.known.read().expect("map operations do not panic")
    }
}

fn file_name(id: u32, class: Class) -> String {
    format!("{id:08x}.{}", class.extension())
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
    use crate::disk::Files;

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
        let packs = Packs::open(Arc::new(Files::new(dir.path().into()))).unwrap();
        for class in [Class::Data, Class::Meta, Class::Data] {
            packs.create(class).unwrap();
        }
        let packs = Packs::open(Arc::new(Files::new(dir.path().into()))).unwrap();
        assert_eq!((packs.ids(Class::Data), packs.ids(Class::Meta)), (vec![1, 3], vec![2]));
        assert_eq!(packs.create(Class::Meta).unwrap().id, 4);
        assert_eq!(packs.usage().unwrap(), (4, 4 * 24));
        assert!(packs.get(9).unwrap().is_none());
    }
}
