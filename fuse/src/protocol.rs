//! One method per FUSE message: finds the node or handle, asks the tree, words the reply. As long as the protocol is: half of it
//! are one-line refusals of what would write.
//!
//! A reply that is dropped unanswered answers `EIO` (fuser does that), so a panic anywhere in the tree costs the one
//! caller an error: on an event loop it is caught in [`survive`], in a task by the runtime.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::attributes::{BLOCK_BYTES, Owner, file_type};
use crate::errno::wire;
use crate::handles::Handles;
use crate::inodes::{Inodes, ROOT};
use crate::listing::{Line, Listing, NAME_MAX};
use crate::modes::Modes;
use crate::mount::MountOptions;
use crate::pending::outcome;
use crate::tree::{Answer, Attr, Entry, Errno, Kind, Opened, Opening, Served, Tree};

/// What is asked of the kernel, each for itself: one unknown flag would refuse them all.
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

/// Reads ahead that the kernel may have under way at once; each can be a [`Answer::Later`].
const MAX_BACKGROUND: u16 = 64;

/// Largest value, and largest list of names, that the kernel hands on (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX: usize = 65_536;

/// Longest link target that the kernel reads: a page less its end.
const TARGET_MAX: usize = 4095;

/// What stands beside inode number 0, where the kernel looks no further.
const NOTHING: Attr =
    Attr { kind: Kind::File { executable: false }, size: 0, time: SystemTime::UNIX_EPOCH, ttl: Duration::ZERO };

/// The file system that fuser's event loops call.
pub(crate) struct Protocol<T: Tree>(Arc<Mounted<T>>);

/// What one mount knows; shared with the tasks that answer later.
struct Mounted<T: Tree> {
    tree: Arc<T>,
    inodes: Inodes<T::Node>,
    files: Handles<Arc<T::File>>,
    modes: Modes<BackingId>,
    /// Whether the kernel takes plain files; until it refuses one.
    passthrough: AtomicBool,
    listings: Handles<Arc<Listing<T::Node>>>,
    owner: Owner,
    admission: Arc<Admission>,
    runtime: Handle,
    closing: watch::Receiver<bool>,
}

impl<T: Tree> Protocol<T> {
    /// Serves `tree`; later answers run on `runtime` until `closing` turns true.
    pub(crate) fn new(tree: Arc<T>, options: &MountOptions, runtime: Handle, closing: watch::Receiver<bool>) -> Self {
        let inodes = Inodes::new(tree.root());
        Self(Arc::new(Mounted {
            tree,
            inodes,
            files: Handles::new(options.open_limit),
            modes: Modes::new(),
            passthrough: AtomicBool::new(false),
            listings: Handles::new(options.open_limit),
            owner: Owner { uid: options.uid, gid: options.gid },
            admission: Admission::new(options.turns_per_process),
            runtime,
            closing,
        }))
    }
}

impl<T: Tree> Mounted<T> {
    fn node(&self, ino: INodeNo) -> Result<T::Node, Errno> {
        self.inodes.node(ino.0).ok_or(Errno::ESTALE)
    }

