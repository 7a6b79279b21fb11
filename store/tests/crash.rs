//! Processes that die, disks that fill up, and memory that stays small.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{commit, noise, open, put};
use gridfs_store::{Cid, Codec, Durability, Error};

/// Set for a child process: the store it is to work on.
const CHILD_DIR: &str = "GRIDFS_STORE_TEST_DIR";

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// Runs one test of this file in a process of its own.
fn spawn(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn put_for_ever(dir: &Path) -> ! {
    let store = open(dir);
    let start = store.stats().unwrap().objects;
    for seed in start.. {
        let len = 1000 + (seed as usize * 7919) % 200_000;
        println!("\nput {seed} {len} {}", put(&store, &noise(seed, len)));
        let mut batch = store.batch();
        batch.put_bytes(Codec::Raw, &noise(!seed, 50_000)).unwrap();
        batch.commit(Durability::Lazy).unwrap();
    }
    unreachable!("the numbers do not end");
}

/// The child prints a CID after its commit returned; whatever was printed must be there after the kill.
#[test]
fn what_was_committed_survives_kill_9() {
    if let Some(dir) = child_dir() {
        put_for_ever(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut printed = Vec::new();
    for round in 0..6 {
        let mut child = spawn("what_was_committed_survives_kill_9", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let first: Vec<String> = lines.by_ref().filter(|line| line.starts_with("put ")).take(5 + 10 * round).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        printed.extend(first.into_iter().chain(lines.filter(|line| line.starts_with("put "))));
        if round == 3 {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = open(dir.path());
        for line in &printed {
            let fields: Vec<&str> = line.split(' ').collect();
            // The last line may have been cut by the kill.
            let (Some(seed), Some(len), Some(cid)) = (fields.get(1), fields.get(2), fields.get(3)) else { continue };
            let Ok(cid) = cid.parse::<Cid>() else { continue };
            let expected = noise(seed.parse().unwrap(), len.parse().unwrap());
            assert!(store.read(&cid, 1 << 20).unwrap() == expected, "round {round}: {line}");
        }
    }
    assert!(printed.len() >= 6 * 5 + 10 * 15);
}

/// A gibibyte that can't be compressed, generated as it is read.
struct Synthetic {
    xof: blake3::OutputReader,
    left: usize,
}

impl Read for Synthetic {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = buf.len().min(self.left);
        self.xof.fill(&mut buf[..len]);
        self.left -= len;
        Ok(len)
    }
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_gibibyte_is_put_in_bounded_memory() {
    const SIZE: usize = 1 << 30;
    if let Some(dir) = child_dir() {
        let store = open(&dir);
        let mut reader = Synthetic { xof: blake3::Hasher::new().finalize_xof(), left: SIZE };
        let (cid, size) = commit(&store, |batch| batch.put_reader(Codec::Raw, &mut reader).unwrap());
        assert_eq!(store.object(&cid).unwrap().unwrap().size_bytes(), size);
        println!("\npeak {} {size}", peak_memory_kib());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = spawn("a_gibibyte_is_put_in_bounded_memory", dir.path());
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
    let line = output.lines().find(|line| line.starts_with("peak ")).unwrap();
    let numbers: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
    assert_eq!(numbers[1], SIZE as u64);
    assert!(numbers[0] < 200 * 1024, "peak of {} KiB", numbers[0]);
}

/// A small file system that goes away with the value.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Tmpfs> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        status.is_ok_and(|status| status.success()).then_some(Tmpfs(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_fails_the_batch_and_nothing_else() {
    let Some(disk) = Tmpfs::mount("40m") else {
        eprintln!("SKIPPED a_full_disk_fails_the_batch_and_nothing_else: it must mount a tmpfs, which takes root");
        return;
    };
    let path = disk.0.path();
    let ballast = path.join("ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let dir = path.join("store");
    let store = open(&dir);
    let early = put(&store, &noise(0, 100_000));
    let mut batch = store.batch();
    let mut puts = (1..200).map(|seed| batch.put_bytes(Codec::Raw, &noise(seed, 200_000)));
    match puts.find_map(Result::err) {
        Some(Error::Full { needed_bytes, free_bytes, path }) => {
            assert!(free_bytes < needed_bytes && needed_bytes > 16 << 20, "{free_bytes} {needed_bytes}");
            assert!(path.starts_with(&dir));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(batch.commit(Durability::Durable), Err(Error::BatchFailed)));
    assert_eq!(store.read(&early, 1 << 20).unwrap(), noise(0, 100_000));
    let mut meta_only = store.batch();
    meta_only.put_bytes(Codec::DagCbor, &noise(5000, 400_000)).unwrap();
    assert!(matches!(meta_only.commit(Durability::Durable), Err(Error::Full { .. })));

    std::fs::remove_file(&ballast).unwrap();
    let late = put(&store, &noise(300, 100_000));
    assert_eq!(store.read(&late, 1 << 20).unwrap(), noise(300, 100_000));
    drop(store);
    let store = open(&dir);
    assert_eq!(store.read(&early, 1 << 20).unwrap(), noise(0, 100_000));
    assert_eq!(store.read(&late, 1 << 20).unwrap(), noise(300, 100_000));
}
