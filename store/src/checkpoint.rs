//! How far the index has got, and what it counts: one row of it, which each transaction moves along.

use crate::location::Location;

pub const CHECKPOINT_BYTES: usize = 2 * POSITION_BYTES + 32;
const POSITION_BYTES: usize = 32;

/// A place between two commits of the log, and the data that belongs to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Sequence number of the commit that ends here; 0 before the first.
    pub sequence: u64,
    pub meta_id: u32,
    pub meta_end: u64,
    pub data_id: u32,
    pub data_end: u64,
}

/// What the index counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Objects put.
    pub objects: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Remembered results, and aliases.
    pub memos: u64,
    /// Bytes of all distinct chunks before compression.
    pub plain_bytes: u64,
}

/// How far the index has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything up to here is in the index.
    pub indexed: Position,
    /// Everything up to here is known to be on disk.
    pub durable: Position,
    pub counters: Counters,
}

impl Counters {
    /// Counts a row that was added.
    pub fn count(&mut self, location: &Location) {
        self.objects += u64::from(location.whole || location.manifest);
        self.chunks += u64::from(!location.manifest);
        self.plain_bytes += location.chunk_bytes();
    }

    /// Counts a row that was removed.
    pub fn take(&mut self, location: &Location) {
        self.objects -= u64::from(location.whole || location.manifest);
        self.chunks -= u64::from(!location.manifest);
        self.plain_bytes -= location.chunk_bytes();
    }
}

impl Checkpoint {
    pub fn encode(&self) -> [u8; CHECKPOINT_BYTES] {
        let position =
            |p: &Position| [p.sequence, u64::from(p.meta_id) | u64::from(p.data_id) << 32, p.meta_end, p.data_end];
        let c = &self.counters;
        let counters = [c.objects, c.chunks, c.memos, c.plain_bytes];
        let words = [position(&self.indexed), position(&self.durable), counters];
        let mut bytes = [0; CHECKPOINT_BYTES];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words.as_flattened()) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8; CHECKPOINT_BYTES]) -> Checkpoint {
        let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("a slice of eight"));
        let position = |at: usize| Position {
            sequence: word(at),
            meta_id: word(at + 1) as u32,
            data_id: (word(at + 1) >> 32) as u32,
            meta_end: word(at + 2),
            data_end: word(at + 3),
        };
        let counters = Counters { objects: word(8), chunks: word(9), memos: word(10), plain_bytes: word(11) };
        Checkpoint { indexed: position(0), durable: position(4), counters }
    }
}
