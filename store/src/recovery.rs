//! Opens what a crash may have left: settles where the log ends, cuts what was never committed, and brings
//! the index up to date or builds it anew.
//!
//! Invariants: damage never makes the open fail; a commit that was acknowledged as durable is never cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::footer;
use crate::index::{Index, Position};
use crate::location::{self, Entry};
use crate::log::{self, LogEnd};
use crate::pack::{Class, FILE_HEADER_BYTES, PackFile, Packs};
use crate::record::Kind;
use crate::retire;
use crate::store::Progress;
use crate::walk::{Depth, Found, Step, Walk};
use crate::writer::{Active, Start};

/// Entries that go to the index at a time, some tens of megabytes: the more, the less often each of its pages is written.
const BATCH_ENTRIES: usize = 1 << 19;
/// Entries between two reports of progress.
const TOLD_ENTRIES: usize = 4096;

/// Recovers the store in `dir`.
pub fn run(dir: &Path, packs: &Packs, progress: &mut dyn FnMut(Progress)) -> Result<(Index, Start), Error> {
    let (index, mut log) = agree(dir, packs)?;
    // A pack that was lost must not have a successor of its name, to which the index would still point.
    packs.never_again(log.end.data_id.max(log.end.meta_id));
    let log_is_gone = packs.ids(Class::Meta).is_empty();
    let packs_before = packs.count();
    cut_meta(packs, &log.end)?;
    let kept = cut_data(packs, &mut log, log_is_gone)?;
    if packs.count() != packs_before {
        // A removed pack that came back after a crash might fit a log that has grown again by then.
        packs.sync_dir()?;
    }
    // A log that is gone was taken away by somebody, long after its data was written.
    if log.end != log.synced && !log_is_gone {
        save_since(packs, &log.synced)?;
    }
    let mut replay = Replay::new(&index, packs, &log, progress)?;
    replay.data(packs, &log)?;
    replay.meta(packs, &log)?;
    if !index.retired().is_empty() {
        packs.remove_retired(index.retired())?;
        index.purge()?;
    }
    if index.checkpoint().indexed != log.end || index.checkpoint().durable != log.durable {
        index.apply(&[], &[], log.end, log.durable)?;
    }
    let start = Start {
        data: active(packs, Class::Data, log.end.data_id, log.end.data_end)?,
        meta: active_meta(packs, &log.end)?,
        kept,
        end: log.end,
        durable: log.durable,
    };
    Ok((index, start))
}

/// An index and a log that agree. An index that does not is moved aside and begun anew.
fn agree(dir: &Path, packs: &Packs) -> Result<(Index, LogEnd), Error> {
    let path = dir.join("index");
    match Index::open(&path) {
        Ok(index) => {
            let checkpoint = index.checkpoint();
            // The pack up to which it was indexed may have been retired since, if the index was restored from a copy.
            let indexed_is_there = checkpoint.indexed.sequence == 0 || packs.get(checkpoint.indexed.meta_id)?.is_some();
            if indexed_is_there && log_reaches(packs, &checkpoint.durable)? {
                let log = log::scan(packs, checkpoint.durable)?;
                if checkpoint.indexed.sequence <= log.end.sequence {
                    return Ok((index, log));
                }
            }
            tracing::warn!(index = %path.display(), "the index is ahead of the packs; rebuilding it");
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the index won't open; rebuilding it");
        }
    }
    move_aside(dir, &path)?;
    let index = Index::open(&path)?;
    Ok((index, log::scan(packs, Position::default())?))
}

/// Whether the log is as long as the index remembers it.
fn log_reaches(packs: &Packs, position: &Position) -> Result<bool, Error> {
    if position.sequence == 0 {
        return Ok(true);
    }
    match packs.get(position.meta_id)? {
        Some(pack) => Ok(pack.size_bytes()? >= position.meta_end),
        None => Ok(false),
    }
}

