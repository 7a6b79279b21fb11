//! One record of a pack: a checked header, a table of keys, and the members' bytes compressed together.
//!
//! ```text
//! 0      4    5     6     8            12          16                  20                     24
//! | gRec | kind | codec | count | stored len | plain len | crc32 table+body | crc32 header[0..20] |
//! | count x { key 32 | plain length, bit 31 = whole object } | body |
//! ```
//!
//! Invariants: a decoded record's members lie inside its plain bytes and fill them exactly; a decoded
//! chunk record's members hash to their keys. Lengths are capped before anything is allocated.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::hash::Hash;

pub const HEADER_BYTES: usize = 24;
pub const ENTRY_BYTES: usize = 36;
pub const MAGIC: [u8; 4] = *b"gRec";
/// A draft of this plain size is full; with one member more it stays below twice this.
pub const FULL_BYTES: usize = 288 * 1024;
/// A draft of this many members is full.
pub const FULL_MEMBERS: usize = 4096;
/// Cap on the plain length a header may claim (footers have their own).
pub const MAX_PLAIN_BYTES: u32 = 1024 * 1024;
const MAX_FOOTER_BYTES: u32 = 64 * 1024 * 1024;
const WHOLE: u32 = 1 << 31;

/// A shorter body is stored plain: a receipt by itself, mostly hashes, would get 2 % shorter, and that takes a tenth of
/// the time that a small call takes.
const SMALL_BYTES: usize = 1024;
const LEVEL: i32 = 3;
/// Smaller tables than the level's own: they stay in the cache of a core. Costs 0.4 % of size and saves a seventh of
/// the time.
const HASH_LOG: u32 = 15;
const CHAIN_LOG: u32 = 15;
const SAMPLE_LEVEL: i32 = 1;
const SAMPLE_BYTES: usize = 16 * 1024;
const GLANCE_BYTES: usize = 4 * 1024;
const SAMPLE_PIECES: usize = 4;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Chunks = 1,
    Manifests = 2,
    Memos = 3,
    Commit = 4,
    Footer = 5,
    Retire = 6,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        [Kind::Chunks, Kind::Manifests, Kind::Memos, Kind::Commit, Kind::Footer, Kind::Retire]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    fn max_plain_bytes(self) -> u32 {
        if self == Kind::Footer { MAX_FOOTER_BYTES } else { MAX_PLAIN_BYTES }
    }
}

