//! The check of a whole store, while others put and read: is everything there that the index knows and the roots need?
//!
//! 1. The packs are gone through (survey.rs): records, footers, commits, and whether the index knows each member.
//! 2. The index is gone through: every row must name a member that the survey met.
//! 3. What is reached from the roots is followed, and what is lost is told by the names people know it by (owners.rs).
//!
//! Meta packs are always read in full, data packs only if that is asked for. Collections wait until the check is over.
//! Invariant: a check writes nothing.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cid::Cid;
use crate::error::Error;
use crate::finding::{Checked, Finding, Severity};
use crate::hash::Hash;
use crate::index::Correction;
use crate::lease::prefix;
use crate::location::Location;
use crate::owners::Owners;
use crate::repair::Mending;
use crate::store::{Progress, Store};
use crate::survey::Survey;
use crate::walk::Depth;

/// What is to be complete: objects, and the names people know them by.
pub type Roots<'a> = &'a dyn Fn() -> Vec<(String, Cid)>;

/// A chunk or object that can't be read.
pub struct Lost {
    pub finding: usize,
    /// Where it was.
    pub at: Location,
}

impl Store {
    /// Checks headers, tables, directories, manifests and the index; with `read_data` every byte. `roots` is asked
    /// when no collection is under way. An end told by `progress` is [`Error::Cancelled`].
    pub fn check(
        self: &Arc<Self>,
        read_data: bool,
        roots: Roots<'_>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Checked, Error> {
        let _alone = self.collecting().lock().map_err(|_| Error::CollectionFailed)?;
        run(self, read_data, roots, progress)
    }
}

/// The check, while no collection is under way.
pub fn run(
    store: &Arc<Store>,
    read_data: bool,
    roots: Roots<'_>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Checked, Error> {
    let depth = if read_data { Depth::Full } else { Depth::Tables };
    let mut survey = Survey::run(store, depth, progress)?;
    let mut rows = Rows::default();
    rows.compare(&mut survey)?;
    let (packs, stored_bytes) = survey.packs();
    let members = (survey.sound.len() + survey.sound_memos.len()) as u64;
    let mending = Mending {
        objects: rows.objects,
        memos: rows.memos,
        unknown: survey.unknown,
        unknown_memos: survey.unknown_memos,
        damaged: survey.damaged,
    };
    let mut findings = survey.findings;
    let done = Progress { done_bytes: stored_bytes, total_bytes: stored_bytes };
    let mut tick = || progress(done);
    let mut owners = Owners::new(store, &mut findings, &rows.lost, &mut tick);
    let reached = owners.name(&roots())?;
    if read_data || !rows.lost.is_empty() {
        owners.name_objects()?;
    }
    Ok(Checked { findings: findings.into_list(), packs, stored_bytes, members, reached, mending })
}

/// The rows of the index that are false.
#[derive(Default)]
struct Rows {
    lost: HashMap<Hash, Lost>,
    objects: Vec<Correction>,
    memos: Vec<Correction>,
    /// Findings about packs as a whole.
    by_pack: BTreeMap<u32, usize>,
}

impl Rows {
    fn compare(&mut self, survey: &mut Survey<'_>) -> Result<(), Error> {
        let snapshot = survey.store.index().snapshot()?;
        let (mut objects, mut memos) = (Vec::new(), Vec::new());
        let is_old = |at: &Location| !snapshot.retired().contains(&at.pack) && survey.covers(at);
        snapshot.each_object(&mut |key, at| {
            if !survey.sound.contains(&prefix(&key)) && is_old(&at) {
                objects.push((key, at));
            }
        })?;
        snapshot.each_memo(&mut |key, at| {
            if !survey.sound_memos.contains(&prefix(&key)) && is_old(&at) {
                memos.push((key, at));
            }
        })?;
        objects.into_iter().for_each(|(key, at)| self.object(survey, key, at));
        memos.into_iter().for_each(|(key, at)| self.memo(survey, key, at));
        Ok(())
    }

