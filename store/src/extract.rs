//! Objects out to the file system again.
//!
//! The destination must not exist; every step is relative to a directory made here and follows no symlink,
//! so no tree can write outside it. Files are 0644 or 0755 less the umask. Their bytes are checked as they stream.
//!
//! The caller's thread walks the tree, makes directories and symlinks, and hands out the files in runs, which other
//! threads write. It hears of them again in the order of the walk, so events and errors come in that order. At most
//! `MAX_RUNS` runs are under way, of at most `RUN_DIRECTORIES` open directories each.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{self, CWD, Mode, OFlags};

use crate::cid::Cid;
use crate::error::Error;
use crate::ingest::{MAX_DEPTH, go_on};
use crate::object::Object;
use crate::store::Store;
use crate::tree::Target;

/// Threads that write.
const MAX_THREADS: usize = 8;
const MAX_RUNS: usize = 2 * MAX_THREADS;
/// A run of so many bytes is handed out as soon as the next file lies in another record: each is decoded once.
const RUN_BYTES: u64 = 256 << 10;
const RUN_FILES: usize = 256;
const RUN_DIRECTORIES: usize = 16;
/// A longer file is reported piece by piece.
const LONG_BYTES: u64 = 1 << 20;
/// Pieces of long files that are not yet reported, of each run.
const MAX_REPORTS: usize = 64;

/// What happens while writing out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many more bytes were written.
    Bytes(u64),
    /// A file is done.
    File(&'a Path),
}

/// Writes `target` to `dest`, which must not exist. `observe` may end it by answering `Break`. On an error what was
/// written so far stays there.
pub fn get(
    store: &Arc<Store>,
    target: &Target,
    dest: &Path,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let name = dest.as_os_str();
    let outcome = match target {
        Target::File { cid, executable, .. } => get_file(store, cid, *executable, dest, observe),
        Target::Directory { cid } => get_directory(store, cid, dest, observe),
        Target::Symlink { target } => {
            fs::symlinkat(OsStr::from_bytes(target), CWD, name).map_err(Error::io("create", dest))
        }
    };
    outcome.map_err(|source| Error::Extract { dest: dest.to_owned(), source: Box::new(source) })
}

fn get_file(
    store: &Arc<Store>,
    cid: &Cid,
    executable: bool,
    dest: &Path,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let object = open(store, cid)?;
    write(CWD, dest.as_os_str(), &object, executable, dest, &mut |bytes| go_on(observe(Event::Bytes(bytes))))?;
    go_on(observe(Event::File(dest)))
}

