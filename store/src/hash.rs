//! A BLAKE3-256 digest: the key of every chunk, object and memo.

use std::fmt;

/// A 32-byte BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The BLAKE3 hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }
}

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Hash {
        Hash(*hash.as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes that BLAKE3 hashes side by side on the widest processors.
const STRIDE_BYTES: usize = 16 << 10;

/// Hashes a whole whose pieces come one after the other. They are hashed from multiples of 16 KiB on, where BLAKE3 is at
/// its fastest: the chunks of a file, handed on as they are, take a quarter longer.
#[derive(Default)]
pub struct WholeHasher {
    hasher: blake3::Hasher,
    /// The last bytes, less than a stride.
    waiting: Vec<u8>,
}

impl WholeHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.waiting.is_empty() {
            let (fill, rest) = bytes.split_at(bytes.len().min(STRIDE_BYTES - self.waiting.len()));
            self.waiting.extend_from_slice(fill);
            if self.waiting.len() < STRIDE_BYTES {
                return;
            }
            self.hasher.update(&self.waiting);
            self.waiting.clear();
            bytes = rest;
        }
        let (strides, rest) = bytes.split_at(bytes.len() - bytes.len() % STRIDE_BYTES);
        self.hasher.update(strides);
        self.waiting.reserve_exact(if rest.is_empty() { 0 } else { STRIDE_BYTES });
        self.waiting.extend_from_slice(rest);
    }

    /// The hash of all that came; the next bytes begin another whole.
    pub fn finish(&mut self) -> Hash {
        let hash = self.hasher.update(&self.waiting).finalize().into();
        self.reset();
        hash
    }

    /// Forgets what came.
    pub fn reset(&mut self) {
        self.hasher.reset();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_is_hashed_however_it_comes() {
        let bytes: Vec<u8> = (0..5 * STRIDE_BYTES + 7).map(|at| (at % 251) as u8).collect();
        let mut hasher = WholeHasher::default();
        let lengths = [0, 1, 1000, STRIDE_BYTES - 1, STRIDE_BYTES, STRIDE_BYTES + 1, 3 * STRIDE_BYTES, bytes.len()];
        for length in lengths {
            for first in lengths.into_iter().filter(|first| *first <= length) {
                hasher.update(&bytes[..first]);
                bytes[first..length].chunks(length.div_ceil(3).max(1)).for_each(|piece| hasher.update(piece));
                assert_eq!(hasher.finish(), Hash::of(&bytes[..length]), "{first} of {length}");
            }
        }
        hasher.update(&bytes);
        hasher.reset();
        assert_eq!(hasher.finish(), Hash::of(b""));
    }

    #[test]
    fn hash_of_nothing_is_the_published_vector() {
        let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Hash::of(b"").to_string(), text);
        assert_eq!(format!("{:?}", Hash::of(b"")), text);
    }
}
