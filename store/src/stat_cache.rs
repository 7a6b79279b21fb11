//! What is remembered of the files of an earlier put, so that those which have not changed need not be read again.
//!
//! One file per directory that was put, `<store>/stat/<BLAKE3 of its path>`. It is no part of the disk format:
//! whatever is damaged or of another version is ignored, and all of it may be deleted at any time.
//!
//! ```text
//! | gridstat | version u8 1 | zstd: items ... | BLAKE3 of all before |
//! 0                                                               leave
//! 1 | name length u8 | name                                       enter
//! 2 or, if executable, 3 | name length u8 | name | facts 40 | hash 32   file
//! ```
//!
//! Items come in the order of the walk, so they are read and written along with it and never held in memory.
//!
//! Invariants: a file is remembered only if its content and its inode had last changed [`SETTLED_S`] before the walk
//! began, so every later change shows in its times; what is remembered becomes visible after the batch's commit.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::Stat;

use crate::hash::Hash;

const HEAD: [u8; 9] = *b"gridstat\x01";
const HASH_BYTES: u64 = 32;
const FACTS_BYTES: usize = 40;
/// Directories remembered; those put longest ago are forgotten.
const MAX_FILES: usize = 64;
/// A larger file is neither written nor read: four million files or so.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Memory that decompression may take, as a power of two.
const MAX_WINDOW_LOG: u32 = 20;
/// Coarser than the time stamps of any file system.
const SETTLED_S: i64 = 2;

/// What tells whether a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    size_bytes: u64,
    inode: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    pub executable: bool,
}

impl Facts {
    pub fn of(stat: &Stat) -> Facts {
        Facts {
            size_bytes: stat.st_size as u64,
            inode: stat.st_ino,
            modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime, stat.st_ctime_nsec as u32),
            executable: stat.st_mode & 0o111 != 0,
        }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether a change at `now_s` or later, in seconds since 1970, is certain to show.
    pub fn settled(&self, now_s: i64) -> bool {
        self.modified.0.max(self.changed.0) < now_s.saturating_sub(SETTLED_S)
    }

    fn encode(&self) -> [u8; FACTS_BYTES] {
        let mut bytes = [0; FACTS_BYTES];
        bytes[..8].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.inode.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.modified.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.changed.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.modified.1.to_le_bytes());
        bytes[36..].copy_from_slice(&self.changed.1.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; FACTS_BYTES], executable: bool) -> Facts {
        let le64 = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight"));
        let le32 = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four"));
        Facts {
            size_bytes: le64(0),
            inode: le64(8),
            modified: (le64(16) as i64, le32(32)),
            changed: (le64(24) as i64, le32(36)),
            executable,
        }
    }
}

/// Seconds since 1970.
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Where what is known of `root` is kept, in the store in `store`.
pub fn place(store: &Path, root: &Path) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let canonical = fs::canonicalize(root)?;
    Ok(store.join("stat").join(Hash::of(canonical.as_os_str().as_bytes()).to_string()))
}

enum Item {
    Leave,
    Enter { name: Vec<u8> },
    File { name: Vec<u8>, facts: Facts, hash: Hash },
}

/// An earlier put, read along with a walk through the same directory.
pub struct Memory {
    items: BufReader<zstd::stream::read::Decoder<'static, BufReader<io::Take<File>>>>,
    next: Option<Item>,
    /// Directories that the walk is in and the earlier one was not.
    strange: usize,
}

impl Memory {
    /// `None` if there is nothing to be trusted.
    pub fn open(place: &Path) -> Option<Memory> {
        match Memory::read(place) {
            Ok(memory) => memory,
            Err(error) => {
                let known = error.kind() == io::ErrorKind::NotFound;
                if !known {
                    tracing::debug!(error = &error as &dyn std::error::Error, path = %place.display(), "ignoring");
                }
                None
            }
        }
    }

