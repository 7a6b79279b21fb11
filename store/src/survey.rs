//! A check's way through the packs: which records are sound, which members the index places where they are, and
//! which stretches can't be trusted.
//!
//! Only what was committed before the survey began is looked at; collections wait meanwhile, so what the index said
//! then of chunks stays true or is replaced by a later place. Memos are compared with the index as it was at that moment.
//!
//! Memory: eight bytes for each chunk, object and memo stored, and more for the memos, as a collection takes them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::commit::Commit;
use crate::error::Error;
use crate::finding::{Finding, Findings, Severity};
use crate::footer;
use crate::hash::Hash;
use crate::index::{Position, Snapshot};
use crate::lease::prefix;
use crate::location::{self, Entry, Location};
use crate::pack::{Class, FILE_HEADER_BYTES, PackFile, file_header};
use crate::record::{Flaw, Kind};
use crate::retire;
use crate::store::{Progress, Store};
use crate::walk::{Depth, Found, Step, Walk};

/// Flaws told apart in one pack; further ones lengthen the last.
const MAX_FLAWS: usize = 1000;

/// What the packs hold.
pub struct Survey<'a> {
    pub store: &'a Arc<Store>,
    pub findings: Findings,
    depth: Depth,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    told: Progress,
    /// What lies after this is not looked at.
    before: Position,
    /// How far each pack was gone through.
    ends: BTreeMap<u32, End>,
    /// Stretches that can't be trusted: pack and start, end, finding.
    flawed: BTreeMap<(u32, u64), (u64, usize)>,
    /// Keys that lie where the index says.
    pub sound: HashSet<u64>,
    pub sound_memos: HashSet<u64>,
    /// Members that the index places elsewhere.
    pub elsewhere: HashMap<Hash, Location>,
    /// The last that was met of each memo, and whether it ends there.
    memos: HashMap<Hash, (Location, bool)>,
    pub unknown_memos: Vec<(Hash, Location)>,
    /// Packs with members that the index does not know, and how far these are committed.
    pub unknown: BTreeMap<u32, u64>,
    /// Packs that are not as they were written.
    pub damaged: BTreeSet<u32>,
    /// Length of each data pack by the latest commit that names it.
    committed: BTreeMap<u32, u64>,
    last_sequence: u64,
}

#[derive(Clone, Copy)]
struct End {
    offset: u64,
    /// More is being written behind it.
    open: bool,
}

/// What one look at a pack gave.
struct Seen {
    class: Class,
    end: End,
    flaws: Vec<Stretch>,
    /// Members that the index does not know.
    unknown: u64,
    /// Of the records, less the footer.
    offsets: Vec<u32>,
    footer: Option<u64>,
    last_sequence: Option<u64>,
}

struct Stretch {
    from: u64,
    to: u64,
    what: Flaw,
}

impl Seen {
    fn new(class: Class, offset: u64, open: bool) -> Seen {
        let end = End { offset, open };
        Seen { class, end, flaws: Vec::new(), unknown: 0, offsets: Vec::new(), footer: None, last_sequence: None }
    }

    /// Notes a flaw; one that another joins is the same.
    fn flaw(&mut self, from: u64, to: u64, what: Flaw) {
        let full = self.flaws.len() >= MAX_FLAWS;
        match self.flaws.last_mut() {
            Some(last) if last.to >= from || full => last.to = last.to.max(to),
            _ => self.flaws.push(Stretch { from, to, what }),
        }
    }
}

impl<'a> Survey<'a> {
    /// Goes through all packs.
    pub fn run(
        store: &'a Arc<Store>,
        depth: Depth,
        progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Survey<'a>, Error> {
        let total_bytes = store.packs().usage()?.1;
        let snapshot = store.index().snapshot()?;
        let mut survey = Survey {
            store,
            findings: Findings::default(),
            depth,
            progress,
            told: Progress { done_bytes: 0, total_bytes },
            before: snapshot.indexed(),
            ends: BTreeMap::new(),
            flawed: BTreeMap::new(),
            sound: HashSet::new(),
            sound_memos: HashSet::new(),
            elsewhere: HashMap::new(),
            memos: HashMap::new(),
            unknown_memos: Vec::new(),
            unknown: BTreeMap::new(),
            damaged: BTreeSet::new(),
            committed: BTreeMap::new(),
            last_sequence: 0,
        };
        survey.directory(&snapshot)?;
        survey.class(Class::Meta, &snapshot)?;
        survey.settle_memos(&snapshot)?;
        drop(snapshot);
        let snapshot = store.index().snapshot()?;
        survey.class(Class::Data, &snapshot)?;
        Ok(survey)
    }

    pub fn packs(&self) -> (u64, u64) {
        (self.ends.len() as u64, self.told.total_bytes)
    }

    /// Whether a location was committed before the survey began.
    pub fn covers(&self, location: &Location) -> bool {
        match self.ends.get(&location.pack) {
            Some(end) => !end.open || location.offset < end.offset,
            None => self.is_lost(location.pack),
        }
    }

