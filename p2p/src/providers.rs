//! Who provides what, as the distributed hash table keeps it: provider records and no others.
//!
//! A record is 8 bytes beside its key, so that a million of them fit in about 180 MB. Every peer has a quota, every key
//! [`MAX_PROVIDERS`] providers; what is full takes no more, so that nobody's records are driven out by a flood of others.
//! What this node provides itself is kept apart: it is announced again by `announce.rs`, not by libp2p.
//!
//! The file `providers` keeps records from one start to the next:
//!
//! ```text
//! | gridprov | version u32 | peers u32 | records u32 | count x { length u8, peer } |
//! | count x { key 32, peer u32, expires u32: seconds since 1970 } | BLAKE3 32 |
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::time::{Duration, Instant};

use gridfs_store::Hash;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use crate::announce::{Place, place};

/// Providers of one key: as many as Kademlia asks for.
pub const MAX_PROVIDERS: usize = 20;
/// Addresses kept of one provider.
const MAX_ADDRESSES: usize = 4;
const MAGIC: &[u8; 8] = b"gridprov";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 20;
const RECORD_BYTES: usize = 40;

/// Seconds since 1970.
pub type Clock = fn() -> u64;

/// How many records are kept.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Of all providers together.
    pub records: usize,
    /// Of one provider.
    pub records_per_peer: usize,
    /// Keys that this node provides.
    pub announced: usize,
}

/// The records.
pub struct Providers {
    local: PeerId,
    quota: Quota,
    clock: Clock,
    announced: BTreeMap<Place, [u8; 32]>,
    keys: HashMap<[u8; 32], Vec<Provider>>,
    peers: Vec<Peer>,
    numbers: HashMap<PeerId, u32>,
    records: usize,
}

#[derive(Clone, Copy)]
struct Provider {
    peer: u32,
    expires_s: u32,
}

struct Peer {
    id: PeerId,
    records: usize,
    addresses: Vec<Multiaddr>,
}

impl Providers {
    /// None yet.
    pub fn new(local: PeerId, quota: Quota, clock: Clock) -> Providers {
        Providers {
            local,
            quota,
            clock,
            announced: BTreeMap::new(),
            keys: HashMap::new(),
            peers: Vec::new(),
            numbers: HashMap::new(),
            records: 0,
        }
    }

    /// Records kept for others.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Keys that this node provides, by their places.
    pub fn announced(&self) -> &BTreeMap<Place, [u8; 32]> {
        &self.announced
    }

    /// Takes a key to be provided by this node. `false` if it was already, or there are too many.
    pub fn announce(&mut self, key: &Hash) -> bool {
        self.announced.len() < self.quota.announced && self.announced.insert(place(&key.0), key.0).is_none()
    }

    /// This node provides the key no more. Others hear of it when their records expire.
    pub fn withdraw(&mut self, key: &Hash) {
        self.announced.remove(&place(&key.0));
    }

