//! A tree in memory that is stricter than a real one, and a mount of it that always goes.
//!
//! Everything the protocol promises is checked here; what it breaks is noted and fails the test at the end.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use gridfs_fuse::{Answer, Attr, Entry, Errno, Kind, Mount, MountOptions, Opened, Opening, Served, Space, Tree, mount};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Modification time of everything.
pub const TIME: Duration = Duration::new(1_234_567_890, 123_456_789);

/// Longest wait for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// What happens when a file is opened.
#[derive(Clone, Debug)]
pub enum AtOpen {
    /// Opens at once.
    Now,
    /// Opens after a while.
    After(Duration),
    /// Never opens.
    Never,
    /// Fails at once.
    Fails(i32),
    /// Fails in its future.
    FailsLater(i32),
    /// Panics on the event loop.
    Panics,
    /// Panics in its future.
    PanicsLater,
    /// Panics on a thread that may block.
    PanicsBlocking,
}

/// Something in the tree.
#[derive(Clone, Debug)]
pub struct Item {
    pub kind: Kind,
    /// Content, or link target.
    pub bytes: Arc<Vec<u8>>,
    pub at_open: AtOpen,
    /// Shows size 0 until its first open.
    pub pending: bool,
    pub keep_cache: bool,
    /// Has the content as well, for whom passthrough is permitted.
    pub plain: Option<Arc<std::fs::File>>,
    /// Reads are answered from the runtime.
    pub slow_reads: bool,
    /// Every open has content of its own.
    pub uncached: bool,
    /// Asking for its attributes makes it no longer pending, from the runtime.
    pub stat_computes: bool,
    /// How long a name that it lacks stays missing.
    pub missing_ttl: Duration,
    pub ttl: Duration,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Item {
    pub fn file(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            kind: Kind::File { executable: false },
            bytes: Arc::new(bytes.into()),
            at_open: AtOpen::Now,
            pending: false,
            keep_cache: false,
            plain: None,
            slow_reads: false,
            uncached: false,
            stat_computes: false,
            missing_ttl: Duration::ZERO,
            ttl: Duration::from_secs(3600),
            xattrs: BTreeMap::new(),
        }
    }

    pub fn directory() -> Self {
        Self { kind: Kind::Directory, ..Self::file("") }
    }

    pub fn symlink(target: &str) -> Self {
        Self { kind: Kind::Symlink, ..Self::file(target) }
    }
}

/// A node: its path, "" for the root, and where it leads if it is a link. Also counts how many of it live.
#[derive(Clone)]
pub struct Node {
    pub path: String,
    target: Option<Arc<Vec<u8>>>,
    _life: Arc<()>,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.target) == (&other.path, &other.target)
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.path, &self.target).hash(state);
    }
}

/// An open file.
pub struct File {
    item: Item,
    opens: Arc<AtomicUsize>,
}

impl Drop for File {
    fn drop(&mut self) {
        self.opens.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The tree, and what was asked of it.
pub struct Fake {
    items: Mutex<BTreeMap<String, Item>>,
    life: Arc<()>,
    /// Numbers all nodes get: colliding if set.
    pub same_hint: Option<u64>,
    pub lookups: AtomicU64,
    pub attrs: AtomicU64,
    pub readlinks: AtomicU64,
    pub opens: AtomicU64,
    pub reads: AtomicU64,
    pub last_opening: Mutex<Option<Opening>>,
    /// Futures of opens that began and neither ended nor were dropped.
    pub waiting: Arc<AtomicUsize>,
    /// Those of them that were begun.
    pub begun: Arc<AtomicUsize>,
    /// Files that are open.
    pub open_files: Arc<AtomicUsize>,
    faults: Mutex<Vec<String>>,
}

impl Fake {
    pub fn new(items: impl IntoIterator<Item = (impl Into<String>, Item)>) -> Self {
        let mut items: BTreeMap<String, Item> = items.into_iter().map(|(path, item)| (path.into(), item)).collect();
        items.insert(String::new(), Item::directory());
        Self {
            items: Mutex::new(items),
            life: Arc::new(()),
            same_hint: None,
            lookups: AtomicU64::new(0),
            attrs: AtomicU64::new(0),
            readlinks: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            last_opening: Mutex::new(None),
            waiting: Arc::default(),
            begun: Arc::default(),
            open_files: Arc::default(),
            faults: Mutex::new(Vec::new()),
        }
    }

    pub fn insert(&self, path: &str, item: Item) {
        self.items.lock().unwrap().insert(path.to_owned(), item);
    }

    pub fn remove(&self, path: &str) {
        self.items.lock().unwrap().remove(path);
    }

    /// Copies of nodes that somebody holds.
    pub fn nodes_alive(&self) -> usize {
        Arc::strong_count(&self.life) - 1
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fault(what());
        }
        // A call into the tree comes from an event loop: they never run inside the runtime.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.fault("called from the runtime".to_owned());
        }
    }