/// Why bytes are not a record.
pub type Flaw = &'static str;

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub compressed: bool,
    pub count: u16,
    pub stored_bytes: u32,
    pub plain_bytes: u32,
    pub crc: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[5] = u8::from(self.compressed);
        bytes[6..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.plain_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Header, Flaw> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or("the record header is cut short")?;
        if bytes[..4] != MAGIC {
            return Err("no record begins here");
        }
        if crc32fast::hash(&bytes[..20]) != le32(bytes, 20) {
            return Err("the record header fails its CRC");
        }
        let header = Header {
            kind: Kind::parse(bytes[4]).ok_or("the record kind is unknown")?,
            compressed: match bytes[5] {
                0 => false,
                1 => true,
                _ => return Err("the record codec is unknown"),
            },
            count: u16::from_le_bytes([bytes[6], bytes[7]]),
            stored_bytes: le32(bytes, 8),
            plain_bytes: le32(bytes, 12),
            crc: le32(bytes, 16),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Flaw> {
        let plausible = self.plain_bytes <= self.kind.max_plain_bytes()
            && self.stored_bytes <= self.plain_bytes
            && (self.compressed || self.stored_bytes == self.plain_bytes);
        plausible.then_some(()).ok_or("the record lengths are impossible")
    }

    pub fn table_bytes(&self) -> usize {
        usize::from(self.count) * ENTRY_BYTES
    }

    /// Length of the whole record on disk.
    pub fn record_bytes(&self) -> u64 {
        (HEADER_BYTES + self.table_bytes()) as u64 + u64::from(self.stored_bytes)
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four"))
}

/// One member of a record, as its table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub key: Hash,
    /// Whether the chunk is an object by itself.
    pub whole: bool,
    /// Where its bytes lie in the record's plain bytes.
    pub range: Range<usize>,
}

/// Parses a table whose members must fill `plain_bytes` exactly.
pub fn parse_table(table: &[u8], plain_bytes: u32) -> Result<Vec<Member>, Flaw> {
    let mut start = 0usize;
    let mut members = Vec::with_capacity(table.len() / ENTRY_BYTES);
    for entry in table.chunks_exact(ENTRY_BYTES) {
        let key = Hash(entry[..32].try_into().expect("the first 32 of 36 bytes"));
        let word = le32(entry, 32);
        let end = start + (word & !WHOLE) as usize;
        members.push(Member { key, whole: word & WHOLE != 0, range: start..end });
        start = end;
    }
    let exact = start == plain_bytes as usize || members.is_empty();
    exact.then_some(members).ok_or("the record table does not add up")
}

/// A record being filled.
#[derive(Default)]
pub struct Draft {
    table: Vec<u8>,
    body: Vec<u8>,
    count: u16,
}

impl Draft {
    /// Adds a member and returns its number.
    pub fn push(&mut self, key: &Hash, whole: bool, bytes: &[u8]) -> u16 {
        assert!(!self.is_full() && bytes.len() <= FULL_BYTES, "a member goes into a draft with room");
        self.table.extend_from_slice(&key.0);
        let word = bytes.len() as u32 | if whole { WHOLE } else { 0 };
        self.table.extend_from_slice(&word.to_le_bytes());
        self.body.extend_from_slice(bytes);
        self.count += 1;
        self.count - 1
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn is_full(&self) -> bool {
        self.body.len() >= FULL_BYTES || usize::from(self.count) >= FULL_MEMBERS
    }

    /// The members' plain bytes so far.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Empties it; the memory is kept.
    pub fn clear(&mut self) {
        self.table.clear();
        self.body.clear();
        self.count = 0;
    }

    pub fn members(&self) -> Vec<Member> {
        parse_table(&self.table, self.body.len() as u32).expect("a draft's table adds up")
    }

    /// The finished record.
    pub fn seal(self, kind: Kind) -> Sealed {
        let packed = compress(&self.body);
        let head = head(kind, self.count, &self.table, &self.body, packed.as_deref());
        Sealed { head, packed, draft: self }
    }
}

/// A finished record in the two parts that it is written in: a body stored plain is not copied.
pub struct Sealed {
    head: Vec<u8>,
    packed: Option<Vec<u8>>,
    draft: Draft,
}

impl Sealed {
    /// Header and table, then the body.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.head, self.packed.as_deref().unwrap_or(&self.draft.body)]
    }

    /// Length of the whole record.
    pub fn record_bytes(&self) -> u32 {
        self.parts().iter().map(|part| part.len() as u32).sum()
    }

    /// What it was made from.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    pub fn into_draft(self) -> Draft {
        self.draft
    }
}

/// A record without members whose body is stored as it is: commits and footers.
pub fn encode_plain(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut record = head(kind, 0, &[], body, None);
    record.extend_from_slice(body);
    record
}

/// Header and table of a record.
fn head(kind: Kind, count: u16, table: &[u8], plain: &[u8], packed: Option<&[u8]>) -> Vec<u8> {
    let body = packed.unwrap_or(plain);
    let mut crc = crc32fast::Hasher::new();
    crc.update(table);
    crc.update(body);
    let header = Header {
        kind,
        compressed: packed.is_some(),
        count,
        stored_bytes: body.len() as u32,
        plain_bytes: plain.len() as u32,
        crc: crc.finalize(),
    };
    let mut head = Vec::with_capacity(HEADER_BYTES + table.len());
    head.extend_from_slice(&header.encode());
    head.extend_from_slice(table);
    head
}

/// What a thread keeps from one record to the next.
struct Packer {
    compressor: Compressor<'static>,
    /// Tries samples: another level in the same compressor would clear its tables each time.
    sampler: Compressor<'static>,
    /// As long as the worst case.
    buffer: Vec<u8>,
}

/// Buffers of dropped records that a thread keeps for the next: fresh memory costs as much as reading into it.
const SPARE_BUFFERS: usize = 2;
/// How long they are; others are given back.
const SPARE_BYTES: RangeInclusive<usize> = 64 << 10..=2 << 20;

thread_local! {
    static PACKER: RefCell<Option<Packer>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    static SPARE: RefCell<VecDeque<Vec<u8>>> = const { RefCell::new(VecDeque::new()) };
}

/// A buffer of `len` bytes, whatever they are, in at most twice the memory.
pub fn buffer(len: usize) -> Vec<u8> {
    let fits = |spare: &Vec<u8>| (len..=2 * len).contains(&spare.capacity());
    let spare = SPARE.with_borrow_mut(|spare| spare.iter().position(fits).and_then(|at| spare.remove(at)));
    let Some(mut buffer) = spare else { return vec![0; len] };
    buffer.resize(len, 0);
    buffer
}

/// Keeps a buffer for later, unless the thread is about to end.
fn keep(buffer: Vec<u8>) {
    let _ = SPARE.try_with(|spare| {
        if !SPARE_BYTES.contains(&buffer.capacity()) {
            return;
        }
        let mut spare = spare.borrow_mut();
        if spare.len() == SPARE_BUFFERS {
            spare.pop_front();
        }
        spare.push_back(buffer);
    });
}

