//! Damaged, cut and missing files: never wrong bytes, never a failure to open, never silence.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{commit, copy, noise, open, packs, put, scratch, text};
use gridfs_store::{Cid, Codec, Durability, Error, Hash, Options, Progress, Stats, Store, Target, Tree, TreeEntry};

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], offset).unwrap();
}

/// A closed store with two commits, an object of several chunks and a memo; its objects.
fn small_store(dir: &Path) -> Vec<(Cid, Vec<u8>)> {
    let store = open(dir);
    let contents = [b"first".to_vec(), b"second".to_vec(), text(1, 300_000)];
    let cids = contents.iter().map(|bytes| put(&store, bytes)).collect::<Vec<_>>();
    commit(&store, |batch| batch.put_memo(Hash::of(b"k"), b"label", b"value").unwrap());
    cids.into_iter().zip(contents).collect()
}

fn check(dir: &Path, objects: &[(Cid, Vec<u8>)], what: &str) -> usize {
    let store = open(dir);
    let mut read = 0;
    for (cid, bytes) in objects {
        if let Ok(found) = store.read(cid, 1 << 20) {
            assert!(found == *bytes, "{what}: wrong bytes");
            read += 1;
        }
    }
    if let Ok(Some(value)) = store.memo(&Hash::of(b"k")) {
        assert_eq!(value, b"value", "{what}");
    }
    read
}

