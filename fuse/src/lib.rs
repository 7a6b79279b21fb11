//! The FUSE protocol over a small trait: implement [`Tree`], call [`mount`], and the tree is a directory.
//!
//! A tree is read-only and may be slow. What it answers at once is replied on the event loop that read the request;
//! what takes time ([`Answer::Later`]) is begun there, becomes a task on the caller's tokio runtime, and the loop goes on. So the
//! loops never wait: no lock is held across a call into the tree, and nothing in them needs the runtime to make
//! progress. A caller that is interrupted while it waits gets `EINTR` and its future is dropped.
//!
//! | file | what it is |
//! |---|---|
//! | `tree` | the trait, and the types it speaks in |
//! | `protocol` | one method per FUSE message; translates, decides nothing |
//! | `pending` | runs a later answer until it comes or the caller is interrupted |
//! | `admission` | how many later answers one process may have under way |
//! | `signals` | whether a process has a signal waiting that must interrupt it |
//! | `inodes`, `handles`, `listing` | nodes by number, open files and directories by number, a directory's snapshot |
//! | `modes` | which files are read straight from plain files |
//! | `attributes`, `errno` | a node's attributes, and errnos, as the kernel wants them |
//! | `mount`, `device` | mounting, the event loops, unmounting |
//! | `mountpoint`, `mountinfo` | what is mounted on a directory; healing a dead mount |
//!
//! What every operation answers, errno for errno, stands in `SEMANTICS.md` beside this crate.
//!
//! Deliberately absent: writing, file locks across machines, and anything that knows what the tree shows. Dead callers
//! are noticed by polling, because fuser 0.18 answers `FUSE_INTERRUPT` with `ENOSYS`.

mod admission;
mod attributes;
mod device;
mod errno;
mod error;
mod handles;
mod inodes;
mod listing;
mod modes;
mod mount;
mod mountinfo;
mod mountpoint;
mod pending;
mod protocol;
mod signals;
mod tree;

pub use error::MountError;
pub use mount::{Kept, Mount, MountOptions, mount};
pub use mountpoint::{heal, is_mounted, unmount};
pub use tree::{Answer, Attr, Blocking, Entry, Errno, Kind, Later, Opened, Opening, Served, Space, Tree};
