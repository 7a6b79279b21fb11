//! Checking and repairing: damage is found, named by what it belongs to, and heals when what is lost is put again.

mod common;

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{commit, flip, noise, open, packs, put, scratch, text};
use gridfs_store::{
    Checked, Cid, Codec, Durability, Error, Finding, Hash, Marker, Owner, Repaired, Severity, Store, Target, Tree,
    TreeEntry,
};

type Roots = Vec<(String, Cid)>;

/// A store with files of one chunk and of several in directories, a memo, and its open handle.
struct World {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    roots: Roots,
    /// `linux/fs/ext4/inode.c` and `linux/fs/README`.
    inode: Cid,
    readme: Cid,
}

const INODE_BYTES: usize = 700_000;

fn directory(batch: &mut gridfs_store::Batch, entries: &[(&str, Target)]) -> Target {
    let entry = |(name, target): &(&str, Target)| TreeEntry { name: (*name).into(), target: target.clone() };
    let tree = Tree::new(entries.iter().map(entry).collect()).unwrap();
    Target::Directory { cid: batch.put_tree(&tree).unwrap() }
}

fn cid_of(target: &Target) -> Cid {
    match target {
        Target::File { cid, .. } | Target::Directory { cid } => *cid,
        Target::Symlink { .. } => unreachable!("none is put here"),
    }
}

impl World {
    fn new() -> World {
        let dir = scratch();
        let store = open(dir.path());
        let (linux, inode, readme) = World::put_tree(&store);
        commit(&store, |batch| batch.put_memo(Hash::of(b"k"), b"label", b"value").unwrap());
        let other = put(&store, &text(9, 50_000));
        World { dir, store, roots: vec![("linux".into(), linux), ("other".into(), other)], inode, readme }
    }

    fn put_tree(store: &Arc<Store>) -> (Cid, Cid, Cid) {
        let inode = put(store, &noise(1, INODE_BYTES));
        let readme = put(store, &text(2, 3_000));
        let linux = commit(store, |batch| {
            let file = |cid, size_bytes| Target::File { cid, size_bytes, executable: false };
            let ext4 = directory(batch, &[("inode.c", file(inode, INODE_BYTES as u64))]);
            let fs = directory(batch, &[("README", file(readme, 3_000)), ("ext4", ext4)]);
            directory(batch, &[("fs", fs)])
        });
        (cid_of(&linux), inode, readme)
    }

