//! Garbage collection: what the roots reach stays, the rest gives its space back, and nobody is kept waiting.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{commit, noise, open, put, scratch, text};
use gridfs_store::{Cid, Codec, Collected, Durability, Error, Hash, Marker, Phase, Store, Target, Tree, TreeEntry};

fn collect(store: &Arc<Store>, roots: &[Cid]) -> Collected {
    run(store, false, roots)
}

fn run(store: &Arc<Store>, dry_run: bool, roots: &[Cid]) -> Collected {
    let mark = |marker: &mut Marker<'_>| roots.iter().try_for_each(|root| marker.keep(root));
    store.collect::<Error>(dry_run, &mut |_| (), mark).unwrap()
}

fn file(name: &str, cid: Cid, size_bytes: u64) -> TreeEntry {
    TreeEntry { name: name.into(), target: Target::File { cid, size_bytes, executable: false } }
}

/// A directory of `count` files of a size each; its name and theirs.
fn put_tree(store: &Arc<Store>, seed: u64, count: u64, len: usize) -> (Cid, Vec<Cid>) {
    commit(store, |batch| {
        let files: Vec<Cid> =
            (0..count).map(|n| batch.put_bytes(Codec::Raw, &noise(seed * 1000 + n, len)).unwrap()).collect();
        let entries = files.iter().enumerate().map(|(n, cid)| file(&format!("{n:04}"), *cid, len as u64)).collect();
        (batch.put_tree(&Tree::new(entries).unwrap()).unwrap(), files)
    })
}

fn check_tree(store: &Arc<Store>, tree: &(Cid, Vec<Cid>), seed: u64, len: usize) {
    assert_eq!(store.tree(&tree.0).unwrap().entries().len(), tree.1.len());
    for (n, cid) in tree.1.iter().enumerate() {
        assert!(store.read(cid, 1 << 24).unwrap() == noise(seed * 1000 + n as u64, len), "tree {seed} file {n}");
    }
}

#[test]
fn half_of_the_data_goes_and_the_packs_shrink() {
    let dir = scratch();
    let store = open(dir.path());
    // Small files and files of several chunks, alternating, so that every pack is half dead.
    let trees: Vec<_> = (0..20).map(|seed| put_tree(&store, seed, 10, [3_000, 400_000][seed as usize % 2])).collect();
    let before = store.stats().unwrap();
    let kept: Vec<Cid> = trees.iter().enumerate().filter(|(n, _)| n / 2 % 2 == 0).map(|(_, tree)| tree.0).collect();
    let wish = run(&store, true, &kept);
    assert_eq!(store.stats().unwrap(), before, "a dry run changes nothing");
    let done = collect(&store, &kept);
    let after = store.stats().unwrap();
    assert_eq!((done.live, done.dead), (wish.live, wish.dead));
    assert_eq!(done.freed_bytes, before.stored_bytes - after.stored_bytes);
    assert!(done.freed_bytes.abs_diff(wish.freed_bytes) < 100_000, "{done:?} {wish:?}");
    assert!(after.stored_bytes < before.stored_bytes * 52 / 100, "{before:?} {after:?}");
    assert_eq!((after.objects, after.plain_bytes), (110, before.plain_bytes / 2));
    drop(store);
    for round in 0..2 {
        if round == 1 {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = open(dir.path());
        for (seed, tree) in trees.iter().enumerate() {
            if kept.contains(&tree.0) {
                check_tree(&store, tree, seed as u64, [3_000, 400_000][seed % 2]);
            } else {
                assert!(!store.contains(&tree.0).unwrap() && !tree.1.iter().any(|cid| store.contains(cid).unwrap()));
            }
        }
        let stats = store.stats().unwrap();
        assert_eq!((stats.objects, stats.chunks, stats.plain_bytes), (after.objects, after.chunks, after.plain_bytes));
        let again = collect(&store, &kept);
        assert_eq!((again.dead, again.packs, again.freed_bytes), (0, 0, 0), "nothing is left to do");
    }
}

#[test]
fn everything_may_go() {
    let dir = scratch();
    let store = open(dir.path());
    put_tree(&store, 1, 10, 400_000);
    collect(&store, &[]);
    let stats = store.stats().unwrap();
    assert_eq!((stats.objects, stats.chunks, stats.plain_bytes), (0, 0, 0));
    assert!(stats.stored_bytes < 1_000, "{stats:?}");
    drop(store);
    let store = open(dir.path());
    let cid = put(&store, b"the store goes on");
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    assert_eq!(open(dir.path()).read(&cid, 100).unwrap(), b"the store goes on");
}

#[test]
fn a_file_with_the_bytes_of_a_kept_directory_does_not_hide_its_entries() {
    let dir = scratch();
    let store = open(dir.path());
    let (tree, files) = put_tree(&store, 1, 3, 10_000);
    let as_file = put(&store, &store.tree(&tree).unwrap().encode());
    assert_eq!(as_file.hash, tree.hash);
    collect(&store, &[as_file, tree]);
    check_tree(&store, &(tree, files.clone()), 1, 10_000);
    collect(&store, &[as_file]);
    assert!(store.contains(&as_file).unwrap() && !store.contains(&files[0]).unwrap());
}

#[test]
fn leases_and_readers_keep_what_nothing_names() {
    let dir = scratch();
    let store = open(dir.path());
    let (tree, files) = put_tree(&store, 1, 3, 600_000);
    let (other, others) = put_tree(&store, 2, 3, 600_000);
    let read = put(&store, &noise(77, 900_000));
    let reader = store.object(&read).unwrap().unwrap();
    let lease = store.lease();
    lease.keep(&tree);
    // This batch finds everything of the second tree stored already, but for the directory.
    let mut batch = store.batch();
    for n in 0..3 {
        batch.put_bytes(Codec::Raw, &noise(2000 + n, 600_000)).unwrap();
    }
    let fresh = batch.put_bytes(Codec::Raw, &noise(99, 600_000)).unwrap();
    collect(&store, &[]);
    check_tree(&store, &(tree, files.clone()), 1, 600_000);
    assert!(!store.contains(&other).unwrap());
    let mut buffer = vec![0; 900_000];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap(), 900_000);
    assert!(buffer == noise(77, 900_000));
    let kept = batch.commit(Durability::Durable).unwrap();
    collect(&store, &[]);
    for (n, cid) in others.iter().enumerate() {
        assert!(store.read(cid, 1 << 20).unwrap() == noise(2000 + n as u64, 600_000));
    }
    assert!(store.read(&fresh, 1 << 20).unwrap() == noise(99, 600_000));
    drop((lease, kept, reader));
    collect(&store, &[]);
    assert_eq!(store.stats().unwrap().objects, 0);
}