    /// Whether there was such a pack, and its file is not there.
    pub fn is_lost(&self, pack: u32) -> bool {
        let newest = self.ends.last_key_value().map_or(0, |(id, _)| *id);
        !self.ends.contains_key(&pack) && pack <= newest.max(self.before.data_id).max(self.before.meta_id)
    }

    /// The finding about the stretch that a record lies in.
    pub fn flaw_at(&self, location: &Location) -> Option<usize> {
        let place = (location.pack, location.offset);
        let ((pack, _), (to, finding)) = self.flawed.range(..=place).next_back()?;
        (*pack == location.pack && location.offset < *to).then_some(*finding)
    }

    fn directory(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let listing = self.store.packs().listing()?;
        for file in listing.strays {
            self.findings.add(Finding::new(Severity::Warning, "this is not a pack").at(file, None));
        }
        for pack in snapshot.retired() {
            let what = "this pack is no longer needed; it is removed when the store is opened again";
            self.findings.add(Finding::new(Severity::Warning, what).at(self.store.packs().path_of(*pack), None));
        }
        for (pack, path) in listing.vanished {
            self.damaged.insert(pack);
            let finding = self.findings.add(Finding::new(Severity::Warning, "the pack file is gone").at(path, None));
            self.flawed.insert((pack, 0), (u64::MAX, finding));
            self.ends.insert(pack, End { offset: u64::MAX, open: false });
        }
        Ok(())
    }

    fn class(&mut self, class: Class, snapshot: &Snapshot) -> Result<(), Error> {
        let (last, _) = self.frontier(class);
        for id in self.store.packs().ids(class) {
            if snapshot.retired().contains(&id) || self.ends.contains_key(&id) {
                continue;
            }
            if id > last {
                self.ends.insert(id, End { offset: 0, open: true });
                continue;
            }
            let done_bytes = self.told.done_bytes;
            let mut seen = self.look(id, class)?;
            if !seen.flaws.is_empty() {
                // A flaw that is not there at a second look was none of the pack's.
                self.told.done_bytes = done_bytes;
                seen = self.look(id, class)?;
            }
            self.note(id, seen);
        }
        Ok(())
    }

    fn frontier(&self, class: Class) -> (u32, u64) {
        match class {
            Class::Data => (self.before.data_id, self.before.data_end),
            Class::Meta => (self.before.meta_id, self.before.meta_end),
        }
    }

    fn note(&mut self, id: u32, seen: Seen) {
        let path = self.store.packs().path_of(id);
        self.ends.insert(id, seen.end);
        self.last_sequence = seen.last_sequence.unwrap_or(self.last_sequence);
        for flaw in seen.flaws {
            self.damaged.insert(id);
            // Whether anything was lost by it, the index will say.
            let finding = Finding::new(Severity::Warning, flaw.what).at(path.clone(), Some(flaw.from));
            let finding = self.findings.add(finding);
            self.flawed.insert((id, flaw.from), (flaw.to, finding));
        }
        if seen.unknown > 0 {
            self.unknown.insert(id, seen.end.offset);
            let what = format!("{} of its members are missing in the index", seen.unknown);
            self.findings.add(Finding::new(Severity::Error, what).at(path, None));
        }
    }

    fn look(&mut self, id: u32, class: Class) -> Result<Seen, Error> {
        let (last, frontier) = self.frontier(class);
        let open = id == last;
        let size = self.store.packs().get(id).and_then(|pack| pack.map(|p| Ok((p.size_bytes()?, p))).transpose());
        let (size_bytes, pack) = match size {
            Ok(Some(found)) => found,
            Ok(None) | Err(Error::Io { .. }) => {
                let mut seen = Seen::new(class, u64::MAX, false);
                seen.flaw(0, u64::MAX, "the pack file can't be opened");
                return Ok(seen);
            }
            Err(error) => return Err(error),
        };
        let wanted_bytes = if open { frontier } else { self.committed.get(&id).copied().unwrap_or(0) };
        let mut seen = Seen::new(class, if open { frontier } else { size_bytes }, open);
        check_header(&pack, &mut seen);
        self.records(&pack, &mut seen)?;
        check_footer(&pack, &mut seen, size_bytes)?;
        if size_bytes < wanted_bytes {
            seen.flaw(size_bytes, u64::MAX, "the file ends before what was committed does");
        }
        Ok(seen)
    }

    fn records(&mut self, pack: &PackFile, seen: &mut Seen) -> Result<(), Error> {
        let before = self.told.done_bytes;
        let depth = if seen.class == Class::Meta { Depth::Full } else { self.depth };
        for step in Walk::new(pack, FILE_HEADER_BYTES, seen.end.offset, depth)?.past_unreadable() {
            match step? {
                Step::Record(found) => {
                    self.told.done_bytes = before + found.end();
                    self.record(pack, &found, seen)?;
                }
                Step::Damage { from, to, what } => seen.flaw(from, to, what),
                Step::Torn { from, what } => seen.flaw(from, seen.end.offset, what),
            }
            if (self.progress)(self.told).is_break() {
                return Err(Error::Cancelled);
            }
        }
        self.told.done_bytes = before + pack.size_bytes()?;
        Ok(())
    }

