//! Files and whole directories, in.
//!
//! Below the path given, symlinks are kept and never followed: every step is relative to an open directory,
//! so a directory renamed or replaced meanwhile can't lead outside. What is neither file, directory nor
//! symlink is skipped and reported. Small files go to the packs in directory order, sorted by name.
//!
//! A thread of its own reads ahead (`scan`), at most `AHEAD` parcels; the caller's thread hashes, looks up
//! what is stored already and makes groups, which the press compresses. All that is observable happens in the order
//! of the walk, on the caller's thread. What was put before and has not changed is not read (`stat_cache`).

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use rustix::fs::{self, CWD, FileType, Mode, Stat};

use crate::batch::Batch;
use crate::blob::Parts;
use crate::cid::{Cid, Codec};
use crate::digest::Hasher;
use crate::error::Error;
use crate::hash::Hash;
use crate::pack::Class;
use crate::scan::{Content, PARCEL_BYTES, Parcel, READ, Scan, Step};
use crate::stat_cache::{self, Memory, Record};
use crate::tree::{Target, Tree, TreeEntry};

/// Directories nested deeper are refused.
pub const MAX_DEPTH: usize = 256;
/// Parcels read ahead.
const AHEAD: usize = 3;

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

/// Which files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Of a directory put before, those whose size, times, inode or executable bit have changed since, and those
    /// that had changed within two seconds before that put.
    Changed,
    /// All.
    All,
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
    read: Read,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Target, Error> {
    // A second digest takes the bytes.
    let read = if batch.also_hasher().is_some() { Read::All } else { read };
    match put_once(batch, path, read, observe)? {
        Some(target) => Ok(target),
        // What was remembered is not in the store any more. That is rare: so everything is read.
        None => Ok(put_once(batch, path, Read::All, observe)?.expect("without a memory nothing in it can be gone")),
    }
}