/// A batch that is open keeps all that was stored since it began, also what other batches composed of older things.
#[test]
fn what_is_kept_by_its_place_is_complete() {
    let dir = scratch();
    let store = open(dir.path());
    let (_, files) = put_tree(&store, 1, 3, 600_000);
    let older = noise(5, 700_000);
    put(&store, &older);
    let open_batch = store.batch();
    let longer = [older.as_slice(), b"and more"].concat();
    let composed = put(&store, &longer);
    let tree = commit(&store, |batch| {
        let entries = vec![file("0000", files[0], 600_000)];
        batch.put_tree(&Tree::new(entries).unwrap()).unwrap()
    });
    collect(&store, &[]);
    assert!(store.read(&composed, 1 << 20).unwrap() == longer);
    check_tree(&store, &(tree, files[..1].to_vec()), 1, 600_000);
    drop(open_batch);
    collect(&store, &[]);
    assert_eq!(store.stats().unwrap().chunks, 0);
}

/// Dead chunks are put again after the decision, into the very pack that is rewritten next, and committed afterwards.
#[test]
fn what_is_put_again_during_a_sweep_stays() {
    let dir = scratch();
    let store = open(dir.path());
    let bytes = noise(1, 6 << 20);
    put(&store, &bytes);
    let mut again = None;
    let mut progress = |phase| {
        // The meta pack is done, the data pack comes next.
        if phase == Phase::Sweeping(1, 2) {
            let mut batch = store.batch();
            let cid = batch.put_bytes(Codec::Raw, &bytes).unwrap();
            again = Some((batch, cid));
        }
    };
    store.collect::<Error>(false, &mut progress, |_| Ok(())).unwrap();
    let (batch, cid) = again.unwrap();
    batch.commit(Durability::Durable).unwrap();
    assert!(store.read(&cid, 8 << 20).unwrap() == bytes);
}

#[test]
fn memos_stay_until_they_are_forgotten() {
    let dir = scratch();
    let store = open(dir.path());
    let key = |n: u64| Hash::of(&n.to_le_bytes());
    for round in 0..3 {
        commit(&store, |batch| {
            (0..200u64).for_each(|n| batch.put_memo(key(n), b"label", &noise(n + round * 7, 500)).unwrap())
        });
    }
    put_tree(&store, 1, 3, 1000);
    collect(&store, &[]);
    let forget = |marker: &mut Marker<'_>| {
        (0..100).for_each(|n| marker.forget(key(n)));
        Ok::<(), Error>(())
    };
    assert_eq!(store.collect(false, &mut |_| (), forget).unwrap().forgotten, 100);
    let check = |store: &Arc<Store>| {
        for n in 0..200u64 {
            assert_eq!(store.memo(&key(n)).unwrap(), (n >= 100).then(|| noise(n + 14, 500)), "memo {n}");
        }
        assert_eq!(store.memos(b"").unwrap().count(), 100);
        assert_eq!(store.stats().unwrap().memos, 100);
    };
    check(&store);
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    check(&open(dir.path()));
}

/// The trees that are named, and a source of chance.
struct Model {
    named: Mutex<BTreeMap<u64, (Cid, Vec<Cid>)>>,
    over: AtomicBool,
}

const SEEDS: u64 = 40;

/// Files of one chunk or several, so that both whole objects and manifests come and go.
fn len_of(seed: u64) -> usize {
    [700, 90_000, 500_000][seed as usize % 3]
}