    fn record(&mut self, pack: &PackFile, found: &Found, seen: &mut Seen) -> Result<(), Error> {
        if seen.footer.is_some() {
            seen.flaw(found.offset, found.end(), "a record follows the footer");
        }
        let whole = match found.kind {
            Kind::Footer => {
                seen.footer = Some(found.offset);
                return Ok(());
            }
            Kind::Commit => self.commit(found, seen),
            Kind::Retire => retire::decode(&found.plain).ok_or("the retirement makes no sense").map(drop),
            Kind::Chunks | Kind::Manifests | Kind::Memos => self.members(pack, found, seen)?,
        };
        seen.offsets.push(found.offset as u32);
        if let Err(what) = whole {
            seen.flaw(found.offset, found.end(), what);
        }
        Ok(())
    }

    /// Commits count up; where something is passed over or a pack is no more, some may be missing.
    fn commit(&mut self, found: &Found, seen: &mut Seen) -> Result<(), Flaw> {
        let commit = Commit::decode(&found.plain).ok_or("the commit makes no sense")?;
        self.committed.extend(commit.data);
        let in_order = match seen.last_sequence.replace(commit.sequence) {
            Some(last) if seen.flaws.is_empty() => commit.sequence == last + 1,
            last => commit.sequence > last.unwrap_or(self.last_sequence),
        };
        if in_order && commit.span_start <= found.offset { Ok(()) } else { Err("the commit is out of order") }
    }

    fn members(&mut self, pack: &PackFile, found: &Found, seen: &mut Seen) -> Result<Result<(), Flaw>, Error> {
        let entries = match location::entries_of(pack.id, found) {
            Ok(entries) => entries,
            Err(what) => return Ok(Err(what)),
        };
        for entry in entries {
            match entry.label {
                Some(_) => drop(self.memos.insert(entry.key, (entry.location, entry.forgets()))),
                None => self.member(&entry, seen)?,
            }
        }
        Ok(Ok(()))
    }

    fn member(&mut self, entry: &Entry, seen: &mut Seen) -> Result<(), Error> {
        match self.store.index().get(&entry.key)? {
            Some(location) if is_same(&location, &entry.location) => {
                self.sound.insert(prefix(&entry.key));
            }
            Some(_) => {
                self.elsewhere.insert(entry.key, entry.location);
            }
            None => seen.unknown += 1,
        }
        Ok(())
    }

    /// Compares the last of each memo with what the index says.
    fn settle_memos(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        for (key, (location, ends)) in std::mem::take(&mut self.memos) {
            match snapshot.memo(&key)? {
                Some(now) if !ends && is_same(&now, &location) => drop(self.sound_memos.insert(prefix(&key))),
                None if !ends && !self.may_end_after(&location) => self.unknown_memos.push((key, location)),
                // A false row is found when the rows are gone through.
                _ => {}
            }
        }
        if !self.unknown_memos.is_empty() {
            let what = format!("{} remembered results are missing in the index", self.unknown_memos.len());
            self.findings.add(Finding::new(Severity::Error, what));
        }
        Ok(())
    }

    /// Whether damage after `location` may hide the end of a memo.
    fn may_end_after(&self, location: &Location) -> bool {
        let place = (location.pack, location.offset);
        self.flawed.range(place..).any(|((pack, _), _)| self.store.packs().class_of(*pack) == Some(Class::Meta))
    }
}

/// Two records of one place; whether a chunk is an object by itself may be known of another place.
fn is_same(a: &Location, b: &Location) -> bool {
    *a == Location { whole: a.whole, ..*b }
}

fn check_header(pack: &PackFile, seen: &mut Seen) {
    let mut header = [0; FILE_HEADER_BYTES as usize];
    let read = pack.read_at(0, &mut header);
    if read.is_err() || header != file_header(pack.id, seen.class) {
        // Its last byte is left out, so that a flaw of the first record is told apart.
        seen.flaw(0, FILE_HEADER_BYTES - 1, "the file header is damaged");
    }
}

/// A footer lists the records, and ends the file.
fn check_footer(pack: &PackFile, seen: &mut Seen, size_bytes: u64) -> Result<(), Error> {
    let Some(offset) = seen.footer else { return Ok(()) };
    let end = seen.end.offset.min(size_bytes);
    let what = match pack.read_record(offset, (end - offset) as u32) {
        Ok(record) if !seen.flaws.is_empty() || footer::offsets(record.plain()).as_ref() == Some(&seen.offsets) => {
            return Ok(());
        }
        Ok(_) => "the footer lists other records",
        Err(_) => "the footer is damaged",
    };
    seen.flaw(offset, end, what);
    Ok(())
}