    /// Passes the answer to `reply`: here and now, from a task, or from a thread that may block.
    fn answer<R: Send + 'static>(
        self: &Arc<Self>,
        caller: u32,
        answer: Answer<R>,
        reply: impl FnOnce(&Self, Result<R, Errno>) + Send + 'static,
    ) {
        match answer {
            Answer::Now(result) => reply(self, result),
            Answer::Later(later) => {
                let mounted = Arc::clone(self);
                let mut answering = Box::pin(async move {
                    let result = outcome(later, caller, mounted.closing.clone()).await;
                    reply(&mounted, result);
                });
                // Begun here, so that who computes starts before the task that waits for it is even awake.
                let _inside = self.runtime.enter();
                if answering.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                    self.runtime.spawn(answering);
                }
            }
            Answer::Blocking(work) => {
                let mounted = Arc::clone(self);
                // A panic drops the reply, which answers EIO.
                self.runtime.spawn_blocking(move || reply(&mounted, work()));
            }
        }
    }

    /// The same for what may compute: a later answer is begun when it is the caller's process's turn.
    fn answer_in_turn<R: Send + 'static>(
        self: &Arc<Self>,
        caller: u32,
        answer: Answer<R>,
        reply: impl FnOnce(&Self, Result<R, Errno>) + Send + 'static,
    ) {
        let answer = match answer {
            Answer::Later(later) => {
                let admission = Arc::clone(&self.admission);
                Answer::Later(Box::pin(async move {
                    let _turn = admission.turn(caller).await;
                    later.await
                }))
            }
            others => others,
        };
        self.answer(caller, answer, reply);
    }

    /// A name that is missing for good is an entry without a node, which the kernel may keep.
    fn reply_found(&self, found: Result<Entry<T::Node>, Errno>, missing_ttl: Duration, reply: ReplyEntry) {
        match found {
            Err(error) if error.code() == Errno::ENOENT.code() && !missing_ttl.is_zero() => {
                let nothing = self.owner.file_attr(0, &NOTHING);
                reply.entry_with_ttls(&Duration::ZERO, &missing_ttl, &nothing, Generation(0));
            }
            found => self.reply_entry(found, reply),
        }
    }

    fn reply_entry(&self, found: Result<Entry<T::Node>, Errno>, reply: ReplyEntry) {
        match found {
            Ok(Entry { node, attr, ttl }) => {
                let hint = self.tree.inode_hint(&node);
                let number = self.inodes.remember(node, hint);
                let shown = self.owner.file_attr(number.ino, &attr);
                reply.entry_with_ttls(&attr.ttl, &ttl, &shown, Generation(number.generation.into()));
            }
            Err(error) => reply.error(wire(error)),
        }
    }

    fn reply_opened(&self, ino: INodeNo, opened: Result<Opened<T::File>, Errno>, reply: ReplyOpen) {
        let opened = opened.and_then(|opened| Ok((self.files.open(Arc::new(opened.file))?, opened.served)));
        let (handle, served) = match opened {
            Ok((handle, served)) => (FileHandle(handle), served),
            Err(error) => return reply.error(wire(error)),
        };
        let flags = FopenFlags::FOPEN_NOFLUSH;
        let (offered, flags) = match served {
            // The kernel does not count these opens.
            Served::Uncached => return reply.opened(handle, flags | FopenFlags::FOPEN_DIRECT_IO),
            Served::Fresh => (None, flags),
            Served::Kept => (None, flags | FopenFlags::FOPEN_KEEP_CACHE),
            Served::Plain(plain) => (self.backing(&plain, &reply), flags | FopenFlags::FOPEN_KEEP_CACHE),
        };
        match self.modes.opened(ino.0, offered) {
            None => reply.opened(handle, flags),
            // The only flag that may stand beside it.
            Some(backing) => reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &backing),
        }
    }

    /// Makes a plain file known to the kernel; `None` if that is not to be.
    fn backing(&self, plain: &File, reply: &ReplyOpen) -> Option<BackingId> {
        if !self.passthrough.load(Ordering::Relaxed) {
            return None;
        }
        let backing = reply.open_backing(plain);
        if let Err(error) = &backing {
            tracing::debug!(%error, "the kernel takes no plain files");
            self.passthrough.store(false, Ordering::Relaxed);
        }
        backing.ok()
    }

    /// One more line for `readdirplus`; true when the reply is full, and then the kernel was told nothing.
    fn add_plus(&self, reply: &mut ReplyDirectoryPlus, next: u64, name: &OsStr, entry: &Entry<T::Node>) -> bool {
        // The snapshot's attributes may be older than what the kernel has learned since, and it would believe them.
        let attr = self.tree.attr(&entry.node).unwrap_or(entry.attr);
        let hint = self.tree.inode_hint(&entry.node);
        let number = self.inodes.remember(entry.node.clone(), hint);
        let shown = self.owner.file_attr(number.ino, &attr);
        // fuser sends one time for both the name and the attributes.
        let ttl = entry.ttl.min(attr.ttl);
        let full = reply.add(INodeNo(number.ino), next, name, &ttl, &shown, Generation(number.generation.into()));
        if full {
            self.inodes.forget(number.ino, 1);
        }
        full
    }
}