    fn item(&self, path: &str) -> Option<Item> {
        self.items.lock().unwrap().get(path).cloned()
    }

    fn entry(&self, path: String, item: &Item) -> Entry<Node> {
        let target = (item.kind == Kind::Symlink).then(|| Arc::clone(&item.bytes));
        Entry { attr: attr(item), ttl: item.ttl, node: Node { path, target, _life: Arc::clone(&self.life) } }
    }
}

fn attr(item: &Item) -> Attr {
    Attr {
        kind: item.kind,
        size: if item.pending { 0 } else { item.bytes.len() as u64 },
        time: SystemTime::UNIX_EPOCH + TIME,
        ttl: if item.pending { Duration::ZERO } else { item.ttl },
    }
}

fn child(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        _ => format!("{parent}/{name}"),
    }
}

/// Counts a future while it lives.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Tree for Fake {
    type Node = Node;
    type File = File;

    fn root(&self) -> Node {
        Node { path: String::new(), target: None, _life: Arc::clone(&self.life) }
    }

    fn inode_hint(&self, node: &Node) -> u64 {
        let hash = || {
            // FNV-1a.
            let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            node.path.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
        };
        self.same_hint.unwrap_or_else(hash)
    }

    fn lookup(self: &Arc<Self>, parent: &Node, name: &OsStr, _: u32) -> Answer<Entry<Node>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let is_directory = self.item(&parent.path).is_some_and(|item| item.kind == Kind::Directory);
        self.check(is_directory, || format!("lookup in {:?}", parent.path));
        let name = name.to_str().unwrap();
        let plain = !name.is_empty() && name.len() <= 255 && !name.contains('/') && name != "." && name != "..";
        self.check(plain, || format!("lookup of {name:?}"));
        let path = child(&parent.path, name);
        Answer::Now(match self.item(&path) {
            Some(item) => Ok(self.entry(path, &item)),
            None => Err(Errno::ENOENT),
        })
    }

    fn attr(&self, node: &Node) -> Result<Attr, Errno> {
        self.attrs.fetch_add(1, Ordering::SeqCst);
        self.item(&node.path).map(|item| attr(&item)).ok_or(Errno::ESTALE)
    }

    fn stat(self: &Arc<Self>, node: &Node, _: u32) -> Answer<Attr> {
        match self.item(&node.path) {
            Some(mut item) if item.stat_computes => {
                let (fake, path) = (Arc::clone(self), node.path.clone());
                Answer::Later(Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    item.pending = false;
                    fake.insert(&path, item.clone());
                    Ok(attr(&item))
                }))
            }
            _ => Answer::Now(self.attr(node)),
        }
    }

    fn missing_ttl(&self, dir: &Node) -> Duration {
        self.item(&dir.path).map_or(Duration::ZERO, |item| item.missing_ttl)
    }

    fn readlink(&self, node: &Node) -> Result<Vec<u8>, Errno> {
        self.readlinks.fetch_add(1, Ordering::SeqCst);
        self.check(node.target.is_some(), || format!("readlink of {:?}", node.path));
        node.target.as_ref().map(|target| target.to_vec()).ok_or(Errno::EINVAL)
    }

    fn list(self: &Arc<Self>, dir: &Node, _: u32) -> Answer<Vec<(OsString, Entry<Node>)>> {
        let items = self.items.lock().unwrap();
        let is_directory = items[&dir.path].kind == Kind::Directory;
        self.check(is_directory, || format!("list of {:?}", dir.path));
        let entries = items.iter().filter(|(path, _)| !path.is_empty()).filter_map(|(path, item)| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            (parent == dir.path).then(|| (name.into(), self.entry(path.clone(), item)))
        });
        Answer::Now(Ok(entries.collect()))
    }

    fn open(self: &Arc<Self>, node: &Node, how: Opening) -> Answer<Opened<File>> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        *self.last_opening.lock().unwrap() = Some(how);
        let Some(mut item) = self.item(&node.path) else {
            return Answer::Now(Err(Errno::ESTALE));
        };
        self.check(matches!(item.kind, Kind::File { .. }), || format!("open of {:?}", node.path));
        let fake = Arc::clone(self);
        let path = node.path.clone();
        let at_open = item.at_open.clone();
        let opened = move || {
            item.pending = false;
            fake.insert(&path, item.clone());
            fake.open_files.fetch_add(1, Ordering::SeqCst);
            let opens = Arc::clone(&fake.open_files);
            let served = match &item.plain {
                Some(plain) if how.passthrough => Served::Plain(Arc::clone(plain)),
                _ if item.uncached => Served::Uncached,
                _ if item.keep_cache => Served::Kept,
                _ => Served::Fresh,
            };
            Opened { file: File { item, opens }, served }
        };
        let waiting = || Waiting::new(&self.waiting);
        match at_open {
            AtOpen::Now => Answer::Now(Ok(opened())),
            AtOpen::Fails(code) => Answer::Now(Err(Errno::from_i32(code))),
            AtOpen::Panics => panic!("as the test wants it, on the event loop"),
            AtOpen::After(duration) => {
                let waiting = waiting();
                Answer::Later(Box::pin(async move {
                    tokio::time::sleep(duration).await;
                    drop(waiting);
                    Ok(opened())
                }))
            }
            AtOpen::Never => {
                let (waiting, begun) = (waiting(), Arc::clone(&self.begun));
                Answer::Later(Box::pin(async move {
                    let (_waiting, _begun) = (waiting, Waiting::new(&begun));
                    std::future::pending().await
                }))
            }
            AtOpen::FailsLater(code) => Answer::Later(Box::pin(async move {
                tokio::task::yield_now().await;
                Err(Errno::from_i32(code))
            })),
            AtOpen::PanicsBlocking => {
                Answer::Blocking(Box::new(|| panic!("as the test wants it, on a thread that may block")))
            }
            AtOpen::PanicsLater => Answer::Later(Box::pin(async {
                tokio::task::yield_now().await;
                panic!("as the test wants it, in a future")
            })),
        }
    }

    fn read(self: &Arc<Self>, file: &Arc<File>, offset: u64, size: usize) -> Answer<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.check(size > 0 && size <= 1 << 20, || format!("read of {size} bytes"));
        let bytes = &file.item.bytes;
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let read = bytes[from..bytes.len().min(from + size)].to_vec();
        match file.item.slow_reads {
            false => Answer::Now(Ok(read)),
            true => Answer::Blocking(Box::new(|| {
                std::thread::sleep(Duration::from_millis(1));
                Ok(read)
            })),
        }
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let item = self.item(&node.path).ok_or(Errno::ESTALE)?;
        item.xattrs.get(name).cloned().ok_or(Errno::ENODATA)
    }

    fn xattrs(&self, node: &Node) -> Vec<OsString> {
        let names = self.item(&node.path).map(|item| item.xattrs.into_keys().collect());
        names.unwrap_or_default()
    }

    fn space(&self) -> Space {
        Space { total_bytes: 1_000 * 4096 + 1, free_bytes: 400 * 4096 + 4095, objects: 17 }
    }
}

