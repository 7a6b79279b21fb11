//! Processes that die, disks that fill up, and memory that stays small.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{commit, noise, open, put};
use gridfs_store::{Cid, Codec, Durability, Error, Store};

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
    kill_rounds(6, Duration::from_secs(600));
}

/// Takes some minutes: `cargo test -p gridfs-store --release --test crash -- --ignored two_hundred`. On a slow disk
/// it ends after 15 minutes, and says how far it came.
#[test]
#[ignore = "takes minutes, and a gigabyte in the temporary directory"]
fn two_hundred_kills() {
    kill_rounds(200, Duration::from_secs(900));
}

/// Kills a child that puts, again and again. After each round what that one committed is read, and a spread of what
/// the ones before did; at the end everything is.
fn kill_rounds(rounds: usize, patience: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let mut printed = Vec::new();
    for round in 0..rounds {
        let old = printed.len();
        printed.extend(killed_round(dir.path(), round));
        if round % 8 == 3 {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let last = round + 1 == rounds || begin.elapsed() > patience;
        let store = open(dir.path());
        for (number, line) in printed.iter().enumerate() {
            if last || number >= old || number % 50 == round % 50 {
                check_line(&store, line, round);
            }
        }
        assert!(printed.len() >= old + lines_of(round), "round {round}");
        if last {
            eprintln!("{} of {rounds} rounds, {} durable commits", round + 1, printed.len());
            return;
        }
    }
}

/// How many commits are waited for before the kill.
fn lines_of(round: usize) -> usize {
    5 + 10 * (round % 6)
}

/// What one child printed.
fn killed_round(dir: &Path, round: usize) -> Vec<String> {
    let mut child = spawn("what_was_committed_survives_kill_9", dir);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let wanted = |line: &String| line.starts_with("put ");
    let mut printed: Vec<String> = lines.by_ref().filter(wanted).take(lines_of(round)).collect();
    // Somewhere within the next commits.
    std::thread::sleep(Duration::from_micros(round as u64 * 1_637 % 10_000));
    child.kill().unwrap();
    child.wait().unwrap();
    printed.extend(lines.filter(wanted));
    printed
}

fn check_line(store: &Arc<Store>, line: &str, round: usize) {
    let fields: Vec<&str> = line.split(' ').collect();
    // The last line may have been cut by the kill.
    let (Some(seed), Some(len), Some(cid)) = (fields.get(1), fields.get(2), fields.get(3)) else { return };
    let Ok(cid) = cid.parse::<Cid>() else { return };
    let expected = noise(seed.parse().unwrap(), len.parse().unwrap());
    assert!(store.read(&cid, 1 << 20).unwrap() == expected, "round {round}: {line}");
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

fn fill_up(path: &Path, leave_bytes: u64) -> PathBuf {
    let ballast = path.join("ballast");
    let stat = rustix::fs::statvfs(path).unwrap();
    let len = (stat.f_bavail * stat.f_frsize).saturating_sub(leave_bytes);
    std::fs::write(&ballast, vec![1; len as usize]).unwrap();
    ballast
}

/// What small commits need is there although puts find the disk full, and so is what a collection needs, unless a pack
/// holds more live data than there is room for a second copy of.
#[test]
fn a_full_disk_can_be_collected() {
    let Some(disk) = Tmpfs::mount("80m") else {
        eprintln!("SKIPPED a_full_disk_can_be_collected: it must mount a tmpfs, which takes root");
        return;
    };
    let dir = disk.0.path().join("store");
    let store = open(&dir);
    let cids: Vec<Cid> = (0..150).map(|seed| put(&store, &noise(seed, 200_000))).collect();
    fill_up(disk.0.path(), 10 << 20);
    let mut batch = store.batch();
    match (200..).find_map(|seed| batch.put_bytes(Codec::Raw, &noise(seed, 200_000)).err()) {
        Some(Error::Full { .. }) => {}
        other => panic!("{other:?}"),
    }
    drop(batch);
    // Small things can still be written.
    commit(&store, |batch| batch.put_memo(gridfs_store::Hash::of(b"k"), b"", b"v").unwrap());
    let keep = |marker: &mut gridfs_store::Marker<'_>| cids.iter().step_by(5).try_for_each(|cid| marker.keep(cid));
    let done = store.collect::<Error>(false, &mut |_| (), keep).unwrap();
    assert!(done.freed_bytes > 22_000_000, "{done:?}");
    put(&store, &noise(300, 200_000));
    drop(store);
    let store = open(&dir);
    for (seed, cid) in cids.iter().enumerate().step_by(5) {
        assert_eq!(store.read(cid, 1 << 20).unwrap(), noise(seed as u64, 200_000));
    }
    assert_eq!(store.memo(&gridfs_store::Hash::of(b"k")).unwrap().unwrap(), b"v");
}

/// Any amount of free space at the moment a collection begins: it does its work or says that the disk is full, and
/// nothing is lost. When there is space again, it does its work.
#[test]
fn a_collection_that_meets_a_full_disk_loses_nothing() {
    let Some(disk) = Tmpfs::mount("60m") else {
        eprintln!("SKIPPED a_collection_that_meets_a_full_disk_loses_nothing: it must mount a tmpfs, which takes root");
        return;
    };
    let dir = disk.0.path().join("store");
    let mut outcomes = [0, 0];
    for leave_bytes in [0, 100_000, 1 << 20, 2 << 20, 2_200_000, 2_500_000, 3 << 20, 4 << 20, 6 << 20, 9 << 20] {
        let store = open(&dir);
        let cids: Vec<Cid> = (0..40).map(|seed| put(&store, &noise(seed, 200_000))).collect();
        let ballast = fill_up(disk.0.path(), leave_bytes);
        let keep = |marker: &mut gridfs_store::Marker<'_>| cids.iter().step_by(2).try_for_each(|cid| marker.keep(cid));
        match store.collect::<Error>(false, &mut |_| (), keep) {
            Ok(_) => outcomes[0] += 1,
            Err(Error::Full { .. }) => outcomes[1] += 1,
            Err(other) => panic!("{leave_bytes}: {other:?}"),
        }
        std::fs::remove_file(ballast).unwrap();
        let check = |store: &std::sync::Arc<gridfs_store::Store>| {
            for (seed, cid) in cids.iter().enumerate().step_by(2) {
                assert_eq!(store.read(cid, 1 << 20).unwrap(), noise(seed as u64, 200_000), "{leave_bytes}");
            }
        };
        check(&store);
        store.collect::<Error>(false, &mut |_| (), keep).unwrap();
        check(&store);
        assert_eq!(store.stats().unwrap().plain_bytes, 20 * 200_000);
        drop(store);
        check(&open(&dir));
    }
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
}
