//! Chunks on their way from one store to another: records as they lie in a pack, or made for the purpose.
//!
//! The sender gives a whole record where most of it is wanted and all of it may be sent, so that nothing is compressed
//! twice; else it makes records of the wanted chunks alone. The receiver checks a record as it checks one of its own disk,
//! and appends it as it came. An object is put together from its chunks once all of them are there ([`Batch::assemble`]):
//! it is named by the hash of the whole, whoever sent the parts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::batch::Batch;
use crate::chunker::MAX_BYTES as MAX_CHUNK_BYTES;
use crate::cid::Cid;
use crate::error::Error;
use crate::hash::{Hash, WholeHasher};
use crate::location::{self, Location};
use crate::pack::Class;
use crate::record::{Draft, ENTRY_BYTES, FULL_MEMBERS, Flaw, HEADER_BYTES, Header, Kind, MAX_PLAIN_BYTES, Record};
use crate::records::Place;
use crate::store::Store;

/// Longest record that travels.
pub const MAX_PARCEL_BYTES: usize = HEADER_BYTES + FULL_MEMBERS * ENTRY_BYTES + MAX_PLAIN_BYTES as usize;
/// Records of one [`Export`] that are remembered as sent.
const MAX_SENT: usize = 1 << 16;

/// A chunk of an object: its hash, and its length in bytes.
pub type Chunk = (Hash, u32);

/// A record of chunks from elsewhere that was checked: every chunk hashes to its key, and none is longer than chunks are.
pub struct Parcel {
    record: Record,
    /// The record as it came, unless `record` holds it.
    packed: Option<Vec<u8>>,
}

impl Parcel {
    /// Checks lengths before anything is unpacked, then CRCs and hashes; says what is wrong.
    pub fn open(bytes: Vec<u8>) -> Result<Parcel, Flaw> {
        let header = Header::decode(&bytes)?;
        if header.kind != Kind::Chunks {
            return Err("the record holds something else than chunks");
        }
        if usize::from(header.count) > FULL_MEMBERS {
            return Err("the record holds too many chunks");
        }
        let (record, packed) = Record::decode_keeping(bytes)?;
        let too_long = record.members.iter().any(|member| member.range.len() > MAX_CHUNK_BYTES);
        match too_long || record.members.is_empty() {
            true => Err("the record holds a chunk of impossible length, or none"),
            false => Ok(Parcel { record, packed }),
        }
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (Hash, &[u8])> {
        self.record.members.iter().map(|member| (member.key, &self.record.plain()[member.range.clone()]))
    }

    /// Its memory, for another; the bytes are those of the record.
    pub fn into_bytes(self) -> Vec<u8> {
        self.packed.unwrap_or_else(|| self.record.into_bytes())
    }

    /// The record as it travels.
    fn encoded(&self) -> &[u8] {
        self.packed.as_deref().unwrap_or(self.record.encoded())
    }
}

/// Gives chunks to one receiver, each record at most once.
pub struct Export {
    store: Arc<Store>,
    sent: HashSet<Place>,
}

impl Export {
    /// Nothing was sent yet.
    pub fn new(store: Arc<Store>) -> Export {
        Export { store, sent: HashSet::new() }
    }

    /// Gives `sink` records that hold the wanted chunks, unless they were given before. `may_send` says which chunks the
    /// receiver may have. Returns the wanted ones that are not here or that it may not have.
    pub fn chunks(
        &mut self,
        wanted: &[Hash],
        may_send: &dyn Fn(&Hash) -> bool,
        sink: &mut dyn FnMut(Vec<u8>) -> Result<(), Error>,
    ) -> Result<Vec<Hash>, Error> {
        let (groups, missing) = self.group(wanted, may_send)?;
        let mut draft = Draft::default();
        for (place, members) in groups {
            if self.sent.contains(&place) {
                continue;
            }
            if let Some(record) = self.whole(&members, may_send)? {
                if self.sent.len() == MAX_SENT {
                    self.sent.clear();
                }
                self.sent.insert(place);
                sink(record)?;
                continue;
            }
            for (hash, location) in members {
                draft.push(&hash, location.whole, self.store.slice(&hash, &location)?.bytes());
                if draft.is_full() {
                    sink(std::mem::take(&mut draft).seal(Kind::Chunks).parts().concat())?;
                }
            }
        }
        if !draft.is_empty() {
            sink(draft.seal(Kind::Chunks).parts().concat())?;
        }
        Ok(missing)
    }

