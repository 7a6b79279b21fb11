//! The mount: paths of the grid as files, directories and symbolic links (fuse/SEMANTICS.md).
//!
//! Names are symbolic links to CIDs; below CIDs nothing ever changes. Looking is answered from the store's metadata;
//! opening a call's result computes it, and so does opening, or looking below, a call that returns a directory.

mod far;
mod look;
mod node;
mod status;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use gridfs_fuse::{Answer, Attr, Entry, Errno, Kind, Opened, Opening, Served, Space, Tree};
use gridfs_store::Target;
use gridfs_store::{Cid, Object};

use crate::acceptance::asks;
use crate::authority::Authority;
use crate::copies::Copies;
use crate::describe::{Description, Runner};
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::module::{Caller, Reply};
use crate::parms::Value;
use crate::receipt::{Receipt, cid_of};
use crate::resolve::{Reach, Resolver};

use far::{Elsewhere, Far};
pub use node::Node;
use node::{CallNode, Place, What, timeless};
use status::Traffic;

/// How long the kernel may keep what never changes: a year.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Size a directory reports, as ext4's smallest.
const DIRECTORY_BYTES: u64 = 4096;
/// Results of at most so many bytes are decoded when they were waited for.
const READ_SOON_BYTES: u64 = 64 << 10;
/// Failures remembered, to say why.
const MAX_FAILURES: usize = 4096;

/// What the mount does for programs that look before they read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// An open with `O_NONBLOCK` of a pending result computes it, instead of answering `EAGAIN`.
    pub scans_compute: bool,
    /// Asking for the attributes of a pending result computes it, instead of showing size 0.
    pub stats_compute: bool,
}

/// The grid as a mountable tree.
pub struct Grid {
    kernel: Arc<Kernel>,
    copies: Arc<Copies>,
    /// Where the store is, for the space there.
    directory: PathBuf,
    policy: Policy,
    traffic: Traffic,
    failures: Mutex<HashMap<Place, Error>>,
    elsewhere: Elsewhere,
}

/// An open file of the mount.
pub enum File {
    /// A stored object.
    Object(OpenObject),
    /// A large object that is not stored here.
    Far(Box<Far>),
    /// A status file, as it was when it was opened.
    Text(Vec<u8>),
}

/// A stored object, open at a node.
pub struct OpenObject {
    object: Object,
    node: Node,
    /// What Linux asked for so far.
    read_bytes: AtomicU64,
}

impl Grid {
    /// Shows what `kernel` answers. `directory` is on the file system whose space `df` shows.
    pub fn new(kernel: Arc<Kernel>, copies: Arc<Copies>, directory: PathBuf, policy: Policy) -> Arc<Grid> {
        let (traffic, elsewhere) = (Traffic::new(), Elsewhere::new());
        Arc::new(Grid { kernel, copies, directory, policy, traffic, failures: Mutex::default(), elsewhere })
    }

    /// The reply to a call if it is known, without running anything.
    fn known(&self, call: &CallNode) -> Result<Option<(Reply, SystemTime)>> {
        // It may have been revoked, or have ended, since the node was looked up.
        self.kernel.promise(&call.parms.promise)?;
        if let Some(known) = call.reply.get() {
            return Ok(Some(known.clone()));
        }
        if call.module.runner == Runner::Cas && !asks(&call.parms.promise) {
            let target = match call.parms.arguments.as_slice() {
                [Value::Object(cid)] => crate::resolve::object(&self.kernel, *cid).ok(),
                _ => None,
            };
            let reply = target.map(|result| (Reply::stored(result), timeless()));
            return Ok(reply.map(|reply| call.reply.get_or_init(|| reply).clone()));
        }
        let limits = self.kernel.limits(&call.parms.promise, &call.module)?;
        let Some(reply) = self.kernel.known(&call.parms.memo_key(&limits))? else { return Ok(None) };
        Ok(Some(self.keep(call, reply)?))
    }

    /// The reply to a call with a nested one, if both have become known since it was looked up by who might.
    fn known_now(&self, promise: Cid, module: &Description, texts: &[String]) -> Result<Option<Reply>> {
        let resolver = Resolver::new(self.kernel.clone(), Authority::Owner, Reach::Known);
        let Some(parms) = crate::resolve::now(resolver.parms(promise, module, texts))? else { return Ok(None) };
        self.kernel.known(&parms.memo_key(&self.kernel.limits(&promise, module)?))
    }

