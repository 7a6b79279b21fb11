//! Everything that can go wrong in the store.
//!
//! Damage is never reported as absence: a byte that can't be trusted is [`Error::Corrupt`],
//! [`Error::Missing`] or [`Error::Mismatch`]; [`Error::NotFound`] means that nothing of that name was
//! ever committed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cid::Cid;
use crate::hash::Hash;
use crate::tree::TreeError;

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A digest algorithm that nobody here computes.
    #[error("{text:?} is no digest known here; sha2-256 and sha3-256 are")]
    Algorithm {
        /// What was asked for.
        text: String,
    },
    /// Another process has the store open.
    #[error("the store is in use by another process (lock {}); stop it, or go through it", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("can't {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The reader given to `put_reader` failed.
    #[error("can't read the bytes to be stored")]
    Source(#[source] io::Error),
    /// The file system is full, or so nearly that the reserve would be used up.
    #[error(
        "no space at {}: {needed_bytes} bytes must be free (reserve included), {free_bytes} are; \
         free some space and put again",
        path.display()
    )]
    Full {
        /// The store's pack directory.
        path: PathBuf,
        /// Free bytes needed to go on.
        needed_bytes: u64,
        /// Free bytes there are.
        free_bytes: u64,
    },
    /// The store may not grow further.
    #[error(
        "the store holds {stored_bytes} bytes and may hold {quota_bytes}: {needed_bytes} more don't fit; \
         free some space, or raise the quota"
    )]
    Quota {
        /// Bytes of all packs.
        stored_bytes: u64,
        /// The limit.
        quota_bytes: u64,
        /// Bytes that were to be written next.
        needed_bytes: u64,
    },
    /// A record on disk is damaged.
    #[error(
        "{} is damaged at offset {offset}: {what}; `gridfs fsck` says what is lost, and `gridfs fsck --repair` \
         makes room for it to be put again",
        pack.display()
    )]
    Corrupt {
        /// The pack file.
        pack: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Nothing of that name was ever committed.
    #[error("{cid} is not in the store")]
    NotFound {
        /// The name asked for.
        cid: Cid,
    },
    /// An object's manifest is there but one of its chunks is not.
    #[error(
        "object {object} is damaged: its chunk {chunk} is gone; put the object again; `gridfs fsck` says what it is"
    )]
    Missing {
        /// Hash of the object.
        object: Hash,
        /// Hash of the chunk.
        chunk: Hash,
    },
    /// An object's manifest makes no sense.
    #[error("object {object} is damaged: its manifest {what}; `gridfs fsck` says what it belongs to")]
    Manifest {
        /// Hash of the object.
        object: Hash,
        /// What is wrong.
        what: &'static str,
    },
    /// The bytes of an object do not hash to its name.
    #[error("{cid} is damaged: its bytes hash to {found}; `gridfs fsck` says what it belongs to")]
    Mismatch {
        /// The name.
        cid: Cid,
        /// What the bytes hash to.
        found: Hash,
    },
    /// The object is larger than the caller allowed.
    #[error("{cid} has {size_bytes} bytes, more than the {max_bytes} allowed here; read it piecewise")]
    TooLarge {
        /// The object.
        cid: Cid,
        /// Its size.
        size_bytes: u64,
        /// The limit given.
        max_bytes: u64,
    },
    /// A memo's label or value is too long.
    #[error("a memo's {what} has {size_bytes} bytes; the limit is {max_bytes}")]
    MemoTooLarge {
        /// `label` or `value`.
        what: &'static str,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// An earlier write or sync failed in a way that leaves the disk's state unknown.
    #[error("the store stopped writing after a failure; reads go on; check the disk, then open the store again")]
    Poisoned {
        /// That failure.
        #[source]
        cause: Arc<Error>,
    },
    /// A collection ended in a panic.
    #[error("an earlier collection of garbage failed badly; open the store again")]
    CollectionFailed,
    /// A batch that is open found more than a lease remembers.
    #[error("a large put is under way; collect garbage when it is done")]
    LargePutUnderWay,
    /// An earlier write of this batch failed, so it can't be committed.
    #[error("an earlier write of this batch failed; start a new batch")]
    BatchFailed,
    /// The directory is no store this program can read.
    #[error("{} says {found:?}, which is not a store format this program reads; upgrade the program, or choose another directory", path.display())]
    Version {
        /// The format file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// The index failed. It can be deleted and is rebuilt at the next open.
    #[error("the index failed; close the store and open it again, which rebuilds the index if it must")]
    Index(#[from] redb::Error),
    /// The index panicked or holds values it can't hold.
    #[error("the index is broken ({what}); close the store, delete its index directory, and open it again")]
    IndexBroken {
        /// What was seen.
        what: &'static str,
    },
    /// An object that should be a directory is not.
    #[error("{cid} is not a directory")]
    Tree {
        /// The object.
        cid: Cid,
        /// Why not.
        source: TreeError,
    },
    /// A directory made here would be invalid.
    #[error("{} can't be stored as a directory", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: TreeError,
    },
    /// Directories nested too deep.
    #[error("{} is nested deeper than {max_depth} directories; store its parts one by one", path.display())]
    TooDeep {
        /// Where the limit was met.
        path: PathBuf,
        /// The limit.
        max_depth: usize,
    },
    /// Neither file, directory nor symlink.
    #[error("{} is a {what}, which can't be stored; only files, directories and symlinks can", path.display())]
    NotStorable {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The operating system gave no thread.
    #[error("can't start a thread; end other programs, or raise the limit on processes, and try again")]
    Thread(#[source] io::Error),
    /// The caller's observer asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Writing an object out to the file system stopped half way.
    #[error("could not write out {}; what was written so far is left there", dest.display())]
    Extract {
        /// Where it was to go.
        dest: PathBuf,
        /// Why it stopped.
        source: Box<Error>,
    },
}

impl Error {
    /// For `map_err` after a system call.
    pub(crate) fn io<E: Into<io::Error>>(op: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
        move |source| Error::Io { op, path: path.to_owned(), source: source.into() }
    }
}
