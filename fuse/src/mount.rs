//! Mounting a tree, the event loops that serve it, and taking it off again.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, INodeNo, Notifier, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::device::{attach, raise_read_ahead};
use crate::error::MountError;
use crate::mountpoint::{Identity, Taken, heal, resolved, take_off};
use crate::protocol::Protocol;
use crate::tree::Tree;

/// How a tree is mounted. Always read-only, without set-user-id programs, devices and access times.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The source that /proc/mounts shows.
    pub fs_name: String,
    /// Let users other than the mounting one in. Through fusermount3 this needs `user_allow_other` in /etc/fuse.conf.
    pub allow_other: bool,
    /// Threads that read requests, each with a device of its own (`clone_fd`); at least 1.
    pub event_loops: usize,
    /// Owner of everything shown.
    pub uid: u32,
    /// Group of everything shown.
    pub gid: u32,
    /// Files, and likewise directories, that may be open at once; more answer `ENFILE`.
    pub open_limit: usize,
    /// Later answers that may be under way at once for one process; its other callers wait their turn. At least 1.
    pub turns_per_process: usize,
    /// Nothing on the mount can be executed.
    pub no_exec: bool,
    /// Read-ahead in KiB, set where the process may (root); elsewhere the kernel's 128 KiB.
    pub read_ahead_kib: u32,
    /// How long [`Mount::unmount`] waits for the event loops to end.
    pub unmount_wait: Duration,
}

impl Default for MountOptions {
    /// For the user of this process alone, two event loops.
    fn default() -> Self {
        Self {
            fs_name: "gridfs".to_owned(),
            allow_other: false,
            event_loops: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            open_limit: 1 << 16,
            turns_per_process: 16,
            no_exec: false,
            // More is read in longer pieces, which leave the processor's own cache on their way.
            read_ahead_kib: 512,
            unmount_wait: Duration::from_secs(2),
        }
    }
}

/// How the event loops ended; `None` while they run.
type Ended = Option<Result<(), Arc<io::Error>>>;

/// A mounted tree. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    /// To take off this mount and no other.
    identity: Identity,
    unmount_wait: Duration,
    ended: watch::Receiver<Ended>,
    closing: watch::Sender<bool>,
    taken_off: bool,
    kept: Option<Kept>,
}

/// What the kernel keeps of a mounted tree. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kept(Notifier);

impl Kept {
    /// Makes the kernel look this name in the root up anew, and all that is below it. What is open stays as it is. Blocks
    /// while the root is looked at, so it may not be called from a [`Tree`].
    ///
    /// # Errors
    /// When the mount is gone. That the kernel keeps nothing of the name is none.
    pub fn forget(&self, name: &OsStr) -> io::Result<()> {
        self.0.inval_entry(INodeNo::ROOT, name)
    }
}

/// Mounts `tree` on `dir`, after detaching what a dead gridfs left there. When this returns the mount answers.
///
/// Answers that come later run on `runtime`, which must have its timer enabled and outlive the mount. Blocks for a few
/// system calls.
///
/// # Errors
/// [`MountError::Directory`] and [`MountError::NotADirectory`]; what [`heal`] fails with; [`MountError::Device`],
/// [`MountError::NoHelper`], [`MountError::Helper`] and [`MountError::Mount`] when the system refuses.
pub fn mount<T: Tree>(tree: Arc<T>, dir: &Path, options: MountOptions, runtime: Handle) -> Result<Mount, MountError> {
    heal(dir)?;
    let dir = resolved(dir)?;
    check_directory(&dir)?;
    let device = attach(&dir, &options)?;

    let identity = identify(&dir)?;

    // From here on every way out but the last takes the mount off again, by dropping it.
    let (ended_sender, ended) = watch::channel(None);
    let (closing, closed) = watch::channel(false);
    let mut mount =
        Mount { identity, dir, unmount_wait: options.unmount_wait, ended, closing, taken_off: false, kept: None };
    let protocol = Protocol::new(tree, &options, runtime, closed);
    let acl = match options.allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    let failed = |source| MountError::Mount { dir: mount.dir.clone(), source };
    let session = Session::from_fd(protocol, device, acl, config(acl, options.event_loops)).map_err(failed)?;
    let kept = Kept(session.notifier());
    let loops = session.spawn().map_err(failed)?;
    report_end(loops, ended_sender).map_err(failed)?;
    mount.kept = Some(kept);
    raise_read_ahead(&mount.identity.device, options.read_ahead_kib);
    Ok(mount)
}

