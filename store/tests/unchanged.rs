//! A second put reads only what has changed, and never misses a change.

mod common;

use std::fs::{self, File, FileTimes};
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use common::{noise, open, scratch};
use gridfs_store::ingest::{Event, Read, put_path};
use gridfs_store::{Algorithm, Batch, Cid, Codec, Digest, Durability, Store, Target, extract};

const BYTES: u64 = 300_000 + 6 + 5 + 3;

fn sample(root: &Path) {
    fs::create_dir_all(root.join("b/c")).unwrap();
    fs::write(root.join("a"), b"first\n").unwrap();
    fs::write(root.join("b/c/long"), noise(1, 300_000)).unwrap();
    fs::write(root.join("b/empty"), b"").unwrap();
    fs::write(root.join("b/z"), b"last\n").unwrap();
    fs::write(root.join("run"), b"#!\n").unwrap();
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("a", root.join("link")).unwrap();
}

/// Waits until what was written before counts as settled.
fn settle() {
    sleep(Duration::from_millis(3100));
}

fn put_into(batch: &mut Batch, root: &Path, read: Read) -> (Target, u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    let target = put_path(batch, root, read, &mut |event| {
        match event {
            Event::Bytes(more) => bytes += more,
            Event::File(_) => files += 1,
            Event::Skipped { path, .. } => panic!("{}", path.display()),
        }
        ControlFlow::Continue(())
    });
    (target.unwrap(), bytes, files)
}

/// Target, bytes read and files stored.
fn put(store: &Arc<Store>, root: &Path, read: Read) -> (Target, u64, u64) {
    let mut batch = store.batch();
    let outcome = put_into(&mut batch, root, read);
    drop(batch.commit(Durability::Durable).unwrap());
    outcome
}

/// What a store without any memory makes of it.
fn afresh(root: &Path) -> Target {
    let dir = scratch();
    put(&open(dir.path()), root, Read::All).0
}

