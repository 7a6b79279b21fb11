//! A disk in memory that keeps no promise but the written ones, for tests.
//!
//! What was synced stays. Everything else is at the mercy of [`Sim::crash`]: each unsynced write may be there, be
//! missing, be torn at any byte or into sectors of 512, or overtake another; a length may be ahead of its bytes; a
//! file whose directory was not synced may be gone, and one that was removed may be back. That is more than real
//! file systems do to their users, and all that POSIX lets them do.
//!
//! Every operation that changes something or syncs is counted. At the one given to [`Sim::stop_at`] the power goes:
//! it is left half done, and nothing works from then on. Single operations can be made to fail with a [`Fault`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::{Access, Disk, DiskFile};
use crate::dice::Dice;

const SECTOR_BYTES: u64 = 512;
const FREE_BYTES: u64 = 1 << 40;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Deed {
    Write,
    SetLen,
    Create,
    Remove,
    Rename,
    Sync,
    SyncDir,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The operation of that number fails with EIO: a write stops half way, a sync loses what it was to save.
    Broken(u64),
    /// From the operation of that number on, the disk is full, but does not say so before it is written to.
    Full(u64),
    /// As `Full`, and whoever asks is told.
    KnownFull(u64),
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct Sim {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    /// The names as last synced, and what was done to them since.
    synced_names: BTreeMap<String, usize>,
    unsynced_names: Vec<(String, Option<usize>)>,
    /// Every operation so far.
    deeds: Vec<Deed>,
    stop_at: Option<u64>,
    stopped: bool,
    fault: Option<Fault>,
}

#[derive(Default, Clone)]
struct Inode {
    /// What a reader sees.
    current: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    /// Bytes before this have not been given up since the last sync: what overwrites them is torn into new and old
    /// sectors, but never into zeros.
    solid_bytes: usize,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Sim {
    /// An empty disk.
    pub fn new() -> Sim {
        Sim { state: Arc::default() }
    }

    /// The operations so far.
    pub fn deeds(&self) -> Vec<Deed> {
        self.lock().deeds.clone()
    }

    /// Lets the power go during the operation of that number, counted from 0 and from the beginning.
    pub fn stop_at(&self, number: u64) {
        self.lock().stop_at = Some(number);
    }

    /// Stops with the next operation, whether it changes something or only reads.
    pub fn stop(&self) {
        self.lock().stopped = true;
    }

    pub fn has_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Works again, with nothing lost: as after the death of a process.
    pub fn resume(&self) {
        let mut state = self.lock();
        (state.stopped, state.stop_at) = (false, None);
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// The disk as it may be found when the power is back.
    pub fn crash(&self, seed: u64) -> Sim {
        let state = self.lock();
        let mut dice = Dice::new(seed);
        let mut found = State::default();
        for (name, inode) in state.names_found(&mut dice) {
            let content = state.inodes[inode].found(&mut dice);
            found.names.insert(name, found.inodes.len());
            found.inodes.push(Inode::holding(content));
        }
        found.synced_names = found.names.clone();
        Sim { state: Arc::new(Mutex::new(found)) }
    }

    /// A disk of its own with the same content, for changes that are to be forgotten.
    pub fn fork(&self) -> Sim {
        let state = self.lock();
        let (names, synced_names) = (state.names.clone(), state.synced_names.clone());
        let unsynced_names = state.unsynced_names.clone();
        let state = State { inodes: state.inodes.clone(), names, synced_names, unsynced_names, ..State::default() };
        Sim { state: Arc::new(Mutex::new(state)) }
    }

    /// Every file and its bytes, as readers see them.
    pub fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].current.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed under this lock has said why already.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn handle(&self, inode: usize, access: Access) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), inode, access })
    }
}

/// What becomes of an operation.
#[derive(PartialEq)]
enum Fate {
    Done,
    /// The power goes meanwhile: nobody hears of its success, but it may have had some.
    Cut,
    Fails(Errno),
}