/// `None` if an object that was remembered is gone.
fn put_once(
    batch: &mut Batch,
    path: &Path,
    read: Read,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Option<Target>, Error> {
    let started_s = stat_cache::now_s();
    let fd = fs::openat(CWD, path, READ, Mode::empty()).map_err(Error::io("open", path))?;
    let stat = fs::fstat(&fd).map_err(Error::io("look at", path))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let place = match kind {
        // A directory that has lost its path since it was opened is not remembered.
        FileType::Directory => stat_cache::place(batch.store().dir(), path).ok(),
        _ => None,
    };
    let memory = place.as_deref().filter(|_| read == Read::Changed).and_then(Memory::open);
    let record = place.and_then(|place| Record::create(&place).ok());
    let path = path.to_owned();
    let (parts, also, root) = (None, None, None);
    let mut intake = Intake { batch, observe, path, started_s, open: Vec::new(), parts, also, record, root };
    let outcome = match kind == FileType::RegularFile && stat.st_size < PARCEL_BYTES as i64 {
        // It is read at once: a thread would take longer to start.
        true => intake.take_all(fd, &stat),
        false => intake.take_ahead(fd, &stat, memory),
    };
    match outcome {
        Ok(()) => intake.finish().map(Some),
        Err(Halt::Gone) => Ok(None),
        Err(Halt::Failed(error)) => Err(error),
    }
}

/// Why a walk ends early.
enum Halt {
    /// An object that was remembered is not in the store.
    Gone,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

/// Where the steps of a scan go.
struct Intake<'a> {
    batch: &'a mut Batch,
    observe: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    /// Where the walk is, for events and messages.
    path: PathBuf,
    /// Seconds since 1970.
    started_s: i64,
    /// What is known of the directories that it is in.
    open: Vec<Open>,
    /// Of a file of several chunks.
    parts: Option<Parts>,
    /// Another digest of its content.
    also: Option<Hasher>,
    /// What is to be remembered; `None` when that has failed.
    record: Option<Record>,
    /// Where the walk began, once that is stored.
    root: Option<Target>,
}

struct Open {
    name: Vec<u8>,
    entries: Vec<TreeEntry>,
}

impl Intake<'_> {
    fn take_all(&mut self, fd: OwnedFd, stat: &Stat) -> Result<(), Halt> {
        let mut outcome = Ok(());
        let path = self.path.clone();
        let mut deliver = |mut parcel: Parcel| {
            outcome = self.take(&mut parcel);
            outcome.is_ok().then_some(parcel)
        };
        Scan::new(path, None, &mut deliver).run(fd, stat);
        outcome
    }

    fn take_ahead(&mut self, fd: OwnedFd, stat: &Stat, memory: Option<Memory>) -> Result<(), Halt> {
        let (full, parcels) = sync_channel::<Parcel>(AHEAD);
        let (empty, spares) = sync_channel::<Parcel>(AHEAD + 2);
        let path = self.path.clone();
        let scan = move || {
            let mut deliver = |parcel| {
                full.send(parcel).ok()?;
                Some(spares.try_recv().unwrap_or_default())
            };
            Scan::new(path, memory, &mut deliver).run(fd, stat);
        };
        thread::scope(|scope| {
            let started = thread::Builder::new().name("gridfs-scan".into()).spawn_scoped(scope, scan);
            started.map_err(Error::Thread)?;
            for mut parcel in parcels {
                self.take(&mut parcel)?;
                // There is room for all that there are; after the end of the scan nobody wants them.
                let _ = empty.try_send(parcel);
            }
            Ok(())
        })
    }

    fn take(&mut self, parcel: &mut Parcel) -> Result<(), Halt> {
        for step in std::mem::take(&mut parcel.steps) {
            match step {
                Step::Enter { name } => self.enter(name),
                Step::Leave => self.leave()?,
                Step::Chunk(range) => self.chunk(parcel.bytes(range))?,
                Step::File { name, content, size_bytes, facts } => {
                    self.descend(&name);
                    let hash = self.content(content, parcel)?;
                    go_on((self.observe)(Event::File(&self.path)))?;
                    if facts.settled(self.started_s) {
                        self.remember(|record| record.file(&name, &facts, &hash));
                    }
                    let (cid, executable) = (Cid { codec: Codec::Raw, hash }, facts.executable);
                    self.done(name, Target::File { cid, size_bytes, executable });
                }
                Step::Symlink { name, target } => {
                    self.descend(&name);
                    self.done(name, Target::Symlink { target });
                }
                Step::Other { name, what } => self.skip(&name, what)?,
                Step::Failed(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Names what was stored, and leaves what is to be remembered to the batch.
    fn finish(self) -> Result<Target, Error> {
        if let Some(unfinished) = self.record.and_then(|record| record.finish().ok()) {
            self.batch.publish_after_commit(unfinished);
        }
        Ok(self.root.expect("a walk that did not fail ends with what it began with"))
    }

    fn remember(&mut self, write: impl FnOnce(&mut Record) -> std::io::Result<()>) {
        if self.record.as_mut().is_some_and(|record| write(record).is_err()) {
            self.record = None;
        }
    }

    fn enter(&mut self, name: Vec<u8>) {
        if !self.open.is_empty() {
            self.remember(|record| record.enter(&name));
        }
        self.descend(&name);
        self.open.push(Open { name, entries: Vec::new() });
    }

    fn leave(&mut self) -> Result<(), Error> {
        self.remember(Record::leave);
        let Open { name, entries } = self.open.pop().expect("a directory ends after it began");
        let tree = Tree::new(entries).map_err(|source| Error::Directory { path: self.path.clone(), source })?;
        let cid = self.batch.put_tree(&tree)?;
        self.done(name, Target::Directory { cid });
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Error> {
        go_on((self.observe)(Event::Bytes(bytes.len() as u64)))?;
        if self.parts.is_none() {
            self.also = self.batch.also_hasher();
        }
        if let Some(also) = &mut self.also {
            also.update(bytes);
        }
        self.parts.get_or_insert_default().add(self.batch, Codec::Raw, bytes)
    }

    fn content(&mut self, content: Content, parcel: &Parcel) -> Result<Hash, Halt> {
        let hash = match content {
            Content::One(range) => self.only_chunk(parcel.bytes(range))?,
            Content::Remembered(hash) => match self.batch.is_stored(&hash)? {
                true => hash,
                false => return Err(Halt::Gone),
            },
            Content::Several(hash) => {
                let parts = self.parts.take().expect("chunks come before their file");
                parts.finish(self.batch, &hash)?;
                hash
            }
        };
        if let Some(also) = self.also.take() {
            self.batch.put_alias(also.finish(), &Cid { codec: Codec::Raw, hash })?;
        }
        Ok(hash)
    }

    fn only_chunk(&mut self, bytes: &[u8]) -> Result<Hash, Error> {
        if !bytes.is_empty() {
            go_on((self.observe)(Event::Bytes(bytes.len() as u64)))?;
        }
        self.also = self.batch.also_hasher();
        if let Some(also) = &mut self.also {
            also.update(bytes);
        }
        self.batch.put_chunk(Class::Data, bytes, true)
    }

    fn skip(&mut self, name: &[u8], what: &'static str) -> Result<(), Error> {
        if self.open.is_empty() {
            return Err(Error::NotStorable { path: self.path.clone(), what });
        }
        self.descend(name);
        go_on((self.observe)(Event::Skipped { path: &self.path, why: what }))?;
        self.path.pop();
        Ok(())
    }

    /// Steps to `name`; where the walk began there is no further to go.
    fn descend(&mut self, name: &[u8]) {
        if !self.open.is_empty() {
            self.path.push(OsStr::from_bytes(name));
        }
    }

    /// Steps back from `name`, which stands for `target`.
    fn done(&mut self, name: Vec<u8>, target: Target) {
        match self.open.last_mut() {
            Some(parent) => {
                parent.entries.push(TreeEntry { name, target });
                self.path.pop();
            }
            None => self.root = Some(target),
        }
    }
}

/// What an observer's answer means for the work.
pub(crate) fn go_on(answer: ControlFlow<()>) -> Result<(), Error> {
    if answer.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