    /// Where a provider was last known to listen.
    pub fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.numbers.get(peer).map_or(&[], |number| &self.peers[*number as usize].addresses)
    }

    /// Lets go of what has expired.
    pub fn expire(&mut self) {
        let now_s = (self.clock)();
        let (peers, records) = (&mut self.peers, &mut self.records);
        self.keys.retain(|_, providers| {
            providers.retain(|provider| {
                let holds = u64::from(provider.expires_s) > now_s;
                if !holds {
                    peers[provider.peer as usize].records -= 1;
                    *records -= 1;
                }
                holds
            });
            !providers.is_empty()
        });
        self.forget_idle_peers();
    }

    /// Numbers the peers that have records anew.
    fn forget_idle_peers(&mut self) {
        if self.peers.iter().all(|peer| peer.records > 0) {
            return;
        }
        let mut numbers = vec![0; self.peers.len()];
        let old = std::mem::take(&mut self.peers);
        self.numbers.clear();
        for (number, peer) in old.into_iter().enumerate().filter(|(_, peer)| peer.records > 0) {
            numbers[number] = self.peers.len() as u32;
            self.numbers.insert(peer.id, self.peers.len() as u32);
            self.peers.push(peer);
        }
        self.keys.values_mut().flatten().for_each(|provider| provider.peer = numbers[provider.peer as usize]);
    }

    fn add(&mut self, key: [u8; 32], id: PeerId, expires_s: u32) -> Result<u32> {
        let number = self.number(id)?;
        let peer = &mut self.peers[number as usize];
        if let Some(known) = self.keys.get_mut(&key).and_then(|all| all.iter_mut().find(|known| known.peer == number)) {
            known.expires_s = expires_s;
            return Ok(number);
        }
        let full = self.records >= self.quota.records || peer.records >= self.quota.records_per_peer;
        if full || self.keys.get(&key).is_some_and(|providers| providers.len() >= MAX_PROVIDERS) {
            return Err(Error::MaxProvidedKeys);
        }
        self.keys.entry(key).or_default().push(Provider { peer: number, expires_s });
        peer.records += 1;
        self.records += 1;
        Ok(number)
    }

    fn number(&mut self, id: PeerId) -> Result<u32> {
        if let Some(number) = self.numbers.get(&id) {
            return Ok(*number);
        }
        // Peers whose records were all refused or have gone are forgotten only now and then, so they count as well.
        if self.peers.len() >= self.quota.records {
            return Err(Error::MaxProvidedKeys);
        }
        let number = self.peers.len() as u32;
        self.peers.push(Peer { id, records: 0, addresses: Vec::new() });
        self.numbers.insert(id, number);
        Ok(number)
    }

    /// The records as a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [VERSION, self.peers.len() as u32, self.records as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for peer in &self.peers {
            let id = peer.id.to_bytes();
            bytes.push(id.len() as u8);
            bytes.extend_from_slice(&id);
        }
        for (key, provider) in self.keys.iter().flat_map(|(key, all)| all.iter().map(move |one| (key, one))) {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&provider.peer.to_le_bytes());
            bytes.extend_from_slice(&provider.expires_s.to_le_bytes());
        }
        let hash = Hash::of(&bytes);
        bytes.extend_from_slice(&hash.0);
        bytes
    }

    /// Takes in what a file holds, within the quotas. `None` if it is no such file; then nothing is taken.
    pub fn decode(&mut self, bytes: &[u8]) -> Option<()> {
        let (bytes, hash) = bytes.split_last_chunk::<32>()?;
        let (head, mut rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("a slice of four"));
        if head[..8] != MAGIC[..] || number(8) != VERSION || Hash::of(bytes).0 != *hash {
            return None;
        }
        let mut ids = Vec::new();
        for _ in 0..number(12) {
            let (len, after) = rest.split_first()?;
            let (id, after) = after.split_at_checked(usize::from(*len))?;
            ids.push(PeerId::from_bytes(id).ok()?);
            rest = after;
        }
        let (records, rest) = rest.as_chunks::<RECORD_BYTES>();
        if !rest.is_empty() || records.len() != number(16) as usize {
            return None;
        }
        for record in records {
            let key = record[..32].try_into().expect("the first 32 of 40 bytes");
            let number = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("a slice of four"));
            // Quotas may be lower than they were.
            let _ = self.add(key, *ids.get(number(32) as usize)?, number(36));
        }
        self.expire();
        Some(())
    }
}

fn digest(key: &RecordKey) -> Option<[u8; 32]> {
    key.as_ref().try_into().ok()
}