    /// The wanted chunks by the records they lie in, in the order in which they are wanted; and those that are missing.
    #[allow(clippy::type_complexity, reason = "named once, where it is taken apart")]
    fn group(
        &self,
        wanted: &[Hash],
        may_send: &dyn Fn(&Hash) -> bool,
    ) -> Result<(Vec<(Place, Vec<(Hash, Location)>)>, Vec<Hash>), Error> {
        let (mut groups, mut missing) = (Vec::<(Place, Vec<_>)>::new(), Vec::new());
        let (mut known, mut asked) = (HashMap::new(), HashSet::new());
        for hash in wanted.iter().filter(|hash| asked.insert(**hash)) {
            let location = if may_send(hash) { self.store.locate(hash)? } else { None };
            let Some(location) = location.filter(|location| !location.manifest) else {
                missing.push(*hash);
                continue;
            };
            let at = *known.entry(location.place()).or_insert_with(|| {
                groups.push((location.place(), Vec::new()));
                groups.len() - 1
            });
            groups[at].1.push((*hash, location));
        }
        Ok((groups, missing))
    }

    /// The record that these chunks lie in, if half of it is wanted and all of it may be sent.
    fn whole(&self, members: &[(Hash, Location)], may_send: &dyn Fn(&Hash) -> bool) -> Result<Option<Vec<u8>>, Error> {
        let Some((_, location)) = members.first() else { return Ok(None) };
        let wanted_bytes: u64 = members.iter().map(|(_, location)| u64::from(location.plain_bytes)).sum();
        // Stored bytes are at most the plain ones, so most records of which little is wanted need not be read.
        if 2 * wanted_bytes < u64::from(location.record_bytes).saturating_sub(MAX_TABLE_BYTES) {
            return Ok(None);
        }
        let Some(pack) = self.store.packs().get(location.pack)? else { return Ok(None) };
        let record = pack.read_encoded(location.offset, location.record_bytes)?;
        let header = Header::decode(&record).map_err(|what| pack.corrupt(location.offset, what))?;
        let half = 2 * wanted_bytes >= u64::from(header.plain_bytes);
        let table = record[HEADER_BYTES..][..header.table_bytes()].chunks_exact(ENTRY_BYTES);
        let mut keys = table.map(|entry| Hash(entry[..32].try_into().expect("the first 32 of 36 bytes")));
        Ok((half && keys.all(|key| may_send(&key))).then_some(record))
    }
}

const MAX_TABLE_BYTES: u64 = (HEADER_BYTES + FULL_MEMBERS * ENTRY_BYTES) as u64;

impl Batch {
    /// Whether a chunk or object is here, or in this batch. If so, it stays as long as the batch's lease.
    pub fn has(&self, hash: &Hash) -> Result<bool, Error> {
        self.is_stored(hash)
    }

    /// Stores the chunks of `parcel` that are wanted and not stored yet: the record as it came, if they are most of it.
    pub fn put_parcel(&mut self, parcel: &Parcel, is_wanted: &dyn Fn(&Hash) -> bool) -> Result<(), Error> {
        let record = parcel.encoded();
        let members = &parcel.record.members;
        let mut entries = location::entries(Kind::Chunks, record.len() as u32, members, &[])
            .expect("chunks have no labels to be read");
        let mut is_new = Vec::with_capacity(members.len());
        for member in members {
            is_new.push(is_wanted(&member.key) && !self.is_stored(&member.key)?);
        }
        let new = || members.iter().zip(&is_new).filter(|(_, new)| **new).map(|(member, _)| member);
        let new_bytes: usize = new().map(|member| member.range.len()).sum();
        if 2 * new_bytes < parcel.record.plain().len() || new().next().is_none() {
            return new().try_for_each(|member| {
                let bytes = &parcel.record.plain()[member.range.clone()];
                self.put_chunk(Class::Data, bytes, member.whole).map(drop)
            });
        }
        let mut keep = is_new.iter();
        entries.retain(|_| *keep.next().expect("as many as members"));
        self.put_record(record, entries, new_bytes as u64)
    }

