//! Objects out to the file system again.
//!
//! The destination must not exist; every step is relative to a directory made here and follows no symlink,
//! so no tree can write outside it. Files are 0644 or 0755 less the umask. Each file's whole hash is checked
//! as it streams.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, CWD, Mode, OFlags};

use crate::cid::Cid;
use crate::error::Error;
use crate::ingest::{MAX_DEPTH, go_on};
use crate::store::Store;
use crate::tree::Target;

/// What happens while writing out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many more bytes were written.
    Bytes(u64),
    /// A file is done.
    File(&'a Path),
}

/// Writes `target` to `dest`, which must not exist. `observe` may end it by answering `Break`. On an error what was written so far stays there.
pub fn get(
    store: &Arc<Store>,
    target: &Target,
    dest: &Path,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut walk = Walk { store, observe, path: dest.to_owned(), depth: 0 };
    walk.put(CWD, dest.as_os_str(), target)
        .map_err(|source| Error::Extract { dest: dest.to_owned(), source: Box::new(source) })
}

struct Walk<'a> {
    store: &'a Arc<Store>,
    observe: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    /// Where the walk is, for messages.
    path: PathBuf,
    depth: usize,
}

impl Walk<'_> {
    fn put(&mut self, dir: BorrowedFd<'_>, name: &OsStr, target: &Target) -> Result<(), Error> {
        match target {
            Target::File { cid, executable, .. } => self.file(dir, name, cid, *executable),
            Target::Directory { cid } => self.directory(dir, name, cid),
            Target::Symlink { target } => {
                let target = OsStr::from_bytes(target);
                fs::symlinkat(target, dir, name).map_err(Error::io("create", &self.path))
            }
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, cid: &Cid, executable: bool) -> Result<(), Error> {
        let object = self.store.object(cid)?.ok_or(Error::NotFound { cid: *cid })?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let fd = fs::openat(dir, name, flags, mode).map_err(Error::io("create", &self.path))?;
        let mut file = File::from(fd);
        let (path, observe) = (&self.path, &mut *self.observe);
        object.stream(&mut |chunk| {
            file.write_all(chunk).map_err(Error::io("write", path))?;
            go_on(observe(Event::Bytes(chunk.len() as u64)))
        })?;
        go_on((self.observe)(Event::File(&self.path)))
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: &OsStr, cid: &Cid) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::TooDeep { path: self.path.clone(), max_depth: MAX_DEPTH });
        }
        let tree = self.store.tree(cid)?;
        fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)).map_err(Error::io("create", &self.path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(dir, name, flags, Mode::empty()).map_err(Error::io("open", &self.path))?;
        self.depth += 1;
        for entry in tree.entries() {
            let name = OsStr::from_bytes(&entry.name);
            self.path.push(name);
            self.put(fd.as_fd(), name, &entry.target)?;
            self.path.pop();
        }
        self.depth -= 1;
        Ok(())
    }
}
