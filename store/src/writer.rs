//! The one writer of a store: appends data, and commits for everybody at once.
//!
//! Invariants: data records go to the end of the active data pack under `state`; the meta pack is written by
//! the leader of a commit round only, under `log`. Index entries are applied after their commit record is
//! written (and, if durable, synced), never before. A commit that finds the disk full loses nothing but its
//! own meta records; any other failure of a write or sync leaves the disk in doubt and poisons the writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use crate::commit::Commit;
use crate::error::Error;
use crate::footer;
use crate::index::{Index, Position};
use crate::location::Entry;
use crate::pack::{Class, FILE_HEADER_BYTES, PackFile, Packs, Room};

/// When a commit is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before `commit` returns: survives a power cut.
    Durable,
    /// Within about a second: for results that can be had again.
    Lazy,
}

/// Meta records of one commit that are taken although the disk is full or the quota used up: a name can always be
/// removed.
pub const SMALL_BYTES: usize = 64 * 1024;

/// When a pack is sealed and the next one begun, and how long lazy commits wait for the disk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub data_bytes: u64,
    pub meta_bytes: u64,
    pub lazy_for: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { data_bytes: 256 << 20, meta_bytes: 64 << 20, lazy_for: Duration::from_millis(800) }
    }
}

/// Meta records of one batch, and what the index is to know of them (offsets from the start of `records`).
#[derive(Default)]
pub struct Contribution {
    pub records: Vec<u8>,
    pub entries: Vec<Entry>,
    /// Packs that a record among these retires.
    pub retired: Vec<u32>,
    /// Part of a collection.
    pub makes_room: bool,
}

/// A pack that is being written, and its end.
pub struct Active {
    pub pack: Arc<PackFile>,
    pub end: u64,
}

/// What recovery hands over.
pub struct Start {
    pub data: Option<Active>,
    pub meta: Option<Active>,
    /// Data that no commit covers yet: pack and length.
    pub kept: BTreeMap<u32, u64>,
    pub end: Position,
    pub durable: Position,
}

/// The writer.
pub struct Writer {
    packs: Arc<Packs>,
    index: Arc<Index>,
    limits: Limits,
    state: Mutex<State>,
    log: Mutex<Log>,
    /// Signalled at the end of a commit round.
    turn: Condvar,
}

struct State {
    data: Option<Active>,
    /// The position of the data last appended.
    data_end: (u32, u64),
    /// Data appended since the last commit, by any batch.
    appended: Vec<Entry>,
    touched: BTreeMap<u32, u64>,
    unsynced: BTreeMap<u32, Arc<PackFile>>,
    /// Meta records gathered for the next round.
    gathered: Contribution,
    ticket: Arc<Ticket>,
    durable_wanted: bool,
    /// Lazy commits have been made since the last durable one.
    lazy_made: bool,
    leading: bool,
    poison: Option<Arc<Error>>,
}

/// The end of the log.
struct Log {
    active: Option<Active>,
    end: Position,
    durable: Position,
}

/// How one round ended, for all who wait for it.
#[derive(Default)]
struct Ticket(OnceLock<Outcome>);

enum Outcome {
    Done,
    Full { path: std::path::PathBuf, needed_bytes: u64, free_bytes: u64 },
    Poisoned(Arc<Error>),
}

impl Outcome {
    fn to_result(&self) -> Result<(), Error> {
        match self {
            Outcome::Done => Ok(()),
            Outcome::Full { path, needed_bytes, free_bytes } => {
                let (needed_bytes, free_bytes) = (*needed_bytes, *free_bytes);
                Err(Error::Full { path: path.clone(), needed_bytes, free_bytes })
            }
            Outcome::Poisoned(cause) => Err(Error::Poisoned { cause: Arc::clone(cause) }),
        }
    }
}

/// What the leader takes with it.
struct Round {
    appended: Vec<Entry>,
    touched: BTreeMap<u32, u64>,
    unsynced: BTreeMap<u32, Arc<PackFile>>,
    data_end: (u32, u64),
    gathered: Contribution,
    ticket: Arc<Ticket>,
    durable: bool,
    lazy_made: bool,
}

impl Round {
    fn is_empty(&self) -> bool {
        let nothing_new = self.touched.is_empty() && self.gathered.records.is_empty();
        nothing_new && !(self.durable && self.lazy_made)
    }
}

