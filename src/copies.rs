//! Plain copies of large files that are read again and again, for the kernel to read without asking (passthrough).
//!
//! A copy is made by a thread of its own, in the background, and hashed as it is written: what does not match is dropped.
//! It is a file without a name: nobody else can open it, and it is gone with the process, so that nothing is found after a
//! crash that would have to be trusted or cleaned up. Copies take a bounded part of the disk; those used least lately go
//! first. One that can't be made costs nothing: the file is read as before.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use gridfs_store::{Cid, Object};

/// The shortest file that is copied: below, what is saved per open is less than what a copy costs.
pub const MIN_BYTES: u64 = 8 << 20;
/// Bytes of all copies if the configuration says nothing.
pub const DEFAULT_BYTES: u64 = 2 << 30;
/// Copies take at most one part in so many of what would be free without them.
const FREE_PARTS: u64 = 4;
/// Files whose reading is remembered, to tell those that are read again.
const MAX_READ: usize = 1024;
/// Files that wait to be copied; more are asked for again at their next open.
const MAX_WAITING: usize = 4;
/// How far the thread steps back behind those that answer.
const NICE: i32 = 10;
/// Written at a time, and at a multiple of it: as large a piece of the page cache, so that mapping it takes few faults.
const PIECE_BYTES: u64 = 2 << 20;

/// The copies of a node.
pub struct Copies {
    shared: Arc<Shared>,
    /// To the thread, and the thread, once there is one.
    wanted: Mutex<Option<(SyncSender<Object>, JoinHandle<()>)>>,
}

struct Shared {
    directory: PathBuf,
    limit_bytes: u64,
    /// The thread is to end.
    closing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    copies: HashMap<Cid, Copy>,
    total_bytes: u64,
    clock: u64,
    /// Files that were read to their end, oldest first.
    read: VecDeque<Cid>,
    /// Waiting to be copied, or being copied.
    coming: HashSet<Cid>,
}

struct Copy {
    file: Arc<File>,
    size_bytes: u64,
    used: u64,
}

impl Copies {
    /// Copies of at most `limit_bytes` together, on the file system of `directory`.
    pub fn new(directory: &Path, limit_bytes: u64) -> Copies {
        let closing = AtomicBool::new(false);
        let shared = Shared { directory: directory.to_owned(), limit_bytes, closing, state: Mutex::default() };
        Copies { shared: Arc::new(shared), wanted: Mutex::default() }
    }

    /// The copy of `object` that is opened now. If it was read before and there is none, one is made for the next time.
    pub fn open(&self, object: &Object) -> Option<Arc<File>> {
        if object.size_bytes() < MIN_BYTES || object.size_bytes() > self.shared.limit_bytes {
            return None;
        }
        let mut state = self.shared.lock();
        state.clock += 1;
        let now = state.clock;
        if let Some(copy) = state.copies.get_mut(&object.cid()) {
            copy.used = now;
            return Some(Arc::clone(&copy.file));
        }
        let again = state.read.contains(&object.cid()) && state.coming.insert(object.cid());
        drop(state);
        if again && !self.want(object.clone()) {
            self.shared.lock().coming.remove(&object.cid());
        }
        None
    }

    /// Notes that an object was read to its end.
    pub fn was_read(&self, object: &Object) {
        if object.size_bytes() < MIN_BYTES {
            return;
        }
        let mut state = self.shared.lock();
        if state.read.contains(&object.cid()) {
            return;
        }
        if state.read.len() == MAX_READ {
            state.read.pop_front();
        }
        state.read.push_back(object.cid());
    }

    /// Bytes of all copies.
    pub fn total_bytes(&self) -> u64 {
        self.shared.lock().total_bytes
    }

    /// Lets go of the copies of what is not `stored` any more.
    pub fn retain(&self, stored: impl Fn(&Cid) -> bool) {
        let known: Vec<Cid> = self.shared.lock().copies.keys().copied().collect();
        for cid in known.iter().filter(|cid| !stored(cid)) {
            let dropped = self.shared.lock().remove(cid);
            drop(dropped);
        }
    }

