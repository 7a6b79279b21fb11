//! A directory that is, was or shall be a mount point: what is on it, healing a dead mount, unmounting.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::MountError;
use crate::mountinfo::{MountEntry, mounts_on};

/// Type of file system, as /proc/mounts shows it.
pub(crate) const KIND: &str = "fuse.gridfs";

/// The program that mounts and unmounts FUSE file systems for users other than root.
pub(crate) const HELPER: &str = "fusermount3";

/// Whether a gridfs is the topmost mount on `dir`, alive or dead.
pub fn is_mounted(dir: &Path) -> Result<bool, MountError> {
    Ok(topmost(&resolved(dir)?)?.is_some())
}

/// Detaches what dead gridfs daemons left mounted on `dir`; true if there was any.
///
/// A mount is dead when its daemon has gone without unmounting: everything on it answers `ENOTCONN`.
///
/// # Errors
/// [`MountError::AlreadyMounted`] if a gridfs there answers; [`MountError::StaleForeign`] if a dead mount there is not
/// gridfs; what unmounting can fail with.
pub fn heal(dir: &Path) -> Result<bool, MountError> {
    let dir = resolved(dir)?;
    let mut healed = false;
    while let Some(top) = mounts_on(&dir)?.pop() {
        let dead = is_dead(&dir);
        if top.kind != KIND {
            return match dead {
                true => Err(MountError::StaleForeign { dir, kind: top.kind }),
                false => Ok(healed),
            };
        }
        if !dead {
            return Err(MountError::AlreadyMounted { dir });
        }
        detach(&dir)?;
        tracing::info!(dir = %dir.display(), "detached a dead mount");
        healed = true;
    }
    Ok(healed)
}

/// Unmounts the gridfs on `dir`, lazily if it is in use: it leaves the directory now, and goes with its last user.
///
/// # Errors
/// [`MountError::NotMounted`] if the topmost mount there is not gridfs; [`MountError::NoHelper`] for a user other than
/// root without fusermount3; what the kernel or the helper refuses.
pub fn unmount(dir: &Path) -> Result<(), MountError> {
    let dir = resolved(dir)?;
    match topmost(&dir)? {
        Some(_) => take_off(&dir).map(drop),
        None => Err(MountError::NotMounted { dir }),
    }
}

/// The topmost mount on `dir` (resolved), if it is gridfs.
fn topmost(dir: &Path) -> Result<Option<MountEntry>, MountError> {
    Ok(mounts_on(dir)?.pop().filter(|mount| mount.kind == KIND))
}

/// One particular mount.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its number in /proc/self/mountinfo; given again once it is gone.
    id: u64,
    /// Device of its file system, "major:minor"; given again too.
    pub(crate) device: String,
    /// Its number that is never given again, where the kernel has it (Linux 6.8).
    unique: Option<u64>,
}

impl Identity {
    /// The topmost mount on `dir` (resolved), if it is gridfs. Asks nothing of who serves it.
    pub(crate) fn of(dir: &Path) -> Result<Option<Self>, MountError> {
        let identity = topmost(dir)?.map(|MountEntry { id, device, .. }| {
            let unique = unique_id(dir);
            Self { id, device, unique }
        });
        Ok(identity)
    }

    /// Whether `other` is the same mount.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let unique = self.unique.zip(other.unique);
        self.id == other.id && self.device == other.device && unique.is_none_or(|(ours, theirs)| ours == theirs)
    }
}

/// `STATX_MNT_ID_UNIQUE` of statx(2), which rustix does not name.
const MNT_ID_UNIQUE: u32 = 0x4000;

fn unique_id(dir: &Path) -> Option<u64> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let asked = StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let shown = rustix::fs::statx(CWD, dir, flags, asked).ok()?;
    (shown.stx_mask & MNT_ID_UNIQUE != 0).then_some(shown.stx_mnt_id)
}

/// How a mount was taken off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    /// It is gone.
    Off,
    /// It was in use, and goes with its last user.
    Lazily,
}

/// Unmounts whatever is topmost on `dir`, lazily if it is in use.
pub(crate) fn take_off(dir: &Path) -> Result<Taken, MountError> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Taken::Off),
        Err(Errno::PERM) if helper_unmounts(dir, &[]).is_ok() => Ok(Taken::Off),
        Err(_) => detach(dir).map(|()| Taken::Lazily),
    }
}

/// Takes the topmost mount off `dir` at once, whoever uses it.
fn detach(dir: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => helper_unmounts(dir, &["-z"]),
        Err(errno) => Err(MountError::Unmount { dir: dir.to_owned(), source: errno.into() }),
    }
}

fn helper_unmounts(dir: &Path, options: &[&str]) -> Result<(), MountError> {
    let arguments = options.iter().map(OsStr::new);
    let output = Command::new(HELPER).arg("-u").args(arguments).arg("--").arg(dir).stdin(Stdio::null()).output();
    let output = output.map_err(|error| no_helper("unmount", dir, error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(refused("unmount", dir, &output.stderr)),
    }
}

/// The helper could not be started.
pub(crate) fn no_helper(verb: &'static str, dir: &Path, error: io::Error) -> MountError {
    let dir = dir.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => MountError::NoHelper { verb, dir },
        _ => MountError::Helper { verb, dir, said: format!("(it could not be started) {error}") },
    }
}

/// The helper ran and failed.
pub(crate) fn refused(verb: &'static str, dir: &Path, stderr: &[u8]) -> MountError {
    MountError::Helper { verb, dir: dir.to_owned(), said: String::from_utf8_lossy(stderr).trim().to_owned() }
}

/// Whether `stat` says that nobody serves the file system on `dir`.
///
/// `ECONNABORTED` is what the kernel answers to a request that was under way when the daemon went.
fn is_dead(dir: &Path) -> bool {
    matches!(rustix::fs::stat(dir), Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// `dir` as /proc/self/mountinfo spells it: absolute, without symbolic links.
///
/// The last component of a dead mount can't be looked at, so there only what leads to it is resolved.
pub(crate) fn resolved(dir: &Path) -> Result<PathBuf, MountError> {
    let error = match fs::canonicalize(dir) {
        Ok(dir) => return Ok(dir),
        Err(error) => error,
    };
    let failed = |source| MountError::Directory { dir: dir.to_owned(), source };
    if error.raw_os_error() != Some(Errno::NOTCONN.raw_os_error()) {
        return Err(failed(error));
    }
    let absolute = path::absolute(dir).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent).map_err(failed)?.join(name)),
        _ => Err(failed(error)),
    }
}
