//! Fetching an object, with all that belongs to it, into the store.
//!
//! One peer lists what it consists of (`listing.rs`). The chunks that are missing here are asked of all providers at once
//! (`plan.rs`), a few want-lists ahead. The records that come are unpacked and checked side by side; one thread appends them to
//! the store, as they are, in the order in which they came. When all chunks are there, files are put together and checked
//! against their names, then directories from below; only then anything is visible. What came of a fetch that ended early stays
//! for the next as long as no collection takes it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gridfs_store::{Batch, Cid, Durability, Hash, Lease, MAX_PARCEL_BYTES, Parcel, Store};
use libp2p::PeerId;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::ask::Request;
use crate::error::{Blame, Error};
use crate::listing::{self, Listing};
use crate::network::Network;
use crate::plan::{HEDGE, Next, Plan};
use crate::rolling::Rolling;
use crate::wire::{self, Done, GetChunks, MAX_WANTS, Record, Want};

/// Records that are checked, or wait to be stored: about 4 MiB, 10 at most, and as much unpacked.
const MAX_WAITING: usize = 8;
/// A peer may send more than was asked for, because records are not taken apart for little: twice as much, and its tables.
const SLACK_BYTES: u64 = MAX_PARCEL_BYTES as u64;

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the missing chunks that have come.
    pub done_bytes: u64,
    /// Bytes of all that were missing when it began.
    pub total_bytes: u64,
}

/// Told how far it has come.
type Observer = Arc<dyn Fn(Progress) + Send + Sync>;

/// What to fetch, and from whom.
pub struct Fetch {
    /// The object.
    pub cid: Cid,
    /// Whom to ask, the best first.
    pub providers: Vec<PeerId>,
    /// It may have so many bytes with all that belongs to it.
    pub max_bytes: u64,
    /// Whether to wait until it is on disk.
    pub durability: Durability,
    /// Told how far it has come, on a thread that may wait.
    pub progress: Option<Observer>,
}

/// An object that is in the store now.
pub struct Fetched {
    /// Its length with all that belongs to it; 0 if it was here before.
    pub size_bytes: u64,
    /// Bytes of records that came.
    pub moved_bytes: u64,
    /// Who sent rubbish on the way.
    pub blamed: Vec<Blame>,
    /// Keeps it from being collected: time to name it.
    pub lease: Lease,
}

/// What the tasks of one fetch share.
struct Shared {
    plan: Mutex<Plan>,
    /// The plan changed, so that who waits may have something to do.
    changed: Notify,
    /// Memory of records that were stored, for those to come: to clear it anew takes as long as to decrypt what comes.
    spare: Mutex<Vec<Vec<u8>>>,
    /// Where each needed chunk stands in the plan.
    index: HashMap<Hash, usize>,
    total_bytes: u64,
    progress: Option<Observer>,
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no code that can panic runs under this lock")
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().expect("no code that can panic runs under this lock")
    }
}

/// What goes from those who ask to the one who stores.
enum Arrival {
    /// A record of so many bytes, being checked.
    Record(PeerId, usize, JoinHandle<Result<Parcel, &'static str>>),
    Answered {
        peer: PeerId,
        span: usize,
        missing: Vec<Hash>,
    },
}

/// A fetch that is ready to begin.
struct Prepared {
    batch: Batch,
    listing: Listing,
    /// The files that are not stored yet, by number.
    wanted: Vec<usize>,
    shared: Arc<Shared>,
}

impl Network {
    /// Fetches an object with all that belongs to it into the store. It must be believed already that it is the one
    /// wanted: here it is only made sure that it is the one named.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Fetched, Error> {
        let lease = self.shared.store.lease();
        lease.keep(&fetch.cid);
        if self.shared.store.contains(&fetch.cid)? {
            return Ok(Fetched { size_bytes: 0, moved_bytes: 0, blamed: Vec::new(), lease });
        }
        let mut failures = Vec::new();
        for lister in &fetch.providers {
            let listed = listing::ask(self, *lister, fetch.cid, fetch.max_bytes).await;
            self.note(*lister, &listed);
            let fetched = match listed {
                Ok(listing) => self.fetch_listed(&fetch, listing, &mut failures).await,
                Err(error) => Err(error),
            };
            match fetched {
                Ok(mut fetched) => {
                    fetched.blamed = failures.iter().filter_map(|(_, error)| error.blame().cloned()).collect();
                    return Ok(fetched);
                }
                Err(Error::Store(gridfs_store::Error::Mismatch { .. })) => {
                    let blame =
                        Err::<(), _>(Blame { peer: *lister, what: "a list of chunks that are not the object" }.into());
                    self.note(*lister, &blame);
                    failures.extend(blame.err().map(|error| (*lister, error)));
                }
                Err(error @ (Error::Store(_) | Error::Stopped | Error::NoProvider { .. })) => return Err(error),
                Err(error) => failures.push((*lister, error)),
            }
        }
        Err(Error::NoProvider { cid: fetch.cid, failures })
    }

