//! Objects, memos and statistics through the public interface.

mod common;

use std::io::Read;
use std::sync::Arc;

use common::{commit, noise, open, put, text};
use gridfs_store::{BlobWriter, Cid, Codec, Durability, Error, Hash, Options, Stats, Store, Tree};

const SIZES: [usize; 10] =
    [0, 1, 16 * 1024 - 1, 16 * 1024, 64 * 1024, 256 * 1024, 256 * 1024 + 1, (1 << 20) + 1, 5 << 20, 40 << 20];

#[test]
fn every_size_comes_back_before_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let put_all = |make: fn(u64, usize) -> Vec<u8>| {
        commit(&store, |batch| {
            SIZES.map(|size| {
                let bytes = make(size as u64, size);
                let (cid, size_bytes) = batch.put_reader(Codec::Raw, &mut bytes.as_slice()).unwrap();
                assert_eq!((cid, size_bytes), (Cid::of(Codec::Raw, &bytes), size as u64));
                (cid, bytes)
            })
        })
    };
    let objects = [put_all(noise), put_all(text)].concat();
    for _ in 0..2 {
        for (cid, bytes) in &objects {
            assert!(store.read(cid, 64 << 20).unwrap() == *bytes, "{} bytes", bytes.len());
            let object = store.object(cid).unwrap().unwrap();
            assert_eq!((object.cid(), object.size_bytes()), (*cid, bytes.len() as u64));
        }
        drop(store);
        store = open(dir.path());
    }
}

#[test]
fn reads_anywhere_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let bytes = [noise(1, 3 << 20), text(2, 3 << 20)].concat();
    let object = store.object(&put(&store, &bytes)).unwrap().unwrap();
    let places = noise(3, 16 * 400);
    for place in places.chunks_exact(16) {
        let offset = u64::from_le_bytes(place[..8].try_into().unwrap()) % (bytes.len() as u64 + 10);
        let len = u64::from_le_bytes(place[8..].try_into().unwrap()) % 600_000;
        let mut buf = vec![0xee; len as usize];
        let read = object.read_at(offset, &mut buf).unwrap();
        let from = bytes.len().min(offset as usize);
        let expected = &bytes[from..bytes.len().min(from + len as usize)];
        assert!(buf[..read] == *expected, "offset {offset} length {len}");
    }
    let mut streamed = Vec::new();
    object.reader().read_to_end(&mut streamed).unwrap();
    assert!(streamed == bytes);
    assert_eq!(object.read_at(u64::MAX, &mut [0; 8]).unwrap(), 0);
}

#[test]
fn nothing_is_visible_before_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let bytes = noise(1, 1 << 20);
    let key = Hash::of(b"key");
    let mut batch = store.batch();
    let cid = batch.put_bytes(Codec::Raw, &bytes).unwrap();
    batch.put_memo(key, b"label", b"value").unwrap();
    assert!(store.object(&cid).unwrap().is_none());
    assert!(matches!(store.read(&cid, 10), Err(Error::NotFound { cid: c }) if c == cid));
    put(&store, b"another batch commits meanwhile");
    assert!(!store.contains(&cid).unwrap());
    assert_eq!(store.memo(&key).unwrap(), None);
    batch.commit(Durability::Lazy).unwrap();
    assert!(store.contains(&cid).unwrap());
    assert_eq!(store.memo(&key).unwrap(), Some(b"value".to_vec()));
    assert_eq!(store.read(&cid, 1 << 20).unwrap(), bytes);
}

#[test]
fn a_dropped_batch_leaves_nothing_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let kept = put(&store, b"kept");
    let before = store.stats().unwrap();
    let mut batch = store.batch();
    let cid = batch.put_bytes(Codec::Raw, &noise(1, 8 << 20)).unwrap();
    drop(batch);
    assert!(store.stats().unwrap().stored_bytes > before.stored_bytes + (1 << 20));
    drop(store);
    let store = open(dir.path());
    assert!(!store.contains(&cid).unwrap());
    assert_eq!(store.read(&kept, 10).unwrap(), b"kept");
    assert_eq!(store.stats().unwrap().stored_bytes, before.stored_bytes);
}