/// With the index in place and without: without it, what is damaged may be gone, but never wrong.
#[test]
fn flipping_any_byte_gives_an_error_or_the_right_bytes() {
    let original = scratch();
    let objects = small_store(original.path());
    let files = [packs(original.path(), "data"), packs(original.path(), "meta")].concat();
    for file in files {
        let name = file.strip_prefix(original.path()).unwrap();
        let size = fs::metadata(&file).unwrap().len();
        assert!(size < 20_000, "{size}");
        for offset in (0..size).step_by(if size > 2_000 { 7 } else { 1 }) {
            let dir = scratch();
            let keep_index = offset % 8 == 0;
            copy(original.path(), dir.path());
            if !keep_index {
                fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            flip(&dir.path().join(name), offset);
            let what = format!("{} offset {offset}", name.display());
            let read = check(dir.path(), &objects, &what);
            assert!(!keep_index || read >= objects.len() - 1, "{what}: only {read} left");
        }
    }
}

/// A closed store with many small things in it.
struct Rich {
    dir: tempfile::TempDir,
    objects: Vec<(Cid, Vec<u8>)>,
    memos: Vec<(Hash, Vec<u8>)>,
}

fn rich_store() -> Rich {
    let dir = scratch();
    let store = open(dir.path());
    let (mut objects, mut memos) = (Vec::new(), Vec::new());
    for seed in 0..6 {
        commit(&store, |batch| {
            let mut put = |codec, bytes: Vec<u8>| {
                let cid = batch.put_bytes(codec, &bytes).unwrap();
                objects.push((cid, bytes));
                cid
            };
            let file = put(Codec::Raw, noise(seed, 700));
            put(Codec::Raw, text(seed, 100_000));
            let target = Target::File { cid: file, size_bytes: 700, executable: false };
            let entry = |n| TreeEntry { name: format!("name {n}").into_bytes(), target: target.clone() };
            put(Codec::DagCbor, Tree::new((0..4 + seed).map(entry).collect()).unwrap().encode());
            let (key, value) = (Hash::of(&seed.to_le_bytes()), noise(seed, 150));
            batch.put_memo(key, format!("memo {seed}").as_bytes(), &value).unwrap();
            memos.push((key, value));
        });
    }
    drop(store);
    Rich { dir, objects, memos }
}

impl Rich {
    /// Flips a bit of a copy and reads everything; returns whether anything was in error.
    fn notices_flip(&self, random: u64) -> bool {
        let copied = scratch();
        copy(self.dir.path(), copied.path());
        let has_index = !random.is_multiple_of(8);
        if !has_index {
            fs::remove_dir_all(copied.path().join("index")).unwrap();
        }
        let what = flip_any(copied.path(), random);
        let store = open(copied.path());
        let mut noticed = 0;
        for (cid, bytes) in &self.objects {
            match store.read(cid, 1 << 20) {
                Ok(found) => assert!(found == *bytes, "{what}: {cid} reads wrong"),
                // Without an index, what is damaged may be gone.
                Err(error) => {
                    assert!(!has_index || !matches!(error, Error::NotFound { .. }), "{what}: {error:?}");
                    noticed += 1;
                }
            }
        }
        for (key, value) in &self.memos {
            match store.memo(key) {
                Ok(found) if found.as_ref() == Some(value) => {}
                Ok(None) if !has_index => noticed += 1,
                Ok(found) => panic!("{what}: memo {key} is {found:?}"),
                Err(_) => noticed += 1,
            }
        }
        noticed > 0
    }
}

/// Flips the bit that `random` chooses out of those of all packs; says which.
fn flip_any(dir: &Path, random: u64) -> String {
    let files = [packs(dir, "data"), packs(dir, "meta")].concat();
    let sizes: Vec<u64> = files.iter().map(|file| fs::metadata(file).unwrap().len()).collect();
    let mut bit = (random >> 3) % (8 * sizes.iter().sum::<u64>());
    let number = sizes.iter().position(|size| {
        let here = bit < 8 * size;
        bit -= if here { 0 } else { 8 * size };
        here
    });
    let file = &files[number.unwrap()];
    let mut bytes = fs::read(file).unwrap();
    bytes[bit as usize / 8] ^= 1 << (bit % 8);
    fs::write(file, bytes).unwrap();
    format!("random {random}: {} bit {bit}", file.display())
}

#[test]
fn ten_thousand_flipped_bits_are_never_read_as_something_else() {
    const FLIPS: usize = 10_000;
    let store = rich_store();
    let random = noise(0x000f_1195, 8 * FLIPS);
    let random: Vec<u64> = random.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
    let (next, noticed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(random) = random.get(next.fetch_add(1, Ordering::Relaxed)) {
            noticed.fetch_add(usize::from(store.notices_flip(*random)), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let noticed = noticed.into_inner();
    eprintln!("{noticed} of {FLIPS} flips hit something that is read");
    assert!(noticed > FLIPS * 8 / 10, "only {noticed} flips hit anything");
}

#[test]
fn a_damaged_chunk_is_corrupt_not_missing() {
    let dir = scratch();
    let cid = put(&open(dir.path()), &noise(1, 100_000));
    let pack = packs(dir.path(), "data").remove(0);
    flip(&pack, 24 + 24 + 36 + 50_000);
    let store = open(dir.path());
    assert!(store.contains(&cid).unwrap());
    match store.read(&cid, 1 << 20) {
        Err(Error::Corrupt { pack: named, offset, what }) => {
            assert_eq!((named, offset, what), (pack, 24, "the record fails its CRC"));
        }
        other => panic!("{other:?}"),
    }
    let mut buf = [0; 10];
    assert!(matches!(store.object(&cid).unwrap().unwrap().read_at(0, &mut buf), Err(Error::Corrupt { .. })));
}

#[test]
fn a_lost_data_pack_is_corrupt_not_missing() {
    let dir = scratch();
    let bytes = noise(1, 100_000);
    let cid = put(&open(dir.path()), &bytes);
    fs::remove_file(&packs(dir.path(), "data")[0]).unwrap();
    let store = open(dir.path());
    assert!(matches!(store.read(&cid, 1 << 20), Err(Error::Corrupt { what: "the pack file is gone", .. })));
    let other = put(&store, b"writing goes on");
    assert_eq!(store.read(&other, 100).unwrap(), b"writing goes on");
}

/// When the index is rebuilt, a chunk whose record is gone is Missing for the objects that need it.
#[test]
fn an_object_whose_chunk_is_gone_says_so() {
    let dir = scratch();
    let cid = put(&open(dir.path()), &noise(1, 2 << 20));
    flip(&packs(dir.path(), "data")[0], 24);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert!(matches!(store.read(&cid, 4 << 20), Err(Error::Missing { object, .. }) if object == cid.hash));
}

/// A flip in an early commit, with the index gone: the later commits vouch for what lies before them.
#[test]
fn damage_in_the_middle_of_the_log_cuts_nothing() {
    let dir = scratch();
    let store = open(dir.path());
    let cids: Vec<_> = (0..10).map(|n| put(&store, &noise(n, 1000))).collect();
    drop(store);
    let meta = packs(dir.path(), "meta").remove(0);
    let size = fs::metadata(&meta).unwrap().len();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    flip(&meta, 24 + 60 * 3 + 10);
    let store = open(dir.path());
    for (n, cid) in cids.iter().enumerate() {
        assert_eq!(store.read(cid, 1000).unwrap(), noise(n as u64, 1000));
    }
    assert_eq!(fs::metadata(&meta).unwrap().len(), size);
}

/// Whatever a crash leaves of the log's end, the store opens, and each commit is there or gone as a whole.
#[test]
fn the_log_may_be_cut_at_any_length() {
    let original = scratch();
    let objects = small_store(original.path());
    for class in ["meta", "data"] {
        let file = packs(original.path(), class).remove(0);
        let name = file.strip_prefix(original.path()).unwrap();
        let size = fs::metadata(&file).unwrap().len();
        let step = if size > 2_000 { 11 } else { 1 };
        let mut last = 0;
        for len in (0..=size).step_by(step).chain([size]) {
            let dir = scratch();
            copy(original.path(), dir.path());
            if len % 2 == 0 {
                fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            OpenOptions::new().write(true).open(dir.path().join(name)).unwrap().set_len(len).unwrap();
            let read = check(dir.path(), &objects, &format!("{class} cut to {len}"));
            assert!(read >= last, "{class} cut to {len}: {read} objects, fewer than with less of it");
            last = read;
            let store = open(dir.path());
            let cid = put(&store, b"after the cut");
            drop(store);
            assert_eq!(open(dir.path()).read(&cid, 100).unwrap(), b"after the cut");
        }
        assert_eq!(last, objects.len());
    }
}

#[test]
fn lazy_commits_without_their_data_are_cut() {
    let dir = scratch();
    let saved = scratch();
    let store = open(dir.path());
    let durable = put(&store, &noise(1, 50_000));
    let mut batch = store.batch();
    let lazy = batch.put_bytes(Codec::Raw, &noise(2, 50_000)).unwrap();
    batch.commit(Durability::Lazy).unwrap();
    copy(dir.path(), saved.path());
    drop(store);
    // As after a power cut: the log page was written, the data page was not.
    fs::remove_dir_all(saved.path().join("index")).unwrap();
    let data = packs(saved.path(), "data").remove(0);
    let covered = fs::metadata(&data).unwrap().len();
    let file = OpenOptions::new().write(true).open(&data).unwrap();
    file.write_all_at(&[0; 4096], covered - 8192).unwrap();
    let store = open(saved.path());
    assert_eq!(store.read(&durable, 1 << 20).unwrap(), noise(1, 50_000));
    assert!(!store.contains(&lazy).unwrap());
    assert!(fs::metadata(&data).unwrap().len() < covered - 40_000);
    assert_eq!(put(&store, &noise(2, 50_000)), lazy);
    assert_eq!(store.read(&lazy, 1 << 20).unwrap(), noise(2, 50_000));
}

fn reopen_with_progress(dir: &Path) -> (Stats, Vec<Progress>) {
    let mut seen = Vec::new();
    let mut progress = |progress| seen.push(progress);
    let options = Options { progress: Some(&mut progress), ..Options::default() };
    let stats = Store::open(dir, options).unwrap().stats().unwrap();
    (Stats { disk_bytes: 0, ..stats }, seen)
}

#[test]
fn the_index_is_rebuilt_when_deleted_or_garbage() {
    let dir = scratch();
    let objects = small_store(dir.path());
    let (stats, seen) = reopen_with_progress(dir.path());
    assert_eq!(seen, []);
    assert_eq!((stats.objects, stats.chunks, stats.memos), (3, 5, 1));
    let index = dir.path().join("index");
    let spoil: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(&index).unwrap(),
        &|| fs::write(index.join("db"), noise(1, 100_000)).unwrap(),
        &|| fs::write(index.join("db"), b"").unwrap(),
        &|| {
            fs::remove_dir_all(&index).unwrap();
            fs::write(&index, b"not even a directory").unwrap();
        },
    ];
    for (n, spoil) in spoil.iter().enumerate() {
        spoil();
        let (rebuilt, seen) = reopen_with_progress(dir.path());
        assert_eq!(rebuilt, stats, "case {n}");
        let last = seen.last().unwrap_or_else(|| panic!("case {n}: no rebuild"));
        assert_eq!(last.done_bytes, last.total_bytes, "case {n}");
        assert_eq!(check(dir.path(), &objects, "rebuilt"), objects.len(), "case {n}");
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.filter(|name| name.starts_with("index.bad-")).count() <= 1);
    }
}

#[test]
fn an_index_ahead_of_the_packs_is_rebuilt() {
    let dir = scratch();
    let old = scratch();
    let first = put(&open(dir.path()), b"first");
    copy(dir.path(), old.path());
    let second = put(&open(dir.path()), b"second");
    fs::remove_dir_all(dir.path().join("packs")).unwrap();
    copy(&old.path().join("packs"), &dir.path().join("packs"));
    let store = open(dir.path());
    assert_eq!(store.read(&first, 10).unwrap(), b"first");
    assert!(!store.contains(&second).unwrap());
    assert!(dir.path().join("index.bad-1").exists());
}