impl Writer {
    pub fn new(packs: Arc<Packs>, index: Arc<Index>, limits: Limits, start: Start) -> Writer {
        let lazy_made = start.durable != start.end;
        let unsynced = start.data.iter().map(|active| (active.pack.id, Arc::clone(&active.pack))).collect();
        let state = State {
            data: start.data,
            data_end: (start.end.data_id, start.end.data_end),
            appended: Vec::new(),
            touched: start.kept,
            unsynced,
            gathered: Contribution::default(),
            ticket: Arc::default(),
            durable_wanted: false,
            lazy_made,
            leading: false,
            poison: None,
        };
        let log = Log { active: start.meta, end: start.end, durable: start.durable };
        Writer { packs, index, limits, state: Mutex::new(state), log: Mutex::new(log), turn: Condvar::new() }
    }

    /// Appends a data record, given in two parts; `entries` are placed where it lands and wait for a commit.
    pub fn append(&self, record: [&[u8]; 2], mut entries: Vec<Entry>, room: Room) -> Result<(), Error> {
        let mut state = self.lock();
        state.check()?;
        if state.data.is_none() {
            let pack = Arc::new(self.packs.create(Class::Data)?);
            state.data = Some(Active { pack, end: FILE_HEADER_BYTES });
        }
        let active = state.data.as_mut().expect("made just above");
        active.pack.append_parts(active.end, record, room)?;
        entries.iter_mut().for_each(|entry| entry.place(active.pack.id, active.end));
        active.end += (record[0].len() + record[1].len()) as u64;
        let (pack, end) = (Arc::clone(&active.pack), active.end);
        state.note(&pack, end);
        state.appended.append(&mut entries);
        if end >= self.limits.data_bytes { state.seal_data() } else { Ok(()) }
    }

    /// Makes `contribution` and all data appended so far visible, together with whoever else commits now.
    pub fn commit(&self, contribution: Contribution, durability: Durability) -> Result<(), Error> {
        let mut state = self.lock();
        state.check()?;
        state.gather(contribution);
        state.durable_wanted |= durability == Durability::Durable;
        let ticket = Arc::clone(&state.ticket);
        loop {
            if let Some(outcome) = ticket.0.get() {
                return outcome.to_result();
            }
            state = match state.leading {
                true => self.turn.wait(state).expect("no code that can panic runs under this lock"),
                false => self.lead_round(state),
            };
        }
    }

    /// Begins the next pack of a class, so that all before it may be retired.
    pub fn roll(&self, class: Class) -> Result<(), Error> {
        self.lock().check()?;
        let rolled = match class {
            Class::Data => self.lock().roll_data(&self.packs),
            Class::Meta => self.log.lock().expect("no code that can panic runs under this lock").roll(&self.packs),
        };
        match rolled {
            Err(cause) if !matches!(cause, Error::Full { .. }) => {
                let cause = Arc::new(cause);
                self.lock().poison.get_or_insert(Arc::clone(&cause));
                Err(Error::Poisoned { cause })
            }
            other => other,
        }
    }

    /// Makes all lazy commits durable. Does nothing when there are none.
    pub fn sync(&self) -> Result<(), Error> {
        let idle = {
            let state = self.lock();
            state.check()?;
            !state.lazy_made && !state.leading
        };
        if idle { Ok(()) } else { self.commit(Contribution::default(), Durability::Durable) }
    }

    /// Whether lazy commits wait for a sync.
    pub fn has_lazy(&self) -> bool {
        let state = self.lock();
        state.lazy_made && state.poison.is_none()
    }

    fn lead_round<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let mut round = state.take_round();
        // Asked now: what is written is taken out of the round.
        let is_lazy = !round.durable && !round.is_empty();
        if let Some(cause) = &state.poison {
            round.ticket.set(Outcome::Poisoned(Arc::clone(cause)));
            return state;
        }
        state.leading = true;
        drop(state);
        let outcome = self.lead(&mut round);
        let mut state = self.lock();
        state.leading = false;
        if outcome.is_ok() {
            state.lazy_made = is_lazy || state.lazy_made && !round.durable;
        }
        state.close_round(round, outcome);
        self.turn.notify_all();
        state
    }

    fn lead(&self, round: &mut Round) -> Result<(), Error> {
        if round.is_empty() {
            return Ok(());
        }
        let mut log = self.log.lock().expect("no code that can panic runs under this lock");
        if round.durable {
            sync_before(round, &log)?;
        }
        let end = log.write(&self.packs, round)?;
        if round.durable {
            log.sync()?;
            log.durable = end;
        }
        log.end = end;
        let entries = [round.appended.as_slice(), &round.gathered.entries].concat();
        self.index.apply(&entries, &round.gathered.retired, end, log.durable)?;
        log.seal_if_full(self.limits.meta_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that can panic runs under this lock")
    }
}

/// What a durable commit record vouches for: the data, and the lazy commits before it.
fn sync_before(round: &Round, log: &Log) -> Result<(), Error> {
    round.unsynced.values().try_for_each(|pack| pack.sync())?;
    if round.lazy_made { log.sync() } else { Ok(()) }
}

