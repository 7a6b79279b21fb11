//! The daemon as a service: units, notifications, signals, its log.

mod common;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::time::Duration;

use common::{ENDLESS, Node, Ran, end_of, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// Runs a line of shell that finds its units below the scratch directory.
fn with_config(node: &Node, line: &str) -> Ran {
    node.sh(&format!("export XDG_CONFIG_HOME=\"$PWD/config\"; {line}"))
}

const UNIT: &str = "config/systemd/user/gridfs.service";

#[test]
fn a_service_is_installed_and_uninstalled() {
    let node = Node::new();
    let shown = with_config(&node, "gridfs service install --user -o stat=compute mnt").ok();
    let path = node.scratch(UNIT);
    let next = "next:\n  systemctl --user daemon-reload\n  systemctl --user enable --now gridfs.service\n";
    assert!(shown.starts_with(&format!("wrote {}\n{next}", path.display())), "{shown}");
    let unit = std::fs::read_to_string(&path).unwrap();
    let gridfs = std::fs::canonicalize(env!("CARGO_BIN_EXE_gridfs")).unwrap();
    let (program, mnt) = (gridfs.display(), node.mnt().display().to_string());
    for line in [
        format!("ExecStart=\"{program}\" mount --foreground -o \"stat=compute\" \"{mnt}\""),
        format!("ExecStop=\"{program}\" umount \"{mnt}\""),
        format!("Environment=\"GRID_HOME={}\"", node.home().display()),
        "Type=notify".into(),
        "Restart=on-failure".into(),
    ] {
        assert!(unit.lines().any(|found| found == line), "{line} in {unit}");
    }
    // Written anew, it is the same; without its mark it is somebody else's.
    with_config(&node, "gridfs service install --user -o stat=compute mnt").ok();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), unit);
    std::fs::write(&path, "[Unit]\n").unwrap();
    for verb in ["install", "uninstall"] {
        let (status, stderr) = with_config(&node, &format!("gridfs service {verb} --user")).failed();
        assert_eq!((status, stderr.contains("was not written by gridfs; move it away first")), (1, true), "{stderr}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "[Unit]\n");
    std::fs::write(&path, unit).unwrap();
    assert_eq!(with_config(&node, "gridfs service uninstall --user").ok(), format!("removed {}\n", path.display()));
    assert!(!path.exists());
    let (status, stderr) = with_config(&node, "gridfs service uninstall --user").failed();
    assert_eq!((status, stderr.contains("no service is installed")), (1, true), "{stderr}");
    // What can't work is refused before anything is written.
    for (words, why) in [("-o rw mnt", "a grid is read-only"), ("nowhere", "create it first")] {
        let (status, stderr) = with_config(&node, &format!("gridfs service install --user {words}")).failed();
        assert_eq!((status, stderr.contains(why), path.exists()), (2, true, false), "{stderr}");
    }
}

#[test]
fn systemd_understands_the_units() {
    let node = Node::new();
    if node.sh("command -v systemd-analyze").status != 0 {
        eprintln!("SKIPPED: checking units takes systemd-analyze (package systemd)");
        return;
    }
    with_config(&node, "mkdir 'a b%$' && gridfs service install --user 'a b%$'").ok();
    let verified = node.sh(&format!("XDG_RUNTIME_DIR=$PWD systemd-analyze verify --user --man=no {UNIT} 2>&1"));
    assert_eq!((verified.status, verified.stdout.contains("gridfs.service")), (0, false), "{verified:?}");
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/etc/systemd/system").is_dir() {
        eprintln!("SKIPPED: the machine's own unit takes root and /etc/systemd/system");
        return;
    }
    // In a mount namespace of its own, so that the machine's units stay as they are.
    let script = "mount -t tmpfs units /etc/systemd/system && gridfs service install mnt >&2 \
        && systemd-analyze verify --man=no gridfs.service && grep ^CapabilityBoundingSet= /etc/systemd/system/gridfs.service \
        && gridfs service uninstall >&2 && ls /etc/systemd/system";
    let verified = node.sh(&format!("unshare --mount --propagation private sh -c '{script}'"));
    let capabilities = "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER\n";
    assert_eq!((verified.status, verified.stdout.as_str()), (0, capabilities), "{verified:?}");
    assert!(!verified.stderr.contains("gridfs.service:"), "{verified:?}");
}