    /// Dates a reply by its receipt, and keeps it with the node if it can never differ.
    fn keep(&self, call: &CallNode, reply: Reply) -> Result<(Reply, SystemTime)> {
        let time_ms = match (reply.time_ms, reply.receipt) {
            (None, Some(receipt)) => Receipt::read(&self.kernel.store, &receipt)?.map(|receipt| receipt.time_ms),
            (time_ms, _) => time_ms,
        };
        let time = time_ms.map_or_else(timeless, |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        if !reply.immutable {
            return Ok((reply, time));
        }
        Ok(call.reply.get_or_init(|| (reply, time)).clone())
    }

    /// The right of a user of this machine. The daemon runs as the node's owner.
    fn authority(&self, uid: u32) -> Authority {
        match rustix::process::geteuid().as_raw() == uid || uid == 0 {
            true => Authority::Owner,
            false => Authority::Nobody,
        }
    }

    /// The result of a call, computed if need be, by the right of who asks.
    async fn compute(&self, node: &Node, authority: Authority) -> Result<(Reply, SystemTime)> {
        let caller = Caller { authority: authority.clone(), ..Caller::default() };
        let result = match node.what() {
            What::Call(call) => match self.kernel.call(caller, call.parms.clone()).await {
                Ok(reply) => self.keep(call, reply),
                Err(error) => Err(error),
            },
            What::Unresolved { promise, module, texts } => {
                let resolver = Resolver::new(self.kernel.clone(), authority, Reach::Calls);
                match resolver.parms(*promise, module, texts).await {
                    Ok(parms) => {
                        let parms = parms.expect("a resolver that may call resolves everything");
                        let reply = self.kernel.call(caller, parms).await;
                        reply.map(|reply| (Reply { immutable: false, ..reply }, node.time()))
                    }
                    Err(error) => {
                        self.kernel.report("open", &error);
                        Err(error)
                    }
                }
            }
            What::Refused(error) => {
                self.kernel.report("open", error);
                Err(error.clone())
            }
            _ => unreachable!("only calls are computed"),
        };
        self.remember(node, result.as_ref().err());
        result
    }

    fn remember(&self, node: &Node, error: Option<&Error>) {
        let mut failures = self.failures.lock().expect("no panic while it is held");
        match error {
            None => drop(failures.remove(&node.place())),
            Some(error) if error.code == Code::Interrupted => {}
            Some(error) => {
                if failures.len() >= MAX_FAILURES {
                    failures.clear();
                }
                failures.insert(node.place(), error.clone());
            }
        }
    }

    fn failure(&self, node: &Node) -> Option<Error> {
        if let What::Refused(error) = node.what() {
            return Some(error.clone());
        }
        self.failures.lock().expect("no panic while it is held").get(&node.place()).cloned()
    }

    /// Counts a read that was answered; returns its bytes.
    fn counted(&self, read: &std::result::Result<Vec<u8>, Errno>) -> u64 {
        let bytes = read.as_ref().map_or(0, Vec::len) as u64;
        self.traffic.reads.fetch_add(1, Ordering::Relaxed);
        self.traffic.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }

    /// Counts a read of an open object.
    fn counted_of(
        &self,
        open: &OpenObject,
        read: std::result::Result<Vec<u8>, Errno>,
    ) -> std::result::Result<Vec<u8>, Errno> {
        let bytes = self.counted(&read);
        let before = open.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        if (before..before + bytes).contains(&(open.object.size_bytes().saturating_sub(1))) {
            self.copies.was_read(&open.object);
        }
        read
    }

    fn read_failed(&self, node: &Node, error: &Error) -> Errno {
        self.remember(node, Some(error));
        self.errno("read", error)
    }

    /// An error's errno, after noting it in `.grid/log`.
    fn errno(&self, what: &str, error: &Error) -> Errno {
        if error.code != Code::UnknownName {
            self.kernel.report(what, error);
        }
        error.code.errno()
    }

    fn opened(&self, node: &Node, reply: &Reply, how: Opening) -> Result<Opened<File>> {
        let Target::File { cid, .. } = &reply.result else {
            return Err(Error::new(Code::General, "the result is a directory, not a file"));
        };
        let object = self.kernel.store.object(cid)?.ok_or(gridfs_store::Error::NotFound { cid: *cid })?;
        let plain = if reply.immutable && how.passthrough { self.copies.open(&object) } else { None };
        let served = match plain {
            Some(plain) => Served::Plain(plain),
            None if reply.immutable => Served::Kept,
            // A volatile result may be over before it is read, and then has no size that the kernel could go by.
            None if reply.until_ms.is_some() => Served::Uncached,
            None => Served::Fresh,
        };
        let open = OpenObject { object, node: node.clone(), read_bytes: AtomicU64::new(0) };
        Ok(Opened { file: File::Object(open), served })
    }

    fn attributes(&self, node: &Node) -> Result<Attr> {
        let fixed = |kind, size| Attr { kind, size, time: node.time(), ttl: FOREVER };
        let file = Kind::File { executable: false };
        let pending = Attr { kind: file, size: 0, time: node.time(), ttl: Duration::ZERO };
        Ok(match node.what() {
            _ if node.is_directory() => fixed(Kind::Directory, DIRECTORY_BYTES),
            What::Link(target) => fixed(Kind::Symlink, target.len() as u64),
            What::Report(report) => {
                Attr { size: self.report(*report).len() as u64, time: SystemTime::now(), ..pending }
            }
            What::Stored(Target::File { size_bytes, executable, .. }) => {
                fixed(Kind::File { executable: *executable }, *size_bytes)
            }
            What::Stored(Target::Symlink { target }) => fixed(Kind::Symlink, target.len() as u64),
            What::Call(call) => match self.known(call)? {
                Some((reply, time)) => result_attr(&reply, time),
                None => Attr { size: self.elsewhere.size_bytes(call).unwrap_or_default(), ..pending },
            },
            What::Unresolved { promise, module, texts } => {
                let reply = self.known_now(*promise, module, texts)?;
                reply.map_or(pending, |reply| result_attr(&Reply { immutable: false, ..reply }, node.time()))
            }
            _ => pending,
        })
    }

    fn entry(&self, node: Node) -> Result<Entry<Node>> {
        let attr = self.attributes(&node)?;
        let ttl = match node.what() {
            What::Link(_) | What::Unresolved { .. } | What::Refused(_) | What::Absent { .. } => Duration::ZERO,
            // Each who passes is looked at.
            What::Promise { cid, .. } if self.kernel.promise(cid).is_ok_and(|promise| promise.capability) => {
                Duration::ZERO
            }
            _ => FOREVER,
        };
        Ok(Entry { node, attr, ttl })
    }

    /// The value of an extended attribute of a node, if it has it.
    fn attribute(&self, node: &Node, name: &str) -> Result<Option<Vec<u8>>> {
        let (key, reply) = match node.what() {
            What::Call(call) => {
                let limits = self.kernel.limits(&call.parms.promise, &call.module)?;
                (Some(call.parms.memo_key(&limits)), self.known(call)?.map(|(reply, _)| reply))
            }
            What::Stored(target) => {
                return Ok(match name {
                    "user.grid.cid" => cid_of(target).map(|cid| cid.to_string().into_bytes()),
                    "user.grid.error" => self.failure(node).map(|error| error.to_string().into_bytes()),
                    _ => None,
                });
            }
            What::Unresolved { .. } | What::Refused(_) => (None, None),
            _ => return Ok(None),
        };
        let failure = self.failure(node);
        let value = match name {
            "user.grid.cid" => reply.and_then(|reply| cid_of(&reply.result)).map(|cid| cid.to_string()),
            "user.grid.key" => key.map(|key| key.to_string()),
            "user.grid.receipt" => reply.and_then(|reply| reply.receipt).map(|cid| cid.to_string()),
            "user.grid.state" => Some(match (&reply, &failure) {
                (_, Some(_)) => "failed".into(),
                (Some(_), None) => "computed".into(),
                (None, None) => "pending".into(),
            }),
            "user.grid.error" => failure.map(|error| error.to_string()),
            _ => None,
        };
        Ok(value.map(String::into_bytes))
    }
}

/// Attributes of a call's result that is a file.
fn result_attr(reply: &Reply, time: SystemTime) -> Attr {
    let size = match reply.result {
        Target::File { size_bytes, .. } => size_bytes,
        _ => 0,
    };
    let ttl = if reply.immutable { FOREVER } else { Duration::ZERO };
    Attr { kind: Kind::File { executable: false }, size, time, ttl }
}

/// The extended attributes there can be.
const XATTRS: [&str; 5] = ["user.grid.cid", "user.grid.error", "user.grid.key", "user.grid.receipt", "user.grid.state"];

impl Tree for Grid {
    type Node = Node;
    type File = File;