/// A mounted fake. Dropped, also by a panic, it is unmounted and what broke the fake's rules fails the test.
pub struct Mounted {
    pub fake: Arc<Fake>,
    pub mount: Option<Mount>,
    pub runtime: Option<Runtime>,
    dir: TempDir,
}

/// Whether mounts can be made here; says so loudly if not.
pub fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("SKIPPED: this test needs /dev/fuse (modprobe fuse)");
    }
    can
}

/// Whether this is root; says loudly that a test is skipped if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this test needs root, to mount without fusermount3");
    }
    root
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

impl Mounted {
    pub fn new(fake: Fake) -> Self {
        Self::with(fake, MountOptions::default())
    }

    pub fn with(fake: Fake, options: MountOptions) -> Self {
        let fake = Arc::new(fake);
        let runtime = runtime();
        let dir = TempDir::new().unwrap();
        let mounted = mount(Arc::clone(&fake), dir.path(), options, runtime.handle().clone()).unwrap();
        Self { fake, mount: Some(mounted), runtime: Some(runtime), dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take() {
            let unmounted = mount.unmount();
            if !thread::panicking() {
                unmounted.unwrap();
            }
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if !thread::panicking() {
            let faults = self.fake.faults.lock().unwrap();
            assert!(faults.is_empty(), "{faults:?}");
        }
    }
}

/// Waits until `holds`, and says how long that took.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_micros(200));
    }
    start.elapsed()
}

/// The errno of a failed call.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap(),
    }
}

/// `count` bytes in which every place can be told.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