    /// Makes an object of chunks that are stored, or in this batch. `hashed` is the hash of all their bytes in order, if the
    /// caller has it from [`Parcel::open`] and its own hasher; without it they are read back and hashed here.
    pub fn assemble(&mut self, cid: &Cid, chunks: &[Chunk], hashed: Option<Hash>) -> Result<(), Error> {
        let found = match (hashed, chunks) {
            (Some(hash), _) => hash,
            (None, [(hash, _)]) => *hash,
            (None, chunks) => self.hash_of(&cid.hash, chunks)?,
        };
        if found != cid.hash {
            return Err(Error::Mismatch { cid: *cid, found });
        }
        match chunks {
            [_] => Ok(()),
            chunks => self.put_parts(&cid.hash, chunks),
        }
    }

    fn hash_of(&mut self, object: &Hash, chunks: &[Chunk]) -> Result<Hash, Error> {
        // What is read must be in the index.
        self.commit_chunks()?;
        let store = Arc::clone(self.store());
        let mut hasher = WholeHasher::default();
        for (hash, size_bytes) in chunks {
            let missing = Error::Missing { object: *object, chunk: *hash };
            let location = store.locate(hash)?.ok_or(missing)?;
            let slice = store.slice(hash, &location)?;
            if slice.bytes().len() != *size_bytes as usize {
                return Err(Error::Manifest { object: *object, what: "does not fit its chunks" });
            }
            store.passed(&slice);
            hasher.update(slice.bytes());
        }
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::Codec;
    use crate::store::Options;
    use crate::writer::Durability;

    fn open(dir: &std::path::Path) -> Arc<Store> {
        Arc::new(Store::open(dir, Options::default()).unwrap())
    }

    fn random(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn put(store: &Arc<Store>, bytes: &[u8]) -> (Cid, Vec<Chunk>) {
        let mut batch = store.batch();
        let cid = batch.put_bytes(Codec::Raw, bytes).unwrap();
        batch.commit(Durability::Durable).unwrap();
        (cid, chunks(store, &cid))
    }

    fn chunks(store: &Arc<Store>, cid: &Cid) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut sink = |chunk| {
            chunks.push(chunk);
            Ok(())
        };
        store.object(cid).unwrap().unwrap().chunks(&mut sink).unwrap();
        chunks
    }

    fn export(export: &mut Export, wanted: &[Hash], may_send: &dyn Fn(&Hash) -> bool) -> (Vec<Parcel>, Vec<Hash>) {
        let mut parcels = Vec::new();
        let mut sink = |record| {
            parcels.push(Parcel::open(record).unwrap());
            Ok(())
        };
        let missing = export.chunks(wanted, may_send, &mut sink).unwrap();
        (parcels, missing)
    }

    #[test]
    fn an_object_goes_from_store_to_store() {
        let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (open(dirs.0.path()), open(dirs.1.path()));
        // Compressible and not, so that records of both codecs travel.
        let bytes = [random(1, 3 << 20), b"all work and no play ".repeat(100_000)].concat();
        let (cid, listed) = put(&from, &bytes);
        let hashes: Vec<Hash> = listed.iter().map(|(hash, _)| *hash).collect();
        let (parcels, missing) = export(&mut Export::new(from), &hashes, &|_| true);
        assert!(missing.is_empty());
        let sent: usize = parcels.iter().map(|parcel| parcel.record.members.len()).sum();
        let distinct: HashSet<Hash> = hashes.iter().copied().collect();
        assert_eq!(sent, distinct.len(), "each chunk once");
        let mut batch = to.batch();
        parcels.iter().for_each(|parcel| batch.put_parcel(parcel, &|_| true).unwrap());
        batch.assemble(&cid, &listed, None).unwrap();
        batch.commit(Durability::Durable).unwrap();
        assert!(to.read(&cid, 8 << 20).unwrap() == bytes);
        assert_eq!(chunks(&to, &cid), listed);
        drop(to);
        assert!(open(dirs.1.path()).read(&cid, 8 << 20).unwrap() == bytes, "after it was opened again");
    }

    #[test]
    fn what_may_not_be_sent_is_not_and_takes_its_neighbours_out_of_their_record() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut batch = store.batch();
        let shown = batch.put_bytes(Codec::Raw, b"everybody may read this").unwrap().hash;
        let secret = batch.put_bytes(Codec::Raw, b"secret").unwrap().hash;
        batch.commit(Durability::Durable).unwrap();
        let (parcels, missing) = export(&mut Export::new(store), &[shown, secret, shown], &|hash| *hash == shown);
        assert_eq!(missing, [secret]);
        let sent: Vec<_> = parcels.iter().flat_map(|parcel| parcel.chunks().map(|(hash, _)| hash)).collect();
        assert_eq!(sent, [shown]);
    }