impl RecordStore for Providers {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local {
            return Ok(());
        }
        let key = digest(&record.key).ok_or(Error::ValueTooLarge)?;
        let holds_for = record.expires.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let expires_s = (self.clock)().saturating_add(holds_for.as_secs());
        let number = self.add(key, record.provider, u32::try_from(expires_s).unwrap_or(u32::MAX))?;
        let mut addresses = record.addresses;
        addresses.truncate(MAX_ADDRESSES);
        if !addresses.is_empty() {
            self.peers[number as usize].addresses = addresses;
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(digest) = digest(key) else { return Vec::new() };
        let now_s = (self.clock)();
        let known = self.keys.get(&digest).into_iter().flatten().filter(|one| u64::from(one.expires_s) > now_s);
        let known = known.map(|one| {
            let peer = &self.peers[one.peer as usize];
            ProviderRecord::new(key.clone(), peer.id, peer.addresses.clone())
        });
        let own = self
            .announced
            .contains_key(&place(&digest))
            .then(|| ProviderRecord::new(key.clone(), self.local, Vec::new()));
        known.chain(own).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        let (Some(digest), Some(number)) = (digest(key), self.numbers.get(peer)) else { return };
        let Some(providers) = self.keys.get_mut(&digest) else { return };
        let before = providers.len();
        providers.retain(|provider| provider.peer != *number);
        let removed = before - providers.len();
        self.peers[*number as usize].records -= removed;
        self.records -= removed;
        if providers.is_empty() {
            self.keys.remove(&digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local!(static NOW_S: Cell<u64> = const { Cell::new(1_000) });

    fn store(records: usize, records_per_peer: usize) -> Providers {
        let quota = Quota { records, records_per_peer, announced: 2 };
        Providers::new(PeerId::random(), quota, || NOW_S.get())
    }

    fn key(n: u32) -> RecordKey {
        RecordKey::new(&Hash::of(&n.to_le_bytes()).0)
    }

    fn add(store: &mut Providers, n: u32, peer: PeerId, secs: u64) -> Result<()> {
        // A second more than whole ones, for the time that the test itself takes.
        let expires = Some(Instant::now() + Duration::from_millis(secs * 1000 + 999));
        store.add_provider(ProviderRecord { key: key(n), provider: peer, expires, addresses: Vec::new() })
    }

    fn found(store: &Providers, n: u32) -> Vec<PeerId> {
        store.providers(&key(n)).into_iter().map(|record| record.provider).collect()
    }

    #[test]
    fn a_peer_fills_its_own_quota_and_not_that_of_others() {
        let (mut store, greedy, modest) = (store(100, 10), PeerId::random(), PeerId::random());
        let taken = (0..1_000).filter(|n| add(&mut store, *n, greedy, 60).is_ok()).count();
        assert_eq!((taken, store.records()), (10, 10));
        add(&mut store, 5_000, modest, 60).unwrap();
        assert_eq!(found(&store, 5_000), [modest]);
        add(&mut store, 3, greedy, 90).unwrap();
        assert_eq!(store.records(), 11, "renewed, not added");
    }

    #[test]
    fn many_peers_fill_the_store_and_no_more() {
        let mut store = store(100, 10);
        let taken = (0..1_000).filter(|n| add(&mut store, *n, PeerId::random(), 60).is_ok()).count();
        assert_eq!((taken, store.records(), store.peers.len()), (100, 100, 100));
        let mut store = self::store(100, 10);
        let taken = (0..50).filter(|_| add(&mut store, 1, PeerId::random(), 60).is_ok()).count();
        assert_eq!((taken, found(&store, 1).len()), (MAX_PROVIDERS, MAX_PROVIDERS));
    }

    #[test]
    fn what_expired_is_neither_told_nor_kept() {
        let (mut store, short, long) = (store(100, 10), PeerId::random(), PeerId::random());
        add(&mut store, 1, short, 60).unwrap();
        add(&mut store, 1, long, 120).unwrap();
        NOW_S.set(1_061);
        assert_eq!(found(&store, 1), [long]);
        assert_eq!(store.records(), 2);
        store.expire();
        assert_eq!((store.records(), store.peers.len()), (1, 1));
        assert_eq!(found(&store, 1), [long]);
        NOW_S.set(1_121);
        store.expire();
        assert_eq!((store.records(), store.peers.len(), store.keys.len()), (0, 0, 0));
        NOW_S.set(1_000);
    }

    #[test]
    fn only_hashes_are_keys_and_no_values_are_kept() {
        let mut store = store(100, 10);
        let odd = ProviderRecord::new(RecordKey::new(&[1; 33]), PeerId::random(), Vec::new());
        assert!(store.add_provider(odd).is_err());
        assert!(store.put(Record::new(key(1), vec![1])).is_err());
    }

    #[test]
    fn what_this_node_announces_is_told_until_it_is_withdrawn() {
        let mut store = store(100, 10);
        let local = store.local;
        let hash = |n: u32| Hash::of(&n.to_le_bytes());
        assert!(store.announce(&hash(1)) && !store.announce(&hash(1)));
        assert!(store.announce(&hash(2)) && !store.announce(&hash(3)), "the limit is two");
        assert_eq!(found(&store, 1), [local]);
        store.withdraw(&hash(1));
        assert_eq!(found(&store, 1), []);
    }

    #[test]
    fn records_survive_in_their_file_and_damage_is_noticed() {
        let (mut store, peers) = (store(100, 10), [PeerId::random(), PeerId::random()]);
        (0..10).for_each(|n| add(&mut store, n, peers[n as usize % 2], 60).unwrap());
        let file = store.encode();
        let mut other = self::store(100, 10);
        other.decode(&file).unwrap();
        (0..10).for_each(|n| assert_eq!(found(&other, n), [peers[n as usize % 2]]));
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(self::store(100, 10).decode(&damaged).is_none(), "byte {at}");
            assert!(self::store(100, 10).decode(&file[..at]).is_none(), "cut at {at}");
        }
        let mut small = self::store(4, 10);
        small.decode(&file).unwrap();
        assert_eq!(small.records(), 4);
    }
}