    async fn fetch_listed(
        &self,
        fetch: &Fetch,
        listing: Listing,
        failures: &mut Vec<(PeerId, Error)>,
    ) -> Result<Fetched, Error> {
        let (store, progress) = (Arc::clone(&self.shared.store), fetch.progress.clone());
        let prepared = blocking(move || prepare(&store, listing, progress)).await?;
        let shared = Arc::clone(&prepared.shared);
        let (arrivals, waiting) = mpsc::channel(MAX_WAITING);
        let durability = fetch.durability;
        let storing = spawn_blocking(move || store_all(prepared, waiting, durability));
        let rubbish: HashSet<PeerId> =
            failures.iter().filter(|(_, e)| e.blame().is_some()).map(|(peer, _)| *peer).collect();
        let asked = fetch.providers.iter().filter(|peer| !rubbish.contains(peer));
        let mut asking: FuturesUnordered<_> = asked
            .map(|peer| {
                let asking = self.ask_for_chunks(*peer, fetch.cid, &shared, arrivals.clone());
                async move { (*peer, asking.await) }
            })
            .collect();
        drop(arrivals);
        loop {
            // Made before it is looked, so that no change is missed.
            let changed = shared.changed.notified();
            if shared.plan().is_done() {
                break;
            }
            tokio::select! {
                ended = asking.next() => match ended {
                    Some((peer, outcome)) => {
                        shared.plan().leave(peer);
                        shared.changed.notify_waiters();
                        self.note(peer, &outcome);
                        failures.extend(outcome.err().map(|error| (peer, error)));
                    }
                    None => break,
                },
                () = changed => {}
            }
        }
        // Whoever is still being asked is asked for what has come from others.
        drop(asking);
        let stored = storing.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        for peer in &fetch.providers {
            let noted = failures.iter().any(|(failed, error)| failed == peer && error.blame().is_some());
            if let Some(what) = shared.plan().blamed(peer).filter(|_| !noted) {
                let blame = Err::<(), _>(Error::from(Blame { peer: *peer, what }));
                self.note(*peer, &blame);
                failures.extend(blame.err().map(|error| (*peer, error)));
            }
        }
        stored.ok_or_else(|| Error::NoProvider { cid: fetch.cid, failures: std::mem::take(failures) })
    }

