//! What is refused: writing, and opening what the tree does not open.

mod fake;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fake::{AtOpen, Fake, Item, Mounted, can_mount, errno, eventually, is_root};
use gridfs_fuse::{Errno, MountOptions};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::mount::MountFlags;

fn small() -> Fake {
    Fake::new([
        ("file", Item::file("content")),
        ("other", Item::file("")),
        ("dir", Item::directory()),
        ("link", Item::symlink("file")),
    ])
}

/// Every call that would write, and its errno.
fn writes(dir: &Path) -> Vec<(&'static str, i32)> {
    let file = dir.join("file");
    let new = dir.join("new");
    let open = |options: &mut OpenOptions| errno(options.open(&file));
    let system = |result: rustix::io::Result<()>| errno(result.map_err(io::Error::from));
    vec![
        ("open for writing", open(File::options().write(true))),
        ("open for both", open(File::options().read(true).write(true))),
        ("open to append", open(File::options().append(true))),
        ("open to truncate", open(File::options().write(true).truncate(true))),
        ("create", errno(File::create(&new))),
        ("mkdir", errno(fs::create_dir(&new))),
        ("mknod", system(rustix::fs::mknodat(CWD, &new, FileType::Fifo, Mode::RUSR, 0))),
        ("symlink", errno(symlink("file", &new))),
        ("link", errno(fs::hard_link(&file, &new))),
        ("rename", errno(fs::rename(&file, &new))),
        ("rename over", errno(fs::rename(&file, dir.join("other")))),
        ("unlink", errno(fs::remove_file(&file))),
        ("unlink of a link", errno(fs::remove_file(dir.join("link")))),
        ("rmdir", errno(fs::remove_dir(dir.join("dir")))),
        ("chmod", errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))),
        ("chown", errno(chown(&file, Some(1), Some(1)))),
        ("truncate", system(truncate(&file))),
        ("utimes", errno(File::open(&file).unwrap().set_modified(SystemTime::now()))),
        ("setxattr", system(rustix::fs::setxattr(&file, "user.a", b"b", XattrFlags::empty()))),
        ("removexattr", system(rustix::fs::removexattr(&file, "user.a"))),
    ]
}

/// `truncate(2)` by path, which rustix has not: opening with `O_TRUNC` for reading asks the same of the file system.
fn truncate(path: &Path) -> rustix::io::Result<()> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::TRUNC, Mode::empty()).map(drop)
}

#[test]
fn every_write_is_erofs() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(small());
    for (what, errno) in writes(mounted.dir()) {
        assert_eq!(errno, Errno::EROFS.code(), "{what}");
    }
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
}

/// The kernel refuses on a read-only mount before it asks; remounted read-write, the answers are this crate's.
#[test]
fn every_write_is_erofs_even_when_remounted_writable() {
    if !can_mount() || !is_root() {
        return;
    }
    let mounted = Mounted::new(small());
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    rustix::mount::mount_remount(mounted.dir(), flags, "").unwrap();
    for (what, errno) in writes(mounted.dir()) {
        assert_eq!(errno, Errno::EROFS.code(), "{what}");
    }
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
}

#[test]
fn an_open_that_fails_passes_its_errno_on() {
    if !can_mount() {
        return;
    }
    let passed = [
        Errno::ENOENT,
        Errno::EACCES,
        Errno::ENOEXEC,
        Errno::EIO,
        Errno::ETIMEDOUT,
        Errno::EHOSTUNREACH,
        Errno::EBADMSG,
        Errno::EFBIG,
        Errno::ENOMEM,
        Errno::EAGAIN,
        Errno::EINTR,
        Errno::ELOOP,
        Errno::EROFS,
        Errno::EPERM,
    ];
    let failing = |errno: Errno, at_open: fn(i32) -> AtOpen, name: &str| {
        let item = Item { at_open: at_open(errno.code()), ..Item::file("x") };
        (format!("{name}-{}", errno.code()), item)
    };
    let now = passed.iter().map(|errno| failing(*errno, AtOpen::Fails, "now"));
    let later = passed.iter().map(|errno| failing(*errno, AtOpen::FailsLater, "later"));
    let mounted = Mounted::new(Fake::new(now.chain(later)));
    for expected in passed.map(Errno::code) {
        for name in ["now", "later"] {
            let path = mounted.path(&format!("{name}-{expected}"));
            // Not `File::open`, which tries again as long as it hears EINTR.
            let opened = rustix::fs::open(path, OFlags::RDONLY, Mode::empty());
            assert_eq!(opened.unwrap_err().raw_os_error(), expected, "{name}");
        }
    }
}

/// The kernel refuses a reply with an errno of 512 or more and leaves its caller waiting; and takes ENOSYS for "this
/// file system needs no open", for ever.
#[test]
fn errnos_that_the_kernel_does_not_take_are_replaced() {
    if !can_mount() {
        return;
    }
    let failing = |code| Item { at_open: AtOpen::Fails(code), ..Item::file("x") };
    let mounted = Mounted::new(Fake::new([
        ("restart", failing(512)),
        ("enosys", failing(Errno::ENOSYS.code())),
        ("eacces", failing(Errno::EACCES.code())),
    ]));
    assert_eq!(errno(File::open(mounted.path("restart"))), Errno::EIO.code());
    assert_eq!(errno(File::open(mounted.path("enosys"))), Errno::EOPNOTSUPP.code());
    assert_eq!(errno(File::open(mounted.path("eacces"))), Errno::EACCES.code());
}

#[test]
fn a_panic_costs_one_caller_an_error_and_the_mount_lives() {
    if !can_mount() {
        return;
    }
    let panicking = |at_open| Item { at_open, ..Item::file("x") };
    let mounted = Mounted::new(Fake::new([
        ("loop", panicking(AtOpen::Panics)),
        ("future", panicking(AtOpen::PanicsLater)),
        ("thread", panicking(AtOpen::PanicsBlocking)),
        ("fine", Item::file("fine")),
    ]));
    for _ in 0..20 {
        assert_eq!(errno(File::open(mounted.path("loop"))), Errno::EIO.code());
        assert_eq!(errno(File::open(mounted.path("future"))), Errno::EIO.code());
        assert_eq!(errno(File::open(mounted.path("thread"))), Errno::EIO.code());
    }
    assert_eq!(fs::read_to_string(mounted.path("fine")).unwrap(), "fine");
}

#[test]
fn too_many_open_files_are_enfile() {
    if !can_mount() {
        return;
    }
    let options = MountOptions { open_limit: 3, ..MountOptions::default() };
    let mounted = Mounted::with(small(), options);
    let held = [(); 3].map(|()| File::open(mounted.path("file")).unwrap());
    assert_eq!(errno(File::open(mounted.path("file"))), Errno::ENFILE.code());
    drop(held);
    eventually("a file can be opened again", || File::open(mounted.path("file")).is_ok());
    eventually("what could not be entered is closed too", || mounted.fake.open_files.load(Ordering::SeqCst) == 0);
}
