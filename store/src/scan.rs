//! The file system, read ahead of the store: lists, opens, reads and cuts, and hands over what it found in parcels.
//!
//! Every step is relative to an open directory and follows no symlink. Steps come in the order of a walk through
//! directories sorted by name; an error is the last step, so whatever lies before it has been handed over. A file of
//! several chunks is hashed as a whole here, so that it is hashed twice on two cores and not on one.
//!
//! Memory: two parcels of [`PARCEL_BYTES`], and the names of the directories that the walk is in.

use std::ffi::{CStr, CString, OsStr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::chunker::{self, MAX_BYTES};
use crate::error::Error;
use crate::hash::{Hash, WholeHasher};
use crate::ingest::MAX_DEPTH;
use crate::stat_cache::{Facts, Memory};

/// Bytes that a parcel holds: room for several of the largest chunks.
pub const PARCEL_BYTES: usize = 1 << 20;
/// Steps that a parcel holds, more or less: many files are empty.
const PARCEL_STEPS: usize = 1024;

/// Opening must not wait for the other end of a fifo.
pub const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What was found, in order, and the bytes that were read.
pub struct Parcel {
    pub steps: Vec<Step>,
    bytes: Vec<u8>,
    filled: usize,
}

/// One thing found. Names are empty where the walk began.
pub enum Step {
    /// A directory begins.
    Enter {
        name: Vec<u8>,
    },
    /// It ends.
    Leave,
    /// The next chunk of a file of several.
    Chunk(Range<usize>),
    /// A file, after its chunks if it has several.
    File {
        name: Vec<u8>,
        content: Content,
        size_bytes: u64,
        facts: Facts,
    },
    Symlink {
        name: Vec<u8>,
        target: Vec<u8>,
    },
    /// Neither file, directory nor symlink.
    Other {
        name: Vec<u8>,
        what: &'static str,
    },
    /// The end.
    Failed(Error),
}

/// What is in a file.
pub enum Content {
    /// One chunk.
    One(Range<usize>),
    /// The chunks before; the hash of all of them.
    Several(Hash),
    /// What was there at an earlier put: by all that is known the file has not changed, and it was not opened.
    Remembered(Hash),
}

impl Default for Parcel {
    fn default() -> Parcel {
        Parcel { steps: Vec::new(), bytes: vec![0; PARCEL_BYTES], filled: 0 }
    }
}

impl Parcel {
    fn hollow() -> Parcel {
        Parcel { steps: Vec::new(), bytes: Vec::new(), filled: 0 }
    }

    /// The bytes of a step.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    fn room(&self) -> usize {
        PARCEL_BYTES - self.filled
    }
}

/// A walk.
pub struct Scan<'a> {
    /// Where it is, for messages.
    path: PathBuf,
    depth: usize,
    /// Of an earlier walk from the same place.
    memory: Option<Memory>,
    parcel: Parcel,
    next: Parcel,
    /// Takes a parcel and gives an empty one; `None` if nothing more is wanted.
    deliver: &'a mut dyn FnMut(Parcel) -> Option<Parcel>,
}

/// Why a walk ends early.
enum Halt {
    Failed(Error),
    Unwanted,
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

impl<'a> Scan<'a> {
    pub fn new(
        path: PathBuf,
        memory: Option<Memory>,
        deliver: &'a mut dyn FnMut(Parcel) -> Option<Parcel>,
    ) -> Scan<'a> {
        Scan { path, depth: 0, memory, parcel: Parcel::default(), next: Parcel::default(), deliver }
    }

    /// Walks what is open as `fd`, of which `stat` was learnt, to the end.
    pub fn run(mut self, fd: OwnedFd, stat: &Stat) {
        match self.opened(fd, stat, Vec::new()) {
            Ok(()) => {}
            Err(Halt::Failed(error)) => self.parcel.steps.push(Step::Failed(error)),
            Err(Halt::Unwanted) => return,
        }
        (self.deliver)(self.parcel);
    }