#[test]
fn now_enables_and_starts_it() {
    let node = Node::new();
    // Not systemd's own, which runs on few machines that run tests: this one says what it is told.
    let systemctl =
        "mkdir bin && printf '#!/bin/sh\\necho systemctl \"$@\"\\n' > bin/systemctl && chmod +x bin/systemctl";
    node.sh(systemctl).ok();
    let run = |line: &str| with_config(&node, &format!("export PATH=\"$PWD/bin:$PATH\"; {line}")).ok();
    let wrote = format!("wrote {}\n", node.scratch(UNIT).display());
    let told = "systemctl --user daemon-reload\nsystemctl --user enable --now gridfs.service\n";
    assert_eq!(run("gridfs service install --user --now mnt"), format!("{wrote}{told}"));
    let removed = format!("removed {}\n", node.scratch(UNIT).display());
    let told = ["systemctl --user disable --now gridfs.service\n", "systemctl --user daemon-reload\n"];
    assert_eq!(run("gridfs service uninstall --user"), format!("{}{removed}{}", told[0], told[1]));
}

/// A daemon in the foreground that was started with `environment`.
fn daemon(node: &Node, environment: &[&str]) -> Child {
    let mnt = node.mnt();
    let arguments = [environment, &["gridfs", "mount", "--foreground", mnt.to_str().unwrap()]].concat();
    node.spawn("env", &arguments)
}

fn send(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}

#[test]
fn the_service_manager_hears_when_it_is_ready_and_when_it_stops() {
    let node = Node::new();
    let path = node.scratch("notify");
    let name = format!("gridfs-test-{}", std::process::id());
    let pathname = SocketAddr::from_pathname(&path).unwrap();
    let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
    for (address, value) in [(pathname, path.display().to_string()), (abstract_name, format!("@{name}"))] {
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let heard = || {
            let mut datagram = [0; 100];
            let length = socket.recv(&mut datagram).unwrap();
            String::from_utf8(datagram[..length].to_vec()).unwrap()
        };
        let mut daemon = daemon(&node, &[&format!("NOTIFY_SOCKET={value}")]);
        assert_eq!(heard(), "READY=1");
        assert_eq!(node.read(".grid/log"), "");
        send(&daemon, Signal::TERM);
        assert_eq!(heard(), "STOPPING=1");
        assert_eq!(end_of(&mut daemon).code(), Some(0));
        assert!(!gridfs_fuse::is_mounted(&node.mnt()).unwrap());
    }
}

#[test]
fn a_listener_that_is_gone_does_not_matter() {
    let node = Node::new();
    let mut daemon = daemon(&node, &["NOTIFY_SOCKET=/nowhere/at/all"]);
    wait_for("the mount", || node.at(".grid/log").exists());
    send(&daemon, Signal::TERM);
    assert_eq!(end_of(&mut daemon).code(), Some(0));
    let output = daemon.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("can't notify the service manager"), "{log}");
}

#[test]
fn the_journal_gets_no_times_and_no_colours() {
    let node = Node::new();
    let log = node.scratch("journal");
    let script =
        r#"exec 2>>"$0"; export JOURNAL_STREAM=$(stat -Lc %d:%i /dev/fd/2); exec gridfs mount --foreground mnt"#;
    for (script, plain) in [(script, true), (&script.replace("%d:%i", "%i:%d"), false)] {
        std::fs::write(&log, "").unwrap();
        let mut daemon = node
            .spawn("sh", &["-c", &format!("cd {} && {script}", node.scratch(".").display()), log.to_str().unwrap()]);
        wait_for("the mount", || node.at(".grid/log").exists());
        send(&daemon, Signal::TERM);
        assert_eq!(end_of(&mut daemon).code(), Some(0));
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains("the grid is mounted") && !text.contains('\x1b'), "{text}");
        assert_eq!(text.lines().all(|line| line.trim_start().starts_with("INFO ")), plain, "{text}");
    }
}

