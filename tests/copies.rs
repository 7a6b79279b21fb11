//! Plain copies of large files, through the mount.

mod common;

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use common::{Node, noise, wait_for};

const SIZE: usize = 9 << 20;

/// Whether Linux lets a daemon pass plain files through.
fn can_pass_through() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: passing plain files through takes root");
    }
    root
}

fn metric(node: &Node, name: &str) -> u64 {
    let metrics = node.read(".grid/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// Reads a file by another process.
fn cat(node: &Node, path: &str) -> Vec<u8> {
    std::process::Command::new("cat").arg(node.at(path)).output().unwrap().stdout
}

/// Reads a file until there is a copy of it.
fn copied(node: &Node, path: &str, content: &[u8]) {
    let before = metric(node, "gridfs_copies_bytes");
    wait_for("a plain copy", || {
        assert!(cat(node, path) == content);
        metric(node, "gridfs_copies_bytes") > before
    });
}

fn put(node: &Node, name: &str, seed: u64) -> (String, Vec<u8>) {
    let content = noise(seed, SIZE);
    node.put(name, &content);
    (format!("local/cas/{name}"), content)
}

#[test]
fn a_large_file_that_is_read_again_is_read_from_its_copy() {
    if !can_pass_through() {
        return;
    }
    let node = Node::mounted();
    let (path, content) = put(&node, "long", 1);
    assert!(cat(&node, &path) == content);
    assert_eq!(metric(&node, "gridfs_copies_bytes"), 0);
    copied(&node, &path, &content);
    assert_eq!((metric(&node, "gridfs_copies_bytes"), node.stat("copies_bytes")), (SIZE as u64, SIZE as u64));

    let reads = metric(&node, "gridfs_reads_total");
    // The pages from before are dropped.
    node.sh(&format!("dd status=none iflag=nocache count=0 if={}", node.at(&path).display())).ok();
    assert!(cat(&node, &path) == content);
    let script = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); \
                  sys.stdout.buffer.write(m[:])";
    let mapped = std::process::Command::new("python3").args(["-c", script]).arg(node.at(&path)).output();
    match mapped {
        Ok(mapped) => assert!(mapped.stdout == content, "{}", String::from_utf8_lossy(&mapped.stderr)),
        Err(error) => eprintln!("SKIPPED: mapping it needs python3: {error}"),
    }
    // Only status files were read from the daemon.
    assert!(metric(&node, "gridfs_reads_total") - reads < 4);
    assert!(cat(&node, "local/wc/long") == node.grid(["wc", "long"]).ok().into_bytes());

    // Kept while somebody reads it, then collected.
    let mut open = File::open(node.at(&path)).unwrap();
    node.gridfs(["name", "rm", "long"]).ok();
    node.gridfs(["gc"]).ok();
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == content);
    drop(open);
    wait_for("the copy to go with its file", || {
        node.gridfs(["gc"]).ok();
        node.stat("copies_bytes") == 0
    });
}

#[test]
fn copies_keep_to_their_bound_and_end_with_the_daemon() {
    if !can_pass_through() {
        return;
    }
    let node = Node::new();
    node.gridfs(["init"]).ok();
    let config: PathBuf = node.home().join("config.toml");
    let set = |from: &str, to: &str| {
        let settings = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, settings.replacen(from, to, 1)).unwrap();
    };
    let bound = format!("copies = {}\n", 2 * SIZE);
    set("", &bound);
    node.mount();
    let files: Vec<_> = (0..3).map(|seed| put(&node, &format!("long{seed}"), seed)).collect();
    let (path, content) = &files[0];
    copied(&node, path, content);
    copied(&node, &files[1].0, &files[1].1);
    let mut open = File::open(node.at(path)).unwrap();
    for (path, content) in files.iter().cycle().take(12) {
        assert!(cat(&node, path) == *content);
        assert!(metric(&node, "gridfs_copies_bytes") <= 2 * SIZE as u64);
    }
    // Whether or not its copy had to go meanwhile.
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == *content);
    drop(open);
    node.kill_daemon();
    node.mount();
    assert_eq!(metric(&node, "gridfs_copies_bytes"), 0);
    assert!(cat(&node, path) == *content);
    node.umount();
    set(&bound, "copies = 0\n");
    node.mount();
    for _ in 0..3 {
        assert!(cat(&node, path) == *content);
    }
    assert_eq!(metric(&node, "gridfs_copies_bytes"), 0);
}