    #[test]
    fn a_record_is_sent_once_to_one_receiver() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (_, listed) = put(&store, &random(2, 250_000));
        let hashes: Vec<Hash> = listed.iter().map(|(hash, _)| *hash).collect();
        let mut all = Export::new(store);
        assert_eq!(export(&mut all, &hashes, &|_| true).0.len(), 1);
        assert_eq!(export(&mut all, &hashes, &|_| true).0.len(), 0);
    }

    #[test]
    fn of_a_record_only_what_is_new_is_stored() {
        let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (open(dirs.0.path()), open(dirs.1.path()));
        let mut batch = from.batch();
        let (old, new) = (random(3, 9_000), random(4, 1_000));
        let (old, new) = (batch.put_bytes(Codec::Raw, &old).unwrap(), batch.put_bytes(Codec::Raw, &new).unwrap());
        batch.commit(Durability::Durable).unwrap();
        put(&to, &random(3, 9_000));
        let before = to.stats().unwrap();
        let (parcels, _) = export(&mut Export::new(from), &[old.hash, new.hash], &|_| true);
        assert_eq!(parcels.len(), 1);
        let mut batch = to.batch();
        batch.put_parcel(&parcels[0], &|_| true).unwrap();
        batch.assemble(&new, &[(new.hash, 1_000)], None).unwrap();
        batch.commit(Durability::Durable).unwrap();
        let after = to.stats().unwrap();
        assert_eq!((after.chunks, after.plain_bytes), (before.chunks + 1, before.plain_bytes + 1_000));
        assert!(after.stored_bytes < before.stored_bytes + 3_000, "the record itself has 10,000 bytes");
        assert_eq!(to.read(&new, 2_000).unwrap(), random(4, 1_000));
    }

    #[test]
    fn chunks_that_are_not_the_object_make_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (cid, mut listed) = put(&store, &random(5, 1 << 20));
        listed.swap(0, 1);
        let wrong = Cid { hash: Hash::of(b"wanted"), ..cid };
        let mut batch = store.batch();
        let error = batch.assemble(&wrong, &listed, None).unwrap_err();
        assert!(matches!(error, Error::Mismatch { cid, .. } if cid == wrong), "{error}");
        listed[0].1 += 1;
        assert!(matches!(batch.assemble(&wrong, &listed, None), Err(Error::Manifest { .. })));
        listed[0].0 = Hash::of(b"nowhere");
        assert!(matches!(batch.assemble(&wrong, &listed, None), Err(Error::Missing { .. })));
        assert!(!store.contains(&wrong).unwrap());
    }

    #[test]
    fn rubbish_is_refused_before_it_is_unpacked() {
        let sealed = |kind, len| {
            let bytes = random(6, len);
            let mut draft = Draft::default();
            draft.push(&Hash::of(&bytes), true, &bytes);
            draft.seal(kind).parts().concat()
        };
        assert!(Parcel::open(sealed(Kind::Chunks, 100)).is_ok());
        let flaw = |bytes| Parcel::open(bytes).err();
        assert_eq!(flaw(sealed(Kind::Memos, 100)), Some("the record holds something else than chunks"));
        let long = flaw(sealed(Kind::Chunks, MAX_CHUNK_BYTES + 1));
        assert_eq!(long, Some("the record holds a chunk of impossible length, or none"));
        let good = sealed(Kind::Chunks, 100);
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(flaw(flipped).is_some(), "bit {bit}");
        }
    }
}
