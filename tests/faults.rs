//! Faults: interruption, crashes, a full disk.

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{ENDLESS, Node, end_of, noise, wait_for};
use rustix::process::{Pid, Signal, kill_process};

fn send(process: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}

#[test]
fn interrupting_a_reader_ends_it_and_the_computation() {
    let node = Node::mounted();
    node.add_wat("endless", ENDLESS, None);
    let path = node.at("local/endless/,");
    let interrupt = |signal: Signal| {
        let mut cat = node.spawn("cat", &[path.to_str().unwrap()]);
        wait_for("the module to run", || node.stat("running") == 1);
        let start = Instant::now();
        send(&cat, signal);
        let status = end_of(&mut cat);
        let took = start.elapsed();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        wait_for("the computation to stop", || node.stat("running") == 0);
        took
    };
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        // The best of three: a busy machine may hold a process up.
        let took = (0..3).map(|_| interrupt(signal)).min().unwrap();
        assert!(took < Duration::from_millis(200), "{signal:?} took {took:?}");
    }
    assert_eq!(node.stat("memos"), 0);
}

#[test]
fn one_reader_leaving_does_not_take_the_result_from_another() {
    let node = Node::mounted();
    // Zeros: stored at once, but a second or more of work for the module.
    let big = std::fs::File::create(node.scratch("big")).unwrap();
    big.set_len(400 << 20).unwrap();
    node.sh("gridfs put --name big big").ok();
    let path = node.at("local/sha256/big");
    let mut first = node.spawn("cat", &[path.to_str().unwrap()]);
    let second = node.spawn("cat", &[path.to_str().unwrap()]);
    wait_for("both to wait", || node.stat("calls") == 2);
    assert_eq!(node.stat("running"), 1);
    send(&first, Signal::INT);
    end_of(&mut first);
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.stdout.len(), 65);
    assert_eq!(node.stat("runs"), 1);
}

#[test]
fn interrupting_the_command_line_ends_the_computation() {
    let node = Node::mounted();
    node.add_wat("endless", ENDLESS, None);
    let mut grid = node.spawn(env!("CARGO_BIN_EXE_grid"), &["endless"]);
    wait_for("the module to run", || node.stat("running") == 1);
    send(&grid, Signal::INT);
    assert_eq!(end_of(&mut grid).signal(), Some(Signal::INT.as_raw()));
    wait_for("the computation to stop", || node.stat("running") == 0);
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_reported() {
    let node = Node::mounted();
    let mut reported = Vec::new();
    for round in 0..3 {
        let mut puts = Command::new("sh");
        let script = "i=0; while gridfs put --name file$1-$i big$i; do i=$((i+1)); done";
        for i in 0..40 {
            std::fs::write(node.scratch(&format!("big{i}")), noise(round * 100 + i, 3 << 20)).unwrap();
        }
        puts.args(["-c", script, "sh", &round.to_string()])
            .current_dir(node.scratch("."))
            .env("GRID_HOME", node.home());
        let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_gridfs")).parent().unwrap();
        puts.env("PATH", format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap()));
        let mut puts = puts.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(puts.stdout.take().unwrap()).lines();
        for i in 0..(3 + round) {
            let line = lines.next().unwrap().unwrap();
            reported.push((round, i, line.split_whitespace().next().unwrap().to_owned()));
        }
        // In the middle of the next put.
        std::thread::sleep(Duration::from_millis(7 * (round + 1)));
        node.kill_daemon();
        // The shell's next put opens the node itself or fails; either way it must end.
        send(&puts, Signal::TERM);
        puts.wait().unwrap();
        for line in lines {
            let line = line.unwrap();
            let i = reported.iter().filter(|(r, ..)| *r == round).count() as u64;
            reported.push((round, i, line.split_whitespace().next().unwrap().to_owned()));
        }
        wait_for("the last put to end", || node.gridfs(["stats"]).status == 0);
        // The dead mount heals.
        node.mount();
        for (round, i, cid) in &reported {
            let name = format!("file{round}-{i}");
            assert_eq!(std::fs::read_link(node.at("local/cas").join(&name)).unwrap().to_str(), Some(cid.as_str()));
            let content = std::fs::read(node.at("local/cas").join(&name)).unwrap();
            assert!(content == noise(round * 100 + i, 3 << 20), "{name}");
        }
    }
    assert!(reported.len() >= 12);
}

#[test]
fn a_dead_mount_heals_and_an_outsider_may_unmount() {
    let node = Node::mounted();
    node.put("x", "x\n");
    node.kill_daemon();
    assert_eq!(std::fs::read_dir(node.mnt()).unwrap_err().raw_os_error(), Some(107)); // ENOTCONN
    node.mount();
    assert_eq!(node.read("local/cas/x"), "x\n");
    node.kill_daemon();
    node.umount();
    assert_eq!(std::fs::read_dir(node.mnt()).unwrap().count(), 0);

    node.mount();
    let (status, stderr) = node.gridfs(["mount", node.mnt().to_str().unwrap()]).failed();
    assert_eq!((status, stderr.contains("is already mounted at")), (1, true), "{stderr}");
    rustix::mount::unmount(node.mnt(), rustix::mount::UnmountFlags::empty()).unwrap();
    wait_for("the daemon to end", || !node.home().join("run/socket").exists());
    assert_eq!(node.gridfs(["get", "x"]).ok(), "x\n");
}

#[test]
fn sigterm_unmounts() {
    let node = Node::mounted();
    let pid = Pid::from_raw(node.daemon_pid()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    wait_for("the daemon to end", || !node.home().join("run/socket").exists());
    assert_eq!(std::fs::read_dir(node.mnt()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounting a small file system takes root");
        return;
    }
    let small = SmallDisk::new();
    let node = Node::with_home(&small.0.path().join("home"));
    node.mount();
    node.put("kept", "kept\n");
    let big = node.scratch("big");
    std::fs::write(&big, noise(9, 120 << 20)).unwrap();
    let (status, stderr) = node.gridfs(["put", "--name", "big", big.to_str().unwrap()]).failed();
    assert_eq!((status, stderr.contains("no space")), (1, true), "{stderr}");
    // A result that does not fit.
    node.sh("head -c 90000000 big > two; cat two | gzip -1 > two.gz; rm big").ok();
    assert_eq!(node.read("local/cas/kept"), "kept\n");
    let print = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 17) (func (export "_start")
            (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000000))
            (loop $again (drop (call $random (i32.const 64) (i32.const 1000000)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $again))))"#;
    node.add_wat("print", print, None);
    assert_eq!(node.errno("local/print/,"), 28); // ENOSPC
    assert!(node.xattr("local/print/,", "error").unwrap().contains("no space"));
    assert_eq!(node.stat("memos"), 0);
    // What was there is there, and the mount answers.
    assert_eq!(node.read("local/cas/kept"), "kept\n");
    assert!(node.gridfs(["name", "list"]).ok().contains("kept"));
    // With space made, it works again.
    small.grow();
    let again = node.scratch("again");
    std::fs::write(&again, noise(10, 60 << 20)).unwrap();
    node.gridfs(["put", "--name", "again", again.to_str().unwrap()]).ok();
    assert!(std::fs::read(node.at("local/cas/again")).unwrap() == noise(10, 60 << 20));
    node.umount();
    node.mount();
    assert_eq!(node.read("local/cas/kept"), "kept\n");
}

/// A file system of 100 MB in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=100m", "small"]).arg(directory.path()).status();
        assert!(status.unwrap().success());
        SmallDisk(directory)
    }

    fn grow(&self) {
        let status = Command::new("mount").args(["-o", "remount,size=400m"]).arg(self.0.path()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
