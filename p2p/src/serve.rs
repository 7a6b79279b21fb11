//! The answers to what peers ask.
//!
//! A peer has as many requests under way as the limits allow; more are closed at once. What is sent waits for the peer to take
//! it, but not for long. What reads the store runs on threads that may wait, a few records ahead of the peer.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::try_join;
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncReadExt, AsyncWriteExt};
use gridfs_store::cbor::Bytes;
use gridfs_store::{Chunk, Cid, Codec, Export, Groups, Hash, Object, Store, Target};
use libp2p::{PeerId, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{sleep_until, timeout};

use crate::error::{Code, Refusal};
use crate::network::{Answers, CallRequest, Shared};
use crate::wire::{
    self, Called, Claim, Claims, Done, End, Frame, FrameError, GetCall, GetChunks, GetClaims, GetHead, GetObject,
    GetRange, Headed, Header, Kind, Listed, MAX_CHUNKS, MAX_CLAIM_BYTES, MAX_CLAIMS, MAX_HEAD_BYTES, MAX_INLINE_BYTES,
    MAX_LISTING_BYTES, MAX_OBJECTS, MAX_PARMS_BYTES, MAX_RANGE_BYTES, MAX_TABLE_BYTES, MAX_TOKEN_BYTES,
    MAX_WHOLE_BYTES, MAX_WORDS_BYTES, Ranged, Record, Refused, Want,
};

/// Frames that wait to be sent on a stream: at most 6 MiB.
const MAX_WAITING: usize = 4;
/// Whole objects gone through at a time, for all peers together.
const MAX_SURVEYS: usize = 2;
/// Chunks of served objects that are remembered: 64 MiB.
const MAX_REMEMBERED: usize = 1 << 22;
/// Those of an object with fewer are found anew each time.
const MIN_REMEMBERED: usize = 256;
/// Largest piece that is written at a time, so that a slow peer is told from a stalled one.
const PIECE_BYTES: usize = 256 << 10;
/// Objects of a listing that are sent together, so that not every one of them wakes somebody at both ends.
const GATHERED_FRAMES: usize = 64;
/// Longest body that is copied to be sent with its header.
const SMALL_BYTES: usize = 4 << 10;

/// Answers peers.
pub struct Server {
    shared: Arc<Shared>,
    answers: Arc<dyn Answers>,
    /// Requests under way.
    all: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<PeerId, Load>>>,
    surveys: Arc<Semaphore>,
    chunks: Mutex<Remembered>,
}

/// The chunks of an object and all that belongs to it, by the first halves of their hashes, sorted.
type ChunkSet = Arc<Vec<u128>>;

/// Of the objects served last.
#[derive(Default)]
struct Remembered {
    sets: Vec<(Cid, ChunkSet)>,
    chunks: usize,
}

/// What one peer takes of this node.
struct Load {
    /// Its requests under way.
    requests: usize,
    /// When all that it was sent has taken the time that it is to take.
    due: Instant,
}

impl Load {
    /// When more may be sent after so many bytes, on whichever of its streams.
    fn sent(&mut self, bytes: usize, per_s: u64, now: Instant) -> Instant {
        self.due = self.due.max(now) + Duration::from_secs_f64(bytes as f64 / per_s.max(1) as f64);
        self.due
    }

    fn is_over(&self, now: Instant) -> bool {
        self.requests == 0 && self.due <= now
    }
}

/// A request under way.
pub struct Permit {
    _all: OwnedSemaphorePermit,
    peers: Arc<Mutex<HashMap<PeerId, Load>>>,
    peer: PeerId,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().expect("no code that can panic runs under this lock");
        if let Some(load) = peers.get_mut(&self.peer) {
            load.requests -= 1;
            if load.is_over(Instant::now()) {
                peers.remove(&self.peer);
            }
        }
    }
}

/// Why answering ended before its end.
#[derive(Debug)]
enum Stop {
    /// The peer is to be told.
    Refuse(Refusal),
    /// The peer is gone, too slow, or speaks another language.
    Leave(FrameError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refuse(refusal)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Leave(error.into())
    }
}

impl From<FrameError> for Stop {
    fn from(error: FrameError) -> Stop {
        Stop::Leave(error)
    }
}