#[test]
fn small_files_share_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let files: Vec<_> = (0..10_000).map(|n| text(n, 400)).collect();
    let cids =
        commit(&store, |batch| files.iter().map(|file| batch.put_bytes(Codec::Raw, file).unwrap()).collect::<Vec<_>>());
    let stats = store.stats().unwrap();
    assert_eq!((stats.objects, stats.chunks, stats.plain_bytes), (10_000, 10_000, 4_000_000));
    let data = std::fs::read(&common::packs(dir.path(), "data")[0]).unwrap();
    let records = data.windows(4).filter(|window| window == b"gRec").count();
    // A record is full at 288 KiB: 738 files of 400 bytes.
    assert_eq!(records, 10_000usize.div_ceil(738));
    for (cid, file) in cids.iter().zip(&files) {
        assert_eq!(store.read(cid, 400).unwrap(), *file);
    }
}

#[test]
fn equal_bytes_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let bytes = noise(1, 4 << 20);
    let cid = put(&store, &bytes);
    let before = store.stats().unwrap();
    assert_eq!(put(&store, &bytes), cid);
    let after = store.stats().unwrap();
    assert_eq!(Stats { disk_bytes: 0, ..after }, Stats { disk_bytes: 0, ..before });
    let shifted = [b"some bytes in front".as_slice(), &bytes].concat();
    put(&store, &shifted);
    let grown = store.stats().unwrap().plain_bytes - before.plain_bytes;
    assert!(grown < 600_000, "an insertion at the front costs a few chunks, not {grown} bytes");
}

#[test]
fn limits_are_errors_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let cid = put(&store, &noise(1, 300_000));
    let refused = store.read(&cid, 299_999);
    assert!(matches!(refused, Err(Error::TooLarge { size_bytes: 300_000, max_bytes: 299_999, .. })));
    assert!(matches!(store.tree(&cid), Err(Error::Tree { .. })));
    let mut batch = store.batch();
    let long = batch.put_memo(Hash::of(b""), &[0; 1025], b"");
    assert!(matches!(long, Err(Error::MemoTooLarge { what: "label", size_bytes: 1025, max_bytes: 1024 })));
    let large = batch.put_memo(Hash::of(b""), b"", &[0; 65_537]);
    assert!(matches!(large, Err(Error::MemoTooLarge { what: "value", size_bytes: 65_537, max_bytes: 65_536 })));
    batch.put_memo(Hash::of(b""), &[0; 1024], &[7; 65_536]).unwrap();
    batch.commit(Durability::Lazy).unwrap();
    assert_eq!(store.memo(&Hash::of(b"")).unwrap(), Some(vec![7; 65_536]));
}

#[test]
fn memos_are_replaced_and_listed_by_label() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let key = |n: u8| Hash::of(&[n]);
    commit(&store, |batch| {
        for (n, label, value) in [(1, "wc/b", "1"), (2, "wc/a", "2"), (3, "sort/a", "3"), (1, "wc/c", "4")] {
            batch.put_memo(key(n), label.as_bytes(), value.as_bytes()).unwrap();
        }
    });
    for _ in 0..2 {
        assert_eq!(store.memo(&key(1)).unwrap(), Some(b"4".to_vec()));
        assert_eq!(store.memo(&key(9)).unwrap(), None);
        let listed = |prefix: &[u8]| store.memos(prefix).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(listed(b"wc/"), [(b"wc/a".to_vec(), key(2)), (b"wc/c".to_vec(), key(1))]);
        assert_eq!(listed(b"").len(), 3);
        assert_eq!(store.stats().unwrap().memos, 3);
        drop(store);
        store = open(dir.path());
    }
}

