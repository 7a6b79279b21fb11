//! Why a directory could not be mounted, healed or unmounted.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a directory could not be mounted, healed or unmounted, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The directory can't be looked at: it does not exist, or its path can't be walked.
    #[error("cannot use {} as a mount point: {source}; create the directory or name another one", dir.display())]
    Directory {
        /// The directory that was named.
        dir: PathBuf,
        /// Why it can't be looked at.
        source: io::Error,
    },
    /// The path is not a directory.
    #[error("cannot mount on {}: it is not a directory; name an existing directory", dir.display())]
    NotADirectory {
        /// The path that was named.
        dir: PathBuf,
    },
    /// A live gridfs is mounted there.
    #[error("cannot mount on {}: a gridfs is mounted there and answers; use it, or unmount it first", dir.display())]
    AlreadyMounted {
        /// The mount point.
        dir: PathBuf,
    },
    /// A dead FUSE mount that is not gridfs lies there.
    #[error(
        "cannot mount on {}: a dead mount of type {kind:?} lies there, which is not gridfs's to remove; \
         detach it with `umount -l` or `fusermount3 -u -z`", dir.display()
    )]
    StaleForeign {
        /// The mount point.
        dir: PathBuf,
        /// The type of file system, such as `fuse.sshfs`.
        kind: String,
    },
    /// Nothing of ours is mounted there.
    #[error("cannot unmount {}: no gridfs is mounted there; `grep gridfs /proc/mounts` lists those that are", dir.display())]
    NotMounted {
        /// The directory that was named.
        dir: PathBuf,
    },
    /// `/dev/fuse` can't be opened.
    #[error(
        "cannot open /dev/fuse: {source}; it must be there (`modprobe fuse`; in a container, pass it in) and be \
         readable and writable for this user (`chmod 666 /dev/fuse`)"
    )]
    Device {
        /// Why not.
        source: io::Error,
    },
    /// Mounting or unmounting needs root, or the helper that does it for users.
    #[error(
        "cannot {verb} {}: not permitted, and fusermount3, which does it for users other than root, is not installed; \
         install Debian's fuse3 package or run as root", dir.display()
    )]
    NoHelper {
        /// `mount on` or `unmount`.
        verb: &'static str,
        /// The directory.
        dir: PathBuf,
    },
    /// `fusermount3` refused.
    #[error("cannot {verb} {}: fusermount3 says: {said}", dir.display())]
    Helper {
        /// `mount on` or `unmount`.
        verb: &'static str,
        /// The directory.
        dir: PathBuf,
        /// What it wrote on standard error.
        said: String,
    },
    /// The kernel refused to mount.
    #[error("cannot mount on {}: {source}; the kernel's log (`dmesg`) may say more", dir.display())]
    Mount {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused to unmount.
    #[error("cannot unmount {}: {source}; `fuser -vm` shows who uses it", dir.display())]
    Unmount {
        /// The mount point.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The table of mounts can't be read.
    #[error("cannot read /proc/self/mountinfo: {source}; is /proc mounted?")]
    MountTable {
        /// Why not.
        source: io::Error,
    },
    /// The event loops ended although nobody unmounted.
    #[error("the mount on {} broke: {source}; unmount it and mount again", dir.display())]
    EventLoop {
        /// The mount point.
        dir: PathBuf,
        /// What ended them.
        source: Arc<io::Error>,
    },
}