impl From<gridfs_store::Error> for Stop {
    fn from(error: gridfs_store::Error) -> Stop {
        // A peer that went away cancels what is looked up for it.
        if !matches!(error, gridfs_store::Error::Cancelled) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a peer can't be answered");
        }
        Stop::Refuse(Refusal::new(Code::Internal, "the store failed"))
    }
}

impl Server {
    /// Nothing under way.
    pub fn new(shared: Arc<Shared>, answers: Arc<dyn Answers>) -> Server {
        Server {
            all: Arc::new(Semaphore::new(shared.limits.requests)),
            shared,
            answers,
            peers: Arc::default(),
            surveys: Arc::new(Semaphore::new(MAX_SURVEYS)),
            chunks: Mutex::default(),
        }
    }

    /// The right to one more request of a peer.
    pub fn admit(&self, peer: PeerId) -> Option<Permit> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut peers = self.peers.lock().expect("no code that can panic runs under this lock");
        let now = Instant::now();
        if self.shared.limits.sent_bytes_per_s.is_some() {
            // Who comes again at once still has to wait for what it was sent before.
            peers.retain(|_, load| !load.is_over(now));
        }
        let load = peers.entry(peer).or_insert(Load { requests: 0, due: now });
        if load.requests >= self.shared.limits.requests_per_peer {
            return None;
        }
        load.requests += 1;
        self.shared.counters.requests.fetch_add(1, Ordering::Relaxed);
        Some(Permit { _all: all, peers: Arc::clone(&self.peers), peer })
    }

    /// Answers the one request of a stream.
    pub async fn answer(self: Arc<Self>, peer: PeerId, mut stream: Stream, _permit: Permit) {
        let answered = match timeout(self.shared.limits.patience, wire::read(&mut stream)).await {
            Ok(Ok(frame)) => self.request(peer, &mut stream, frame).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        let ended = match answered {
            Err(Stop::Refuse(refusal)) => self.refuse(&mut stream, refusal).await,
            Err(Stop::Leave(error)) => {
                tracing::debug!(%peer, %error, "a peer's request was left");
                return;
            }
            Ok(()) => Ok(()),
        };
        if ended.is_ok() {
            // The peer may have closed it already.
            let _ = timeout(self.shared.limits.patience, stream.close()).await;
        }
    }

    async fn refuse(&self, stream: &mut Stream, refusal: Refusal) -> Result<(), Stop> {
        let mut words = refusal.words;
        words.truncate(words.floor_char_boundary(MAX_WORDS_BYTES));
        self.send(stream, &Refused { code: refusal.code as u8, words }, &[]).await
    }

    async fn request(self: &Arc<Self>, peer: PeerId, stream: &mut Stream, frame: Frame) -> Result<(), Stop> {
        if let Some(request) = frame.get::<GetCall>()? {
            self.call(peer, stream, request).await
        } else if let Some(request) = frame.get::<GetClaims>()? {
            self.claims(peer, stream, request).await
        } else if let Some(request) = frame.get::<GetObject>()? {
            self.object(peer, stream, request.cid).await
        } else if let Some(request) = frame.get::<GetChunks>()? {
            self.chunks(peer, stream, request.cid).await
        } else if let Some(request) = frame.get::<GetHead>()? {
            self.head(peer, stream, request).await
        } else if let Some(request) = frame.get::<GetRange>()? {
            self.range(peer, stream, request).await
        } else {
            Err(Refusal::new(Code::Malformed, "no such request is known here").into())
        }
    }

    async fn call(&self, peer: PeerId, stream: &mut Stream, request: GetCall) -> Result<(), Stop> {
        let token_bytes = request.token.as_ref().map_or(0, |token| token.0.len());
        if request.parms.0.len() > MAX_PARMS_BYTES || token_bytes > MAX_TOKEN_BYTES {
            return Err(Refusal::new(Code::TooLarge, "the parms or the token are too long").into());
        }
        let deadline = Duration::from_millis(request.deadline_ms).min(self.shared.limits.call);
        let token = request.token.map(|token| token.0);
        let request = CallRequest { parms: request.parms.0, promise: request.promise, token, deadline };
        let mut end = [0];
        // The peer sends nothing more, so whatever comes means that it has gone.
        let answer = tokio::select! {
            answer = timeout(deadline, self.answers.call(peer, request)) => answer,
            _ = stream.read(&mut end) => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()),
        };
        let answer = answer.unwrap_or_else(|_| Err(Refusal::new(Code::Limit, "the deadline is over")))?;
        let claim = if answer.claim.len() as u64 <= MAX_CLAIM_BYTES { answer.claim } else { Vec::new() };
        let claim_bytes = claim.len() as u64;
        let called = Called { kind: answer.kind, size: answer.size_bytes, result: answer.result, claim_bytes };
        self.send(stream, &called, &claim).await
    }

    async fn claims(&self, peer: PeerId, stream: &mut Stream, request: GetClaims) -> Result<(), Stop> {
        let answer = timeout(self.shared.limits.patience, self.answers.claims(peer, request.key.0)).await;
        let mut claims = answer.map_err(|_| Refusal::new(Code::Busy, "it took too long to look"))?;
        claims.retain(|claim| claim.len() as u64 <= MAX_CLAIM_BYTES);
        claims.truncate(MAX_CLAIMS as usize);
        self.send(stream, &Claims { count: claims.len() as u64 }, &[]).await?;
        for claim in claims {
            self.send(stream, &Claim { bytes: claim.len() as u64 }, &claim).await?;
        }
        Ok(())
    }

    async fn head(&self, peer: PeerId, stream: &mut Stream, request: GetHead) -> Result<(), Stop> {
        let node = request.node.0.try_into().map_err(|_| Refusal::new(Code::Malformed, "a node's key has 32 bytes"))?;
        let answer = timeout(self.shared.limits.patience, self.answers.head(peer, node)).await;
        let head = answer.map_err(|_| Refusal::new(Code::Busy, "it took too long to look"))?;
        let head = head
            .filter(|head| head.signed.len() as u64 <= MAX_HEAD_BYTES && head.table.len() as u64 <= MAX_TABLE_BYTES);
        let head = head.ok_or_else(|| Refusal::new(Code::Unknown, "no names of that node are known here"))?;
        if request.known == Some(wire::Key(Hash::of(&head.signed))) {
            return self.send(stream, &Headed { head_bytes: 0, table_bytes: 0 }, &[]).await;
        }
        let (head_bytes, table_bytes) = (head.signed.len() as u64, head.table.len() as u64);
        let headed = Headed { head_bytes, table_bytes };
        self.send(stream, &headed, &[head.signed, head.table].concat()).await
    }

    /// Refuses what the peer may not read, and what is not here, in the same words.
    fn look(&self, peer: PeerId, cid: Cid) -> Result<(), Stop> {
        match self.answers.may_read(peer, &cid) && self.shared.store.contains(&cid)? {
            true => Ok(()),
            false => Err(Refusal::new(Code::Unknown, format!("{cid} is not shared here")).into()),
        }
    }

    async fn check(self: &Arc<Self>, peer: PeerId, cid: Cid) -> Result<(), Stop> {
        let server = Arc::clone(self);
        blocking(move || server.look(peer, cid)).await
    }

    async fn object(self: &Arc<Self>, peer: PeerId, stream: &mut Stream, cid: Cid) -> Result<(), Stop> {
        let (gathered, waiting) = mpsc::channel(MAX_WAITING);
        let server = Arc::clone(self);
        let list = blocking(move || {
            server.look(peer, cid)?;
            let (mut set, mut frames, mut count) = (Vec::new(), Vec::new(), 0);
            let mut send = |listed: Listed, body: Vec<u8>| {
                if listed.kind == Kind::File {
                    set.extend(halves(&body));
                }
                assert_eq!(listed.body_bytes(), body.len() as u64, "a header tells the length of its body");
                frames.extend(wire::encode(&listed));
                frames.extend(body);
                count += 1;
                let is_full = count % GATHERED_FRAMES == 0 || frames.len() >= PIECE_BYTES;
                !is_full || gathered.blocking_send(std::mem::take(&mut frames)).is_ok()
            };
            if survey(&server.shared.store, cid, true, &mut send)? {
                // Who takes the list asks for its chunks next.
                server.remember(cid, set);
            }
            frames.extend(wire::encode(&End {}));
            // Whoever would have taken it ended with an error of its own.
            let _ = gathered.blocking_send(frames);
            Ok(())
        });
        let give = self.give_frames(stream, waiting);
        try_join(list, give).await?;
        Ok(())
    }

    async fn give_frames(&self, stream: &mut Stream, mut waiting: mpsc::Receiver<Vec<u8>>) -> Result<(), Stop> {
        while let Some(frames) = waiting.recv().await {
            self.give(stream, &frames).await?;
        }
        Ok(())
    }

    async fn chunks(self: &Arc<Self>, peer: PeerId, stream: &mut Stream, cid: Cid) -> Result<(), Stop> {
        self.check(peer, cid).await?;
        let allowed = self.chunks_of(cid).await?;
        let (mut from, mut to) = futures::AsyncReadExt::split(&mut *stream);
        let (parcels, waiting) = mpsc::channel(MAX_WAITING);
        let take = self.take_wants(&mut from, allowed, parcels);
        let give = self.give_parcels(peer, &mut to, waiting);
        try_join(take, give).await?;
        Ok(())
    }

    /// Reads want-lists until the peer closes its side, and has their chunks looked up.
    async fn take_wants(
        &self,
        from: &mut ReadHalf<&mut Stream>,
        allowed: ChunkSet,
        parcels: mpsc::Sender<Parcel>,
    ) -> Result<(), Stop> {
        let mut export = Export::new(Arc::clone(&self.shared.store));
        // A peer may think as long as it transfers something else; it only holds a stream.
        while let Ok(frame) = timeout(self.shared.limits.call, wire::read_or_end(from)).await {
            let Some(frame) = frame? else { break };
            let wanted = wire::split_hashes(&frame.expect::<Want>()?.hashes)?;
            let (allowed, parcels) = (Arc::clone(&allowed), parcels.clone());
            let look_up = move || {
                let may_send = |hash: &Hash| allowed.binary_search(&half(hash)).is_ok();
                let mut gone = false;
                let mut sink = |record| {
                    gone = gone || parcels.blocking_send(Parcel::Record(record)).is_err();
                    if gone { Err(gridfs_store::Error::Cancelled) } else { Ok(()) }
                };
                let missing = export.chunks(&wanted, &may_send, &mut sink)?;
                // Whoever would have taken it ended with an error of its own.
                let _ = parcels.blocking_send(Parcel::Done(wire::join_hashes(&missing)));
                Ok(export)
            };
            export = blocking(look_up).await?;
        }
        Ok(())
    }

    async fn give_parcels(
        &self,
        peer: PeerId,
        to: &mut WriteHalf<&mut Stream>,
        mut waiting: mpsc::Receiver<Parcel>,
    ) -> Result<(), Stop> {
        while let Some(parcel) = waiting.recv().await {
            match parcel {
                Parcel::Record(record) => {
                    self.send(to, &Record { bytes: record.len() as u64 }, &record).await?;
                    self.pause(peer, record.len()).await;
                    self.shared.counters.sent_bytes.fetch_add(record.len() as u64, Ordering::Relaxed);
                }
                Parcel::Done(missing) => {
                    self.send(to, &Done { missing }, &[]).await?;
                    self.within(0, to.flush()).await?;
                }
            }
        }
        Ok(())
    }

    async fn range(self: &Arc<Self>, peer: PeerId, stream: &mut Stream, request: GetRange) -> Result<(), Stop> {
        let GetRange { cid, length, offset } = request;
        self.check(peer, cid).await?;
        if length == 0 || length > MAX_RANGE_BYTES {
            return Err(Refusal::new(Code::TooLarge, format!("a range has 1 to {MAX_RANGE_BYTES} bytes")).into());
        }
        let permit = Arc::clone(&self.surveys).acquire_owned().await;
        let store = Arc::clone(&self.shared.store);
        let read = move || {
            // It may be that the whole object is gone through.
            let _permit = permit;
            let groups = store.groups(&cid)?;
            let object = store.object(&cid)?.ok_or(gridfs_store::Error::NotFound { cid })?;
            let size = groups.size_bytes();
            let start = offset.min(size.saturating_sub(1));
            let wanted = start..start.saturating_add(length);
            let covered = Groups::covering(size, wanted.clone());
            let bytes = object.read(covered.start, (covered.end - covered.start) as usize)?;
            let proof = groups.proof(wanted);
            let ranged = Ranged { size, bytes: bytes.len() as u64, proof_bytes: proof.len() as u64 };
            Ok((ranged, [proof, bytes].concat()))
        };
        let (ranged, body) = blocking(read).await?;
        self.send(stream, &ranged, &body).await?;
        self.pause(peer, body.len()).await;
        self.shared.counters.sent_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The chunks that a peer may ask for when it may read `cid`.
    async fn chunks_of(self: &Arc<Self>, cid: Cid) -> Result<ChunkSet, Stop> {
        if let Some(set) = self.remembered().get(&cid) {
            return Ok(set);
        }
        let permit = Arc::clone(&self.surveys).acquire_owned().await;
        let server = Arc::clone(self);
        let survey = move || {
            let _permit = permit;
            let mut set = Vec::new();
            let mut add = |_: Listed, chunks: Vec<u8>| {
                set.extend(halves(&chunks));
                true
            };
            survey(&server.shared.store, cid, false, &mut add)?;
            Ok(server.remember(cid, set))
        };
        blocking(survey).await
    }

    fn remember(&self, cid: Cid, mut set: Vec<u128>) -> ChunkSet {
        set.sort_unstable();
        set.dedup();
        let set = Arc::new(set);
        self.remembered().insert(cid, Arc::clone(&set));
        set
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.chunks.lock().expect("no code that can panic runs under this lock")
    }

    /// Sends a frame to a peer that takes it in time.
    async fn send<H: Header>(
        &self,
        to: &mut (impl futures::AsyncWrite + Unpin),
        header: &H,
        body: &[u8],
    ) -> Result<(), Stop> {
        assert_eq!(header.body_bytes(), body.len() as u64, "a header tells the length of its body");
        // A small body goes with its header: each write is a frame of the multiplexer.
        let mut frame = wire::encode(header);
        let (first, rest) = body.split_at(if body.len() <= SMALL_BYTES { body.len() } else { 0 });
        frame.extend_from_slice(first);
        self.within(first.len(), to.write_all(&frame)).await?;
        self.give(to, rest).await
    }

    async fn give(&self, to: &mut (impl futures::AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Stop> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.within(piece.len(), to.write_all(piece)).await?;
        }
        Ok(())
    }

    async fn within(&self, len: usize, write: impl Future<Output = std::io::Result<()>>) -> Result<(), Stop> {
        let limits = &self.shared.limits;
        let allowed = limits.patience + Duration::from_secs_f64(len as f64 / limits.min_bytes_per_s as f64);
        match timeout(allowed, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// Keeps to the bytes in a second that one peer may take, if they are limited.
    async fn pause(&self, peer: PeerId, sent: usize) {
        let Some(per_s) = self.shared.limits.sent_bytes_per_s else { return };
        let due = {
            let mut peers = self.peers.lock().expect("no code that can panic runs under this lock");
            let load = peers.get_mut(&peer).expect("its request is under way");
            load.sent(sent, per_s, Instant::now())
        };
        sleep_until(due.into()).await;
    }
}

enum Parcel {
    Record(Vec<u8>),
    Done(Bytes),
}

impl Remembered {
    fn get(&mut self, cid: &Cid) -> Option<ChunkSet> {
        let at = self.sets.iter().position(|(known, _)| known == cid)?;
        // The one used last is at the end.
        let found = self.sets.remove(at);
        self.sets.push(found.clone());
        Some(found.1)
    }

    fn insert(&mut self, cid: Cid, set: ChunkSet) {
        // What is found in no time need not be remembered; and what is here came from somebody who asked at the same time.
        if set.len() < MIN_REMEMBERED || self.get(&cid).is_some() {
            return;
        }
        self.chunks += set.len();
        self.sets.push((cid, set));
        while self.chunks > MAX_REMEMBERED && self.sets.len() > 1 {
            let (_, oldest) = self.sets.remove(0);
            self.chunks -= oldest.len();
        }
    }
}

/// Of the chunks of a file, as they are listed.
fn halves(listed: &[u8]) -> impl Iterator<Item = u128> {
    wire::split_chunks(listed).map(|(hash, _)| half(&hash))
}

fn half(hash: &Hash) -> u128 {
    u128::from_le_bytes(hash.0[..16].try_into().expect("a hash has 32 bytes"))
}

/// Runs what waits for the disk, or walks through an object. It ends by itself when its peer has gone, for then nobody takes
/// what it sends.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Stop> + Send + 'static) -> Result<T, Stop> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a peer's request ended in a panic");
        Err(Refusal::new(Code::Internal, "it failed badly").into())
    })
}

