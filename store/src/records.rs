//! Decoded records: the latest are kept, each is decoded once however many ask for it, and whoever reads a pack from
//! front to back finds the next ones decoded.
//!
//! A pack holds what was put in the order in which it was put. So files of a directory that are read one after the
//! other, and the pieces of a long file, are the same to the read-ahead: one record after the other. It starts when the
//! record after one that was read lately is read too, and is at most [`AHEAD`] records before its reader. It reads only
//! what is committed: what lies behind may be cut off and written anew.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use crate::cache::Cache;
use crate::error::Error;
use crate::index::Index;
use crate::pack::{Class, PackFile, Packs};
use crate::record::{HEADER_BYTES, Header, Kind, Record};

/// Memory for decoded records.
const CACHE_BYTES: usize = 64 << 20;
/// Records decoded before they are asked for: about 3 MiB.
const AHEAD: usize = 8;
/// Records read by one reader between two wake-ups of a thread, if they are shorter than [`LONG_BYTES`].
const STRIDE: usize = AHEAD / 2;
const LONG_BYTES: u32 = 64 << 10;
/// Readers whose way is remembered.
const MAX_READERS: usize = 64;
/// Places from which somebody reads on that wait for a thread; more are forgotten.
const MAX_WAITING: usize = 16;

/// Where a record begins: a pack and an offset.
pub type Place = (u32, u64);

/// The decoded records of a store.
pub struct Records {
    shared: Arc<Shared>,
    /// Taken when the threads are to end.
    read_on: Option<SyncSender<Place>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    packs: Arc<Packs>,
    index: Arc<Index>,
    cache: Cache<Place, Arc<Record>>,
    state: Mutex<State>,
    /// A record that was being decoded no longer is.
    landed: Condvar,
}

#[derive(Default)]
struct State {
    /// Being decoded.
    coming: HashSet<Place>,
    /// Who reads on, those that did lately last.
    readers: VecDeque<Reader>,
}

/// Somebody on the way through a pack.
struct Reader {
    /// Of the record read last.
    end: Place,
    /// Records read one after the other.
    steps: usize,
}

impl Records {
    /// Reads on with a thread for two cores: the others serve whoever reads.
    pub fn start(packs: Arc<Packs>, index: Arc<Index>) -> std::io::Result<Records> {
        let cache = Cache::new(CACHE_BYTES);
        let shared = Arc::new(Shared { packs, index, cache, state: Mutex::default(), landed: Condvar::new() });
        let (read_on, waiting) = sync_channel(MAX_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let thread = |_| {
            let (shared, waiting) = (Arc::clone(&shared), Arc::clone(&waiting));
            thread::Builder::new().name("gridfs-ahead".into()).spawn(move || shared.work(&waiting))
        };
        let threads = (0..cores.div_ceil(2)).map(thread).collect::<Result<_, _>>()?;
        Ok(Records { shared, read_on: Some(read_on), threads })
    }

    /// The record at `place` if it is decoded.
    pub fn at_hand(&self, place: Place) -> Option<Arc<Record>> {
        self.shared.cache.get(&place)
    }

    /// The record at `place`, `None` if its pack is gone.
    pub fn get(&self, place: Place, record_bytes: u32) -> Result<Option<Arc<Record>>, Error> {
        loop {
            if let Some(record) = self.at_hand(place) {
                return Ok(Some(record));
            }
            let Some(_claim) = self.shared.claim(place) else {
                self.shared.wait_for(place);
                continue;
            };
            let Some(pack) = self.shared.packs.get(place.0)? else { return Ok(None) };
            return self.shared.decode(&pack, place.1, record_bytes).map(Some);
        }
    }

    /// Notes that the record at `place` was read; if somebody is on the way through the pack, reads on for them.
    pub fn passed(&self, place: Place, record_bytes: u32) {
        let end = (place.0, place.1 + u64::from(record_bytes));
        let steps = self.shared.lock().step(place, end);
        // Short records are decoded several for one wake-up.
        let due = steps > 0 && (record_bytes >= LONG_BYTES || steps % STRIDE == 1);
        if !due || self.shared.packs.class_of(place.0) != Some(Class::Data) {
            return;
        }
        if let Some(read_on) = &self.read_on {
            // With all threads busy somebody else's way is as good.
            let _ = read_on.try_send(end);
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        drop(self.read_on.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that reads ahead panicked");
            }
        }
    }
}

impl State {
    /// How many records a reader has read on by now: 0 for one that came from elsewhere, and for a step that was noted
    /// already.
    fn step(&mut self, begin: Place, end: Place) -> usize {
        if self.readers.iter().any(|reader| reader.end == end) {
            return 0;
        }
        let came = self.readers.iter().position(|reader| reader.end == begin);
        let steps = came.and_then(|reader| self.readers.remove(reader)).map_or(0, |reader| reader.steps + 1);
        if self.readers.len() == MAX_READERS {
            self.readers.pop_front();
        }
        self.readers.push_back(Reader { end, steps });
        steps
    }
}

/// Somebody decodes a record; dropped when it is done, or can't be.
struct Claim<'a> {
    shared: &'a Shared,
    place: Place,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.shared.lock().coming.remove(&self.place);
        self.shared.landed.notify_all();
    }
}

