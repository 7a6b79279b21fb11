//! When which keys are announced, and to whom: new ones first, then all of them, once in half the time that an announcement
//! holds, at a bounded rate.
//!
//! Keys are kept by their places, which are what Kademlia measures distances between. Keys whose places are close have the same
//! closest peers, so what one lookup finds does for all keys around: a lookup for each would be most of the traffic.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::AsyncWriteExt;
use gridfs_store::Hash;
use libp2p::kad::{self, KBucketKey, QueryId};
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::limits::Limits;
use crate::providers::Providers;

/// Lookups under way at a time.
const MAX_LOOKUPS: usize = 16;
/// Keys announced after one lookup, and all at once after a pause.
const MAX_BATCH: usize = 1024;
/// A sweep waits until so many may be announced, so that it takes fewer lookups.
const SWEEP_BATCH: usize = MAX_BATCH / 2;

/// Where a key or a peer lies: its SHA-256.
pub type Place = [u8; 32];

/// The place of a key.
pub fn place(bytes: &[u8]) -> Place {
    KBucketKey::new(bytes).hashed_bytes().try_into().expect("SHA-256 has 32 bytes")
}

/// What is announced next.
pub struct Announcer {
    every: Duration,
    per_s: f64,
    /// Keys that were not announced yet.
    fresh: BTreeSet<Place>,
    /// The key announced last, of a sweep under way.
    sweep: Option<Bound<Place>>,
    next_sweep: Instant,
    lookups: HashMap<QueryId, Lookup>,
    /// Lookups begun.
    turns: u64,
    /// Keys that may be announced now.
    allowance: f64,
    counted: Instant,
}

/// Finds out who is closest to a key.
struct Lookup {
    place: Place,
    /// For the sweep, and not for a new key.
    sweeps: bool,
}

impl Announcer {
    /// Nothing to announce yet.
    pub fn new(limits: &Limits, now: Instant) -> Announcer {
        let every = limits.announced_for / 2;
        Announcer {
            every,
            per_s: limits.announced_per_s.into(),
            fresh: BTreeSet::new(),
            sweep: None,
            next_sweep: now + every,
            lookups: HashMap::new(),
            turns: 0,
            allowance: 0.0,
            counted: now,
        }
    }

    /// A key is to be announced soon.
    pub fn add(&mut self, key: &[u8; 32]) {
        self.fresh.insert(place(key));
    }

    /// Begins what is due.
    pub fn step(&mut self, kad: &mut kad::Behaviour<Providers>, now: Instant) {
        let passed_s = now.saturating_duration_since(self.counted).as_secs_f64();
        self.allowance = (self.allowance + passed_s * self.per_s).min(self.per_s.max(MAX_BATCH as f64));
        self.counted = now;
        if self.sweep.is_none() && now >= self.next_sweep {
            self.sweep = Some(Bound::Unbounded);
            self.next_sweep = now + self.every;
        }
        while self.allowance >= 1.0 && self.lookups.len() < MAX_LOOKUPS {
            let Some((lookup, key)) = self.next(kad.store_mut()) else { return };
            self.allowance -= 1.0;
            self.lookups.insert(kad.get_closest_peers(key.to_vec()), lookup);
        }
    }

    fn next(&mut self, providers: &Providers) -> Option<(Lookup, [u8; 32])> {
        // Anywhere, so that lookups at the same time are for keys that are far from each other.
        self.turns += 1;
        let from = Hash::of(&self.turns.to_le_bytes()).0;
        while let Some(place) = self.fresh.range(from..).next().or(self.fresh.first()).copied() {
            self.fresh.remove(&place);
            // It may have been withdrawn.
            if let Some(key) = providers.announced().get(&place) {
                return Some((Lookup { place, sweeps: false }, *key));
            }
        }
        let batch = SWEEP_BATCH.min(providers.announced().len());
        if self.allowance < batch as f64 || self.lookups.values().any(|lookup| lookup.sweeps) {
            return None;
        }
        let next = providers.announced().range((self.sweep?, Bound::Unbounded)).next();
        if next.is_none() {
            self.sweep = None;
        }
        next.map(|(place, key)| (Lookup { place: *place, sweeps: true }, *key))
    }