impl<T: Tree> Filesystem for Protocol<T> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if let Err(missing) = config.add_capabilities(capability) {
                tracing::debug!(?missing, "the kernel lacks a capability");
            }
        }
        // Plain files are for root alone. A stack of one: what they lie on may not be stacked itself.
        let passthrough = rustix::process::geteuid().is_root()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        self.0.passthrough.store(passthrough, Ordering::Relaxed);
        // Refused only for 0. `max_readahead` is already what the kernel grants.
        if config.set_max_background(MAX_BACKGROUND).is_err() {
            tracing::debug!(MAX_BACKGROUND, "refused");
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        survive(|| {
            if name.len() > NAME_MAX {
                return reply.error(Errno::ENAMETOOLONG);
            }
            let parent = match self.0.node(parent) {
                Ok(parent) => parent,
                Err(error) => return reply.error(error),
            };
            let answer = self.0.tree.lookup(&parent, name, req.uid());
            self.0.answer_in_turn(req.pid(), answer, move |mounted, found| {
                // Asked after the answer: by then it may be known that the directory never changes.
                mounted.reply_found(found, mounted.tree.missing_ttl(&parent), reply);
            });
        });
    }

    /// Also reached for each inode of a `batch_forget`.
    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        survive(|| self.0.inodes.forget(ino.0, nlookup));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        survive(|| {
            let node = match self.0.node(ino) {
                Ok(node) => node,
                Err(error) => return reply.error(error),
            };
            let answer = self.0.tree.stat(&node, req.uid());
            self.0.answer_in_turn(req.pid(), answer, move |mounted, attr| match attr {
                Ok(attr) => reply.attr(&attr.ttl, &mounted.owner.file_attr(ino.0, &attr)),
                Err(error) => reply.error(wire(error)),
            });
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        survive(|| match self.0.node(ino).and_then(|node| self.0.tree.readlink(&node)) {
            Ok(target) if target.len() > TARGET_MAX => reply.error(Errno::ENAMETOOLONG),
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(wire(error)),
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        survive(|| {
            let asked = OFlags::from_bits_retain(flags.0.cast_unsigned());
            if flags.acc_mode() != OpenAccMode::O_RDONLY || asked.intersects(OFlags::TRUNC | OFlags::CREATE) {
                return reply.error(Errno::EROFS);
            }
            let node = match self.0.node(ino) {
                Ok(node) => node,
                Err(error) => return reply.error(error),
            };
            let how = Opening {
                pid: req.pid(),
                uid: req.uid(),
                nonblocking: asked.contains(OFlags::NONBLOCK),
                passthrough: self.0.passthrough.load(Ordering::Relaxed),
            };
            let answer = self.0.tree.open(&node, how);
            self.0.answer_in_turn(req.pid(), answer, move |mounted, opened| {
                mounted.reply_opened(ino, opened, reply);
            });
        });
    }

    fn read(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        survive(|| {
            let file = match self.0.files.get(handle.0) {
                Ok(file) => file,
                Err(error) => return reply.error(error),
            };
            let size = size as usize;
            let answer = self.0.tree.read(&file, offset, size);
            self.0.answer(req.pid(), answer, move |_, read| match read {
                Ok(bytes) if bytes.len() > size => {
                    tracing::error!(offset, size, got = bytes.len(), "a read gave more than was asked for");
                    reply.error(Errno::EIO);
                }
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(wire(error)),
            });
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        survive(|| {
            self.0.modes.closed(ino.0);
            self.0.files.close(handle.0);
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        survive(|| {
            let dir = match self.0.node(ino) {
                Ok(dir) => dir,
                Err(error) => return reply.error(error),
            };
            let answer = self.0.tree.list(&dir, req.uid());
            self.0.answer_in_turn(req.pid(), answer, |mounted, entries| {
                match entries.and_then(|entries| mounted.listings.open(Arc::new(Listing::new(entries)))) {
                    Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                    Err(error) => reply.error(wire(error)),
                }
            });
        });
    }

    /// The number of ".." is the root's: a node does not know where it was found, and the kernel asks its own cache.
    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        survive(|| {
            let listing = match self.0.listings.get(handle.0) {
                Ok(listing) => listing,
                Err(error) => return reply.error(error),
            };
            for (next, line) in listing.from(offset) {
                let (number, kind, name) = match line {
                    Line::Dot("..") => (ROOT, Kind::Directory, OsStr::new("..")),
                    Line::Dot(dot) => (ino.0, Kind::Directory, OsStr::new(dot)),
                    Line::Entry(name, entry) => {
                        let hint = self.0.tree.inode_hint(&entry.node);
                        (self.0.inodes.shown(&entry.node, hint), entry.attr.kind, name)
                    }
                };
                if reply.add(INodeNo(number), next, file_type(kind), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    /// "." and ".." are shown without counting: the kernel takes only their names.
    fn readdirplus(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        survive(|| {
            let listing = match self.0.listings.get(handle.0) {
                Ok(listing) => listing,
                Err(error) => return reply.error(error),
            };
            let dir = match self.0.node(ino).and_then(|dir| self.0.tree.attr(&dir)) {
                Ok(dir) => dir,
                Err(error) => return reply.error(wire(error)),
            };
            for (next, line) in listing.from(offset) {
                let full = match line {
                    Line::Dot(dot) => {
                        let number = if dot == ".." { ROOT } else { ino.0 };
                        let shown = self.0.owner.file_attr(number, &dir);
                        reply.add(INodeNo(number), next, dot, &dir.ttl, &shown, Generation(0))
                    }
                    Line::Entry(name, entry) => self.0.add_plus(&mut reply, next, name, entry),
                };
                if full {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
        survive(|| self.0.listings.close(handle.0));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        survive(|| {
            let space = self.0.tree.space();
            let block = u64::from(BLOCK_BYTES);
            let free = space.free_bytes / block;
            let total = space.total_bytes / block;
            reply.statfs(total, free, free, space.objects, 0, BLOCK_BYTES, NAME_MAX as u32, BLOCK_BYTES);
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        survive(|| {
            let value = self.0.node(ino).and_then(|node| self.0.tree.xattr(&node, name));
            reply_xattr(value, size, reply);
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        survive(|| {
            let names = self.0.node(ino).map(|node| {
                let mut names = Vec::new();
                for name in self.0.tree.xattrs(&node) {
                    names.extend_from_slice(name.as_bytes());
                    names.push(0);
                }
                names
            });
            reply_xattr(names, size, reply);
        });
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        survive(|| {
            let refusal = match self.0.node(ino).and_then(|node| self.0.tree.attr(&node)) {
                Ok(_) if mask.contains(AccessFlags::W_OK) => Some(Errno::EROFS),
                Ok(attr) if mask.contains(AccessFlags::X_OK) && attr.kind == Kind::File { executable: false } => {
                    Some(Errno::EACCES)
                }
                Ok(_) => None,
                Err(error) => Some(wire(error)),
            };
            match refusal {
                None => reply.ok(),
                Some(error) => reply.error(error),
            }
        });
    }

    /// Once `ENOSYS`, the kernel closes files without asking; with `FOPEN_NOFLUSH` recent ones never ask.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// There is nothing that is not on its disk yet.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Once `ENOSYS`, the kernel seeks by the size alone: all data, one hole at the end.
    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    /// Once `ENOSYS`, the kernel answers "always readable".
    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // What writes. The kernel refuses it on a read-only mount by itself; these are for one remounted read-write.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }
}

/// Runs one message's work; a panic in it ends there instead of ending the event loop.
fn survive(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("a panic while a file operation was answered: the caller got EIO");
    }
}

/// A value or a list of names as getxattr(2) and listxattr(2) want it: the size alone for an empty buffer.
fn reply_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if value.len() > XATTR_MAX => reply.error(Errno::E2BIG),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(wire(error)),
    }
}