    /// Hands an object to the thread; false if it has no room.
    fn want(&self, object: Object) -> bool {
        let mut wanted = self.wanted.lock().expect("no panic while it is held");
        if wanted.is_none() {
            let (sender, waiting) = sync_channel(MAX_WAITING);
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new().name("gridfs-copy".into()).spawn(move || shared.work(&waiting));
            match started {
                Ok(thread) => *wanted = Some((sender, thread)),
                Err(error) => tracing::debug!(%error, "no thread to copy files"),
            }
        }
        wanted.as_ref().is_some_and(|(sender, _)| sender.try_send(object).is_ok())
    }
}

/// The thread holds the store open, so it ends first: within a piece.
impl Drop for Copies {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let wanted = self.wanted.get_mut().expect("no panic while it is held").take();
        let Some((sender, thread)) = wanted else { return };
        drop(sender);
        if thread.join().is_err() {
            tracing::error!("the thread that copies files panicked");
        }
    }
}

impl Shared {
    /// Ends when nobody can want anything any more, or wants it to.
    fn work(&self, waiting: &Receiver<Object>) {
        // Nobody waits for it; where it can't step back it works all the same.
        let _ = rustix::process::setpriority_process(None, NICE);
        for object in waiting {
            let made = self.make_room(object.size_bytes()).and_then(|()| self.copy(&object));
            let mut state = self.lock();
            state.coming.remove(&object.cid());
            match made {
                Ok(file) => state.insert(&object, file),
                Err(error) => tracing::debug!(cid = %object.cid(), %error, "no plain copy was made"),
            }
        }
    }