    fn object(&mut self, survey: &mut Survey<'_>, key: Hash, from: Location) {
        let number = self.blame(survey, &from);
        let finding = survey.findings.make_error(number);
        let to = survey.elsewhere.get(&key).copied();
        if to.is_none() {
            finding.lost += 1;
            self.lost.insert(key, Lost { finding: number, at: from });
        }
        self.objects.push(Correction { key, from, to });
    }

    fn memo(&mut self, survey: &mut Survey<'_>, key: Hash, from: Location) {
        let number = self.blame(survey, &from);
        survey.findings.make_error(number).lost_memos += 1;
        self.memos.push(Correction { key, from, to: None });
    }

    /// The finding that explains why nothing is where the index says.
    fn blame(&mut self, survey: &mut Survey<'_>, at: &Location) -> usize {
        if let Some(finding) = survey.flaw_at(at) {
            return finding;
        }
        let what = match survey.is_lost(at.pack) {
            true => "the pack file is gone",
            false => "the index looks here for what is not here",
        };
        let path = survey.store.packs().path_of(at.pack);
        let add = || survey.findings.add(Finding::new(Severity::Error, what).at(path, None));
        *self.by_pack.entry(at.pack).or_insert_with(add)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::io;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::cid::Codec;
    use crate::disk::{Access, Disk, DiskFile, Files};
    use crate::pack::{Class, Packs, Room};
    use crate::record::{Draft, Kind};
    use crate::store::Options;
    use crate::writer::{Durability, Limits};

    /// A data pack takes two records.
    const LIMITS: Limits = Limits { data_bytes: 400_000, meta_bytes: 2_000, lazy_for: Duration::MAX };

    /// A disk that can't read one sector of data packs.
    struct Worn {
        files: Files,
        bad: Arc<AtomicU64>,
    }

    struct WornFile(Box<dyn DiskFile>, Arc<AtomicU64>);

    impl Worn {
        fn wear(&self, name: &str, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
            if name.ends_with(".data") { Box::new(WornFile(file, Arc::clone(&self.bad))) } else { file }
        }
    }

    impl Disk for Worn {
        fn dir(&self) -> &Path {
            self.files.dir()
        }
        fn make(&self) -> io::Result<()> {
            self.files.make()
        }
        fn names(&self) -> io::Result<Vec<OsString>> {
            self.files.names()
        }
        fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
            Ok(self.wear(name, self.files.create(name)?))
        }
        fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn DiskFile>> {
            Ok(self.wear(name, self.files.open(name, access)?))
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.files.remove(name)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.files.rename(from, to)
        }
        fn sync(&self) -> io::Result<()> {
            self.files.sync()
        }
        fn free_bytes(&self) -> io::Result<u64> {
            self.files.free_bytes()
        }
    }

