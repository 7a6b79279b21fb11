//! Mount options, and mounting by mount(8).

mod common;

use common::{Node, wait_for};

const HELPER: &str = "mount.gridfs";

#[test]
fn options_are_told_apart() {
    let node = Node::new();
    let mnt = node.mnt();
    let mnt = mnt.to_str().unwrap();
    for (options, why) in [
        ("rw", "mount option \"rw\" can't be: a grid is read-only; leave it out"),
        ("ro,suid", "mount option \"suid\" is unknown; known: allow_other, home=DIR"),
        ("scan=never", "mount option \"scan=never\" is unknown"),
        ("home=here", "mount option \"home=here\" must be an absolute path"),
    ] {
        let (status, stderr) = node.gridfs(["mount", "-o", options, mnt]).failed();
        assert_eq!((status, stderr.contains(why)), (2, true), "{options}: {stderr}");
    }
    let noise = "ro,nosuid,nodev,noatime,_netdev,nofail,noauto,user,auto,x-systemd.automount,x-gvfs-hide,fsname=shown";
    node.gridfs(["mount", "-o", noise, "-o", "noexec", mnt]).ok();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(mnt)).unwrap();
    assert!(line.starts_with("shown ") && line.contains(" fuse.gridfs ro,nosuid,nodev,noexec,noatime,"), "{line}");
}

#[test]
fn the_home_is_an_option() {
    let node = Node::new();
    node.put("x", "elsewhere\n");
    let home = format!("home={}", node.home().display());
    let line = format!("env -u GRID_HOME -u HOME gridfs mount -o {home} mnt && cat mnt/local/cas/x");
    assert_eq!(node.sh(&line).ok(), "elsewhere\n");
    let (status, stderr) = Node::new().sh("env -u GRID_HOME -u HOME gridfs mount mnt").failed();
    assert_eq!((status, stderr.contains("set GRID_HOME")), (2, true), "{stderr}");
}

#[test]
fn the_helper_takes_what_mount_gives_it() {
    let node = Node::new();
    node.put("x", "x\n");
    node.sh(&format!("ln -s $(command -v gridfs) {HELPER}")).ok();
    let mount =
        |words: &str| node.sh(&format!("env -u GRID_HOME ./{HELPER} {words} -o home={}", node.home().display()));
    // A dry run mounts nothing; what it would refuse, it refuses.
    assert_eq!(mount("grid mnt -f -v -n -s -t fuse.gridfs -o rw").ok(), "");
    assert!(!gridfs_fuse::is_mounted(&node.mnt()).unwrap());
    let (status, stderr) = mount("grid mnt -o rw,suid").failed();
    assert_eq!((status, stderr.starts_with("mount.gridfs: mount option \"suid\" is unknown")), (1, true), "{stderr}");
    let (status, stderr) = mount("a,b mnt").failed();
    assert_eq!((status, stderr.contains("must not contain a comma")), (1, true), "{stderr}");
    let (status, stderr) = mount("grid nowhere").failed();
    assert_eq!((status, stderr.contains("create the directory")), (32, true), "{stderr}");
    assert_eq!(mount("grid mnt -o rw,nofail,user").ok(), "");
    assert_eq!(node.read("local/cas/x"), "x\n");
    assert!(node.sh(&format!("./{HELPER} --help")).ok().contains("A line in /etc/fstab:\n  grid  /srv/grid  gridfs"));
}

#[test]
fn a_line_in_fstab_mounts() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mount(8) with a helper in /sbin takes root");
        return;
    }
    let node = Node::new();
    node.put("x", "by mount\n");
    let (mnt, home) = (node.mnt(), node.home().display().to_string());
    let fstab = format!("grid {} gridfs home={home},allow_other,nofail,x-systemd.automount 0 0\n", mnt.display());
    std::fs::write(node.scratch("fstab"), fstab).unwrap();
    // /sbin as a program in a mount namespace of its own sees it.
    let script = r#"
        mkdir sbin && ln -s "$(command -v gridfs)" sbin/mount.gridfs && mount --bind sbin "$(readlink -f /sbin)" || exit
        trap 'umount mnt' EXIT
        mount -T fstab "$PWD/mnt" && cat mnt/local/cas/x && grep "$PWD/mnt" /proc/self/mounts | cut -d' ' -f1,3
        mount -T fstab -a && grep -c "$PWD/mnt" /proc/self/mounts"#;
    std::fs::write(node.scratch("script"), script).unwrap();
    let ran = node.sh("unshare --mount --propagation private sh -c \"$(cat script)\"");
    assert_eq!(ran.ok(), "by mount\ngrid fuse.gridfs\n1\n");
    wait_for("the daemon to end with its mount", || !node.home().join("run/socket").exists());
}