    fn check(&self, read_data: bool) -> Checked {
        let roots = || self.roots.clone();
        self.store.check(read_data, &roots, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    fn repair(&self) -> Repaired {
        let roots = || self.roots.clone();
        self.store.repair(&roots, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    #[track_caller]
    fn is_clean(&self) {
        assert_eq!(self.check(true).findings, []);
    }

    fn pack(&self, class: &str) -> PathBuf {
        packs(self.dir.path(), class).remove(0)
    }

    /// Damages the store while it is closed.
    fn closed(self, damage: impl FnOnce(&Path)) -> World {
        let World { dir, store, roots, inode, readme } = self;
        drop(store);
        damage(dir.path());
        let store = open(dir.path());
        World { dir, store, roots, inode, readme }
    }

    #[track_caller]
    fn reads_right(&self) {
        assert!(self.store.read(&self.inode, 1 << 20).unwrap() == noise(1, INODE_BYTES));
        assert!(self.store.read(&self.readme, 1 << 20).unwrap() == text(2, 3_000));
        assert_eq!(self.store.read(&self.roots[1].1, 1 << 20).unwrap(), text(9, 50_000));
        assert_eq!(self.store.tree(&self.roots[0].1).unwrap().entries().len(), 1);
    }

    fn reopen(self) -> World {
        self.closed(|_| ())
    }

    fn reopen_without_index(self) -> World {
        self.closed(|dir| fs::remove_dir_all(dir.join("index")).unwrap())
    }
}

/// Where the records of a pack begin.
fn records(pack: &Path) -> Vec<u64> {
    let bytes = fs::read(pack).unwrap();
    let mut offsets = vec![24];
    while let Some(header) = bytes.get(*offsets.last().unwrap() as usize..).and_then(|rest| rest.get(..24)) {
        let le32 = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let count = u16::from_le_bytes([header[6], header[7]]);
        offsets.push(offsets.last().unwrap() + 24 + 36 * u64::from(count) + u64::from(le32(8)));
    }
    offsets
}

/// The record of a pack that holds `key` in its table.
fn record_of(pack: &Path, key: &Hash) -> u64 {
    let bytes = fs::read(pack).unwrap();
    let offsets = records(pack);
    let holds = |pair: &&[u64]| {
        let at = pair[0] as usize;
        let count = usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]));
        (0..count).any(|n| bytes[at + 24 + 36 * n..][..32] == key.0)
    };
    offsets.windows(2).find(holds).expect("some record holds it")[0]
}

fn paths(finding: &Finding) -> Vec<String> {
    finding.owners.iter().map(Owner::to_string).collect()
}

#[track_caller]
fn only(checked: &Checked) -> &Finding {
    assert_eq!(checked.findings.len(), 1, "{:#?}", checked.findings);
    &checked.findings[0]
}

#[test]
fn a_sound_store_is_clean() {
    let world = World::new();
    let checked = world.check(true);
    assert_eq!((checked.findings.as_slice(), checked.packs, checked.has_errors()), (&[][..], 2, false));
    let stats = world.store.stats().unwrap();
    assert_eq!(checked.stored_bytes, stats.stored_bytes);
    // The manifests of inode.c and other are members too.
    assert_eq!((checked.members, checked.reached), (stats.chunks + stats.memos + 2, 6));
    assert_eq!(world.check(false).findings, []);
    let repaired = world.repair();
    assert_eq!((repaired.aside.as_slice(), world.store.stats().unwrap()), (&[][..], stats), "nothing is written");
}

#[test]
fn a_damaged_chunk_is_found_named_and_stored_again() {
    let world = World::new();
    let pack = world.pack("data");
    flip(&pack, 24 + 5_000, 1);
    assert_eq!(world.check(false).findings, [], "a quick check reads no data");
    let before = fs::read(&pack).unwrap();
    let checked = world.check(true);
    let found = only(&checked);
    assert_eq!((found.file.as_ref(), found.offset, found.severity), (Some(&pack), Some(24), Severity::Error));
    assert_eq!((found.what.as_str(), paths(found)), ("the record fails its CRC", vec!["linux/fs/ext4/inode.c".into()]));
    let line = format!(
        "{} at 24: the record fails its CRC; objects and chunks lost: {}, of linux/fs/ext4/inode.c",
        pack.display(),
        found.lost
    );
    assert_eq!(found.to_string(), line);
    assert!(fs::read(&pack).unwrap() == before, "a check writes nothing");

    let world = world.reopen();
    assert!(matches!(world.store.read(&world.inode, 1 << 20), Err(Error::Corrupt { .. })));
    put(&world.store, &noise(1, INODE_BYTES));
    assert!(world.store.read(&world.inode, 1 << 20).is_err(), "found stored, though it is damaged");
    let repaired = world.repair();
    assert_eq!(repaired.found.findings, checked.findings);
    let aside = PathBuf::from(format!("{}.damaged", pack.display()));
    assert_eq!(repaired.aside.iter().collect::<Vec<_>>(), [&aside]);
    assert!(fs::read(&aside).unwrap().starts_with(&before), "a footer follows");
    let left = only(&repaired.left);
    assert_eq!(paths(left), ["linux/fs/ext4/inode.c"]);
    assert_eq!(left.what, format!("{} is incomplete", world.inode));
    match world.store.read(&world.inode, 1 << 20) {
        Err(Error::Missing { object, .. }) => assert_eq!(object, world.inode.hash),
        other => panic!("{other:?}"),
    }
    assert!(world.store.read(&world.readme, 1 << 20).unwrap() == text(2, 3_000));

    put(&world.store, &noise(1, INODE_BYTES));
    world.is_clean();
    world.reads_right();
    let world = world.reopen_without_index();
    world.is_clean();
    world.reads_right();
}

/// What a repair leaves is the same store, whether the index is kept or rebuilt from the packs.
fn heals(world: World) {
    let repaired = world.repair();
    assert!(!repaired.found.findings.is_empty());
    let world = world.reopen();
    let again = world.check(true);
    assert_eq!(again.findings, repaired.left.findings);
    let stats = world.store.stats().unwrap();
    let world = world.reopen_without_index();
    let rebuilt = world.store.stats().unwrap();
    assert_eq!((rebuilt.chunks, rebuilt.memos, rebuilt.plain_bytes), (stats.chunks, stats.memos, stats.plain_bytes));
    World::put_tree(&world.store);
    put(&world.store, &text(9, 50_000));
    world.is_clean();
    world.reads_right();
}

#[test]
fn a_lost_data_pack_is_named_and_heals() {
    let world = World::new().closed(|dir| fs::remove_file(&packs(dir, "data")[0]).unwrap());
    let checked = world.check(false);
    let found = only(&checked);
    assert_eq!((found.what.as_str(), found.severity), ("the pack file is gone", Severity::Error));
    let mut owners = paths(found);
    owners.sort();
    assert_eq!(owners, ["linux/fs/README", "linux/fs/ext4/inode.c", "other"]);
    assert_eq!(put(&world.store, b"new").hash, Hash::of(b"new"));
    assert_eq!(world.check(true).findings, checked.findings, "a new pack does not take the place of the lost one");
    heals(world);
}

#[test]
fn a_pack_deleted_under_an_open_store_is_found_and_saved() {
    let world = World::new();
    world.reads_right();
    let pack = world.pack("data");
    fs::remove_file(&pack).unwrap();
    let checked = world.check(true);
    assert_eq!(only(&checked).file.as_ref(), Some(&pack));
    // The open file still has everything.
    assert_eq!(world.repair().left.findings, []);
    world.is_clean();
    let world = world.reopen();
    world.reads_right();
}

#[test]
fn a_truncated_data_pack_heals() {
    for keep in [1_000, 300_000] {
        let world = World::new().closed(|dir| {
            OpenOptions::new().write(true).open(&packs(dir, "data")[0]).unwrap().set_len(keep).unwrap();
        });
        let checked = world.check(true);
        assert!(checked.has_errors(), "{checked:#?}");
        assert!(checked.findings.iter().any(|found| paths(found).contains(&"linux/fs/ext4/inode.c".into())));
        heals(world);
    }
}

#[test]
fn a_pack_cut_between_two_records_is_found_by_the_commits() {
    let world = World::new();
    let pack = world.pack("data");
    let offsets = records(&pack);
    let end = offsets[offsets.len() - 2];
    let world = world.closed(|_| OpenOptions::new().write(true).open(&pack).unwrap().set_len(end).unwrap());
    let checked = world.check(false);
    let found = only(&checked);
    assert_eq!((found.what.as_str(), found.offset), ("the file ends before what was committed does", Some(end)));
    assert_eq!(paths(found), ["other"]);
    heals(world);
}

#[test]
fn a_zeroed_block_heals() {
    for class in ["data", "meta"] {
        let world = World::new();
        let pack = world.pack(class);
        let len = fs::metadata(&pack).unwrap().len();
        let at = len.saturating_sub(1) / 2;
        let file = OpenOptions::new().write(true).open(&pack).unwrap();
        file.write_all_at(&vec![0; 4096.min(len - at) as usize], at).unwrap();
        let world = world.reopen();
        assert!(world.check(class == "data").has_errors(), "{class}");
        heals(world);
    }
}

#[test]
fn a_damaged_directory_hides_what_is_below_until_it_is_put_again() {
    let world = World::new();
    let pack = world.pack("meta");
    let fs = match &world.store.tree(&world.roots[0].1).unwrap().entries()[0].target {
        Target::Directory { cid } => *cid,
        other => panic!("{other:?}"),
    };
    let record = record_of(&pack, &fs.hash);
    flip(&pack, record + 24 + 40, 8);
    let world = world.reopen();
    let checked = world.check(false);
    let found = only(&checked);
    assert_eq!((found.offset, found.file.as_ref()), (Some(record), Some(&pack)));
    // All three directories lie in one record; what is below the first can't be told.
    assert_eq!((found.lost, &found.owners[0]), (3, &Owner::Path("linux".into())));
    assert_eq!(found.owners[1..].iter().filter(|owner| **owner == Owner::Object(fs)).count(), 1);
    assert_eq!(found.owners.len(), 3);
    heals(world);
}

#[test]
fn a_damaged_manifest_or_memo_is_named() {
    let world = World::new();
    let pack = world.pack("meta");
    let (manifest, memo) = (record_of(&pack, &world.inode.hash), record_of(&pack, &Hash::of(b"k")));
    flip(&pack, manifest + 100, 1);
    flip(&pack, memo + 70, 1);
    let world = world.reopen();
    let checked = world.check(false);
    let [first, second] = checked.findings.as_slice() else { panic!("{checked:#?}") };
    assert_eq!((first.offset, paths(first)), (Some(manifest), vec!["linux/fs/ext4/inode.c".to_owned()]));
    assert_eq!((second.offset, second.lost, second.lost_memos), (Some(memo), 0, 1));
    assert!(world.store.memo(&Hash::of(b"k")).is_err());
    let repaired = world.repair();
    assert_eq!(only(&repaired.left).what, format!("{} is not in the store", world.inode));
    assert_eq!(world.store.memo(&Hash::of(b"k")).unwrap(), None);
    heals_after(world);
}

fn heals_after(world: World) {
    World::put_tree(&world.store);
    world.is_clean();
    world.reads_right();
    let world = world.reopen_without_index();
    assert_eq!(world.store.memo(&Hash::of(b"k")).unwrap(), None);
    world.is_clean();
}

/// A repair must not bring the older value of a memo back.
#[test]
fn a_lost_memo_ends() {
    let world = World::new();
    commit(&world.store, |batch| batch.put_memo(Hash::of(b"k"), b"label", b"newer").unwrap());
    let pack = world.pack("meta");
    let offsets = records(&pack);
    // Memo and commit.
    flip(&pack, offsets[offsets.len() - 3] + 70, 1);
    assert_eq!(world.repair().found.findings[0].lost_memos, 1);
    assert_eq!(world.store.memo(&Hash::of(b"k")).unwrap(), None);
    let world = world.reopen_without_index();
    assert_eq!(world.store.memo(&Hash::of(b"k")).unwrap(), None);
    world.is_clean();
}

#[test]
fn damage_by_which_nothing_is_lost_is_a_warning() {
    let world = World::new();
    let (data, meta) = (world.pack("data"), world.pack("meta"));
    flip(&data, 3, 4);
    let offsets = records(&meta);
    let last_commit = offsets[offsets.len() - 2];
    flip(&meta, last_commit + 30, 1);
    fs::write(world.dir.path().join("packs/notes.txt"), "mine").unwrap();
    let checked = world.check(true);
    let seen: Vec<_> = checked.findings.iter().map(|found| (found.what.as_str(), found.offset)).collect();
    assert_eq!(
        seen,
        [
            ("this is not a pack", None),
            ("the record fails its CRC", Some(last_commit)),
            ("the file header is damaged", Some(0))
        ]
    );
    assert!(!checked.has_errors());
    let repaired = world.repair();
    assert_eq!((repaired.aside.len(), only(&repaired.left).what.as_str()), (2, "this is not a pack"));
    let world = world.reopen_without_index();
    world.reads_right();
    assert_eq!(world.store.memo(&Hash::of(b"k")).unwrap(), Some(b"value".to_vec()));
}

#[test]
fn an_object_without_a_name_is_told_by_its_cid() {
    let mut world = World::new();
    world.roots.remove(0);
    let pack = world.pack("data");
    flip(&pack, 24 + 5_000, 1);
    let checked = world.check(true);
    assert_eq!(only(&checked).owners, [Owner::Object(world.inode)]);
    flip(&pack, 24 + 5_000, 1);
    let readme = record_of(&pack, &world.readme.hash);
    flip(&pack, readme + 70, 1);
    let checked = world.check(true);
    assert_eq!(only(&checked).owners, [Owner::Object(world.readme)]);
}

#[test]
fn owners_beyond_ten_are_counted() {
    let mut world = World::new();
    let linux = world.roots[0].1;
    world.roots = (0..25).map(|n| (format!("name{n}"), linux)).collect();
    flip(&world.pack("data"), 24 + 5_000, 1);
    let checked = world.check(true);
    let found = only(&checked);
    assert_eq!(found.owners[0], Owner::Path("name0/fs/ext4/inode.c".into()));
    assert_eq!((found.owners.len(), found.more_owners), (10, 0), "a directory is gone through ten times");
    world.roots = (0..25).map(|n| (format!("name{n}"), world.inode)).collect();
    let checked = world.check(true);
    assert_eq!((only(&checked).owners.len(), only(&checked).more_owners), (10, 15));
    assert!(only(&checked).to_string().ends_with("name9 and 15 more"));
}

/// An intact copy of the chunk lies elsewhere: nothing is lost, and the repair finds it.
#[test]
fn a_copy_of_what_is_damaged_is_used() {
    let world = World::new();
    // Two batches that do not know of each other store the same bytes.
    let twice = noise(5, 5_000);
    let (mut first, mut second) = (world.store.batch(), world.store.batch());
    let cid = first.put_bytes(Codec::Raw, &twice).unwrap();
    second.put_bytes(Codec::Raw, &twice).unwrap();
    first.commit(Durability::Durable).unwrap();
    second.commit(Durability::Durable).unwrap();
    let pack = world.pack("data");
    let offsets = records(&pack);
    flip(&pack, offsets[offsets.len() - 2] + 100, 1);
    let world = world.reopen();
    assert!(world.store.read(&cid, 10_000).is_err());
    let checked = world.check(true);
    assert_eq!((only(&checked).severity, only(&checked).lost), (Severity::Error, 0));
    assert_eq!(world.repair().left.findings, []);
    assert_eq!(world.store.read(&cid, 10_000).unwrap(), twice);
    let world = world.reopen_without_index();
    assert_eq!(world.store.read(&cid, 10_000).unwrap(), twice);
}

/// An index from before the last puts, under a log position from after them, knows too little; one from after a
/// collection's retirement knows too much.
#[test]
fn an_index_that_disagrees_is_put_right() {
    let world = World::new();
    let (saved, dir) = (scratch(), world.dir.path().to_owned());
    let world = world.closed(|dir| common::copy(&dir.join("packs"), saved.path()));
    let extra = put(&world.store, &noise(30, 200_000));
    commit(&world.store, |batch| batch.put_memo(Hash::of(b"extra"), b"l", b"v").unwrap());
    let world = world.closed(|dir| {
        // The packs that the index knew are replaced by others of the same lengths: as if it had been restored.
        for class in ["data", "meta"] {
            let new = &packs(dir, class)[0];
            let old = saved.path().join(new.file_name().unwrap());
            let (mut bytes, old) = (fs::read(new).unwrap(), fs::read(old).unwrap());
            let tail = bytes.split_off(old.len());
            fs::write(new, [old, vec![0; tail.len()]].concat()).unwrap();
        }
    });
    let checked = world.check(false);
    assert!(checked.has_errors(), "{checked:#?}");
    assert!(world.store.contains(&extra).unwrap());
    world.repair();
    assert!(!world.store.contains(&extra).unwrap());
    assert_eq!(world.store.memo(&Hash::of(b"extra")).unwrap(), None);
    world.is_clean();
    assert!(dir.exists());
}

#[test]
fn a_check_goes_on_beside_puts_and_finds_nothing() {
    let world = World::new();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (store, over) = (&world.store, &over);
            scope.spawn(move || {
                for n in 0.. {
                    let seed = 1000 * (thread + 1) + n % 50;
                    let mut batch = store.batch();
                    batch.put_bytes(Codec::Raw, &noise(seed, 150_000)).unwrap();
                    let key = Hash::of(&(n % 7).to_le_bytes());
                    match n % 3 {
                        0 => batch.forget_memo(key).unwrap(),
                        _ => batch.put_memo(key, b"label", &noise(n, 100)).unwrap(),
                    }
                    batch.commit(if n % 5 == 0 { Durability::Durable } else { Durability::Lazy }).unwrap();
                    if over.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for round in 0..20 {
            let checked = world.check(round % 2 == 0);
            if !checked.findings.is_empty() {
                over.store(true, std::sync::atomic::Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(500));
                let again = world.check(round % 2 == 0);
                let name = world.dir.path().display().to_string();
                fs::rename(world.dir.path(), "/dev/shm/caught").unwrap();
                panic!("{name} round {round} {:#?} again {:#?}", checked.findings, again.findings);
            }
            let roots: Vec<Cid> = world.roots.iter().map(|root| root.1).collect();
            let mark = |marker: &mut Marker<'_>| roots.iter().try_for_each(|root| marker.keep(root));
            world.store.collect::<Error>(false, &mut |_| (), mark).unwrap();
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    world.is_clean();
    world.reads_right();
}

/// Repairs while others put: what they are told is stored reads right afterwards.
#[test]
fn a_repair_goes_on_beside_puts() {
    let world = World::new();
    let over = std::sync::atomic::AtomicBool::new(false);
    let put_all = |thread: u64| {
        let mut stored = Vec::new();
        for n in 0.. {
            let seed = 5000 + 100 * thread + n % 40;
            stored.push((seed, put(&world.store, &noise(seed, 120_000))));
            if over.load(std::sync::atomic::Ordering::Relaxed) {
                return stored;
            }
        }
        unreachable!("it goes on until it is over")
    };
    let stored: Vec<_> = std::thread::scope(|scope| {
        let put_all = &put_all;
        let threads: Vec<_> = (0..2).map(|thread| scope.spawn(move || put_all(thread))).collect();
        for _ in 0..5 {
            // The header: nothing is lost by it, and the pack must be rewritten.
            packs(world.dir.path(), "data").iter().chain(&packs(world.dir.path(), "meta")).for_each(|p| flip(p, 2, 1));
            let repaired = world.repair();
            assert!(!repaired.found.has_errors(), "{:#?}", repaired.found.findings);
            assert!(!repaired.aside.is_empty());
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    world.is_clean();
    for (seed, cid) in &stored {
        assert!(world.store.read(cid, 1 << 20).unwrap() == noise(*seed, 120_000));
    }
    let world = world.reopen_without_index();
    world.is_clean();
    for (seed, cid) in &stored {
        assert!(world.store.read(cid, 1 << 20).unwrap() == noise(*seed, 120_000));
    }
}

#[test]
fn a_check_can_be_ended() {
    let world = World::new();
    let roots = || world.roots.clone();
    let ended = world.store.check(true, &roots, &mut |_| ControlFlow::Break(()));
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
}

/// Damage of every kind to a closed store, drawn by lot.
fn strike(dir: &Path, dice: &[u8; 32]) {
    let draw = |at: usize| u64::from(u16::from_le_bytes([dice[at], dice[at + 1]]));
    let files = [packs(dir, "data"), packs(dir, "meta")].concat();
    let Some(path) = files.get(draw(0) as usize % files.len().max(1)) else { return };
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    // Within the first kilobytes or anywhere, for files of all sizes.
    let at = (draw(2) << (draw(4) % 5)) % len.max(1);
    let some = 1 + draw(6) % 6_000;
    match draw(8) % 8 {
        0 => flip(path, at.min(len.saturating_sub(1)), 1 << (dice[10] % 8)),
        1 => file.write_all_at(&vec![0; some.min(len - at) as usize], at).unwrap(),
        2 => file.write_all_at(&noise(some, some.min(len - at) as usize), at).unwrap(),
        3 => file.set_len(at).unwrap(),
        4 => file.write_all_at(&noise(some, some as usize), len).unwrap(),
        5 => fs::remove_file(path).unwrap(),
        6 => file.write_all_at(&fs::read(path).unwrap()[..some.min(len) as usize], at).unwrap(),
        _ => drop(fs::remove_dir_all(dir.join("index"))),
    }
}

/// Damage of any kind, struck while the store is closed: no panic, no wrong bytes, and what is put again reads right.
/// `GRIDFS_STRIKES` says how often.
#[test]
fn whatever_is_struck_heals() {
    let count = std::env::var("GRIDFS_STRIKES").map_or(20, |text| text.parse().unwrap());
    for seed in 0..count {
        let seed: u64 = seed;
        let dice = Hash::of(&seed.to_le_bytes()).0;
        let strikes = 1 + dice[31] % 3;
        let world = World::new().closed(|dir| {
            (0..strikes).for_each(|n| strike(dir, &Hash::of(&[dice[0], dice[1], n]).0));
        });
        println!("seed {seed}");
        let quick = world.check(false);
        let repaired = world.repair();
        assert!(
            repaired.found.has_errors() || !quick.has_errors(),
            "{:#?} {:#?}",
            quick.findings,
            repaired.found.findings
        );
        World::put_tree(&world.store);
        put(&world.store, &text(9, 50_000));
        world.is_clean();
        world.reads_right();
        let world = world.reopen_without_index();
        world.is_clean();
        world.reads_right();
    }
}

/// Every bit of every pack matters: each flip is found, and none is found once it is taken back.
fn flip_bits(count: u64) {
    let world = World::new();
    let files = [world.pack("data"), world.pack("meta")];
    let sizes = files.each_ref().map(|file| fs::metadata(file).unwrap().len());
    for n in 0..count {
        let dice = Hash::of(&n.to_le_bytes()).0;
        let dice = |at: usize| u64::from_le_bytes(dice[at..at + 8].try_into().unwrap());
        // The small file as often as the large one.
        let file = (dice(0) % 2) as usize;
        let (offset, bit) = (dice(8) % sizes[file], dice(16) % 8);
        flip(&files[file], offset, 1 << bit);
        let checked = world.check(true);
        flip(&files[file], offset, 1 << bit);
        let named = checked.findings.iter().any(|found| found.file.as_ref() == Some(&files[file]));
        assert!(named, "{} offset {offset} bit {bit}: {:?}", files[file].display(), checked.findings);
    }
    world.is_clean();
}

#[test]
fn flipped_bits_are_found() {
    flip_bits(300);
}

/// `cargo test -p gridfs-store --release --test check -- --ignored`: some minutes.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_flipped_bits_are_found() {
    flip_bits(10_000);
}