    fn root(&self) -> Node {
        Node::root()
    }

    fn inode_hint(&self, node: &Node) -> u64 {
        u64::from_le_bytes(node.place()[..8].try_into().expect("8 of 16 bytes"))
    }

    fn lookup(self: &Arc<Self>, parent: &Node, name: &OsStr, uid: u32) -> Answer<Entry<Node>> {
        let authority = self.authority(uid);
        if let Some(tree) = self.tree_at_hand(parent) {
            let found = tree.and_then(|(tree, time)| self.child(parent, &tree, time, name.as_bytes()));
            return Answer::Now(found.map_err(|e| self.errno(&name.to_string_lossy(), &e)));
        }
        if parent.is_directory() && matches!(parent.what(), What::Call(_) | What::Unresolved { .. }) {
            let (grid, parent, name) = (self.clone(), parent.clone(), name.to_owned());
            return Answer::Later(Box::pin(async move {
                let found = grid.computed_tree(&parent, authority).await;
                let found = found.and_then(|(tree, time)| grid.child(&parent, &tree, time, name.as_bytes()));
                found.map_err(|e| e.code.errno())
            }));
        }
        if matches!(parent.what(), What::Absent { .. }) {
            let (grid, parent, name) = (self.clone(), parent.clone(), name.to_owned());
            return Answer::Later(Box::pin(async move {
                let found = grid.look_fetched(&parent, &name, &authority).await.and_then(|node| grid.entry(node));
                found.map_err(|e| grid.errno(&name.to_string_lossy(), &e))
            }));
        }
        let found = match name.to_str() {
            Some(name) => self.look(parent, name, &authority).and_then(|node| self.entry(node)),
            None => Err(Error::new(Code::UnknownName, "names on the grid are UTF-8")),
        };
        Answer::Now(found.map_err(|e| self.errno(&name.to_string_lossy(), &e)))
    }