    /// The keys to be announced to the peers that a lookup found.
    pub fn found(&mut self, query: &QueryId, peers: &[PeerId], providers: &Providers) -> Vec<[u8; 32]> {
        let Some(Lookup { place, sweeps }) = self.lookups.remove(query) else { return Vec::new() };
        if peers.is_empty() {
            // Nobody is known yet: later.
            self.fresh.extend((!sweeps).then_some(place));
            return Vec::new();
        }
        let (first, last) = around(&place, peers);
        // One was counted when the lookup began.
        let most = MAX_BATCH.min(1 + self.allowance as usize);
        let places: Vec<Place> = match sweeps {
            true => providers.announced().range(place..=last).map(|(place, _)| *place).take(most).collect(),
            false => [place].into_iter().chain(self.fresh.range(first..=last).copied()).take(most).collect(),
        };
        if let (true, Some(last)) = (sweeps, places.last()) {
            self.sweep = Some(Bound::Excluded(*last));
        }
        for place in &places {
            self.fresh.remove(place);
        }
        self.allowance -= places.len().saturating_sub(1) as f64;
        places.iter().filter_map(|place| providers.announced().get(place).copied()).collect()
    }
}

/// The places to which those of `peers` are closest that are closest to `place`: they share with it one bit more than the
/// farthest peer does, and all peers who do so too are among these.
fn around(place: &Place, peers: &[PeerId]) -> (Place, Place) {
    let farthest = peers.iter().map(|peer| shared_bits(place, &self::place(&peer.to_bytes()))).min();
    let bits = farthest.map_or(256, |shared| shared + 1);
    let (mut first, mut last) = (*place, *place);
    for bit in bits..256 {
        let mask = 0x80 >> (bit % 8);
        first[bit / 8] &= !mask;
        last[bit / 8] |= mask;
    }
    (first, last)
}

fn shared_bits(one: &Place, other: &Place) -> usize {
    let differs = one.iter().zip(other).position(|(one, other)| one != other);
    differs.map_or(256, |at| 8 * at + (one[at] ^ other[at]).leading_zeros() as usize)
}

/// Messages of Kademlia, ADD_PROVIDER, each with its length before it.
pub fn messages(keys: &[[u8; 32]], provider: &PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    let mut peer = field(1, &provider.to_bytes());
    addresses.iter().for_each(|address| peer.extend(field(2, &address.to_vec())));
    let peer = field(9, &peer);
    let message = |key| {
        let message = [&[0x08, 2][..], &field(2, key), &peer].concat();
        [varint(message.len()), message].concat()
    };
    keys.iter().flat_map(|key| message(key)).collect()
}