/// zstd, if it saves at least 5 %. It can fail only for want of memory; then the record is stored as it is.
fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    if plain.len() < SMALL_BYTES {
        return None;
    }
    PACKER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Packer::new().ok();
        }
        slot.as_mut()?.pack(plain)
    })
}

impl Packer {
    fn new() -> std::io::Result<Packer> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::HashLog(HASH_LOG))?;
        compressor.set_parameter(CParameter::ChainLog(CHAIN_LOG))?;
        Ok(Packer { compressor, sampler: Compressor::new(SAMPLE_LEVEL)?, buffer: Vec::new() })
    }

    /// A long body is looked at first: most of what can't be compressed is recognised for a fraction of the cost.
    fn pack(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() >= 4 * SAMPLE_BYTES && looks_random(&sample(plain, GLANCE_BYTES)) {
            let sample = sample(plain, SAMPLE_BYTES);
            let packed = self.sampler.compress(&sample).ok()?;
            if !saves(packed.len(), sample.len()) {
                return None;
            }
        }
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let packed_bytes = self.compressor.compress_to_buffer(plain, &mut self.buffer).ok()?;
        saves(packed_bytes, plain.len()).then(|| self.buffer.clone())
    }
}

fn saves(packed_bytes: usize, plain_bytes: usize) -> bool {
    packed_bytes * 100 <= plain_bytes * 95
}

/// `len` bytes from all over a body.
fn sample(plain: &[u8], len: usize) -> Vec<u8> {
    let stride = plain.len() / SAMPLE_PIECES;
    let pieces = (0..SAMPLE_PIECES).map(|piece| &plain[piece * stride..][..len / SAMPLE_PIECES]);
    pieces.collect::<Vec<_>>().concat()
}

/// Whether all byte values are about equally frequent: two bytes drawn from `sample` are equal at most twice as often
/// as they would be at random.
fn looks_random(sample: &[u8]) -> bool {
    let mut counts = [0usize; 256];
    sample.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let equal_pairs: usize = counts.iter().map(|count| count * count).sum();
    equal_pairs * 256 <= 2 * sample.len() * sample.len()
}

fn decompress(stored: &[u8], plain_bytes: usize) -> Result<Vec<u8>, Flaw> {
    const FLAW: Flaw = "the record does not decompress";
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Decompressor::new().map_err(|_| "no memory to decompress a record")?);
        }
        let decompressor = slot.as_mut().ok_or(FLAW)?;
        let mut plain = buffer(plain_bytes);
        let decompressed = decompressor.decompress_to_buffer(stored, plain.as_mut_slice()).map_err(|_| FLAW)?;
        (decompressed == plain_bytes).then_some(plain).ok_or(FLAW)
    })
}

/// Checks a record's length and CRCs.
pub fn check(bytes: &[u8]) -> Result<Header, Flaw> {
    let header = Header::decode(bytes)?;
    if header.record_bytes() != bytes.len() as u64 {
        return Err("the record has another length than its header says");
    }
    let fits = crc32fast::hash(&bytes[HEADER_BYTES..]) == header.crc;
    fits.then_some(header).ok_or("the record fails its CRC")
}

/// A record read back and checked.
#[derive(Debug)]
pub struct Record {
    pub kind: Kind,
    pub members: Vec<Member>,
    /// The plain body, after `skip` bytes that are not part of it.
    buffer: Vec<u8>,
    skip: usize,
}

impl Record {
    /// Checks CRCs, lengths and, for chunks, that every member hashes to its key. A body stored plain is not
    /// copied.
    pub fn decode(bytes: Vec<u8>) -> Result<Record, Flaw> {
        let (record, packed) = Record::decode_keeping(bytes)?;
        packed.into_iter().for_each(keep);
        Ok(record)
    }

    /// As `decode`; if the body was compressed, also returns the record as it was.
    pub fn decode_keeping(bytes: Vec<u8>) -> Result<(Record, Option<Vec<u8>>), Flaw> {
        let header = check(&bytes)?;
        let (table, body) = bytes[HEADER_BYTES..].split_at(header.table_bytes());
        let members = parse_table(table, header.plain_bytes)?;
        let (buffer, skip, packed) = match header.compressed {
            true => (decompress(body, header.plain_bytes as usize)?, 0, Some(bytes)),
            false => (bytes, HEADER_BYTES + header.table_bytes(), None),
        };
        let record = Record { kind: header.kind, members, buffer, skip };
        record.check_hashes()?;
        Ok((record, packed))
    }

