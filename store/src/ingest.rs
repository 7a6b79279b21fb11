//! Files and whole directories, in.
//!
//! Below the path given, symlinks are kept and never followed: every step is relative to an open directory,
//! so a directory renamed or replaced meanwhile can't lead outside. What is neither file, directory nor
//! symlink is skipped and reported. Small files go to the packs in directory order, sorted by name.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::batch::Batch;
use crate::cid::Codec;
use crate::error::Error;
use crate::tree::{Target, Tree, TreeEntry};

/// Directories nested deeper are refused.
pub const MAX_DEPTH: usize = 256;

/// What happens during a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many more bytes were read.
    Bytes(u64),
    /// A file is done.
    File(&'a Path),
    /// Something was left out.
    Skipped {
        /// Which path.
        path: &'a Path,
        /// What it is.
        why: &'static str,
    },
}

/// Stores what lies at `path`: a file or, with all that is in it, a directory. If `path` itself is a symlink
/// it is followed.
///
/// `observe` hears how far it is, and ends the walk with [`Error::Cancelled`] when it answers `Break`.
///
/// A file that can't be read is an error that names it. The result is visible once the batch is committed.
pub fn put_path(
    batch: &mut Batch,
    path: &Path,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Target, Error> {
    let mut walk = Walk { batch, observe, path: path.to_owned(), depth: 0 };
    let fd = fs::openat(CWD, path, READ, Mode::empty()).map_err(Error::io("open", path))?;
    match walk.opened(fd)? {
        Ok(target) => Ok(target),
        Err(what) => Err(Error::NotStorable { path: path.to_owned(), what }),
    }
}

/// Opening must not wait for the other end of a fifo.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

struct Walk<'a> {
    batch: &'a mut Batch,
    observe: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    /// Where the walk is, for messages.
    path: PathBuf,
    depth: usize,
}

/// A target, or what kind of thing it is that can't be stored.
type Stored = Result<Target, &'static str>;

impl Walk<'_> {
    fn opened(&mut self, fd: OwnedFd) -> Result<Stored, Error> {
        let stat = fs::fstat(&fd).map_err(Error::io("look at", &self.path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(fd, &stat).map(Ok),
            FileType::Directory => self.directory(fd).map(Ok),
            other => Ok(Err(name_of(other))),
        }
    }

    fn file(&mut self, fd: OwnedFd, stat: &Stat) -> Result<Target, Error> {
        let mut file = File::from(fd);
        let hint = usize::try_from(stat.st_size).unwrap_or(0);
        let observe = &mut *self.observe;
        let put = self.batch.put_sized(Codec::Raw, &mut file, hint, &mut |bytes| observe(Event::Bytes(bytes)));
        let (cid, size_bytes) = put.map_err(|error| match error {
            Error::Source(source) => Error::Io { op: "read", path: self.path.clone(), source },
            other => other,
        })?;
        go_on((self.observe)(Event::File(&self.path)))?;
        Ok(Target::File { cid, size_bytes, executable: stat.st_mode & 0o111 != 0 })
    }

    fn directory(&mut self, fd: OwnedFd) -> Result<Target, Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::TooDeep { path: self.path.clone(), max_depth: MAX_DEPTH });
        }
        self.depth += 1;
        let mut entries = Vec::new();
        for (name, kind) in self.names(&fd)? {
            self.path.push(std::ffi::OsStr::from_bytes(name.as_bytes()));
            match self.entry(fd.as_fd(), &name, kind)? {
                Ok(target) => entries.push(TreeEntry { name: name.into_bytes(), target }),
                Err(why) => go_on((self.observe)(Event::Skipped { path: &self.path, why }))?,
            }
            self.path.pop();
        }
        self.depth -= 1;
        let tree = Tree::new(entries).map_err(|source| Error::Directory { path: self.path.clone(), source })?;
        Ok(Target::Directory { cid: self.batch.put_tree(&tree)? })
    }

    fn names(&self, fd: &OwnedFd) -> Result<Vec<(CString, FileType)>, Error> {
        let list = || -> Result<Vec<(CString, FileType)>, Errno> {
            let mut names = Vec::new();
            for entry in Dir::read_from(fd)? {
                let entry = entry?;
                let name = entry.file_name().to_owned();
                if name.as_bytes() != b"." && name.as_bytes() != b".." {
                    names.push((name, entry.file_type()));
                }
            }
            names.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(names)
        };
        list().map_err(Error::io("list", &self.path))
    }

    /// Opens only what the directory says is a file or a directory: opening a device can do things.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<Stored, Error> {
        match kind {
            FileType::RegularFile | FileType::Directory | FileType::Unknown => {}
            FileType::Symlink => return self.symlink(dir, name),
            other => return Ok(Err(name_of(other))),
        }
        match fs::openat(dir, name, READ | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => self.opened(fd),
            Err(Errno::LOOP) => self.symlink(dir, name),
            // A socket, or a device without a driver, met by its name only.
            Err(Errno::NXIO | Errno::NODEV) => Ok(Err("special file")),
            Err(error) => Err(Error::io("open", &self.path)(error)),
        }
    }

    fn symlink(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Stored, Error> {
        let target = fs::readlinkat(dir, name, Vec::new()).map_err(Error::io("read", &self.path))?;
        Ok(Ok(Target::Symlink { target: target.into_bytes() }))
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

/// What an observer's answer means for the work.
pub(crate) fn go_on(answer: ControlFlow<()>) -> Result<(), Error> {
    if answer.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