#[test]
fn trees_go_to_the_meta_pack_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let cid = commit(&store, |batch| batch.put_tree(&Tree::default()).unwrap());
    assert_eq!(cid, Cid::of(Codec::DagCbor, &[0x82, 1, 0x80]));
    assert_eq!(*store.tree(&cid).unwrap(), Tree::default());
    assert_eq!(common::packs(dir.path(), "data"), [] as [std::path::PathBuf; 0]);
    assert_eq!(common::packs(dir.path(), "meta").len(), 1);
}

#[test]
fn several_blobs_grow_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let contents: Vec<_> = (0..5).map(|n| noise(n, 200_000 * n as usize)).collect();
    let mut batch = store.batch();
    let mut blobs: Vec<_> = contents.iter().map(|_| BlobWriter::new()).collect();
    for start in (0..800_000).step_by(7_001) {
        for (blob, bytes) in blobs.iter_mut().zip(&contents) {
            let end = bytes.len().min(start + 7_001);
            blob.write(&mut batch, bytes.get(start..end).unwrap_or_default()).unwrap();
        }
    }
    for (blob, bytes) in blobs.into_iter().zip(&contents) {
        assert_eq!(blob.size_bytes(), bytes.len() as u64);
        let named = blob.finish(&mut batch).unwrap();
        assert_eq!(named, (Cid::of(Codec::Raw, bytes), bytes.len() as u64));
    }
    batch.commit(Durability::Lazy).unwrap();
    for bytes in &contents {
        assert_eq!(store.read(&Cid::of(Codec::Raw, bytes), 1 << 20).unwrap(), *bytes);
    }
}

#[test]
fn many_threads_put_and_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..10 {
                    let bytes = noise(thread * 100 + round, 100_000);
                    let durability = if round % 2 == 0 { Durability::Durable } else { Durability::Lazy };
                    let mut batch = store.batch();
                    let cid = batch.put_bytes(Codec::Raw, &bytes).unwrap();
                    let shared = batch.put_bytes(Codec::Raw, &text(round, 100_000)).unwrap();
                    batch.commit(durability).unwrap();
                    assert_eq!(store.read(&cid, 100_000).unwrap(), bytes);
                    assert_eq!(store.read(&shared, 100_000).unwrap(), text(round, 100_000));
                }
            });
        }
    });
    store.sync().unwrap();
    let stats = store.stats().unwrap();
    assert_eq!((stats.plain_bytes, stats.objects), (9_000_000, 90));
    drop(store);
    let again = open(dir.path()).stats().unwrap();
    assert_eq!(Stats { disk_bytes: 0, ..again }, Stats { disk_bytes: 0, ..stats });
}

#[test]
fn a_reader_that_fails_is_not_the_stores_fault() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("unplugged"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut batch = store.batch();
    let failed = batch.put_reader(Codec::Raw, &mut b"first ".as_slice().chain(Failing));
    assert!(matches!(failed, Err(Error::Source(source)) if source.to_string() == "unplugged"));
    let cid = batch.put_bytes(Codec::Raw, b"still fine").unwrap();
    batch.commit(Durability::Durable).unwrap();
    assert_eq!(store.read(&cid, 100).unwrap(), b"still fine");
}

#[test]
fn only_one_process_opens_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let second = Store::open(dir.path(), Options::default());
    assert!(matches!(second, Err(Error::Locked { path }) if path == dir.path().join("lock")));
    drop(store);
    Store::open(dir.path(), Options::default()).unwrap();
}

#[test]
fn another_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("format"), "gridfs store 2\n").unwrap();
    let refused = Store::open(dir.path(), Options::default());
    assert!(matches!(refused, Err(Error::Version { found, .. }) if found == "gridfs store 2\n"));
}

#[test]
fn the_types_cross_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Arc<Store>>();
    shared::<gridfs_store::Object>();
    sent::<gridfs_store::Batch>();
    sent::<BlobWriter>();
}