    /// The record as it was, if its body is stored plain.
    pub fn encoded(&self) -> &[u8] {
        &self.buffer
    }

    /// As `encoded`, with its memory.
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The members' bytes one after the other.
    pub fn plain(&self) -> &[u8] {
        &self.buffer[self.skip..]
    }

    /// Memory taken.
    pub fn weight(&self) -> usize {
        self.buffer.capacity() + self.members.len() * size_of::<Member>()
    }

    fn check_hashes(&self) -> Result<(), Flaw> {
        let honest = |member: &Member| Hash::of(&self.plain()[member.range.clone()]) == member.key;
        let checked = self.kind != Kind::Chunks || self.members.iter().all(honest);
        checked.then_some(()).ok_or("a chunk does not hash to its key")
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_record() -> Vec<u8> {
        let mut draft = Draft::default();
        assert_eq!(draft.push(&Hash::of(b"abc"), true, b"abc"), 0);
        assert_eq!(draft.push(&Hash::of(b""), false, b""), 1);
        draft.seal(Kind::Chunks).parts().concat()
    }

    #[test]
    fn golden_record() {
        let record = sample_record();
        let mut expected = b"gRec\x01\x00\x02\x00\x03\x00\x00\x00\x03\x00\x00\x00".to_vec();
        let mut rest = Hash::of(b"abc").0.to_vec();
        rest.extend_from_slice(&[3, 0, 0, 0x80]);
        rest.extend_from_slice(&Hash::of(b"").0);
        rest.extend_from_slice(&[0, 0, 0, 0]);
        rest.extend_from_slice(b"abc");
        expected.extend_from_slice(&crc32fast::hash(&rest).to_le_bytes());
        expected.extend_from_slice(&crc32fast::hash(&expected).to_le_bytes());
        expected.extend_from_slice(&rest);
        assert_eq!(record, expected);
        assert_eq!(record.len(), 24 + 2 * 36 + 3);
        let crcs: Vec<u32> = [16, 20].map(|at| le32(&record, at)).to_vec();
        assert_eq!(crcs, [989_592_448, 465_498_636]);
    }

    #[test]
    fn round_trip_compressed() {
        let bytes = b"all work and no play ".repeat(5000);
        let mut draft = Draft::default();
        draft.push(&Hash::of(&bytes), true, &bytes);
        let encoded = draft.seal(Kind::Chunks).parts().concat();
        assert!(encoded.len() < 1000, "{}", encoded.len());
        let record = Record::decode(encoded).unwrap();
        assert_eq!(record.plain(), bytes);
        assert_eq!(record.members, [Member { key: Hash::of(&bytes), whole: true, range: 0..bytes.len() }]);
    }

    #[test]
    fn short_bodies_are_stored_plain() {
        let is_compressed = |len| {
            let bytes = vec![b'x'; len];
            let mut draft = Draft::default();
            draft.push(&Hash::of(&bytes), true, &bytes);
            Header::decode(&draft.seal(Kind::Chunks).parts().concat()).unwrap().compressed
        };
        assert_eq!([SMALL_BYTES - 1, SMALL_BYTES].map(is_compressed), [false, true]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = sample_record();
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_chunk_under_a_false_key_is_refused_though_its_crc_is_right() {
        let mut draft = Draft::default();
        draft.push(&Hash::of(b"other"), true, b"abc");
        let flaw = Record::decode(draft.seal(Kind::Chunks).parts().concat()).unwrap_err();
        assert_eq!(flaw, "a chunk does not hash to its key");
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let header =
            Header { kind: Kind::Chunks, compressed: true, count: 1, stored_bytes: 100, plain_bytes: u32::MAX, crc: 0 };
        assert_eq!(Header::decode(&header.encode()), Err("the record lengths are impossible"));
    }

    #[test]
    fn a_buffer_is_used_again_where_it_fits() {
        // Each test has a thread of its own, and with it its own spare buffers.
        keep(vec![7; 100_000]);
        assert!(buffer(40_000).capacity() < 80_000, "it would take more than twice the memory");
        let again = buffer(60_000);
        assert_eq!((again.len(), again.capacity()), (60_000, 100_000));
        keep(again);
        let longer = buffer(90_000);
        assert_eq!((longer.len(), longer.capacity()), (90_000, 100_000));
        for len in [1_000, 4 << 20] {
            keep(vec![7; len]);
            assert!(SPARE.with_borrow(VecDeque::is_empty), "{len}");
        }
        (0..5).for_each(|_| keep(vec![7; 100_000]));
        assert_eq!(SPARE.with_borrow(VecDeque::len), SPARE_BUFFERS);
    }
}