/// A field of bytes, as protocol buffers have it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len()), bytes].concat()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Sends messages that nobody answers. A peer that does not take them in time goes without.
pub async fn tell(opened: oneshot::Receiver<Result<Stream, String>>, messages: Arc<Vec<u8>>, limits: Limits) {
    let tell = async {
        let Ok(Ok(mut stream)) = opened.await else { return Ok(()) };
        stream.write_all(&messages).await?;
        stream.close().await
    };
    let transfer = Duration::from_secs_f64(messages.len() as f64 / limits.min_bytes_per_s as f64);
    match timeout(limits.patience + transfer, tell).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a peer was not told which keys are provided here"),
        Err(_) => tracing::debug!("a peer did not hear in time which keys are provided here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::Quota;

    fn keys(count: u32) -> Vec<[u8; 32]> {
        (0..count).map(|n| Hash::of(&n.to_le_bytes()).0).collect()
    }

    fn kad(announced: usize) -> kad::Behaviour<Providers> {
        let local = PeerId::random();
        let quota = Quota { records: 1, records_per_peer: 1, announced };
        kad::Behaviour::new(local, Providers::new(local, quota, || 0))
    }

    /// Has every lookup under way find these peers.
    fn end_all(announcer: &mut Announcer, peers: &[PeerId], providers: &Providers) -> Vec<Vec<[u8; 32]>> {
        let queries: Vec<QueryId> = announcer.lookups.keys().copied().collect();
        queries.iter().map(|query| announcer.found(query, peers, providers)).collect()
    }

    #[test]
    fn each_key_is_announced_when_it_is_new_and_again_in_every_sweep() {
        let limits = Limits { announced_per_s: 1_000_000, ..Limits::default() };
        let (start, keys, mut kad) = (Instant::now(), keys(5_000), kad(5_000));
        let mut announcer = Announcer::new(&limits, start);
        for key in &keys {
            assert!(kad.store_mut().announce(&Hash(*key)));
            announcer.add(key);
        }
        kad.store_mut().withdraw(&Hash(keys[7]));
        let mut expected = keys.clone();
        expected.remove(7);
        expected.sort();
        let peers: Vec<PeerId> = (0..20).map(|_| PeerId::random()).collect();
        for begins in [0, 12 * 3600, 24 * 3600] {
            let mut announced = Vec::new();
            for second in 1..100 {
                announcer.step(&mut kad, start + Duration::from_secs(begins + second));
                for batch in end_all(&mut announcer, &peers, kad.store_mut()) {
                    assert!(batch.len() <= MAX_BATCH);
                    announced.extend(batch);
                }
            }
            announced.sort();
            assert!(announced == expected, "{} of {} in the round that begins at {begins} s", announced.len(), 4_999);
        }
    }

    #[test]
    fn a_key_waits_until_somebody_is_there() {
        let (start, mut kad) = (Instant::now(), kad(1));
        let mut announcer = Announcer::new(&Limits::default(), start);
        let key = keys(1)[0];
        assert!(kad.store_mut().announce(&Hash(key)));
        announcer.add(&key);
        announcer.step(&mut kad, start + Duration::from_secs(1));
        assert_eq!(end_all(&mut announcer, &[], kad.store_mut()), [Vec::<[u8; 32]>::new()]);
        announcer.step(&mut kad, start + Duration::from_secs(2));
        assert_eq!(end_all(&mut announcer, &[PeerId::random()], kad.store_mut()), [vec![key]]);
    }

    #[test]
    fn announcements_keep_to_their_rate() {
        let limits = Limits { announced_per_s: 50, ..Limits::default() };
        let (start, keys, mut kad) = (Instant::now(), keys(20_000), kad(20_000));
        let mut announcer = Announcer::new(&limits, start);
        for key in &keys {
            assert!(kad.store_mut().announce(&Hash(*key)));
            announcer.add(key);
        }
        announcer.step(&mut kad, start);
        assert!(announcer.lookups.is_empty());
        announcer.step(&mut kad, start + Duration::from_secs(1));
        assert_eq!(announcer.lookups.len(), MAX_LOOKUPS);
        let (peers, mut announced) = ([PeerId::random()], 0);
        for second in 2..=300 {
            announced += end_all(&mut announcer, &peers, kad.store_mut()).iter().map(Vec::len).sum::<usize>();
            announcer.step(&mut kad, start + Duration::from_secs(second));
        }
        assert!((14_000..=15_000).contains(&announced), "{announced}");
        announcer.step(&mut kad, start + Duration::from_secs(5_000));
        announced = end_all(&mut announcer, &peers, kad.store_mut()).iter().map(Vec::len).sum();
        assert!(announced <= MAX_BATCH + MAX_LOOKUPS, "{announced} at once after a pause");
    }

    #[test]
    fn around_a_key_are_the_places_with_the_same_closest_peers() {
        let mut peers: Vec<PeerId> = (0..500).map(|_| PeerId::random()).collect();
        let distance = |from: &Place, peer: &PeerId| {
            let to = place(&peer.to_bytes());
            std::array::from_fn::<u8, 32, _>(|at| from[at] ^ to[at])
        };
        for key in keys(20) {
            let target = place(&key);
            peers.sort_by_key(|peer| distance(&target, peer));
            let (closest, others) = peers.split_at(20);
            let (first, last) = around(&target, closest);
            assert!(first <= target && target <= last);
            let inside = |peer: &&PeerId| (first..=last).contains(&place(&peer.to_bytes()));
            assert_eq!(others.iter().filter(inside).count(), 0, "all who are that close were found");
            assert!(closest.iter().filter(inside).count() < 20);
        }
    }

    #[test]
    fn golden_message() {
        let provider = PeerId::from_bytes(&[0x00, 0x01, 0x07]).unwrap();
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/4747".parse().unwrap();
        let message = messages(&[[1; 32]], &provider, &[address]);
        let head = [53, 0x08, 2, 0x12, 32];
        let peer = [0x4a, 15, 0x0a, 3, 0, 1, 7, 0x12, 8, 4, 127, 0, 0, 1, 6, 0x12, 0x8b];
        assert_eq!(message, [&head[..], &[1; 32], &peer].concat());
        assert_eq!(varint(300), [0xac, 2]);
    }
}
