//! Opens /dev/fuse and attaches it to a directory: by mount(2), or through fusermount3 where only root may.
//!
//! fuser can mount too, but its 0.18.0 asks "still mounted?" the wrong way round, so that after an unmount by somebody
//! else it unmounts whatever came to the directory next; and it drops the subtype when it mounts without a helper, so
//! that a dead mount could not be told from other FUSE file systems. Here the session gets a device that is mounted
//! already, and unmounting is ours.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::MountError;
use crate::mount::MountOptions;
use crate::mountpoint::{HELPER, KIND, no_helper, refused};

/// Mount flags of every gridfs.
const FLAGS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// The same, in the helper's words.
const HELPER_OPTIONS: &str = "ro,nosuid,nodev,noatime,subtype=gridfs";

/// Mounts on `dir` (resolved) and returns the device that serves it.
pub(crate) fn attach(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(|errno| MountError::Device { source: errno.into() })?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        if options.allow_other { ",allow_other" } else { "" },
    );
    let mount_flags = if options.no_exec { FLAGS | MountFlags::NOEXEC } else { FLAGS };
    let refusal = |source| MountError::Mount { dir: dir.to_owned(), source };
    let data = std::ffi::CString::new(data).map_err(|error| refusal(error.into()))?;
    match rustix::mount::mount(options.fs_name.as_str(), dir, KIND, mount_flags, data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => attach_by_helper(dir, options),
        Err(errno) => Err(refusal(errno.into())),
    }
}

/// The helper opens the device, mounts, and sends the device over the socket that is its standard input.
fn attach_by_helper(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refusal = |source| MountError::Mount { dir: dir.to_owned(), source };
    let (ours, theirs) = UnixStream::pair().map_err(refusal)?;
    // A comma or backslash in the name would end the option.
    let name = options.fs_name.replace('\\', "\\\\").replace(',', "\\,");
    let others = if options.allow_other { ",allow_other" } else { "" };
    let no_exec = if options.no_exec { ",noexec" } else { "" };
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(format!("{HELPER_OPTIONS},fsname={name}{others}{no_exec}"))
        .arg("--")
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| no_helper("mount on", dir, error))?;
    let device = receive(&ours);
    let mut said = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        stderr.read_to_end(&mut said).map_err(refusal)?;
    }
    let status = child.wait().map_err(refusal)?;
    match device.map_err(refusal)? {
        Some(device) if status.success() => Ok(device),
        _ => Err(refused("mount on", dir, &said)),
    }
}

/// The file descriptor that comes over `socket`; `None` when it closes without one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok(received)
}

/// Opens the read-ahead of the file system on `device` ("major:minor") up to `kib`.
///
/// The protocol grants at most 128 KiB; what is written here is not bound by that, but only root may.
pub(crate) fn raise_read_ahead(device: &str, kib: u32) {
    use std::io::Write;
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let opened = File::options().write(true).open(&path);
    let raised = opened.and_then(|mut file| file.write_all(kib.to_string().as_bytes()));
    if let Err(error) = raised {
        tracing::debug!(path, %error, "read-ahead stays at what the kernel grants");
    }
}