impl State {
    fn check(&self) -> Result<(), Error> {
        match &self.poison {
            Some(cause) => Err(Error::Poisoned { cause: Arc::clone(cause) }),
            None => Ok(()),
        }
    }

    /// Records that the active data pack now reaches to `end`.
    fn note(&mut self, pack: &Arc<PackFile>, end: u64) {
        self.data_end = (pack.id, end);
        self.touched.insert(pack.id, end);
        self.unsynced.insert(pack.id, Arc::clone(pack));
    }

    /// Ends the active data pack with its footer. On a full disk it stays active, and is sealed later.
    fn seal_data(&mut self) -> Result<(), Error> {
        let Some(active) = self.data.take() else { return Ok(()) };
        let footer = footer::encode(&active.pack, active.end)?;
        match active.pack.append(active.end, &footer, Room::Reserve) {
            Ok(()) => {
                self.note(&active.pack, active.end + footer.len() as u64);
                Ok(())
            }
            Err(Error::Full { .. }) => {
                self.data = Some(active);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A pack without its footer is as good as one that a crash left.
    fn roll_data(&mut self, packs: &Packs) -> Result<(), Error> {
        self.seal_data()?;
        let next = Arc::new(packs.create(Class::Data)?);
        self.note(&next, FILE_HEADER_BYTES);
        self.data = Some(Active { pack: next, end: FILE_HEADER_BYTES });
        Ok(())
    }

    fn gather(&mut self, mut contribution: Contribution) {
        let shift = self.gathered.records.len() as u64;
        contribution.entries.iter_mut().for_each(|entry| entry.place(0, shift));
        self.gathered.records.append(&mut contribution.records);
        self.gathered.entries.append(&mut contribution.entries);
        self.gathered.retired.append(&mut contribution.retired);
        self.gathered.makes_room |= contribution.makes_room;
    }

    fn take_round(&mut self) -> Round {
        let durable = std::mem::take(&mut self.durable_wanted);
        Round {
            appended: std::mem::take(&mut self.appended),
            touched: std::mem::take(&mut self.touched),
            unsynced: if durable { std::mem::take(&mut self.unsynced) } else { BTreeMap::new() },
            data_end: self.data_end,
            gathered: std::mem::take(&mut self.gathered),
            ticket: std::mem::take(&mut self.ticket),
            durable,
            lazy_made: self.lazy_made,
        }
    }

    fn close_round(&mut self, round: Round, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => round.ticket.set(Outcome::Done),
            Err(Error::Full { path, needed_bytes, free_bytes }) => {
                let ticket = Arc::clone(&round.ticket);
                self.take_back(round);
                ticket.set(Outcome::Full { path, needed_bytes, free_bytes });
            }
            Err(cause) => {
                let cause = Arc::new(cause);
                self.poison = Some(Arc::clone(&cause));
                round.ticket.set(Outcome::Poisoned(cause));
            }
        }
    }

    /// After a full disk: the data stays and waits for the next commit; the meta records are gone.
    fn take_back(&mut self, mut round: Round) {
        round.appended.append(&mut self.appended);
        self.appended = round.appended;
        round.touched.append(&mut self.touched);
        self.touched = round.touched;
        self.unsynced.append(&mut round.unsynced);
    }
}

impl Ticket {
    fn set(&self, outcome: Outcome) {
        assert!(self.0.set(outcome).is_ok(), "a round ends once");
    }
}

impl Log {
    /// Writes the round's meta records and its commit record in one go; returns the new end. The first commit of a
    /// pack names the newest data pack in any case, so that no earlier meta pack is needed to know how far it reaches.
    fn write(&mut self, packs: &Packs, round: &mut Round) -> Result<Position, Error> {
        if self.active.is_none() {
            let pack = Arc::new(packs.create(Class::Meta)?);
            self.active = Some(Active { pack, end: FILE_HEADER_BYTES });
        }
        let active = self.active.as_mut().expect("made just above");
        let mut touched = round.touched.clone();
        if active.end == FILE_HEADER_BYTES && round.data_end.0 != 0 {
            touched.insert(round.data_end.0, round.data_end.1);
        }
        let commit = Commit {
            sequence: self.end.sequence + 1,
            span_start: active.end,
            durable: round.durable,
            data: touched.into_iter().collect(),
        };
        let mut records = std::mem::take(&mut round.gathered.records);
        records.extend_from_slice(&commit.encode());
        let small = records.len() <= SMALL_BYTES || round.gathered.makes_room;
        let room = if small { Room::Reserve } else { Room::Plenty };
        active.pack.append(active.end, &records, room)?;
        round.gathered.entries.iter_mut().for_each(|entry| entry.place(active.pack.id, active.end));
        active.end += records.len() as u64;
        let (data_id, data_end) = round.data_end;
        let (meta_id, meta_end) = (active.pack.id, active.end);
        Ok(Position { sequence: commit.sequence, meta_id, meta_end, data_id, data_end })
    }

    fn sync(&self) -> Result<(), Error> {
        self.active.as_ref().map_or(Ok(()), |active| active.pack.sync())
    }

    fn roll(&mut self, packs: &Packs) -> Result<(), Error> {
        self.seal_if_full(0)?;
        self.sync()?;
        let next = Arc::new(packs.create(Class::Meta)?);
        self.active = Some(Active { pack: next, end: FILE_HEADER_BYTES });
        Ok(())
    }

    /// Seals a full meta pack; it is on disk before its successor begins. Its footer lies behind the end of
    /// the log, where a scan meets and skips it.
    fn seal_if_full(&mut self, limit: u64) -> Result<(), Error> {
        let Some(active) = self.active.take_if(|active| active.end >= limit) else { return Ok(()) };
        let footer = footer::encode(&active.pack, active.end)?;
        match active.pack.append(active.end, &footer, Room::Reserve) {
            Ok(()) => active.pack.sync(),
            Err(Error::Full { .. }) => {
                self.active = Some(active);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Files;
    use crate::hash::Hash;
    use crate::location;
    use crate::record::{Draft, Kind};

    /// A log that can't be written, as after a disk error: the file is open for reading only.
    #[test]
    fn a_failed_write_of_the_log_stops_all_writing() {
        let dir = tempfile::tempdir().unwrap();
        let packs = Arc::new(Packs::open(Arc::new(Files::new(dir.path().join("packs")))).unwrap());
        let index = Arc::new(Index::open(&dir.path().join("index")).unwrap());
        let id = packs.create(Class::Meta).unwrap().id;
        let meta = Active { pack: packs.get(id).unwrap().unwrap(), end: FILE_HEADER_BYTES };
        let position = Position::default();
        let start = Start { data: None, meta: Some(meta), kept: BTreeMap::new(), end: position, durable: position };
        let writer = Writer::new(packs, Arc::clone(&index), Limits::default(), start);
        let mut draft = Draft::default();
        draft.push(&Hash::of(b"abc"), true, b"abc");
        let record = draft.seal(Kind::Chunks);
        let members = record.draft().members();
        let entries = || location::entries(Kind::Chunks, record.record_bytes(), &members, b"abc").unwrap();
        writer.append(record.parts(), entries(), Room::Plenty).unwrap();
        let cause = match writer.commit(Contribution::default(), Durability::Durable) {
            Err(Error::Poisoned { cause }) => cause,
            other => panic!("{other:?}"),
        };
        assert!(matches!(*cause, Error::Io { .. }), "{cause:?}");
        assert_eq!(index.get(&Hash::of(b"abc")).unwrap(), None);
        let lazily = || writer.commit(Contribution::default(), Durability::Lazy);
        for refused in [writer.append(record.parts(), entries(), Room::Plenty), lazily(), writer.sync()] {
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        }
        assert!(!writer.has_lazy());
    }

    /// Lazy commits of memos or trees alone counted as nothing: no sync was made for them, and the next durable commit
    /// vouched for records that a power cut could still lose.
    #[test]
    fn a_lazy_commit_without_data_waits_for_a_sync_too() {
        let dir = tempfile::tempdir().unwrap();
        let packs = Arc::new(Packs::open(Arc::new(Files::new(dir.path().join("packs")))).unwrap());
        let index = Arc::new(Index::open(&dir.path().join("index")).unwrap());
        let position = Position::default();
        let start = Start { data: None, meta: None, kept: BTreeMap::new(), end: position, durable: position };
        let writer = Writer::new(packs, Arc::clone(&index), Limits::default(), start);
        let mut draft = Draft::default();
        draft.push(&Hash::of(b"k"), false, &location::join_memo(b"label", b"value"));
        let contribution =
            Contribution { records: draft.seal(Kind::Memos).parts().concat(), ..Contribution::default() };
        writer.commit(contribution, Durability::Lazy).unwrap();
        assert!(writer.has_lazy());
        assert_eq!(index.checkpoint().durable, position);
        writer.commit(Contribution::default(), Durability::Lazy).unwrap();
        assert!(writer.has_lazy(), "an empty commit changes nothing");
        writer.sync().unwrap();
        assert!(!writer.has_lazy());
        assert_eq!(index.checkpoint().durable, index.checkpoint().indexed);
    }
}
