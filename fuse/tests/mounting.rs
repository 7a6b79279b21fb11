//! Mounting, unmounting, and what a dead daemon leaves behind.

mod fake;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use fake::{Fake, Item, Mounted, can_mount, errno, eventually, is_root, runtime};
use gridfs_fuse::{Errno, MountError, MountOptions, heal, is_mounted, mount, unmount};
use tempfile::TempDir;

/// Names the directory to the test binary when it plays a daemon.
const DAEMON_DIR: &str = "GRIDFS_FUSE_TEST_DAEMON_DIR";

fn small() -> Fake {
    Fake::new([("file", Item::file("content"))])
}

/// A directory from which every mount goes in the end, inside one that is never mounted on.
struct Place {
    above: TempDir,
    dir: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let above = TempDir::new().unwrap();
        let dir = above.path().join(name);
        fs::create_dir(&dir).unwrap();
        Self { above, dir }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Bounded, and ends at the first "not mounted".
        for _ in 0..8 {
            if unmount(&self.dir).is_err() {
                break;
            }
        }
    }
}

/// Not a test: what the daemons of the tests below run.
#[test]
#[ignore = "played by other tests, in a process of its own"]
fn daemon() {
    let Some(dir) = std::env::var_os(DAEMON_DIR).map(PathBuf::from) else {
        return;
    };
    let runtime = runtime();
    let mounted = mount(Arc::new(small()), &dir, MountOptions::default(), runtime.handle().clone()).unwrap();
    fs::write(dir.with_extension("mounted"), "").unwrap();
    thread::sleep(Duration::from_secs(60));
    drop(mounted);
}