fn get_directory(
    store: &Arc<Store>,
    cid: &Cid,
    dest: &Path,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let stop = AtomicBool::new(false);
    let (runs, waiting) = sync_channel::<Run>(MAX_RUNS);
    let waiting = Mutex::new(waiting);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    thread::scope(|scope| {
        let mut walk = Walk::new(store, runs, &stop, dest, observe);
        for _ in 0..threads {
            let thread = thread::Builder::new().name("gridfs-get".into());
            let started = thread.spawn_scoped(scope, || work(&waiting, &stop));
            started.map_err(Error::Thread)?;
        }
        let walked = walk.directory(CWD, dest.as_os_str(), cid);
        // What was handed out before a failure comes before it.
        let outcome = if stop.load(Ordering::Relaxed) { walked } else { walk.finish().and(walked) };
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

fn open(store: &Arc<Store>, cid: &Cid) -> Result<Object, Error> {
    store.object(cid)?.ok_or(Error::NotFound { cid: *cid })
}

/// A directory made here.
struct Place {
    fd: OwnedFd,
    path: PathBuf,
}

/// A file to be written.
struct Item {
    place: Arc<Place>,
    name: Vec<u8>,
    object: Object,
    executable: bool,
}

/// Files that one thread writes, and where it says so.
struct Run {
    items: Arc<Vec<Item>>,
    reports: SyncSender<Report>,
}

enum Report {
    /// So many more bytes of a long file.
    Bytes(u64),
    /// The end: so many files are done.
    Done { files: usize, outcome: Result<(), Error> },
}

/// A run handed out.
struct Pending {
    items: Arc<Vec<Item>>,
    reports: Receiver<Report>,
}

struct Walk<'a> {
    store: &'a Arc<Store>,
    runs: SyncSender<Run>,
    /// Tells the threads that nothing more is wanted.
    stop: &'a AtomicBool,
    observe: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    /// Where the walk is.
    path: PathBuf,
    depth: usize,
    /// The run in the making.
    items: Vec<Item>,
    size_bytes: u64,
    directories: usize,
    /// Oldest first.
    pending: VecDeque<Pending>,
}

impl<'a> Walk<'a> {
    fn new(
        store: &'a Arc<Store>,
        runs: SyncSender<Run>,
        stop: &'a AtomicBool,
        dest: &Path,
        observe: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Walk<'a> {
        let (items, pending) = (Vec::new(), VecDeque::new());
        Walk { store, runs, stop, observe, path: dest.into(), depth: 0, items, size_bytes: 0, directories: 0, pending }
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: &OsStr, cid: &Cid) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::TooDeep { path: self.path.clone(), max_depth: MAX_DEPTH });
        }
        let tree = self.store.tree(cid)?;
        fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)).map_err(Error::io("create", &self.path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(dir, name, flags, Mode::empty()).map_err(Error::io("open", &self.path))?;
        let place = Arc::new(Place { fd, path: self.path.clone() });
        self.depth += 1;
        self.directories += 1;
        for entry in tree.entries() {
            let name = OsStr::from_bytes(&entry.name);
            self.path.push(name);
            match &entry.target {
                Target::File { cid, executable, .. } => self.file(&place, &entry.name, cid, *executable)?,
                Target::Directory { cid } => self.directory(place.fd.as_fd(), name, cid)?,
                Target::Symlink { target } => fs::symlinkat(OsStr::from_bytes(target), &place.fd, name)
                    .map_err(Error::io("create", &self.path))?,
            }
            self.path.pop();
        }
        self.depth -= 1;
        Ok(())
    }

    fn file(&mut self, place: &Arc<Place>, name: &[u8], cid: &Cid, executable: bool) -> Result<(), Error> {
        let object = open(self.store, cid)?;
        let elsewhere = self.items.last().is_some_and(|last| last.object.record() != object.record());
        let enough = self.size_bytes >= RUN_BYTES && elsewhere;
        if enough || self.items.len() == RUN_FILES || self.directories >= RUN_DIRECTORIES {
            self.hand_out()?;
        }
        self.size_bytes += object.size_bytes();
        self.items.push(Item { place: Arc::clone(place), name: name.to_vec(), object, executable });
        Ok(())
    }

    fn hand_out(&mut self) -> Result<(), Error> {
        while self.pending.len() >= MAX_RUNS {
            self.hear()?;
        }
        let items = Arc::new(std::mem::take(&mut self.items));
        (self.size_bytes, self.directories) = (0, 0);
        let (reports, heard) = sync_channel(MAX_REPORTS);
        self.runs.send(Run { items: Arc::clone(&items), reports }).expect("the threads' end of the queue is ours");
        self.pending.push_back(Pending { items, reports: heard });
        Ok(())
    }

    /// Waits until the oldest run is done.
    fn hear(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.pending.pop_front() else { return Ok(()) };
        let heard = self.hear_of(&oldest);
        self.stop.fetch_or(heard.is_err(), Ordering::Relaxed);
        heard
    }

    fn hear_of(&mut self, run: &Pending) -> Result<(), Error> {
        loop {
            match run.reports.recv().expect("a thread ends its run before itself") {
                Report::Bytes(bytes) => go_on((self.observe)(Event::Bytes(bytes)))?,
                Report::Done { files, outcome } => return self.observe_all(&run.items[..files]).and(outcome),
            }
        }
    }

    fn observe_all(&mut self, items: &[Item]) -> Result<(), Error> {
        for item in items {
            if !item.is_long() {
                go_on((self.observe)(Event::Bytes(item.object.size_bytes())))?;
            }
            go_on((self.observe)(Event::File(&item.path())))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.hand_out()?;
        while !self.pending.is_empty() {
            self.hear()?;
        }
        Ok(())
    }
}

impl Item {
    fn is_long(&self) -> bool {
        self.object.size_bytes() > LONG_BYTES
    }

    fn path(&self) -> PathBuf {
        self.place.path.join(OsStr::from_bytes(&self.name))
    }

    fn write(&self, reports: &SyncSender<Report>, stop: &AtomicBool) -> Result<(), Error> {
        let mut sink = |bytes| {
            let heard = !self.is_long() || reports.send(Report::Bytes(bytes)).is_ok();
            if heard && !stop.load(Ordering::Relaxed) { Ok(()) } else { Err(Error::Cancelled) }
        };
        let name = OsStr::from_bytes(&self.name);
        write(self.place.fd.as_fd(), name, &self.object, self.executable, &self.path(), &mut sink)
    }
}

fn work(waiting: &Mutex<Receiver<Run>>, stop: &AtomicBool) {
    loop {
        let run = waiting.lock().expect("receiving does not panic").recv();
        let Ok(Run { items, reports }) = run else { return };
        let mut files = 0;
        let outcome = items.iter().try_for_each(|item| {
            item.write(&reports, stop)?;
            files += 1;
            Ok(())
        });
        // After a failure nobody listens.
        let _ = reports.send(Report::Done { files, outcome });
    }
}

/// Makes a file and fills it; `path` is where it is, for messages.
fn write(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    object: &Object,
    executable: bool,
    path: &Path,
    written: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    let mut file = File::from(fs::openat(dir, name, flags, mode).map_err(Error::io("create", path))?);
    object.stream(&mut |chunk| {
        file.write_all(chunk).map_err(Error::io("write", path))?;
        written(chunk.len() as u64)
    })
}
