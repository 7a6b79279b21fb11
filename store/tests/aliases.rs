//! Aliases through the public interface: digests computed while files stream in.

mod common;

use common::{commit, noise, open};
use gridfs_store::{Algorithm, Cid, Codec, Digest, Tree, TreeEntry, ingest};

/// Sizes of one chunk and of several, and of no bytes at all.
const SIZES: [usize; 5] = [0, 3, 16 * 1024, 300_000, (5 << 20) + 1];

#[test]
fn every_size_is_known_by_each_digest_after_reopening_and_without_the_index_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut expected = Vec::new();
    for algorithm in Algorithm::ALL {
        commit(&store, |batch| {
            batch.also_hash(algorithm);
            for size in SIZES {
                let bytes = noise(size as u64, size);
                let (cid, _) = batch.put_reader(Codec::Raw, &mut bytes.as_slice()).unwrap();
                let digest = Digest::of(algorithm, &bytes);
                assert_eq!(batch.digest(), Some(digest), "{size} bytes");
                expected.push((digest, cid));
            }
        });
    }
    for round in 0..3 {
        for (digest, cid) in &expected {
            assert_eq!(store.alias(digest).unwrap(), Some(*cid));
        }
        assert_eq!(store.stats().unwrap().memos, expected.len() as u64);
        assert_eq!(store.alias(&Digest::of(Algorithm::Sha2_256, b"other")).unwrap(), None);
        drop(store);
        if round == 1 {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        store = open(dir.path());
    }
}

/// `head -c 1000000 /dev/zero | sha256sum`, and `openssl dgst -sha3-256` of the same.
#[test]
fn a_file_of_many_chunks_has_the_digest_that_others_compute() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let hex = [Algorithm::Sha2_256, Algorithm::Sha3_256].map(|algorithm| {
        commit(&store, |batch| {
            batch.also_hash(algorithm);
            batch.put_reader(Codec::Raw, &mut vec![0; 1_000_000].as_slice()).unwrap();
            batch.digest().unwrap().bytes.map(|byte| format!("{byte:02x}")).concat()
        })
    });
    let sha2 = "d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025";
    let sha3 = "cb2679d674f0565ad17c666d5ea5746f747fd94650fe2d105571f7e36231674c";
    assert_eq!(hex, [sha2, sha3]);
}

#[test]
fn a_directory_gives_its_files_aliases_and_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let source = dir.path().join("source");
    std::fs::create_dir_all(source.join("inner")).unwrap();
    std::fs::write(source.join("a"), "one").unwrap();
    std::fs::write(source.join("inner/b"), "two").unwrap();
    std::fs::write(source.join("inner/a again"), "one").unwrap();
    let target = commit(&store, |batch| {
        batch.also_hash(Algorithm::Sha2_256);
        ingest::put_path(batch, &source, ingest::Read::Changed, &mut |_| std::ops::ControlFlow::Continue(())).unwrap()
    });
    let gridfs_store::Target::Directory { cid: tree } = target else { panic!("{target:?}") };
    for text in ["one", "two"] {
        let digest = Digest::of(Algorithm::Sha2_256, text.as_bytes());
        assert_eq!(store.alias(&digest).unwrap(), Some(Cid::of(Codec::Raw, text.as_bytes())));
        assert_eq!(store.alias(&Digest::of(Algorithm::Sha3_256, text.as_bytes())).unwrap(), None);
    }
    let encoded = store.read(&tree, 1 << 20).unwrap();
    assert_eq!(store.alias(&Digest::of(Algorithm::Sha2_256, &encoded)).unwrap(), None);
    assert_eq!(store.stats().unwrap().memos, 2);
}

#[test]
fn without_being_asked_nothing_else_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, |batch| {
        batch.put_bytes(Codec::Raw, b"abc").unwrap();
        assert_eq!(batch.digest(), None);
        batch.also_hash(Algorithm::Sha2_256);
        batch.put_tree(&Tree::new(Vec::<TreeEntry>::new()).unwrap()).unwrap();
        assert_eq!(batch.digest(), None);
    });
    assert_eq!(store.alias(&Digest::of(Algorithm::Sha2_256, b"abc")).unwrap(), None);
    assert_eq!(store.stats().unwrap().memos, 0);
}

/// Put a second time, a file costs no second record; put first without a digest, it still gets one.
#[test]
fn what_is_known_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stored = |hash: Option<Algorithm>| {
        commit(&store, |batch| {
            if let Some(algorithm) = hash {
                batch.also_hash(algorithm);
            }
            batch.put_bytes(Codec::Raw, b"abc").unwrap();
        });
        store.stats().unwrap()
    };
    assert_eq!(stored(None).memos, 0);
    let first = stored(Some(Algorithm::Sha3_256));
    let empty_commit = stored(None).stored_bytes - first.stored_bytes;
    let before = store.stats().unwrap().stored_bytes;
    assert_eq!(stored(Some(Algorithm::Sha3_256)).stored_bytes - before, empty_commit);
    assert_eq!(store.stats().unwrap().memos, 1);
}
