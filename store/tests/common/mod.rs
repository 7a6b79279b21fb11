//! What several test files need: stores in temporary directories, and bytes to put into them.
#![allow(dead_code)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use gridfs_store::{Batch, Cid, Codec, Durability, Error, Options, Store};

/// Opens a store. Another test's child process may hold this one's lock between its fork and its exec.
pub fn open(dir: &Path) -> Arc<Store> {
    for _ in 0..100 {
        match Store::open(dir, Options::default()) {
            Ok(store) => return Arc::new(store),
            Err(Error::Locked { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(error) => panic!("{}: {error:?}", dir.display()),
        }
    }
    panic!("{} stays locked", dir.display());
}

/// A temporary directory, in memory where that is to be had: for tests that open hundreds of stores.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// `len` incompressible bytes that depend on `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// `len` bytes of text that compress well and do not repeat exactly.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|line: u64| format!("{seed} line {line}: all work and no play\n").into_bytes());
    lines.take(len).collect()
}

/// Puts one blob in a batch of its own.
pub fn put(store: &Arc<Store>, bytes: &[u8]) -> Cid {
    commit(store, |batch| batch.put_bytes(Codec::Raw, bytes).unwrap())
}

/// Runs `work` in a durable batch.
pub fn commit<T>(store: &Arc<Store>, work: impl FnOnce(&mut Batch) -> T) -> T {
    let mut batch = store.batch();
    let value = work(&mut batch);
    batch.commit(Durability::Durable).unwrap();
    value
}

/// Paths and sizes of the packs of one class, in order.
pub fn packs(dir: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

/// Flips bits of one byte.
pub fn flip(path: &Path, offset: u64, bits: u8) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ bits], offset).unwrap();
}

/// Copies a closed store.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let dest = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &dest),
            false => drop(std::fs::copy(entry.path(), dest).unwrap()),
        }
    }
}