/// Starts a daemon that mounts on `dir`, and kills it.
fn leave_dead_mount(dir: &Path) {
    let started = dir.with_extension("mounted");
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon", "--ignored"])
        .env(DAEMON_DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the daemon mounts", || started.exists() || daemon.try_wait().unwrap().is_some());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    fs::remove_file(&started).unwrap();
    assert_eq!(errno(fs::metadata(dir)), Errno::ENOTCONN.code());
}

#[test]
fn a_dead_mount_is_healed_and_mounted_again() {
    if !can_mount() {
        return;
    }
    let place = Place::new("a dir\twith \\ odd name");
    let dir = place.dir.clone();
    leave_dead_mount(&dir);
    assert!(is_mounted(&dir).unwrap());
    assert!(heal(&dir).unwrap());
    assert!(!is_mounted(&dir).unwrap());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert!(!heal(&dir).unwrap());

    leave_dead_mount(&dir);
    let runtime = runtime();
    let again = mount(Arc::new(small()), &dir, MountOptions::default(), runtime.handle().clone()).unwrap();
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "content");
    again.unmount().unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn stacked_dead_mounts_are_all_healed() {
    if !can_mount() || !is_root() {
        return;
    }
    let place = Place::new("dir");
    let dir = place.dir.clone();
    leave_dead_mount(&dir);
    // A bind mount of the dead mount over itself: two of them on one directory.
    rustix::mount::mount_bind(&dir, &dir).unwrap();
    assert_eq!(errno(fs::metadata(&dir)), Errno::ENOTCONN.code());
    assert!(heal(&dir).unwrap());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_dead_mount_can_be_unmounted_by_name() {
    if !can_mount() {
        return;
    }
    let place = Place::new("dir");
    let dir = place.dir.clone();
    leave_dead_mount(&dir);
    unmount(&dir).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_live_mount_is_not_healed_away() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(small());
    assert!(is_mounted(mounted.dir()).unwrap());
    assert!(matches!(heal(mounted.dir()), Err(MountError::AlreadyMounted { .. })));
    let handle = mounted.runtime.as_ref().unwrap().handle().clone();
    let error = mount(Arc::new(small()), mounted.dir(), MountOptions::default(), handle).unwrap_err();
    let dir = mounted.dir().display();
    assert_eq!(
        error.to_string(),
        format!("cannot mount on {dir}: a gridfs is mounted there and answers; use it, or unmount it first")
    );
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
}

#[test]
fn what_is_no_directory_is_refused_in_words() {
    let place = Place::new("dir");
    let runtime = runtime();
    let try_mount = |dir: &Path| {
        let handle = runtime.handle().clone();
        let mounted = mount(Arc::new(small()), dir, MountOptions::default(), handle);
        mounted.unwrap_err().to_string()
    };
    let missing = place.dir.join("missing");
    assert_eq!(
        try_mount(&missing),
        format!(
            "cannot use {} as a mount point: No such file or directory (os error 2); create the directory or name another one",
            missing.display()
        )
    );
    let file = place.dir.join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(
        try_mount(&file),
        format!("cannot mount on {}: it is not a directory; name an existing directory", file.display())
    );
    assert_eq!(
        unmount(&place.dir).unwrap_err().to_string(),
        format!(
            "cannot unmount {}: no gridfs is mounted there; `grep gridfs /proc/mounts` lists those that are",
            place.dir.display()
        )
    );
    assert!(!is_mounted(&place.dir).unwrap());
    assert!(!heal(&place.dir).unwrap());
}

#[test]
fn other_file_systems_are_left_alone() {
    assert!(matches!(unmount(Path::new("/proc")), Err(MountError::NotMounted { .. })));
    assert!(!is_mounted(Path::new("/proc")).unwrap());
    assert!(!heal(Path::new("/proc")).unwrap());
}

#[test]
fn the_mount_table_shows_what_was_asked_for() {
    if !can_mount() || !is_root() {
        return;
    }
    let options = MountOptions { fs_name: "my,grid".to_owned(), allow_other: true, ..MountOptions::default() };
    let mounted = Mounted::with(small(), options);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = mounted.dir().to_str().unwrap();
    let line = table.lines().find(|line| line.contains(dir)).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!(fields[..3], ["my,grid", dir, "fuse.gridfs"]);
    for option in ["ro", "nosuid", "nodev", "noatime", "allow_other"] {
        assert!(fields[3].split(',').any(|set| set == option), "{option} in {line}");
    }
}

#[test]
fn a_link_to_the_mount_point_names_it_too() {
    if !can_mount() {
        return;
    }
    let place = Place::new("dir");
    let (dir, link) = (place.dir.clone(), place.above.path().join("link"));
    std::os::unix::fs::symlink("dir", &link).unwrap();
    let runtime = runtime();
    let mounted = mount(Arc::new(small()), &link, MountOptions::default(), runtime.handle().clone()).unwrap();
    assert_eq!(mounted.dir(), fs::canonicalize(&dir).unwrap());
    assert!(is_mounted(&link).unwrap());
    unmount(&link).unwrap();
    assert!(!is_mounted(&dir).unwrap());
    mounted.unmount().unwrap();
}

#[test]
fn unmounting_under_an_open_file_serves_it_to_its_end() {
    if !can_mount() {
        return;
    }
    let options = MountOptions { unmount_wait: Duration::from_millis(50), ..MountOptions::default() };
    let mut mounted = Mounted::with(small(), options);
    let mut file = File::open(mounted.path("file")).unwrap();
    let mount = mounted.mount.take().unwrap();
    mount.unmount().unwrap();
    assert_eq!(fs::read_dir(mounted.dir()).unwrap().count(), 0);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    drop(file);
    // The event loops end with the last file and let go of the tree.
    eventually("the tree is let go", || Arc::strong_count(&mounted.fake) == 1);
    assert_eq!(mounted.fake.open_files.load(Ordering::SeqCst), 0);
}

#[test]
fn dropping_unmounts() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(small());
    drop(mounted.mount.take());
    assert!(!is_mounted(mounted.dir()).unwrap());
    eventually("the tree is let go", || Arc::strong_count(&mounted.fake) == 1);
}

#[test]
fn an_unmount_from_outside_ends_the_wait() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(small());
    let mut mount = mounted.mount.take().unwrap();
    let runtime = mounted.runtime.as_ref().unwrap();
    let early = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(50), mount.wait()).await });
    assert!(early.is_err(), "nobody has unmounted yet");
    let output = Command::new("umount").arg(mounted.dir()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), mount.wait()).await });
    waited.expect("the wait ends").unwrap();
    mount.unmount().unwrap();
}

/// fuser 0.18.0 unmounts the directory again when a session that somebody else unmounted is dropped. And the successor
/// may get the number and the device of the mount before it, so that these alone do not tell them apart.
#[test]
fn a_mount_that_was_taken_off_does_not_take_off_its_successor() {
    if !can_mount() {
        return;
    }
    for round in 0..50 {
        let mut first = Mounted::new(small());
        unmount(first.dir()).unwrap();
        let handle = first.runtime.as_ref().unwrap().handle().clone();
        let second = mount(Arc::new(small()), first.dir(), MountOptions::default(), handle).unwrap();
        drop(first.mount.take());
        assert_eq!(fs::read_to_string(first.path("file")).unwrap(), "content", "round {round}");
        second.unmount().unwrap();
    }
}

#[test]
fn mounting_again_and_again_leaves_nothing() {
    if !can_mount() {
        return;
    }
    for _ in 0..20 {
        let mounted = Mounted::new(small());
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
        let fake = Arc::clone(&mounted.fake);
        drop(mounted);
        eventually("the tree is let go", || Arc::strong_count(&fake) == 1);
    }
}