#[test]
fn sigterm_ends_what_waits_and_what_is_open_and_leaves_nothing() {
    let node = Node::new();
    let mut daemon = daemon(&node, &["RUST_BACKTRACE=0"]);
    wait_for("the mount", || node.at(".grid/log").exists());
    node.add_wat("endless", ENDLESS, None);
    let big = common::noise(1, 8 << 20);
    node.put("big", &big);
    let mut cat = node.spawn("cat", &[node.at("local/endless/,").to_str().unwrap()]);
    wait_for("the module to run", || node.stat("running") == 1);
    send(&daemon, Signal::TERM);
    assert_eq!(end_of(&mut cat).code(), Some(1));
    assert_eq!(end_of(&mut daemon).code(), Some(0));
    assert_eq!(std::fs::read_dir(node.mnt()).unwrap().count(), 0);
    assert!(!node.home().join("run/socket").exists());
    assert_eq!(node.stat("memos"), 0);
}

#[test]
fn another_signal_ends_a_daemon_that_is_stopping_at_once() {
    let node = Node::new();
    let mut daemon = daemon(&node, &["RUST_BACKTRACE=0"]);
    wait_for("the mount", || node.at(".grid/log").exists());
    node.put("x", "x\n");
    // Open files and commands under way keep the daemon for a while.
    let open = std::fs::File::open(node.at("local/cas/x")).unwrap();
    let _commands = [(); 3].map(|()| UnixStream::connect(node.home().join("run/socket")).unwrap());
    send(&daemon, Signal::INT);
    wait_for("it to stop", || !gridfs_fuse::is_mounted(&node.mnt()).unwrap());
    send(&daemon, Signal::INT);
    let status = end_of(&mut daemon);
    assert_eq!((status.code(), status.signal()), (Some(1), None));
    drop(open);
    // Nothing was lost, and the next one starts.
    node.mount();
    assert_eq!(node.read("local/cas/x"), "x\n");
}

#[test]
fn programs_with_open_files_get_errors_when_the_daemon_dies_and_the_next_one_serves() {
    use std::io::{Read as _, Seek as _};
    use std::os::unix::fs::FileExt as _;
    let node = Node::mounted();
    let big = common::noise(2, 8 << 20);
    node.put("big", &big);
    node.add_wat("endless", ENDLESS, None);
    let mut file = std::fs::File::open(node.at("local/cas/big")).unwrap();
    let mut start = vec![0; 4096];
    file.read_exact(&mut start).unwrap();
    assert!(start == big[..4096]);
    let directory = std::fs::File::open(node.at("local/")).unwrap();
    let waiting: Vec<_> = (0..3).map(|_| node.spawn("cat", &[node.at("local/endless/,").to_str().unwrap()])).collect();
    wait_for("they wait", || {
        let metrics = node.read(".grid/metrics");
        metrics.lines().any(|line| line == "gridfs_waiting 3")
    });
    node.kill_daemon();
    for mut cat in waiting {
        assert_eq!(end_of(&mut cat).code(), Some(1));
    }
    let gone = |error: std::io::Error| assert!(matches!(error.raw_os_error(), Some(103 | 107)), "{error}"); // ECONNABORTED, ENOTCONN
    gone(file.read_exact_at(&mut start, 7 << 20).unwrap_err());
    gone(std::fs::File::open(node.at("local/cas/big")).unwrap_err());

    node.mount();
    // The old file is of the old mount, for good; the path leads to the new one.
    gone(file.read_exact_at(&mut start, 7 << 20).unwrap_err());
    gone(
        rustix::fs::openat(&directory, "wc", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap_err().into(),
    );
    assert!(file.rewind().is_ok());
    assert!(std::fs::read(node.at("local/cas/big")).unwrap() == big);
}