    fn read(place: &Path) -> io::Result<Option<Memory>> {
        let mut file = File::open(place)?;
        let len = file.metadata()?.len();
        if !(HEAD.len() as u64 + HASH_BYTES..=MAX_FILE_BYTES).contains(&len) {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(Read::by_ref(&mut file).take(len - HASH_BYTES))?;
        let (mut hash, mut head) = ([0; HASH_BYTES as usize], HEAD);
        file.read_exact(&mut hash)?;
        file.rewind()?;
        file.read_exact(&mut head)?;
        if head != HEAD || *hasher.finalize().as_bytes() != hash {
            return Ok(None);
        }
        let packed = BufReader::new(file.take(len - HASH_BYTES - HEAD.len() as u64));
        let mut plain = zstd::stream::read::Decoder::with_buffer(packed)?;
        plain.window_log_max(MAX_WINDOW_LOG)?;
        let mut memory = Memory { items: BufReader::with_capacity(64 << 10, plain), next: None, strange: 0 };
        memory.step();
        Ok(Some(memory))
    }

    /// What is remembered of a file in the directory that the walk is in.
    pub fn file(&mut self, name: &[u8]) -> Option<(Facts, Hash)> {
        self.seek(name);
        match &self.next {
            Some(Item::File { name: found, facts, hash }) if found == name && self.strange == 0 => {
                Some((*facts, *hash))
            }
            _ => None,
        }
    }

    /// The walk enters a directory.
    pub fn enter(&mut self, name: &[u8]) {
        self.seek(name);
        match &self.next {
            Some(Item::Enter { name: found }) if found == name && self.strange == 0 => self.step(),
            _ => self.strange += 1,
        }
    }

    /// The walk leaves the directory that it is in.
    pub fn leave(&mut self) {
        if self.strange > 0 {
            self.strange -= 1;
        } else {
            self.skip_rest();
        }
    }

    /// Goes on to `name`, or to where it would be.
    fn seek(&mut self, name: &[u8]) {
        while self.strange == 0 {
            match &self.next {
                Some(Item::File { name: found, .. }) if found.as_slice() < name => self.step(),
                Some(Item::Enter { name: found }) if found.as_slice() < name => {
                    self.step();
                    self.skip_rest();
                }
                _ => return,
            }
        }
    }

    /// Goes on behind the end of the directory.
    fn skip_rest(&mut self) {
        let mut depth = 1;
        while depth > 0 && self.next.is_some() {
            match self.next {
                Some(Item::Leave) => depth -= 1,
                Some(Item::Enter { .. }) => depth += 1,
                _ => {}
            }
            self.step();
        }
    }

    fn step(&mut self) {
        // The bytes were checked: there is nothing but the end that could fail.
        self.next = self.item().ok();
    }

    fn item(&mut self) -> io::Result<Item> {
        let [tag] = self.bytes()?;
        if tag == 0 {
            return Ok(Item::Leave);
        }
        let [len] = self.bytes()?;
        let mut name = vec![0; usize::from(len)];
        self.items.read_exact(&mut name)?;
        match tag {
            1 => Ok(Item::Enter { name }),
            2 | 3 => {
                let facts = Facts::decode(&self.bytes()?, tag == 3);
                Ok(Item::File { name, facts, hash: Hash(self.bytes()?) })
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn bytes<const LEN: usize>(&mut self) -> io::Result<[u8; LEN]> {
        let mut bytes = [0; LEN];
        self.items.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// What a walk finds, written down along with it. A failure only means that nothing is remembered.
pub struct Record {
    items: zstd::stream::write::Encoder<'static, Hashing>,
    unfinished: Unfinished,
}

struct Hashing {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    written: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        match self.written <= MAX_FILE_BYTES - HASH_BYTES {
            true => Ok(written),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file under a temporary name, removed unless published.
pub struct Unfinished {
    temporary: PathBuf,
    place: PathBuf,
}

impl Record {
    /// Begins to write what will be known at `place`.
    pub fn create(place: &Path) -> io::Result<Record> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = place.parent().expect("a place is in a directory of the store");
        fs::create_dir_all(dir)?;
        let temporary = place.with_extension(format!("{number}.new"));
        let file = BufWriter::new(File::create(&temporary)?);
        let unfinished = Unfinished { temporary, place: place.to_owned() };
        let mut out = Hashing { file, hasher: blake3::Hasher::new(), written: 0 };
        out.write_all(&HEAD)?;
        Ok(Record { items: zstd::stream::write::Encoder::new(out, 1)?, unfinished })
    }

    pub fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        self.items.write_all(&[1, name.len() as u8])?;
        self.items.write_all(name)
    }

    pub fn leave(&mut self) -> io::Result<()> {
        self.items.write_all(&[0])
    }

    pub fn file(&mut self, name: &[u8], facts: &Facts, hash: &Hash) -> io::Result<()> {
        self.items.write_all(&[2 + u8::from(facts.executable), name.len() as u8])?;
        self.items.write_all(name)?;
        self.items.write_all(&facts.encode())?;
        self.items.write_all(&hash.0)
    }

    /// Not synced: what a crash spoils is ignored.
    pub fn finish(self) -> io::Result<Unfinished> {
        let Hashing { mut file, hasher, .. } = self.items.finish()?;
        file.write_all(hasher.finalize().as_bytes())?;
        file.flush()?;
        Ok(self.unfinished)
    }
}

impl Unfinished {
    /// Takes the place of what was known before.
    pub fn publish(self) {
        let published = fs::rename(&self.temporary, &self.place).and_then(|()| forget_oldest(&self.place));
        if let Err(error) = published {
            tracing::debug!(error = &error as &dyn std::error::Error, path = %self.place.display(), "can't remember");
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once published there is nothing of that name.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn forget_oldest(place: &Path) -> io::Result<()> {
    let dir = place.parent().expect("a place is in a directory of the store");
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let excess = paths.len().saturating_sub(MAX_FILES);
    if excess == 0 {
        return Ok(());
    }
    let mut dated = paths.into_iter().filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)));
    let mut dated: Vec<_> = dated.by_ref().collect();
    dated.sort();
    dated[..excess.min(dated.len())].iter().try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A directory of directories (`Some`) and files.
    #[derive(Debug, Default)]
    struct Node(BTreeMap<Vec<u8>, Option<Node>>);

    /// A tree that depends on `seed` alone; trees of several seeds have much in common.
    fn tree(seed: &mut blake3::OutputReader, depth: usize) -> Node {
        let mut node = Node::default();
        for name in [&b"a"[..], b"a.b", b"ab", b"b", b"\xff"] {
            let mut dice = [0];
            seed.fill(&mut dice);
            match dice[0] % 4 {
                0 => {}
                1 if depth > 0 => drop(node.0.insert(name.to_vec(), Some(tree(seed, depth - 1)))),
                _ => drop(node.0.insert(name.to_vec(), None)),
            }
        }
        node
    }

    fn trees(number: u8) -> Node {
        tree(&mut blake3::Hasher::new().update(&[number]).finalize_xof(), 3)
    }

    fn facts(seed: u64) -> Facts {
        let (modified, changed) = ((seed as i64 - 5, 7), (i64::MAX, 999_999_999));
        Facts { size_bytes: seed, inode: u64::MAX - seed, modified, changed, executable: seed.is_multiple_of(2) }
    }

    fn record(node: &Node, record: &mut Record, seed: &mut u64) {
        for (name, below) in &node.0 {
            match below {
                None => {
                    *seed += 1;
                    record.file(name, &facts(*seed), &Hash::of(&seed.to_le_bytes())).unwrap();
                }
                Some(below) => {
                    record.enter(name).unwrap();
                    self::record(below, record, seed);
                }
            }
        }
        record.leave().unwrap();
    }

    /// The numbers under which `record` knows the files of `node`, in the order of a walk through `other`.
    fn expected(node: &Node, seed: &mut u64, path: &[u8], all: &mut BTreeMap<Vec<u8>, u64>) {
        for (name, below) in &node.0 {
            let path = [path, b"/", name].concat();
            match below {
                None => {
                    *seed += 1;
                    all.insert(path, *seed);
                }
                Some(below) => expected(below, seed, &path, all),
            }
        }
    }

    fn compare(node: &Node, memory: &mut Memory, path: &[u8], all: &BTreeMap<Vec<u8>, u64>, hits: &mut usize) {
        for (name, below) in &node.0 {
            let path = [path, b"/", name].concat();
            match below {
                None => {
                    let known = all.get(&path).map(|seed| (facts(*seed), Hash::of(&seed.to_le_bytes())));
                    assert_eq!(memory.file(name), known, "{}", path.escape_ascii());
                    *hits += usize::from(known.is_some());
                }
                Some(below) => {
                    memory.enter(name);
                    compare(below, memory, &path, all, hits);
                }
            }
        }
        memory.leave();
    }

    #[test]
    fn a_walk_through_another_tree_finds_what_both_have() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("stat/x");
        let mut hits = 0;
        for number in 0..40 {
            let (earlier, later) = (trees(number), trees(number + 1));
            let mut out = Record::create(&place).unwrap();
            record(&earlier, &mut out, &mut 0);
            out.finish().unwrap().publish();
            let mut all = BTreeMap::new();
            expected(&earlier, &mut 0, b"", &mut all);
            for walked in [&earlier, &later] {
                compare(walked, &mut Memory::open(&place).unwrap(), b"", &all, &mut hits);
            }
        }
        assert!(hits > 500, "{hits}");
    }

    #[test]
    fn a_change_shows_only_two_seconds_later() {
        let facts = |modified, changed| Facts { modified: (modified, 0), changed: (changed, 0), ..self::facts(2) };
        assert!(facts(97, 97).settled(100));
        assert!(!facts(98, 97).settled(100));
        assert!(!facts(97, 98).settled(100));
        assert!(!facts(97, 200).settled(100));
    }
}