    fn opened(&mut self, fd: OwnedFd, stat: &Stat, name: Vec<u8>) -> Result<(), Halt> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(&fd, stat, name),
            FileType::Directory => self.directory(&fd, name),
            other => self.step(Step::Other { name, what: name_of(other) }),
        }
    }

    fn step(&mut self, step: Step) -> Result<(), Halt> {
        self.parcel.steps.push(step);
        if self.parcel.steps.len() < PARCEL_STEPS { Ok(()) } else { self.deliver_all_but(self.parcel.filled) }
    }

    /// Hands the parcel over. Its bytes from `kept` on go to the next one, at its beginning.
    fn deliver_all_but(&mut self, kept: usize) -> Result<(), Halt> {
        let tail = &self.parcel.bytes[kept..self.parcel.filled];
        self.next.bytes[..tail.len()].copy_from_slice(tail);
        self.next.filled = tail.len();
        self.next.steps.clear();
        std::mem::swap(&mut self.parcel, &mut self.next);
        let full = std::mem::replace(&mut self.next, Parcel::hollow());
        self.next = (self.deliver)(full).ok_or(Halt::Unwanted)?;
        Ok(())
    }

    fn directory(&mut self, fd: &OwnedFd, name: Vec<u8>) -> Result<(), Halt> {
        if self.depth == MAX_DEPTH {
            return Err(Error::TooDeep { path: self.path.clone(), max_depth: MAX_DEPTH }.into());
        }
        if let Some(memory) = self.memory.as_mut().filter(|_| self.depth > 0) {
            memory.enter(&name);
        }
        self.depth += 1;
        self.step(Step::Enter { name })?;
        for (name, kind) in self.names(fd)? {
            self.path.push(OsStr::from_bytes(name.as_bytes()));
            self.entry(fd.as_fd(), name, kind)?;
            self.path.pop();
        }
        self.depth -= 1;
        if let Some(memory) = &mut self.memory {
            memory.leave();
        }
        self.step(Step::Leave)
    }

    fn names(&self, fd: &OwnedFd) -> Result<Vec<(CString, FileType)>, Error> {
        let list = || -> Result<Vec<(CString, FileType)>, Errno> {
            let mut names = Vec::new();
            for entry in Dir::read_from(fd)? {
                let entry = entry?;
                let name = entry.file_name();
                if name.to_bytes() != b"." && name.to_bytes() != b".." {
                    names.push((name.to_owned(), entry.file_type()));
                }
            }
            names.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(names)
        };
        list().map_err(Error::io("list", &self.path))
    }

    /// Opens only what the directory says is a file or a directory: opening a device can do things.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: CString, kind: FileType) -> Result<(), Halt> {
        match kind {
            FileType::RegularFile | FileType::Directory | FileType::Unknown => {}
            FileType::Symlink => return self.symlink(dir, name),
            other => return self.step(Step::Other { name: name.into_bytes(), what: name_of(other) }),
        }
        if let Some((facts, hash)) = self.remembered(dir, &name) {
            let (content, size_bytes) = (Content::Remembered(hash), facts.size_bytes());
            return self.step(Step::File { name: name.into_bytes(), content, size_bytes, facts });
        }
        match fs::openat(dir, &name, READ | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => {
                let stat = fs::fstat(&fd).map_err(Error::io("look at", &self.path))?;
                self.opened(fd, &stat, name.into_bytes())
            }
            Err(Errno::LOOP) => self.symlink(dir, name),
            // A socket, or a device without a driver, met by its name only.
            Err(Errno::NXIO | Errno::NODEV) => self.step(Step::Other { name: name.into_bytes(), what: "special file" }),
            Err(error) => Err(Error::io("open", &self.path)(error).into()),
        }
    }

    /// What is remembered of a file that is still as it was.
    fn remembered(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Option<(Facts, Hash)> {
        let (facts, hash) = self.memory.as_mut()?.file(name.to_bytes())?;
        // Why it can't be looked at will show when it is opened.
        let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        (is_file && Facts::of(&stat) == facts).then_some((facts, hash))
    }

    fn symlink(&mut self, dir: BorrowedFd<'_>, name: CString) -> Result<(), Halt> {
        let target = self.target(dir, &name)?;
        self.step(Step::Symlink { name: name.into_bytes(), target })
    }

    fn target(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Error> {
        let target = fs::readlinkat(dir, name, Vec::new()).map_err(Error::io("read", &self.path))?;
        Ok(target.into_bytes())
    }

    fn file(&mut self, fd: &OwnedFd, stat: &Stat, name: Vec<u8>) -> Result<(), Halt> {
        let expected = u64::try_from(stat.st_size).unwrap_or(0);
        // One byte more shows the end. A file that fits into a parcel is not divided.
        if (self.parcel.room() as u64) <= expected && expected < PARCEL_BYTES as u64 {
            self.deliver_all_but(self.parcel.filled)?;
        }
        let mut waiting = self.parcel.filled;
        let mut whole: Option<WholeHasher> = None;
        let mut size_bytes = 0;
        let content = loop {
            if self.parcel.room() == 0 {
                self.deliver_all_but(waiting)?;
                waiting = 0;
            }
            let room = self.parcel.room();
            let read = self.read(fd)?;
            size_bytes += read as u64;
            // Of a file as long as it was said to be, a read that came short has met the end.
            let ended = read == 0 || (read < room && size_bytes == expected);
            while let Some(chunk) = self.next_chunk(waiting, ended) {
                waiting = chunk.end;
                if ended && whole.is_none() && chunk.len() as u64 == size_bytes {
                    break;
                }
                whole.get_or_insert_default().update(&self.parcel.bytes[chunk.clone()]);
                self.parcel.steps.push(Step::Chunk(chunk));
            }
            match whole {
                Some(mut hasher) if ended => break Content::Several(hasher.finish()),
                None if ended => break Content::One(waiting - size_bytes as usize..waiting),
                _ => {}
            }
        };
        self.step(Step::File { name, content, size_bytes, facts: Facts::of(stat) })
    }

    /// Reads into the parcel; 0 at the end of the file.
    fn read(&mut self, fd: &OwnedFd) -> Result<usize, Error> {
        let read = rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut self.parcel.bytes[self.parcel.filled..]));
        let read = read.map_err(Error::io("read", &self.path))?;
        self.parcel.filled += read;
        Ok(read)
    }

    /// The chunk that begins at `start`, if it is certain where it ends.
    fn next_chunk(&self, start: usize, ended: bool) -> Option<Range<usize>> {
        let waiting = &self.parcel.bytes[start..self.parcel.filled];
        let enough = if ended { !waiting.is_empty() } else { waiting.len() >= MAX_BYTES };
        enough.then(|| start..start + chunker::cut(waiting))
    }
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "special file",
    }
}