    fn attr(&self, node: &Node) -> std::result::Result<Attr, Errno> {
        self.attributes(node).map_err(|e| self.errno("getattr", &e))
    }

    fn stat(self: &Arc<Self>, node: &Node, uid: u32) -> Answer<Attr> {
        let call = matches!(node.what(), What::Call(_) | What::Unresolved { .. });
        let known = self.attr(node);
        // What is known for good says so; the rest may be pending, and computing what is known is quick.
        let lasts = known.is_ok_and(|attr| !attr.ttl.is_zero());
        if !self.policy.stats_compute || !call || node.is_directory() || lasts {
            return Answer::Now(known);
        }
        let (grid, node) = (self.clone(), node.clone());
        Answer::Later(Box::pin(async move {
            let computed = grid.compute(&node, grid.authority(uid)).await;
            computed.map(|(reply, time)| result_attr(&reply, time)).map_err(|e| e.code.errno())
        }))
    }

    fn missing_ttl(&self, dir: &Node) -> Duration {
        if dir.is_fixed() { FOREVER } else { Duration::ZERO }
    }

    fn readlink(&self, node: &Node) -> std::result::Result<Vec<u8>, Errno> {
        match node.what() {
            What::Link(target) => Ok(target.clone().into_bytes()),
            What::Stored(Target::Symlink { target }) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn list(self: &Arc<Self>, dir: &Node, uid: u32) -> Answer<Vec<(OsString, Entry<Node>)>> {
        if let Some(tree) = self.tree_at_hand(dir) {
            let listing = tree.and_then(|(tree, time)| self.children(dir, &tree, time));
            return Answer::Now(listing.map_err(|e| self.errno("readdir", &e)));
        }
        if matches!(dir.what(), What::Call(_) | What::Unresolved { .. }) {
            let (grid, dir) = (self.clone(), dir.clone());
            return Answer::Later(Box::pin(async move {
                let tree = grid.computed_tree(&dir, grid.authority(uid)).await;
                tree.and_then(|(tree, time)| grid.children(&dir, &tree, time)).map_err(|e| e.code.errno())
            }));
        }
        Answer::Now(self.known_names(dir).map_err(|e| self.errno("readdir", &e)))
    }

    fn open(self: &Arc<Self>, node: &Node, how: Opening) -> Answer<Opened<File>> {
        self.traffic.opens.fetch_add(1, Ordering::Relaxed);
        let known = match node.what() {
            What::Report(report) => {
                let file = File::Text(self.report(*report).into());
                return Answer::Now(Ok(Opened { file, served: Served::Uncached }));
            }
            What::Stored(target) => Ok(Some(Reply::stored(target.clone()))),
            What::Call(call) => {
                let allowed = self.kernel.check_rights(&self.authority(how.uid), &call.parms);
                let known = allowed.and_then(|_| self.known(call));
                known.map(|known| known.map(|(reply, _)| reply))
            }
            What::Unresolved { .. } | What::Refused(_) => Ok(None),
            _ => return Answer::Now(Err(Errno::EISDIR)),
        };
        match known {
            Ok(Some(reply)) => Answer::Now(self.opened(node, &reply, how).map_err(|e| {
                self.remember(node, Some(&e));
                self.errno("open", &e)
            })),
            // A scan opens without meaning to wait.
            Ok(None) if how.nonblocking && !self.policy.scans_compute => Answer::Now(Err(Errno::EAGAIN)),
            Ok(None) => {
                let (grid, node) = (self.clone(), node.clone());
                Answer::Later(Box::pin(async move {
                    let authority = grid.authority(how.uid);
                    if let Some(far) = grid.open_far(&node, authority.clone()).await {
                        return Ok(Opened { file: File::Far(Box::new(far)), served: Served::Kept });
                    }
                    let computed = grid.compute(&node, authority).await;
                    let opened = computed.and_then(|(reply, _)| grid.opened(&node, &reply, how));
                    if let Ok(Opened { file: File::Object(open), .. }) = &opened
                        && open.object.size_bytes() <= READ_SOON_BYTES
                    {
                        // Who waited for it reads it next: decoded here, that wakes no further thread. It will be told what fails.
                        let _ = open.object.read(0, 1);
                    }
                    opened.map_err(|e| e.code.errno())
                }))
            }
            Err(error) => Answer::Now(Err(self.errno("open", &error))),
        }
    }

    fn read(self: &Arc<Self>, file: &Arc<File>, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let open = match &**file {
            File::Object(open) => open,
            File::Far(_) => {
                let (grid, file) = (self.clone(), file.clone());
                return Answer::Later(Box::pin(async move {
                    let File::Far(far) = &*file else { unreachable!("it is far above") };
                    let read = far.read(&grid.kernel, offset, size).await;
                    let read = read.map_err(|e| grid.read_failed(&far.node, &e));
                    grid.counted(&read);
                    read
                }));
            }
            File::Text(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(size).min(text.len());
                let read = Ok(text[start..end].to_vec());
                self.counted(&read);
                return Answer::Now(read);
            }
        };
        match open.object.read_at_hand(offset, size) {
            Ok(Some(bytes)) => Answer::Now(self.counted_of(open, Ok(bytes))),
            Ok(None) => {
                let (grid, file) = (self.clone(), file.clone());
                Answer::Blocking(Box::new(move || {
                    let File::Object(open) = &*file else { unreachable!("it is an object's above") };
                    let read = open.object.read(offset, size);
                    grid.counted_of(open, read.map_err(|e| grid.read_failed(&open.node, &e.into())))
                }))
            }
            Err(error) => Answer::Now(self.counted_of(open, Err(self.read_failed(&open.node, &error.into())))),
        }
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> std::result::Result<Vec<u8>, Errno> {
        let value = self.attribute(node, &name.to_string_lossy()).map_err(|e| self.errno("getxattr", &e))?;
        value.ok_or(Errno::ENODATA)
    }

    fn xattrs(&self, node: &Node) -> Vec<OsString> {
        let there = |name: &&&str| matches!(self.attribute(node, name), Ok(Some(_)));
        XATTRS.iter().filter(there).map(OsString::from).collect()
    }

    fn space(&self) -> Space {
        let objects = self.kernel.store.counters().objects;
        // For df: what can't be told is shown as none.
        let space = rustix::fs::statvfs(&self.directory);
        let (total_bytes, free_bytes) =
            space.map(|s| (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize)).unwrap_or_default();
        Space { total_bytes, free_bytes, objects }
    }
}