fn remembered(store: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(store.join("stat")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn unchanged_files_are_not_read() {
    let dir = scratch();
    let (store, root) = (open(&dir.path().join("store")), dir.path().join("root"));
    sample(&root);
    settle();
    let (target, bytes, files) = put(&store, &root, Read::Changed);
    assert_eq!((bytes, files), (BYTES, 5));
    for _ in 0..2 {
        assert_eq!(put(&store, &root, Read::Changed), (target.clone(), 0, 5));
    }
    assert_eq!(put(&store, &root.join("../root/b/.."), Read::Changed), (target.clone(), 0, 5), "another spelling");
    assert_eq!(put(&store, &root, Read::All), (target.clone(), BYTES, 5));
    let dest = dir.path().join("dest");
    extract::get(&store, &target, &dest, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(fs::read(dest.join("b/c/long")).unwrap(), noise(1, 300_000));
}

/// A remembered file has no bytes to compute it from.
#[test]
fn a_second_digest_is_made_of_unchanged_files_too() {
    let dir = scratch();
    let (store, root) = (open(&dir.path().join("store")), dir.path().join("root"));
    sample(&root);
    settle();
    put(&store, &root, Read::Changed);
    let digest = Digest::of(Algorithm::Sha2_256, &noise(1, 300_000));
    assert_eq!(store.alias(&digest).unwrap(), None);
    let mut batch = store.batch();
    batch.also_hash(Algorithm::Sha2_256);
    assert_eq!(put_into(&mut batch, &root, Read::Changed).1, BYTES);
    drop(batch.commit(Durability::Durable).unwrap());
    assert_eq!(store.alias(&digest).unwrap(), Some(Cid::of(Codec::Raw, &noise(1, 300_000))));
    assert_eq!(put(&store, &root, Read::Changed).1, 0);
}

#[test]
fn every_change_is_noticed() {
    let dir = scratch();
    let (store, root) = (open(&dir.path().join("store")), dir.path().join("root"));
    sample(&root);
    settle();
    let (target, ..) = put(&store, &root, Read::Changed);
    let check = |what: &str, expected_bytes: u64| {
        let (target, bytes, _) = put(&store, &root, Read::Changed);
        assert_eq!(target, afresh(&root), "{what}");
        assert_eq!(bytes, expected_bytes, "{what}");
        settle();
        let settled = put(&store, &root, Read::Changed);
        assert_eq!((settled.0, settled.1), (target.clone(), expected_bytes), "{what}: too young to be remembered");
        assert_eq!(put(&store, &root, Read::Changed).1, 0, "{what}: remembered now");
        target
    };

    let times = fs::metadata(root.join("a")).unwrap().modified().unwrap();
    fs::write(root.join("a"), b"FIRST\n").unwrap();
    let file = File::options().write(true).open(root.join("a")).unwrap();
    file.set_times(FileTimes::new().set_modified(times)).unwrap();
    let other = check("other content under the old size and time", 6);
    assert_ne!(other, target);

    let file = File::options().write(true).open(root.join("run")).unwrap();
    file.set_times(FileTimes::new().set_modified(times + Duration::from_secs(1))).unwrap();
    fs::write(root.join("copy"), b"last\n").unwrap();
    fs::rename(root.join("copy"), root.join("b/z")).unwrap();
    assert_eq!(check("touched, and replaced by its like", 3 + 5), other);

    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(root.join("b/empty")).unwrap();
    fs::create_dir(root.join("aa")).unwrap();
    fs::write(root.join("aa/new"), b"new").unwrap();
    fs::remove_file(root.join("run")).unwrap();
    fs::create_dir(root.join("run")).unwrap();
    fs::write(root.join("run/a"), b"more").unwrap();
    fs::remove_dir_all(root.join("b/c")).unwrap();
    symlink("/etc/passwd", root.join("b/c")).unwrap();
    check("made executable, added, removed, turned into a directory and a link", 6 + 3 + 4);
}

#[test]
fn young_files_are_read_again() {
    let dir = scratch();
    let (store, root) = (open(&dir.path().join("store")), dir.path().join("root"));
    sample(&root);
    let (target, ..) = put(&store, &root, Read::Changed);
    assert_eq!(put(&store, &root, Read::Changed), (target.clone(), BYTES, 5));
    // An old time of modification alone proves nothing.
    let file = File::options().write(true).open(root.join("b/c/long")).unwrap();
    file.set_times(FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH)).unwrap();
    put(&store, &root, Read::Changed);
    assert_eq!(put(&store, &root, Read::Changed), (target, BYTES, 5));
}

#[test]
fn a_damaged_memory_is_ignored() {
    let dir = scratch();
    let (store, root) = (open(&dir.path().join("store")), dir.path().join("root"));
    sample(&root);
    settle();
    let (target, ..) = put(&store, &root, Read::Changed);
    let files = remembered(&dir.path().join("store"));
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let sound = fs::read(file).unwrap();
    let mut damaged: Vec<Vec<u8>> = [0, 8, 9, sound.len() / 2, sound.len() - 1]
        .map(|at| {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            bytes
        })
        .into();
    damaged.extend([
        vec![],
        sound[..20].to_vec(),
        sound[..sound.len() - 1].to_vec(),
        [sound.as_slice(), b"x"].concat(),
    ]);
    for bytes in damaged {
        fs::write(file, &bytes).unwrap();
        assert_eq!(put(&store, &root, Read::Changed), (target.clone(), BYTES, 5), "{} bytes", bytes.len());
        assert_eq!(put(&store, &root, Read::Changed), (target.clone(), 0, 5), "it was replaced");
    }
}

#[test]
fn what_is_gone_from_the_store_is_read_again() {
    let dir = scratch();
    let (one, other, root) = (dir.path().join("one"), dir.path().join("other"), dir.path().join("root"));
    sample(&root);
    settle();
    let (target, ..) = put(&open(&one), &root, Read::Changed);
    let store = open(&other);
    // All but the first file are missing there.
    common::put(&store, b"first\n");
    common::copy(&one.join("stat"), &other.join("stat"));
    let (again, bytes, _) = put(&store, &root, Read::Changed);
    assert_eq!((&again, bytes), (&target, BYTES));
    extract::get(&store, &target, &dir.path().join("dest"), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(put(&store, &root, Read::Changed).1, 0);
}

#[test]
fn nothing_is_remembered_before_the_commit() {
    let dir = scratch();
    let (store, root) = (open(&dir.path().join("store")), dir.path().join("root"));
    sample(&root);
    let mut batch = store.batch();
    put_into(&mut batch, &root, Read::Changed);
    drop(batch);
    assert_eq!(remembered(&dir.path().join("store")), [""; 0].map(PathBuf::from));
}

#[test]
fn only_so_many_directories_are_remembered() {
    let dir = scratch();
    let store = open(&dir.path().join("store"));
    let mut batch = store.batch();
    for number in 0..70 {
        let root = dir.path().join(format!("root{number}"));
        fs::create_dir(&root).unwrap();
        put_into(&mut batch, &root, Read::Changed);
    }
    batch.commit(Durability::Lazy).unwrap();
    assert_eq!(remembered(&dir.path().join("store")).len(), 64);
}