/// Puts trees and names them before their lease ends, as a command does; seeds come back, so that batches find what
/// is just being collected. Now and then a name goes.
fn put_and_name(store: &Arc<Store>, model: &Model, mut chance: u64) {
    while !model.over.load(Ordering::Relaxed) {
        chance = Hash::of(&chance.to_le_bytes()).0[..8].try_into().map(u64::from_le_bytes).unwrap();
        let seed = chance % SEEDS;
        let mut batch = store.batch();
        let files: Vec<Cid> =
            (0..8).map(|n| batch.put_bytes(Codec::Raw, &noise(seed * 1000 + n, len_of(seed))).unwrap()).collect();
        let entries = files.iter().enumerate().map(|(n, cid)| file(&format!("{n:04}"), *cid, len_of(seed) as u64));
        let tree = batch.put_tree(&Tree::new(entries.collect()).unwrap()).unwrap();
        let durability = if chance & 64 == 0 { Durability::Durable } else { Durability::Lazy };
        let lease = batch.commit(durability).unwrap();
        check_tree(store, &(tree, files.clone()), seed, len_of(seed));
        let mut named = model.named.lock().unwrap();
        named.insert(seed, (tree, files));
        named.remove(&((chance >> 8) % SEEDS));
        drop((named, lease));
    }
}

fn read_what_is_named(store: &Arc<Store>, model: &Model, mut chance: u64) {
    while !model.over.load(Ordering::Relaxed) {
        chance = Hash::of(&chance.to_le_bytes()).0[..8].try_into().map(u64::from_le_bytes).unwrap();
        let lease = store.lease();
        let found = model.named.lock().unwrap().range(chance % SEEDS..).next().map(|(seed, tree)| {
            lease.keep(&tree.0);
            (*seed, tree.clone())
        });
        if let Some((seed, tree)) = found {
            check_tree(store, &tree, seed, len_of(seed));
        }
    }
}

/// One piece of the long test: two threads put and name, one reads, one collects without pause for some
/// seconds, and at least twice.
fn collect_under_load(store: &Arc<Store>, model: &Model, chance: u64) {
    let mut collections = 0;
    model.over.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| put_and_name(store, model, chance));
        scope.spawn(|| put_and_name(store, model, chance + 1));
        scope.spawn(|| read_what_is_named(store, model, chance + 2));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) || collections < 2 {
            let mark = |marker: &mut Marker<'_>| {
                let roots: Vec<Cid> = model.named.lock().unwrap().values().map(|tree| tree.0).collect();
                roots.iter().try_for_each(|root| marker.keep(root))
            };
            store.collect::<Error>(false, &mut |_| (), mark).unwrap();
            collections += 1;
        }
        model.over.store(true, Ordering::Relaxed);
    });
}

/// Two pieces by default; `GRIDFS_COLLECT_SECONDS=1800 cargo test -p gridfs-store --release --test collect under_load`
/// is the long run. `GRIDFS_SEED` chooses others.
#[test]
fn collections_under_load_lose_nothing() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seconds, seed) = (number("GRIDFS_COLLECT_SECONDS", 6), number("GRIDFS_SEED", 1));
    let dir = scratch();
    let model = Model { named: Mutex::default(), over: AtomicBool::new(false) };
    let start = Instant::now();
    for piece in 0.. {
        println!("piece {piece}, GRIDFS_SEED={seed}");
        let store = open(dir.path());
        let check = |store: &Arc<Store>| {
            let named = model.named.lock().unwrap();
            named.iter().for_each(|(seed, tree)| check_tree(store, tree, *seed, len_of(*seed)));
        };
        check(&store);
        collect_under_load(&store, &model, seed * 1_000_000 + piece * 10);
        check(&store);
        let roots: Vec<Cid> = model.named.lock().unwrap().values().map(|tree| tree.0).collect();
        collect(&store, &roots);
        check(&store);
        let stats = store.stats().unwrap();
        drop(store);
        if piece % 2 == 1 {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            assert_eq!(open(dir.path()).stats().unwrap().plain_bytes, stats.plain_bytes);
        }
        if start.elapsed() > Duration::from_secs(seconds) {
            return;
        }
    }
}

#[test]
fn text_that_is_half_dead_within_its_records_is_packed_anew() {
    let dir = scratch();
    let store = open(dir.path());
    let cids: Vec<Cid> =
        commit(&store, |batch| (0..2000).map(|n| batch.put_bytes(Codec::Raw, &text(n, 1_500)).unwrap()).collect());
    let before = store.stats().unwrap().stored_bytes;
    let kept: Vec<Cid> = cids.iter().copied().step_by(2).collect();
    collect(&store, &kept);
    let after = store.stats().unwrap().stored_bytes;
    assert!(after < before * 6 / 10, "{before} {after}");
    for (n, cid) in cids.iter().enumerate() {
        match n % 2 {
            0 => assert!(store.read(cid, 1 << 20).unwrap() == text(n as u64, 1_500)),
            _ => assert!(!store.contains(cid).unwrap()),
        }
    }
}