/// What has just been mounted on `dir`; taken off again if it can't be told.
fn identify(dir: &Path) -> Result<Identity, MountError> {
    let unseen = || MountError::Mount {
        dir: dir.to_owned(),
        source: io::Error::other("it was mounted, but /proc/self/mountinfo does not show it"),
    };
    let identity = Identity::of(dir).and_then(|identity| identity.ok_or_else(unseen));
    if identity.is_err() {
        take_off(dir)?;
    }
    identity
}

fn check_directory(dir: &Path) -> Result<(), MountError> {
    let dir = dir.to_owned();
    match fs::metadata(&dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(MountError::NotADirectory { dir }),
        Err(source) => Err(MountError::Directory { dir, source }),
    }
}

fn config(acl: SessionACL, event_loops: usize) -> Config {
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(event_loops.max(1));
    config.clone_fd = true;
    config
}

/// Waits for the event loops on a thread of its own and says how they ended.
fn report_end(loops: BackgroundSession, ended: watch::Sender<Ended>) -> io::Result<()> {
    let wait = move || {
        let result = loops.join().map_err(Arc::new);
        ended.send_replace(Some(result));
    };
    thread::Builder::new().name("gridfs-mount".to_owned()).spawn(wait)?;
    Ok(())
}

impl Mount {
    /// Where it is mounted: absolute, without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the kernel keeps of it.
    pub fn kept(&self) -> Kept {
        self.kept.clone().expect("a mount that was made has it")
    }

    /// Comes when the file system is gone: unmounted, by whomever, and its last file closed. May be dropped and called
    /// again.
    ///
    /// # Errors
    /// [`MountError::EventLoop`] if the event loops failed instead.
    pub async fn wait(&mut self) -> Result<(), MountError> {
        let ended = match self.ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone(),
            // The thread that would tell is gone: it panicked, or never came to be.
            Err(_) => None,
        };
        let lost = || Err(Arc::new(io::Error::other("the event loops ended unseen")));
        ended.unwrap_or_else(lost).map_err(|source| MountError::EventLoop { dir: self.dir.clone(), source })
    }

    /// Unmounts, and waits a bounded time ([`MountOptions::unmount_wait`]) for the event loops to end. Blocks.
    ///
    /// If the mount is in use it leaves the directory all the same. What waits for a later answer, now or from now on,
    /// gets `ECONNABORTED`; open files are served what is stored until they are closed or the process ends. If it was
    /// unmounted already, that is fine.
    ///
    /// # Errors
    /// What the kernel or fusermount3 refuses.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.take_off()?;
        let deadline = Instant::now() + self.unmount_wait;
        while self.ended.borrow().is_none() {
            if Instant::now() >= deadline {
                tracing::warn!(dir = %self.dir.display(), "unmounted; files in it are still open");
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Unmounts this mount if it is still there, and only this one. At most once.
    fn take_off(&mut self) -> Result<(), MountError> {
        if self.taken_off || matches!(*self.ended.borrow(), Some(Ok(()))) {
            return Ok(());
        }
        self.taken_off = true;
        let taken = match Identity::of(&self.dir)? {
            Some(top) if top.is(&self.identity) => take_off(&self.dir)?,
            // Somebody detached it, and it goes with its last user.
            _ => Taken::Lazily,
        };
        if taken == Taken::Lazily {
            self.closing.send_replace(true);
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            tracing::warn!(%error, "left mounted");
        }
        self.closing.send_replace(true);
    }
}