    impl DiskFile for WornFile {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let bad = self.1.load(Ordering::Relaxed);
            match offset < bad + 512 && bad < offset + buf.len() as u64 {
                true => Err(rustix::io::Errno::IO.into()),
                false => self.0.read_exact_at(buf, offset),
            }
        }
        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_all_at(bytes, offset)
        }
        fn set_len(&self, size_bytes: u64) -> io::Result<()> {
            self.0.set_len(size_bytes)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn open(disk: Arc<dyn Disk>, dir: &Path) -> Arc<Store> {
        Arc::new(Store::open_limited(dir, disk, Options::default(), LIMITS).unwrap())
    }

    fn fill(store: &Arc<Store>) -> Vec<(String, Cid)> {
        let put = |seed: u64| {
            let mut batch = store.batch();
            let cid = batch.put_bytes(Codec::Raw, &noise(seed, 100_000)).unwrap();
            batch.put_memo(Hash(cid.hash.0), b"memo", &noise(seed, 500)).unwrap();
            batch.commit(Durability::Durable).unwrap();
            (seed.to_string(), cid)
        };
        (0..12).map(put).collect()
    }

    fn checked(store: &Arc<Store>, read_data: bool, roots: &[(String, Cid)]) -> Checked {
        store.check(read_data, &|| roots.to_vec(), &mut |_| ControlFlow::Continue(())).unwrap()
    }

    /// With several packs of each class, sealed by footers.
    #[test]
    fn every_part_of_a_footer_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Files::new(dir.path().join("packs")));
        let store = open(disk, dir.path());
        let roots = fill(&store);
        assert_eq!(checked(&store, true, &roots).findings, []);
        for class in [Class::Data, Class::Meta] {
            let id = store.packs().ids(class)[1];
            let path = store.packs().path_of(id);
            let whole = fs::read(&path).unwrap();
            let footer = whole.windows(5).rposition(|bytes| bytes == b"gRec\x05").expect("it is sealed");
            for at in footer..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                fs::write(&path, &bytes).unwrap();
                for read_data in [false, true] {
                    let checked = checked(&store, read_data, &roots);
                    let found = &checked.findings[0];
                    assert_eq!((found.file.as_ref(), checked.findings.len()), (Some(&path), 1), "{class:?} {at}");
                    assert_eq!((found.offset, found.severity), (Some(footer as u64), Severity::Warning));
                }
            }
            fs::write(&path, &whole).unwrap();
        }
        assert_eq!(checked(&store, true, &roots).findings, []);
    }

    #[test]
    fn what_the_disk_cant_read_is_passed_over_and_the_rest_saved() {
        let dir = tempfile::tempdir().unwrap();
        let bad = Arc::new(AtomicU64::new(u64::MAX - 512));
        let disk = Worn { files: Files::new(dir.path().join("packs")), bad: Arc::clone(&bad) };
        let store = open(Arc::new(disk), dir.path());
        let mut batch = store.batch();
        let roots: Vec<(String, Cid)> = (0..200)
            .map(|seed| (seed.to_string(), batch.put_bytes(Codec::Raw, &noise(seed, 15_000)).unwrap()))
            .collect();
        batch.commit(Durability::Durable).unwrap();
        assert_eq!(checked(&store, true, &roots).findings, []);
        bad.store(100_000, Ordering::Relaxed);
        let found = checked(&store, true, &roots);
        assert!(found.has_errors() && found.findings.iter().all(|found| found.what == "the disk can't read this"));
        let repaired = store.repair(&|| roots.clone(), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(repaired.found.findings, found.findings);
        bad.store(u64::MAX - 512, Ordering::Relaxed);
        let lost: u64 = found.findings.iter().map(|found| found.lost).sum();
        let missing = roots.iter().filter(|(_, cid)| !store.contains(cid).unwrap()).count() as u64;
        assert!(lost > 0 && lost < 200, "{lost}");
        assert_eq!((missing, repaired.left.findings.len() as u64), (lost, lost));
        for (seed, (_, cid)) in roots.iter().enumerate() {
            if store.contains(cid).unwrap() {
                assert_eq!(store.read(cid, 1 << 20).unwrap(), noise(seed as u64, 15_000));
            }
        }
    }

    /// A record whose checksums are right, in a place where none of its kind belongs.
    #[test]
    fn memos_in_a_data_pack_are_not_taken_for_sound() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Files::new(dir.path().join("packs")));
        let roots = fill(&open(Arc::clone(&disk) as _, dir.path()));
        let packs = Packs::open(Arc::clone(&disk) as _).unwrap();
        let pack = packs.for_writing(packs.ids(Class::Data)[0], Class::Data).unwrap();
        let mut draft = Draft::default();
        draft.push(&Hash::of(b"x"), false, b"\xff");
        let record = draft.seal(Kind::Memos).parts().concat();
        pack.append(pack.size_bytes().unwrap(), &record, Room::Plenty).unwrap();
        drop((pack, packs));
        let store = open(disk, dir.path());
        for read_data in [false, true] {
            let checked = checked(&store, read_data, &roots);
            assert!(!checked.findings.is_empty() && !checked.has_errors(), "{:#?}", checked.findings);
        }
    }
}