/// Takes an object of a listing with its body; `false` ends it.
type Sink<'a> = dyn FnMut(Listed, Vec<u8>) -> bool + 'a;

/// The chunks of an object, unless there are more than `most`.
fn chunks_of(object: &Object, most: usize) -> Result<Option<Vec<Chunk>>, Stop> {
    let mut all = Vec::new();
    let listed = object.chunks(&mut |chunk| {
        all.push(chunk);
        if all.len() <= most { Ok(()) } else { Err(gridfs_store::Error::Cancelled) }
    });
    match listed {
        Ok(()) => Ok(Some(all)),
        Err(gridfs_store::Error::Cancelled) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Goes through an object and all that belongs to it: directories before what is in them, each object once. The contents of
/// directories, of records and of a small file asked for by itself are given if they are wanted.
/// Says whether all its chunks were taken.
fn survey(store: &Arc<Store>, root: Cid, contents: bool, sink: &mut Sink<'_>) -> Result<bool, Stop> {
    let too_large = || Stop::from(Refusal::new(Code::TooLarge, "it is too large to be listed; ask for its parts"));
    let (mut known, mut open) = (HashSet::from([root]), vec![root]);
    let (mut chunks, mut inline_bytes) = (0, 0);
    while let Some(cid) = open.pop() {
        if known.len() > MAX_OBJECTS {
            return Err(too_large());
        }
        let object = store.object(&cid)?.ok_or(gridfs_store::Error::NotFound { cid })?;
        let size = object.size_bytes();
        if cid.codec == Codec::Raw && cid == root && contents && size <= MAX_WHOLE_BYTES {
            sink(Listed { cid, kind: Kind::Record, size, count: 0 }, store.read(&cid, MAX_WHOLE_BYTES)?);
            return Ok(false);
        }
        if cid.codec == Codec::Raw {
            let all = chunks_of(&object, MAX_CHUNKS - chunks)?.ok_or_else(too_large)?;
            chunks += all.len();
            let listed = Listed { cid, kind: Kind::File, size, count: all.len() as u64 };
            if !sink(listed, wire::join_chunks(&all)) {
                return Ok(false);
            }
            continue;
        }
        inline_bytes += size;
        if size > MAX_INLINE_BYTES || inline_bytes > MAX_LISTING_BYTES {
            return Err(too_large());
        }
        let kind = match store.tree(&cid) {
            Ok(tree) => {
                let below = tree.entries().iter().rev().filter_map(|entry| match &entry.target {
                    Target::File { cid, .. } | Target::Directory { cid } => Some(*cid),
                    Target::Symlink { .. } => None,
                });
                // Once they are all known, the last one is taken first: so they come in their order.
                below.for_each(|cid| {
                    if known.insert(cid) {
                        open.push(cid)
                    }
                });
                Kind::Directory
            }
            Err(gridfs_store::Error::Tree { .. }) => Kind::Record,
            Err(error) => return Err(error.into()),
        };
        if contents && !sink(Listed { cid, kind, size, count: 0 }, store.read(&cid, MAX_INLINE_BYTES)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_is_sent_on_several_streams_adds_up() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut load = Load { requests: 2, due: now };
        assert_eq!(load.sent(1_000, 1_000, now), now + second);
        assert_eq!(load.sent(500, 1_000, now), now + second + second / 2, "on another stream at the same time");
        assert_eq!(load.sent(1_000, 1_000, now + 4 * second), now + 5 * second, "a pause is not made up for");
        load.requests = 0;
        assert!(!load.is_over(now + 4 * second), "who comes again is remembered");
        assert!(load.is_over(now + 5 * second));
    }

    #[test]
    fn the_largest_objects_served_last_are_remembered() {
        let mut remembered = Remembered::default();
        let cid = |n: usize| Cid::of(Codec::Raw, &n.to_le_bytes());
        let mut serve = |n, chunks| {
            remembered.insert(cid(n), Arc::new(vec![0; chunks]));
            (remembered.sets.len(), remembered.chunks)
        };
        assert_eq!(serve(0, MIN_REMEMBERED - 1), (0, 0), "found anew in no time");
        let half = MAX_REMEMBERED / 2;
        assert_eq!([serve(1, half), serve(1, half), serve(2, half)], [(1, half), (1, half), (2, 2 * half)]);
        assert_eq!(serve(3, MIN_REMEMBERED), (2, half + MIN_REMEMBERED));
        assert!(remembered.get(&cid(1)).is_none() && remembered.get(&cid(2)).is_some());
    }
}