impl State {
    fn begin(&mut self, deed: Deed) -> io::Result<Fate> {
        self.check_power()?;
        let number = self.deeds.len() as u64;
        self.deeds.push(deed);
        if self.stop_at == Some(number) {
            self.stopped = true;
            return Ok(Fate::Cut);
        }
        Ok(match self.fault {
            Some(Fault::Broken(at)) if number == at => Fate::Fails(Errno::IO),
            Some(Fault::Full(from) | Fault::KnownFull(from)) if number >= from && deed.takes_space() => {
                Fate::Fails(Errno::NOSPC)
            }
            _ => Fate::Done,
        })
    }

    fn check_power(&self) -> io::Result<()> {
        if self.stopped { Err(power_is_gone()) } else { Ok(()) }
    }

    /// As much of what was done to each name, in order, as luck has it.
    fn names_found(&self, dice: &mut Dice) -> BTreeMap<String, usize> {
        let mut found = self.synced_names.clone();
        let mut settled = Vec::new();
        for (name, inode) in &self.unsynced_names {
            if settled.contains(name) {
                continue;
            }
            if dice.one_in(3) {
                settled.push(name.clone());
            } else {
                set_name(&mut found, name, *inode);
            }
        }
        found
    }

    fn set_name(&mut self, name: &str, inode: Option<usize>) {
        set_name(&mut self.names, name, inode);
        self.unsynced_names.push((name.to_owned(), inode));
    }
}