    /// Asks one peer for chunks until there is nothing left for it.
    async fn ask_for_chunks(
        &self,
        peer: PeerId,
        cid: Cid,
        shared: &Shared,
        arrivals: mpsc::Sender<Arrival>,
    ) -> Result<(), Error> {
        if shared.plan().is_done() {
            return Ok(());
        }
        let mut request = Request::send(self, peer, &GetChunks { cid }).await?;
        // Spans that it is to answer, and bytes that it may send for each.
        let mut asked: VecDeque<(usize, u64)> = VecDeque::new();
        loop {
            let changed = shared.changed.notified();
            let next = if asked.len() < MAX_WANTS { shared.plan().next(peer, Instant::now()) } else { Next::Wait };
            match next {
                Next::Send { span, wanted, wanted_bytes } => {
                    asked.push_back((span, 2 * wanted_bytes + SLACK_BYTES));
                    request.write(&Want { hashes: wire::join_hashes(&wanted) }).await?;
                    continue;
                }
                Next::Nothing if asked.is_empty() => return Ok(()),
                Next::Wait if asked.is_empty() => {
                    // Until something changes, or is late; either way it is looked at again.
                    let _ = timeout(HEDGE, changed).await;
                    continue;
                }
                Next::Wait | Next::Nothing => {}
            }
            if let Some(what) = shared.plan().blamed(&peer) {
                return Err(request.rubbish(what));
            }
            let Some((span, allowed_bytes)) = asked.front_mut() else { continue };
            let frame = request.frame().await?;
            let arrival = match frame.get::<Record>().map_err(Error::frame(peer))? {
                Some(Record { bytes }) => {
                    *allowed_bytes = allowed_bytes
                        .checked_sub(bytes)
                        .ok_or_else(|| request.rubbish("much more than was asked for"))?;
                    let spare = shared.spare().pop().unwrap_or_default();
                    let record = request.body_into(spare, bytes, MAX_PARCEL_BYTES as u64).await?;
                    self.shared.counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
                    Arrival::Record(peer, record.len(), spawn_blocking(move || Parcel::open(record)))
                }
                None => {
                    let done: Done = frame.expect().map_err(Error::frame(peer))?;
                    let missing = wire::split_hashes(&done.missing).map_err(Error::frame(peer))?;
                    let span = *span;
                    asked.pop_front();
                    Arrival::Answered { peer, span, missing }
                }
            };
            if arrivals.send(arrival).await.is_err() {
                // Who stores has failed, and says so.
                return Ok(());
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Finds out what is missing here.
fn prepare(store: &Arc<Store>, listing: Listing, progress: Option<Observer>) -> Result<Prepared, Error> {
    let batch = store.batch();
    let (mut needed, mut index, mut wanted) = (Vec::new(), HashMap::new(), Vec::new());
    for (number, file) in listing.files.iter().enumerate() {
        if batch.has(&file.cid.hash)? {
            continue;
        }
        wanted.push(number);
        for chunk in &file.chunks {
            if !index.contains_key(&chunk.0) && !batch.has(&chunk.0)? {
                index.insert(chunk.0, needed.len());
                needed.push(*chunk);
            }
        }
    }
    let total_bytes = needed.iter().map(|(_, size_bytes)| u64::from(*size_bytes)).sum();
    let plan = Mutex::new(Plan::new(needed, Instant::now()));
    let shared =
        Arc::new(Shared { plan, changed: Notify::new(), spare: Mutex::default(), index, total_bytes, progress });
    Ok(Prepared { batch, listing, wanted, shared })
}

/// Stores what arrives, until everything has or nobody sends any more; `None` if something is missing then.
fn store_all(
    prepared: Prepared,
    mut arrivals: mpsc::Receiver<Arrival>,
    durability: Durability,
) -> Result<Option<Fetched>, Error> {
    let Prepared { mut batch, listing, wanted, shared } = prepared;
    let long = wanted.iter().copied().filter(|number| listing.files[*number].chunks.len() > 1).collect();
    let mut rolling = Rolling::new(listing.files.len(), long);
    let mut moved_bytes = 0;
    while !shared.plan().is_done() {
        match arrivals.blocking_recv() {
            Some(Arrival::Record(peer, bytes, checking)) => {
                moved_bytes += bytes as u64;
                let stored = match Handle::current().block_on(checking) {
                    Ok(Ok(parcel)) => store_parcel(&mut batch, &shared, &listing, &mut rolling, parcel)?,
                    Ok(Err(what)) => Err(what),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // The runtime ends.
                    Err(_) => return Err(Error::Stopped),
                };
                if let Err(what) = stored {
                    shared.plan().blame(peer, what);
                }
            }
            Some(Arrival::Answered { peer, span, missing }) => {
                let mut plan = shared.plan();
                if let Err(what) = plan.answered(peer, span, &missing) {
                    plan.blame(peer, what);
                }
            }
            None => {
                // For the next time.
                batch.commit(Durability::Lazy)?;
                return Ok(None);
            }
        }
        shared.changed.notify_waiters();
    }
    drop(arrivals);
    for number in wanted {
        let file = &listing.files[number];
        batch.assemble(&file.cid, &file.chunks, rolling.hash(number))?;
    }
    // What a directory refers to is there before it is.
    for (cid, bytes) in listing.inline.iter().rev() {
        let put = batch.put_bytes(cid.codec, bytes)?;
        assert_eq!(put, *cid, "it was verified when it came");
    }
    let lease = batch.commit(durability)?;
    Ok(Some(Fetched { size_bytes: listing.size_bytes, moved_bytes, blamed: Vec::new(), lease }))
}

/// Stores what is needed of a record. The inner error is what its sender is to be blamed for.
fn store_parcel(
    batch: &mut Batch,
    shared: &Shared,
    listing: &Listing,
    rolling: &mut Rolling,
    parcel: Parcel,
) -> Result<Result<(), &'static str>, Error> {
    let is_needed = |hash: &Hash| shared.index.contains_key(hash);
    let (mut needed_bytes, mut all_bytes) = (0, 0);
    for (hash, bytes) in parcel.chunks() {
        all_bytes += bytes.len();
        needed_bytes += if is_needed(&hash) { bytes.len() } else { 0 };
    }
    if 2 * needed_bytes < all_bytes {
        return Ok(Err("a record of which little was asked for"));
    }
    batch.put_parcel(&parcel, &is_needed)?;
    let mut plan = shared.plan();
    for (hash, bytes) in parcel.chunks() {
        let Some(at) = shared.index.get(&hash) else { continue };
        if !plan.has(*at) {
            let is_here = |hash: &Hash| shared.index.get(hash).is_none_or(|at| plan.has(*at));
            rolling.take(&listing.files, &hash, bytes, is_here);
            plan.arrived(*at);
        }
    }
    let done_bytes = plan.had_bytes();
    drop(plan);
    let mut spare = shared.spare();
    if spare.len() < MAX_WAITING {
        spare.push(parcel.into_bytes());
    }
    drop(spare);
    if let Some(progress) = &shared.progress {
        progress(Progress { done_bytes, total_bytes: shared.total_bytes });
    }
    Ok(Ok(()))
}
