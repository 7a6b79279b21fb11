//! Who may mount, and who may look: an ordinary user with fusermount3, root without it, and others.
//!
//! As root, the ordinary user is `nobody`, and /etc/fuse.conf is replaced in a mount namespace of the test's own; so
//! nothing of the machine is changed.

mod common;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Node, Ran};

/// Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// Whether this can be tested here.
fn can_become_nobody() -> bool {
    let root = rustix::process::geteuid().is_root();
    let helper = Path::new("/usr/bin/fusermount3").exists() || Path::new("/bin/fusermount3").exists();
    if !root {
        eprintln!("SKIPPED: becoming another user takes root; all other tests mount as the user who runs them");
    }
    if !helper {
        eprintln!("SKIPPED: fusermount3 is not installed; it is in Debian's fuse3");
    }
    root && helper
}

/// What belongs to an ordinary user: a home directory, a mount point, and copies of the programs that it may run.
struct User {
    directory: tempfile::TempDir,
}

impl User {
    fn new() -> User {
        let directory = tempfile::tempdir().unwrap();
        let user = User { directory };
        std::fs::create_dir(user.at("bin")).unwrap();
        for program in [env!("CARGO_BIN_EXE_gridfs"), env!("CARGO_BIN_EXE_grid")] {
            let program = Path::new(program);
            std::fs::copy(program, user.at("bin").join(program.file_name().unwrap())).unwrap();
        }
        for directory in ["home", "home/mnt"] {
            std::fs::create_dir(user.at(directory)).unwrap();
            chown(user.at(directory), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::fs::set_permissions(user.at("."), PermissionsExt::from_mode(0o755)).unwrap();
        user
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Runs a script in the home directory, as root in namespaces of its own: its mounts and processes go with it.
    /// `user COMMAND...` is that command as the ordinary user.
    fn sh(&self, script: &str) -> Ran {
        let prelude = format!(
            "# As udev makes it; without udev it may be root's alone.
            mount -t tmpfs -o mode=755 devices /mnt
            mknod -m 666 /mnt/fuse c 10 229
            mount --bind /mnt/fuse /dev/fuse
            user() {{ setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups env HOME=\"$PWD\" \"$@\"; }}"
        );
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .args(["sh", "-ec", &format!("{prelude}\n{script}")])
            .current_dir(self.at("home"))
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.at("bin").display()))
            .env_remove("GRID_HOME")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran::from(output)
    }
}

#[test]
fn an_ordinary_user_mounts_reads_and_unmounts() {
    if !can_become_nobody() {
        return;
    }
    let user = User::new();
    let script = "
        echo 'call me ishmael' > moby.txt
        user gridfs put --name moby.txt moby.txt > cid
        user gridfs mount mnt
        user cat mnt/local/wc/moby.txt mnt/local/cas/moby.txt
        user stat -Lc '%U %G %a' mnt/local/cas/moby.txt
        grep -c \" $PWD/mnt fuse.gridfs ro,nosuid,nodev,noatime,user_id=65534\" /proc/mounts
        ls mnt 2>&1 && exit 1
        user gridfs umount mnt
        user ls -A mnt
        pgrep -r DRS gridfs && exit 1
        echo over";
    let said = user.sh(script).ok();
    let expected = "      1       3      16\ncall me ishmael\nnobody nogroup 444\n1\n\
        ls: cannot access 'mnt': Permission denied\nover\n";
    assert_eq!(squeezed(&said), squeezed(expected));
}

/// Plain copies are root's: an ordinary user's mount reads large files as ever, and makes none.
#[test]
fn an_ordinary_user_s_large_files_are_not_copied() {
    if !can_become_nobody() {
        return;
    }
    let script = "
        head -c 9000000 /dev/urandom > long
        user gridfs put --name long long > cid
        user gridfs mount mnt
        for turn in 1 2 3; do user cmp long mnt/local/cas/long; done
        user grep gridfs_copies_bytes mnt/.grid/metrics
        user gridfs umount mnt";
    let said = User::new().sh(script).ok();
    assert!(said.ends_with("gauge\ngridfs_copies_bytes 0\n"), "{said}");
}

#[test]
fn a_user_s_dead_mount_heals_and_is_unmounted() {
    if !can_become_nobody() {
        return;
    }
    let script = "
        user gridfs mount mnt
        # The mount is dead when the last of the threads is; what asks before is told of an abort.
        kill_daemon() {
            pid=$(pgrep -r DRS gridfs); kill -9 $pid
            while grep -qs '^State:.[DRS]' /proc/$pid/task/*/status; do sleep 0.05; done
        }
        kill_daemon
        user ls mnt 2>&1 || true
        user gridfs mount mnt
        user ls mnt
        kill_daemon
        user gridfs umount mnt
        user ls -A mnt";
    let said = User::new().sh(script).ok();
    assert_eq!(said, "ls: cannot access 'mnt': Transport endpoint is not connected\naccept\nlocal\npub\n");
}

#[test]
fn others_are_let_in_only_if_root_allows_it() {
    if !can_become_nobody() {
        return;
    }
    let refused = "
        umask 022; : > fuse.conf; mount --bind fuse.conf /etc/fuse.conf
        user gridfs mount -o allow_other mnt";
    let (status, stderr) = User::new().sh(refused).failed();
    assert_eq!(status, 1);
    let advice = "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
    assert!(stderr.contains("fusermount3") && stderr.contains(advice), "{stderr}");

    let allowed = "
        umask 022; echo user_allow_other > fuse.conf; mount --bind fuse.conf /etc/fuse.conf
        user gridfs mount -o allow_other mnt
        ls mnt
        setpriv --reuid 12345 --regid 12345 --clear-groups ls mnt
        user gridfs umount mnt";
    assert_eq!(User::new().sh(allowed).ok(), "accept\nlocal\npub\naccept\nlocal\npub\n");
}

#[test]
fn without_the_helper_a_user_is_told_what_to_install() {
    if !can_become_nobody() {
        return;
    }
    let (status, stderr) = User::new()
        .sh("PATH=/nothing; bin=$PWD/../bin; /usr/bin/setpriv --reuid 65534 --regid 65534 \
        --clear-groups /usr/bin/env HOME=$PWD PATH=/nothing $bin/gridfs mount mnt")
        .failed();
    assert_eq!((status, stderr.contains("install Debian's fuse3 package or run as root")), (1, true), "{stderr}");
}

#[test]
fn root_needs_no_helper() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounting without fusermount3 takes root");
        return;
    }
    let node = Node::new();
    node.put("x", "x\n");
    let gridfs = env!("CARGO_BIN_EXE_gridfs");
    let mnt = node.mnt();
    node.sh(&format!("PATH=/nothing {gridfs} mount {}", mnt.display())).ok();
    assert_eq!(node.read("local/cas/x"), "x\n");
    // A dead mount too.
    node.kill_daemon();
    node.sh(&format!("PATH=/nothing {gridfs} mount -o allow_other {}", mnt.display())).ok();
    assert_eq!(node.read("local/cas/x"), "x\n");
    node.sh(&format!("PATH=/nothing {gridfs} umount {}", mnt.display())).ok();
    assert!(!gridfs_fuse::is_mounted(&mnt).unwrap());
}

/// Without what pads columns.
fn squeezed(text: &str) -> String {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}