fn set_name(names: &mut BTreeMap<String, usize>, name: &str, inode: Option<usize>) {
    match inode {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

fn power_is_gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl Deed {
    fn takes_space(self) -> bool {
        matches!(self, Deed::Write | Deed::Create)
    }
}

impl Fate {
    fn to_result(&self) -> io::Result<()> {
        match self {
            Fate::Done => Ok(()),
            Fate::Cut => Err(power_is_gone()),
            Fate::Fails(errno) => Err((*errno).into()),
        }
    }

    /// Whether the operation takes place, though it may report failure.
    fn has_effect(&self) -> bool {
        !matches!(self, Fate::Fails(_))
    }
}

impl Inode {
    fn holding(content: Vec<u8>) -> Inode {
        let solid_bytes = content.len();
        Inode { current: content.clone(), synced: content, unsynced: Vec::new(), solid_bytes }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.solid_bytes = self.solid_bytes.min(self.current.len());
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.unsynced.drain(..).for_each(|change| change.apply(&mut self.synced));
        self.solid_bytes = self.synced.len();
    }

    /// A failed sync: the pages count as clean, though few of them were written. Readers see no difference.
    fn lose(&mut self, dice: &mut Dice) {
        self.synced = self.found(dice);
        self.unsynced.clear();
        self.solid_bytes = self.synced.len();
    }

    /// What a crash leaves.
    fn found(&self, dice: &mut Dice) -> Vec<u8> {
        let mut content = self.synced.clone();
        let mut changes: Vec<&Change> = self.unsynced.iter().collect();
        match dice.below(5) {
            0 => changes.iter().for_each(|change| change.apply(&mut content)),
            1 => {}
            2 => {
                let reached = dice.below(changes.len() as u64 + 1) as usize;
                changes[..reached].iter().for_each(|change| change.apply(&mut content));
                changes[reached..].iter().take(1).for_each(|change| change.tear(&mut content, self.solid_bytes, dice));
            }
            order => {
                if order == 4 {
                    dice.shuffle(&mut changes);
                }
                changes.iter().for_each(|change| change.befall(&mut content, self.solid_bytes, dice));
            }
        }
        let longest = changes.iter().map(|change| change.end()).max().unwrap_or(0) as usize;
        if longest > content.len() && dice.one_in(4) {
            content.resize(longest, 0);
        }
        content
    }
}

impl Change {
    fn end(&self) -> u64 {
        match self {
            Change::Write(offset, bytes) => offset + bytes.len() as u64,
            Change::SetLen(size_bytes) => *size_bytes,
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write(offset, bytes) => write(content, *offset, bytes),
            Change::SetLen(size_bytes) => content.resize(*size_bytes as usize, 0),
        }
    }

    fn befall(&self, content: &mut Vec<u8>, solid_bytes: usize, dice: &mut Dice) {
        match dice.below(3) {
            0 => self.apply(content),
            1 => {}
            _ => self.tear(content, solid_bytes, dice),
        }
    }

    fn tear(&self, content: &mut Vec<u8>, solid_bytes: usize, dice: &mut Dice) {
        match self {
            Change::SetLen(_) if dice.one_in(2) => self.apply(content),
            Change::SetLen(_) => {}
            Change::Write(offset, bytes) if dice.one_in(2) => {
                let reached = dice.below(bytes.len() as u64 + 1) as usize;
                write(content, *offset, &bytes[..reached]);
            }
            Change::Write(offset, bytes) => tear_sectors(content, solid_bytes, *offset, bytes, dice),
        }
    }
}

/// Each sector has the new bytes, the old ones, or zeros.
fn tear_sectors(content: &mut Vec<u8>, solid_bytes: usize, offset: u64, bytes: &[u8], dice: &mut Dice) {
    let mut at = offset;
    let end = offset + bytes.len() as u64;
    while at < end {
        let next = end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
        let sector = &bytes[(at - offset) as usize..(next - offset) as usize];
        match dice.below(4) {
            0 => {}
            1 if at >= solid_bytes as u64 => write(content, at, &vec![0; sector.len()]),
            _ => write(content, at, sector),
        }
        at = next;
    }
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = offset as usize;
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

impl Disk for Sim {
    fn dir(&self) -> &Path {
        Path::new("/sim")
    }

    fn make(&self) -> io::Result<()> {
        self.lock().check_power()
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        let state = self.lock();
        state.check_power()?;
        Ok(state.names.keys().map(OsString::from).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        let fate = state.begin(Deed::Create)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        if fate.has_effect() {
            state.inodes.push(Inode::default());
            state.set_name(name, Some(inode));
        }
        fate.to_result().map(|()| self.handle(inode, Access::ReadWrite))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let state = self.lock();
        state.check_power()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(inode, access))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        let fate = state.begin(Deed::Remove)?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if fate.has_effect() {
            state.set_name(name, None);
        }
        fate.to_result()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let fate = state.begin(Deed::Rename)?;
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if fate.has_effect() {
            state.set_name(to, Some(inode));
            state.set_name(from, None);
        }
        fate.to_result()
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        let fate = state.begin(Deed::SyncDir)?;
        match fate {
            Fate::Done => state.synced_names = state.names.clone(),
            Fate::Fails(_) => {
                let mut dice = Dice::new(state.deeds.len() as u64);
                state.synced_names = state.names_found(&mut dice);
            }
            Fate::Cut => return fate.to_result(),
        }
        state.unsynced_names.clear();
        fate.to_result()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        state.check_power()?;
        // The next operation is the one that would find no space.
        match state.fault {
            Some(Fault::KnownFull(from)) if state.deeds.len() as u64 >= from => Ok(0),
            _ => Ok(FREE_BYTES),
        }
    }
}

/// An open file.
struct SimFile {
    disk: Sim,
    inode: usize,
    access: Access,
}

impl SimFile {
    fn check_access(&self) -> io::Result<()> {
        if self.access == Access::ReadWrite { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        state.check_power()?;
        Ok(state.inodes[self.inode].current.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.lock();
        state.check_power()?;
        let content = &state.inodes[self.inode].current;
        let bytes = content.get(offset as usize..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_access()?;
        let mut state = self.disk.lock();
        let fate = state.begin(Deed::Write)?;
        let written = if fate.has_effect() { bytes } else { &bytes[..bytes.len() / 2] };
        state.inodes[self.inode].change(Change::Write(offset, written.to_vec()));
        fate.to_result()
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        self.check_access()?;
        let mut state = self.disk.lock();
        let fate = state.begin(Deed::SetLen)?;
        if fate.has_effect() {
            state.inodes[self.inode].change(Change::SetLen(size_bytes));
        }
        fate.to_result()
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let fate = state.begin(Deed::Sync)?;
        let mut dice = Dice::new(state.deeds.len() as u64);
        match fate {
            Fate::Done => state.inodes[self.inode].sync(),
            Fate::Fails(_) => state.inodes[self.inode].lose(&mut dice),
            Fate::Cut => {}
        }
        fate.to_result()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every content that `a` is found with after a crash.
    fn outcomes(disk: &Sim) -> BTreeSet<Option<Vec<u8>>> {
        (0..500).map(|seed| disk.crash(seed).content().remove("a")).collect()
    }

    fn some(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_may_go() {
        let disk = Sim::new();
        let file = disk.create("a").unwrap();
        file.write_all_at(b"ab", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(outcomes(&disk), [None, some(b"ab")].into(), "the name was not synced");
        disk.sync().unwrap();
        assert_eq!(outcomes(&disk), [some(b"ab")].into());
        file.write_all_at(b"c", 2).unwrap();
        assert_eq!(outcomes(&disk), [b"ab".as_slice(), b"abc", b"ab\0"].map(some).into());
        file.sync_data().unwrap();
        file.set_len(1).unwrap();
        assert_eq!(outcomes(&disk), [b"abc".as_slice(), b"a"].map(some).into());
        file.sync_data().unwrap();
        disk.remove("a").unwrap();
        assert_eq!(outcomes(&disk), [None, some(b"a")].into());
        disk.sync().unwrap();
        assert_eq!(outcomes(&disk), [None].into());
    }

    #[test]
    fn unsynced_writes_overtake_each_other_and_are_torn_into_sectors() {
        let disk = Sim::new();
        let file = disk.create("a").unwrap();
        disk.sync().unwrap();
        file.write_all_at(&[1; 1024], 0).unwrap();
        file.write_all_at(&[2; 1024], 1024).unwrap();
        let found: Vec<_> = outcomes(&disk).into_iter().map(|content| content.unwrap()).collect();
        let sectors = |pattern: [u8; 4]| pattern.iter().flat_map(|byte| [*byte; 512]).collect::<Vec<u8>>();
        for pattern in [[1, 1, 2, 2], [0, 0, 2, 2], [1, 0, 2, 2]] {
            assert!(found.contains(&sectors(pattern)), "{pattern:?}");
        }
        assert!(found.iter().any(|content| content.len() % 512 != 0));
    }

    #[test]
    fn a_failed_sync_loses_what_later_syncs_do_not_bring_back() {
        let disk = Sim::new();
        let file = disk.create("a").unwrap();
        disk.sync().unwrap();
        file.write_all_at(b"x", 0).unwrap();
        disk.set_fault(Some(Fault::Broken(3)));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
        file.sync_data().unwrap();
        let mut seen = [0];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, *b"x", "a reader sees what the disk has lost");
        assert_eq!(outcomes(&disk).len(), 1);
        assert_eq!(disk.deeds(), [Deed::Create, Deed::SyncDir, Deed::Write, Deed::Sync, Deed::Sync]);
    }

    #[test]
    fn nothing_works_from_the_stop_on() {
        let disk = Sim::new();
        let file = disk.create("a").unwrap();
        disk.sync().unwrap();
        disk.stop_at(2);
        assert!(file.write_all_at(b"x", 0).is_err() && disk.has_stopped());
        assert!(file.len().is_err() && file.sync_data().is_err() && disk.names().is_err());
        assert_eq!(outcomes(&disk), [b"".as_slice(), b"x", b"\0"].map(some).into());
    }
}
