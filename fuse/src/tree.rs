//! What a file system has to answer to be mounted: the [`Tree`] trait.
//!
//! A tree is read-only. Looking (`lookup`, `attr`, `readlink`, `list` of what is at hand, `xattr`) is answered from
//! memory or local metadata; opening may take long. A method that may take long returns [`Answer::Later`]: its future
//! is begun on the event loop, so until it first waits it does no more than a method may, then runs on the runtime, and is
//! dropped when the caller is interrupted. What only reads a disk or decompresses is an [`Answer::Blocking`].
//!
//! The methods themselves run on an event loop and must not wait. So do the destructors of nodes and files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use fuser::Errno;

/// A future that the runtime drives to a reply.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T, Errno>> + Send>>;

/// Work that ends with a reply.
pub type Blocking<T> = Box<dyn FnOnce() -> Result<T, Errno> + Send>;

/// An answer at once, or one that the runtime works out while the event loop goes on.
pub enum Answer<T> {
    /// The answer, without waiting.
    Now(Result<T, Errno>),
    /// The answer will come; dropping the future gives it up.
    Later(Later<T>),
    /// The answer takes some work, or a wait for the disk: it is worked out on a thread of the runtime that may block, and
    /// can't be given up.
    Blocking(Blocking<T>),
}

/// What a node is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A regular file; `executable` adds the execute bits (0555 instead of 0444).
    File {
        /// Whether the execute bits are set.
        executable: bool,
    },
    /// A directory (0555).
    Directory,
    /// A symbolic link (0777).
    Symlink,
}

/// A node's attributes.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// File, directory or symbolic link.
    pub kind: Kind,
    /// Size in bytes: of the content, of the link target, or what a directory reports.
    pub size: u64,
    /// Modification (and change, access, birth) time.
    pub time: SystemTime,
    /// How long the kernel may keep these attributes.
    pub ttl: Duration,
}

/// A named node: the reply to a lookup and one line of a listing.
pub struct Entry<N> {
    /// The node behind the name.
    pub node: N,
    /// Its attributes.
    pub attr: Attr,
    /// How long the kernel may keep the name.
    pub ttl: Duration,
}

/// Who opens, and how.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Thread id of the caller, 0 when the kernel did not say.
    pub pid: u32,
    /// User id of the caller.
    pub uid: u32,
    /// `O_NONBLOCK` was given.
    pub nonblocking: bool,
    /// Whether the kernel takes plain files ([`Served::Plain`]).
    pub passthrough: bool,
}

/// An open file.
pub struct Opened<F> {
    /// What reads will be served from.
    pub file: F,
    /// How the kernel may serve them itself.
    pub served: Served,
}

/// How the kernel may serve the reads of an open file.
pub enum Served {
    /// From pages that it reads anew for this open.
    Fresh,
    /// The content can never differ from what was read before: also from the pages of earlier opens.
    Kept,
    /// The same, and this plain file has the very content: from there without asking, where that is permitted and nobody
    /// has the node open otherwise.
    Plain(Arc<File>),
    /// The content is this open's own: the kernel keeps no pages, and reads to the end whatever size it was told.
    Uncached,
}

/// Space and counts for `statfs`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    /// Bytes of the file system below.
    pub total_bytes: u64,
    /// Bytes still free there.
    pub free_bytes: u64,
    /// Objects stored.
    pub objects: u64,
}

/// A read-only file system. Errors are the errno that the calling program sees.
pub trait Tree: Send + Sync + 'static {
    /// Identity of a node: equal nodes share one inode, and with it size, pages and open files.
    ///
    /// A directory is one node per place: the kernel knows one name for each directory, so if equal nodes were found at
    /// two paths it would move the directory from one to the other. Files and links may be found anywhere.
    type Node: Clone + Eq + Hash + Send + Sync + 'static;
    /// An open file.
    type File: Send + Sync + 'static;

    /// The root directory.
    fn root(&self) -> Self::Node;

    /// Preferred inode number: a hash of what makes the node itself, the same after a restart. Two nodes may collide.
    fn inode_hint(&self, node: &Self::Node) -> u64;

    /// The node called `name` in the directory `parent`; `ENOENT` when there is none. The user `uid` asks; others are
    /// answered from the kernel's cache as long as the entry lasts.
    fn lookup(self: &Arc<Self>, parent: &Self::Node, name: &OsStr, uid: u32) -> Answer<Entry<Self::Node>>;

    /// How long the kernel may keep that `dir` lacks a name, asked after a lookup that said `ENOENT`.
    fn missing_ttl(&self, _dir: &Self::Node) -> Duration {
        Duration::ZERO
    }

    /// The node's attributes as they are known now.
    fn attr(&self, node: &Self::Node) -> Result<Attr, Errno>;

    /// The same for a program of the user `uid` that asks for them (stat(2)): it may be worth working them out.
    fn stat(self: &Arc<Self>, node: &Self::Node, _uid: u32) -> Answer<Attr> {
        Answer::Now(self.attr(node))
    }

    /// Target of a symbolic link. Linux keeps it: a link that leads elsewhere is another node.
    fn readlink(&self, node: &Self::Node) -> Result<Vec<u8>, Errno>;

    /// Opens a directory for the user `uid`: its entries (without "." and ".."), a snapshot in the order to be shown.
    fn list(self: &Arc<Self>, dir: &Self::Node, uid: u32) -> Answer<Vec<(OsString, Entry<Self::Node>)>>;

    /// Opens a file for reading.
    fn open(self: &Arc<Self>, node: &Self::Node, how: Opening) -> Answer<Opened<Self::File>>;

    /// Up to `size` bytes from `offset`; fewer only at the end of the file.
    fn read(self: &Arc<Self>, file: &Arc<Self::File>, offset: u64, size: usize) -> Answer<Vec<u8>>;

    /// Value of an extended attribute; `ENODATA` when the node has none of that name.
    fn xattr(&self, node: &Self::Node, name: &OsStr) -> Result<Vec<u8>, Errno>;

    /// Names of the extended attributes that [`Tree::xattr`] answers now.
    fn xattrs(&self, node: &Self::Node) -> Vec<OsString>;

    /// Space and counts.
    fn space(&self) -> Space;
}