/// Renames a bad index to `index.bad-<n>` and deletes the one moved aside before.
fn move_aside(dir: &Path, path: &Path) -> Result<(), Error> {
    let mut last = 0;
    for old in bad_indexes(dir)? {
        last = last.max(old.0);
        remove_any(&old.1)?;
    }
    let bad = dir.join(format!("index.bad-{}", last + 1));
    fs::rename(path, &bad).map_err(Error::io("move aside", path))?;
    // If it came back after a crash, it might fit a log that has grown again by then.
    let sync = || fs::File::open(dir)?.sync_all();
    sync().map_err(Error::io("sync", dir))
}

fn bad_indexes(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("index.bad-")?.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    Ok(found)
}

fn remove_any(path: &Path) -> Result<(), Error> {
    let is_dir = fs::symlink_metadata(path).map_err(Error::io("look at", path))?.is_dir();
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(Error::io("remove", path))
}

/// Cuts the log behind its end, keeping a footer.
fn cut_meta(packs: &Packs, end: &Position) -> Result<(), Error> {
    for id in packs.ids(Class::Meta) {
        if id > end.meta_id {
            packs.remove(id, Class::Meta)?;
        } else if id == end.meta_id {
            let pack = packs.for_writing(id, Class::Meta)?;
            if !ends_with_footer(&pack, end.meta_end)? {
                cut(&pack, end.meta_end)?;
            }
        }
    }
    Ok(())
}

/// Cuts data that no commit covers. A whole pack that was sealed between two commits is kept: its chunks
/// verify, and they may be all that is left of a long batch. So is every whole record when somebody lost
/// the meta packs altogether: a new store has one before anything can have been committed. Returns what was
/// kept, for the next commit to cover.
fn cut_data(packs: &Packs, log: &mut LogEnd, log_is_gone: bool) -> Result<BTreeMap<u32, u64>, Error> {
    let last_covered = log.end.data_id;
    let mut kept = BTreeMap::new();
    for id in packs.ids(Class::Data) {
        if id < last_covered {
            continue;
        }
        let covered = if id == last_covered { log.end.data_end } else { FILE_HEADER_BYTES };
        let pack = packs.for_writing(id, Class::Data)?;
        let size_bytes = pack.size_bytes()?;
        let keep = kept_bytes(&pack, covered, size_bytes, log_is_gone)?;
        if keep <= FILE_HEADER_BYTES && id != last_covered {
            packs.remove(id, Class::Data)?;
            continue;
        }
        cut(&pack, keep)?;
        if keep > covered {
            (log.end.data_id, log.end.data_end) = (id, keep);
            kept.insert(id, keep);
        }
    }
    Ok(kept)
}

fn kept_bytes(pack: &PackFile, covered: u64, size_bytes: u64, log_is_gone: bool) -> Result<u64, Error> {
    if size_bytes <= covered {
        return Ok(covered);
    }
    let whole = log::valid_prefix(pack, covered, size_bytes)?;
    let sealed = whole == size_bytes && footer::is_sealed(pack)?;
    Ok(if sealed || log_is_gone { whole } else { covered })
}

fn ends_with_footer(pack: &PackFile, from: u64) -> Result<bool, Error> {
    let steps: Vec<Step> = Walk::new(pack, from, u64::MAX, Depth::Full)?.collect::<Result<_, _>>()?;
    Ok(matches!(steps.as_slice(), [Step::Record(Found { kind: Kind::Footer, .. })]))
}

fn cut(pack: &PackFile, end: u64) -> Result<(), Error> {
    let size_bytes = pack.size_bytes()?;
    if size_bytes <= end {
        return Ok(());
    }
    tracing::info!(pack = %pack.path.display(), end, bytes = size_bytes - end, "cutting what was not committed");
    pack.truncate(end)?;
    pack.sync()
}