    /// Writes an object into a file without a name, which can't be written any more when it is returned.
    fn copy(&self, object: &Object) -> io::Result<File> {
        let unnamed = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
        let mut file = OpenOptions::new().write(true).mode(0o400).custom_flags(unnamed).open(&self.directory)?;
        let (mut reader, mut hasher) = (object.reader(), blake3::Hasher::new());
        let mut piece = Vec::new();
        loop {
            if self.closing.load(Ordering::Relaxed) {
                return Err(io::Error::other("the node is being closed"));
            }
            piece.clear();
            if reader.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)? == 0 {
                break;
            }
            hasher.update(&piece);
            file.write_all(&piece)?;
        }
        if *hasher.finalize().as_bytes() != object.cid().hash.0 {
            return Err(io::Error::other("it does not hash to its name"));
        }
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }

    /// Lets the copies used least lately go until there is room for another.
    fn make_room(&self, size_bytes: u64) -> io::Result<()> {
        let space = rustix::fs::statvfs(&self.directory)?;
        let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        let total_bytes = self.lock().total_bytes;
        let limit_bytes = self.limit_bytes.min(free_bytes.saturating_add(total_bytes) / FREE_PARTS);
        if size_bytes > limit_bytes {
            return Err(io::Error::other(format!("{size_bytes} bytes are more than the {limit_bytes} of all copies")));
        }
        loop {
            let mut state = self.lock();
            if state.total_bytes + size_bytes <= limit_bytes {
                return Ok(());
            }
            let oldest = state.copies.iter().min_by_key(|(_, copy)| copy.used).map(|(cid, _)| *cid);
            let dropped = oldest.and_then(|cid| state.remove(&cid));
            drop(state);
            // Deleting a long file takes a while.
            drop(dropped);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

impl State {
    fn insert(&mut self, object: &Object, file: File) {
        let copy = Copy { file: Arc::new(file), size_bytes: object.size_bytes(), used: self.clock };
        self.total_bytes += copy.size_bytes;
        self.copies.insert(object.cid(), copy);
    }

    fn remove(&mut self, cid: &Cid) -> Option<Copy> {
        let copy = self.copies.remove(cid)?;
        self.total_bytes -= copy.size_bytes;
        Some(copy)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;
    use std::time::{Duration, Instant};

    use gridfs_store::{Codec, Durability, Options, Store};

    use super::*;

    /// A store with objects just long enough, no two the same.
    fn stored(directory: &Path, count: u8) -> Vec<Object> {
        let store = Arc::new(Store::open(directory, Options::default()).unwrap());
        let mut batch = store.batch();
        let put = |batch: &mut gridfs_store::Batch, seed: u8| {
            let mut bytes = vec![0; MIN_BYTES as usize];
            blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
            batch.put_bytes(Codec::Raw, &bytes).unwrap()
        };
        let cids: Vec<_> = (0..count).map(|seed| put(&mut batch, seed)).collect();
        batch.commit(Durability::Lazy).unwrap();
        cids.iter().map(|cid| store.object(cid).unwrap().unwrap()).collect()
    }

    /// Opens it until there is a copy.
    fn eventually(copies: &Copies, object: &Object) -> Arc<File> {
        let start = Instant::now();
        loop {
            if let Some(file) = copies.open(object) {
                return file;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no copy was made");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the thread has nothing to do.
    fn settled(copies: &Copies) {
        let start = Instant::now();
        while !copies.shared.lock().coming.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "the thread has not ended its work");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn content(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.seek(io::SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_read_and_is_opened_again_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let objects = stored(&dir.path().join("store"), 2);
        let copies = Copies::new(dir.path(), 1 << 40);
        for object in &objects {
            assert!(copies.open(object).is_none() && copies.open(object).is_none());
        }
        assert!(copies.shared.lock().coming.is_empty(), "opening alone is no reason");
        copies.was_read(&objects[0]);
        let file = eventually(&copies, &objects[0]);
        assert!(content(&file) == objects[0].read(0, usize::MAX).unwrap());
        assert_eq!(copies.total_bytes(), MIN_BYTES);
        assert!((&*file).write(b"x").is_err(), "nobody writes to it any more");
        assert!(copies.open(&objects[1]).is_none());
        // Nothing of it has a name.
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["store"]);
    }

    #[test]
    fn the_copies_used_least_lately_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let objects = stored(&dir.path().join("store"), 4);
        let copies = Copies::new(dir.path(), 2 * MIN_BYTES + 1);
        objects.iter().for_each(|object| copies.was_read(object));
        let first = eventually(&copies, &objects[0]);
        eventually(&copies, &objects[1]);
        eventually(&copies, &objects[0]);
        eventually(&copies, &objects[2]);
        assert_eq!(copies.total_bytes(), 2 * MIN_BYTES);
        assert!(copies.open(&objects[0]).is_some() && copies.open(&objects[2]).is_some());
        eventually(&copies, &objects[3]);
        assert!(copies.open(&objects[2]).is_some() && copies.open(&objects[0]).is_none());
        // Who has it open keeps it.
        assert!(content(&first) == objects[0].read(0, usize::MAX).unwrap());
        settled(&copies);
        copies.retain(|cid| *cid == objects[0].cid());
        assert!(copies.total_bytes() <= MIN_BYTES);
    }

    #[test]
    fn nothing_holds_the_store_open_after_the_last_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let objects = stored(&path, 4);
        let copies = Copies::new(dir.path(), 1 << 40);
        objects.iter().for_each(|object| copies.was_read(object));
        objects.iter().for_each(|object| assert!(copies.open(object).is_none()));
        drop(objects);
        drop(copies);
        drop(Store::open(&path, Options::default()).unwrap());
    }

    #[test]
    fn what_is_too_long_or_can_not_be_written_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let object = stored(&dir.path().join("store"), 1).remove(0);
        for (directory, limit_bytes) in [(dir.path().to_owned(), MIN_BYTES - 1), (dir.path().join("gone"), 1 << 40)] {
            let copies = Copies::new(&directory, limit_bytes);
            copies.was_read(&object);
            assert!(copies.open(&object).is_none());
            settled(&copies);
            assert!(copies.open(&object).is_none());
            assert_eq!(copies.total_bytes(), 0);
        }
    }
}