impl Shared {
    /// The right to decode a record, unless somebody has it or it is decoded.
    fn claim(&self, place: Place) -> Option<Claim<'_>> {
        let mut state = self.lock();
        let free = !state.coming.contains(&place) && self.cache.get(&place).is_none();
        free.then(|| {
            state.coming.insert(place);
            Claim { shared: self, place }
        })
    }

    fn wait_for(&self, place: Place) {
        let state = self.lock();
        drop(self.landed.wait_while(state, |state| state.coming.contains(&place)));
    }

    fn decode(&self, pack: &PackFile, offset: u64, record_bytes: u32) -> Result<Arc<Record>, Error> {
        let record = Arc::new(pack.read_record(offset, record_bytes)?);
        self.cache.insert((pack.id, offset), Arc::clone(&record), record.weight());
        Ok(record)
    }

    fn work(&self, waiting: &Mutex<Receiver<Place>>) {
        loop {
            let place = waiting.lock().expect("receiving does not panic").recv();
            let Ok(place) = place else { return };
            if let Err(error) = self.read_on(place) {
                // Whoever needs the record hears of it.
                tracing::debug!(error = &error as &dyn std::error::Error, "reading ahead ended");
            }
        }
    }

    /// Decodes the records from `place` on that nobody has decoded yet.
    fn read_on(&self, (id, mut offset): Place) -> Result<(), Error> {
        let Some(pack) = self.packs.get(id)? else { return Ok(()) };
        for _ in 0..AHEAD {
            let Some(record_bytes) = self.length_at(&pack, offset)? else { return Ok(()) };
            if let Some(_claim) = self.claim((id, offset)) {
                self.decode(&pack, offset, record_bytes)?;
            }
            offset += u64::from(record_bytes);
        }
        Ok(())
    }

    /// The length of the record at `offset`, `None` if nothing committed is there.
    fn length_at(&self, pack: &PackFile, offset: u64) -> Result<Option<u32>, Error> {
        let indexed = self.index.indexed();
        let end = match pack.id.cmp(&indexed.data_id) {
            Ordering::Less => pack.size_bytes()?,
            Ordering::Equal => indexed.data_end,
            Ordering::Greater => 0,
        };
        if offset >= end {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        pack.read_at(offset, &mut header)?;
        let header = Header::decode(&header).map_err(|what| pack.corrupt(offset, what))?;
        Ok((header.kind == Kind::Chunks).then_some(header.record_bytes() as u32))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that can panic runs under this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cid::Codec;
    use crate::location::Location;
    use crate::manifest::Node;
    use crate::store::{Options, Store};
    use crate::writer::Durability;

    #[test]
    fn a_reader_is_known_by_the_record_before() {
        let mut state = State::default();
        let mut step = |begin, end| state.step((1, begin), (1, end));
        assert_eq!(step(24, 100), 0);
        assert_eq!(step(100, 300), 1);
        assert_eq!(step(100, 300), 0, "the same step again");
        assert_eq!(step(500, 600), 0, "a leap");
        assert_eq!([step(300, 400), step(600, 700)], [2, 1], "two readers");
        assert_eq!(state.step((2, 700), (2, 800)), 0, "another pack");
        assert_eq!(state.readers.len(), 3);
    }

    #[test]
    fn of_too_many_readers_the_oldest_is_forgotten() {
        let mut state = State::default();
        for pack in 0..=MAX_READERS as u32 {
            assert_eq!(state.step((pack, 24), (pack, 100)), 0);
        }
        assert_eq!(state.readers.len(), MAX_READERS);
        assert_eq!([state.step((0, 100), (0, 200)), state.step((2, 100), (2, 200))], [0, 1]);
    }

    /// A store with one long blob of bytes that do not compress, opened anew; and where its records lie, in order.
    fn stored(dir: &std::path::Path) -> (Arc<Store>, Vec<u8>, crate::cid::Cid, Vec<Location>) {
        let mut bytes = vec![0; 12 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let store = Arc::new(Store::open(dir, Options::default()).unwrap());
        let mut batch = store.batch();
        let cid = batch.put_bytes(Codec::Raw, &bytes).unwrap();
        batch.commit(Durability::Durable).unwrap();
        drop(store);
        let store = Arc::new(Store::open(dir, Options::default()).unwrap());
        let root = store.slice(&cid.hash, &store.index().get(&cid.hash).unwrap().unwrap()).unwrap();
        let chunks = Node::parse(root.bytes()).unwrap().hashes();
        let mut places: Vec<_> = chunks.map(|hash| store.index().get(&hash).unwrap().unwrap()).collect();
        places.dedup_by_key(|location| location.place());
        (store, bytes, cid, places)
    }

    fn eventually(what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn whoever_reads_on_finds_the_next_records_decoded_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (store, bytes, cid, places) = stored(dir.path());
        assert!(places.len() > AHEAD + 8, "{}", places.len());
        let object = store.object(&cid).unwrap().unwrap();
        assert_eq!(object.read_at_hand(0, 1).unwrap(), None);
        object.read_at(0, &mut [0; 1]).unwrap();
        let records = Records::start(store.packs().clone(), store.index().clone()).unwrap();
        // A leap: nothing is read on.
        for step in [0, 5, 2] {
            records.get(places[step].place(), places[step].record_bytes).unwrap().unwrap();
            records.passed(places[step].place(), places[step].record_bytes);
        }
        records.passed(places[3].place(), places[3].record_bytes);
        eventually("what follows is decoded", || {
            (4..4 + AHEAD).all(|at| records.at_hand(places[at].place()).is_some())
        });
        assert!(records.at_hand(places[1].place()).is_none());
        assert!(records.at_hand(places[4 + AHEAD].place()).is_none());
        // Through an object: what is at hand is what is there.
        let mut at = 0;
        while at < bytes.len() {
            let mut read = vec![0; 300_000.min(bytes.len() - at)];
            object.read_at(at as u64, &mut read).unwrap();
            assert!(object.read_at_hand(at as u64, 300_000).unwrap().as_ref() == Some(&read));
            assert!(read == bytes[at..at + read.len()]);
            at += read.len();
        }
    }

    #[test]
    fn a_record_is_decoded_once_for_all_who_ask_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, _, places) = stored(dir.path());
        let records = Records::start(store.packs().clone(), store.index().clone()).unwrap();
        let get = || records.get(places[0].place(), places[0].record_bytes).unwrap().unwrap();
        let found: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(get)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|record| Arc::ptr_eq(record, &found[0])));
    }

    #[test]
    fn what_is_not_committed_is_not_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let (store, bytes, _, places) = stored(dir.path());
        let last = places.last().unwrap();
        let end = (last.pack, last.offset + u64::from(last.record_bytes));
        let mut batch = store.batch();
        let more: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        batch.put_bytes(Codec::Raw, &more).unwrap();
        let pack = store.packs().get(end.0).unwrap().unwrap();
        let records = Records::start(store.packs().clone(), store.index().clone()).unwrap();
        assert!(pack.size_bytes().unwrap() > end.1, "it is written");
        assert_eq!(records.shared.length_at(&pack, end.1).unwrap(), None);
        batch.commit(Durability::Durable).unwrap();
        assert!(records.shared.length_at(&pack, end.1).unwrap().is_some());
    }
}