/// Makes durable what a process that died may not have: before the index hears of it, and before a durable commit
/// vouches for it. It is written again, not only synced: if that process died of a failed sync, the kernel may take
/// for saved what it has not saved.
fn save_since(packs: &Packs, synced: &Position) -> Result<(), Error> {
    for (class, first, first_from) in
        [(Class::Data, synced.data_id, synced.data_end), (Class::Meta, synced.meta_id, synced.meta_end)]
    {
        for id in packs.ids(class).into_iter().filter(|id| *id >= first) {
            let pack = packs.for_writing(id, class)?;
            match pack.rewrite(if id == first { first_from } else { 0 }) {
                // What is there already can at least be synced.
                Ok(()) | Err(Error::Full { .. }) => pack.sync()?,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The pack to append to, if the last one of its class is neither sealed nor shorter than it should be.
fn active(packs: &Packs, class: Class, id: u32, end: u64) -> Result<Option<Active>, Error> {
    if !packs.ids(class).contains(&id) {
        return Ok(None);
    }
    let pack = packs.for_writing(id, class)?;
    let open = pack.size_bytes()? == end && !footer::is_sealed(&pack)?;
    Ok(open.then(|| Active { pack: Arc::new(pack), end }))
}

/// As `active`, and makes a store's first meta pack.
fn active_meta(packs: &Packs, end: &Position) -> Result<Option<Active>, Error> {
    if packs.ids(Class::Meta).is_empty() {
        let pack = Arc::new(packs.create(Class::Meta)?);
        return Ok(Some(Active { pack, end: FILE_HEADER_BYTES }));
    }
    active(packs, Class::Meta, end.meta_id, end.meta_end)
}

/// Brings the index from its checkpoint to the end of the log.
struct Replay<'a> {
    index: &'a Index,
    from: Position,
    pending: Vec<Entry>,
    progress: &'a mut dyn FnMut(Progress),
    told: Progress,
    /// Entries since it was told.
    untold: usize,
}

impl<'a> Replay<'a> {
    fn new(
        index: &'a Index,
        packs: &Packs,
        log: &LogEnd,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Replay<'a>, Error> {
        let from = index.checkpoint().indexed;
        let mut total_bytes = 0;
        for class in [Class::Data, Class::Meta] {
            for (_, start, end) in spans(packs, class, &from, &log.end)? {
                total_bytes += end - start;
            }
        }
        let told = Progress { done_bytes: 0, total_bytes };
        Ok(Replay { index, from, pending: Vec::new(), progress, told, untold: 0 })
    }

    fn data(&mut self, packs: &Packs, log: &LogEnd) -> Result<(), Error> {
        for (id, start, end) in spans(packs, Class::Data, &self.from, &log.end)? {
            self.pack(packs, id, start, end, Depth::Tables)?;
        }
        self.flush()
    }

    fn meta(&mut self, packs: &Packs, log: &LogEnd) -> Result<(), Error> {
        for (id, start, end) in spans(packs, Class::Meta, &self.from, &log.end)? {
            self.pack(packs, id, start, end, Depth::Full)?;
        }
        self.flush()
    }

    fn pack(&mut self, packs: &Packs, id: u32, start: u64, end: u64, depth: Depth) -> Result<(), Error> {
        let Some(pack) = packs.get(id)? else { return Ok(()) };
        let before = self.told.done_bytes;
        for step in Walk::new(&pack, start, end, depth)? {
            match step? {
                Step::Record(found) => {
                    self.told.done_bytes = before + found.end() - start;
                    self.record(&pack, &found)?;
                }
                Step::Damage { from, what, .. } | Step::Torn { from, what } => {
                    tracing::warn!(pack = %pack.path.display(), offset = from, what, "passing over damage");
                }
            }
        }
        self.told.done_bytes = before + end - start;
        (self.progress)(self.told);
        Ok(())
    }

    fn record(&mut self, pack: &PackFile, found: &Found) -> Result<(), Error> {
        if let Some(retired) = retire::decode(&found.plain).filter(|_| found.kind == Kind::Retire) {
            return self.index.retire(&retired);
        }
        match location::entries_of(pack.id, found) {
            Ok(mut entries) => self.pending.append(&mut entries),
            Err(what) => {
                tracing::warn!(pack = %pack.path.display(), offset = found.offset, what, "passing over damage");
            }
        }
        self.untold += found.members.len();
        if self.untold >= TOLD_ENTRIES {
            self.untold = 0;
            (self.progress)(self.told);
        }
        if self.pending.len() < BATCH_ENTRIES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.index.advance(&std::mem::take(&mut self.pending))
    }
}

/// The parts of each pack of a class between two positions: id, start, end.
fn spans(packs: &Packs, class: Class, from: &Position, to: &Position) -> Result<Vec<(u32, u64, u64)>, Error> {
    let place = |position: &Position| match class {
        Class::Data => (position.data_id, position.data_end),
        Class::Meta => (position.meta_id, position.meta_end),
    };
    let ((first, first_from), (last, last_to)) = (place(from), place(to));
    let mut spans = Vec::new();
    for id in packs.ids(class).into_iter().filter(|id| (first..=last).contains(id)) {
        let Some(pack) = packs.get(id)? else { continue };
        let start = if id == first { first_from } else { FILE_HEADER_BYTES };
        let size_bytes = pack.size_bytes()?;
        let end = if id == last { last_to.min(size_bytes) } else { size_bytes };
        if end > start {
            spans.push((id, start, end));
        }
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cid::{Cid, Codec};
    use crate::disk::Files;
    use crate::hash::Hash;
    use crate::store::{Options, Stats, Store};
    use crate::writer::{Durability, Limits};

    const LIMITS: Limits = Limits { data_bytes: 1 << 20, meta_bytes: 20_000, lazy_for: Duration::from_millis(800) };

    fn open(dir: &Path) -> Arc<Store> {
        let disk = Arc::new(Files::new(dir.join("packs")));
        Arc::new(Store::open_limited(dir, disk, Options::default(), LIMITS).unwrap())
    }

    fn packs_of(dir: &Path) -> Packs {
        Packs::open(Arc::new(Files::new(dir.join("packs")))).unwrap()
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn put(store: &Arc<Store>, seed: u64) -> Cid {
        let mut batch = store.batch();
        let cid = batch.put_bytes(Codec::Raw, &noise(seed, 400_000)).unwrap();
        batch.put_memo(Hash(cid.hash.0), b"memo", &noise(seed, 5_000)).unwrap();
        batch.commit(Durability::Durable).unwrap();
        cid
    }

    fn check(store: &Arc<Store>, cids: &[Cid]) {
        for (seed, cid) in cids.iter().enumerate() {
            assert_eq!(store.read(cid, 1 << 20).unwrap(), noise(seed as u64, 400_000));
            assert_eq!(store.memo(&cid.hash).unwrap(), Some(noise(seed as u64, 5_000)));
        }
    }

    #[test]
    fn packs_roll_over_and_are_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut cids: Vec<_> = (0..10).map(|seed| put(&store, seed)).collect();
        for round in 0..3 {
            store.sync().unwrap();
            let stats = store.stats().unwrap();
            check(&store, &cids);
            drop(store);
            if round == 1 {
                fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            store = open(dir.path());
            assert_eq!(store.stats().unwrap(), Stats { disk_bytes: store.stats().unwrap().disk_bytes, ..stats });
            cids.push(put(&store, 10 + round));
        }
        check(&store, &cids);
        drop(store);
        let packs = packs_of(dir.path());
        for class in [Class::Data, Class::Meta] {
            let ids = packs.ids(class);
            assert!(ids.len() >= 4, "{class:?} {ids:?}");
            for id in &ids[..ids.len() - 1] {
                assert!(footer::is_sealed(&packs.get(*id).unwrap().unwrap()).unwrap(), "pack {id}");
            }
        }
    }

    /// A crash between sealing a data pack and the next commit.
    #[test]
    fn a_sealed_pack_that_no_commit_covers_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let cid = put(&store, 0);
        let mut batch = store.batch();
        for seed in 1..12 {
            batch.put_bytes(Codec::Raw, &noise(seed, 400_000)).unwrap();
        }
        drop(batch);
        drop(store);
        let packs_before = packs_of(dir.path()).ids(Class::Data);
        let store = open(dir.path());
        store.sync().unwrap();
        let stats = store.stats().unwrap();
        assert_eq!(stats.objects, 1, "no object of the dropped batch is named");
        assert!(stats.plain_bytes > 1 << 20);
        check(&store, &[cid]);
        drop(store);
        fs::remove_dir_all(dir.path().join("index")).unwrap();
        let again = open(dir.path()).stats().unwrap();
        assert_eq!(Stats { disk_bytes: 0, ..again }, Stats { disk_bytes: 0, ..stats });
        assert!(packs_before.len() >= 2);
    }
}
