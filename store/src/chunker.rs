//! FastCDC v2020 (Xia et al., 2020; crate fastcdc 5.0.0) over a bounded, reused buffer.
//!
//! The parameters and the crate's cut points are part of the disk format: a change would not break reading,
//! but equal content would no longer meet its chunks. Golden cuts below guard them. The slice interface is
//! used because `StreamCDC` allocates and moves memory per chunk.

use fastcdc::v2020::{FastCDC, Normalization};

pub const MIN_BYTES: usize = 16 * 1024;
pub const AVG_BYTES: usize = 64 * 1024;
pub const MAX_BYTES: usize = 256 * 1024;
const BUFFER_BYTES: usize = 1024 * 1024;

/// Bytes waiting to be cut.
///
/// Invariant: a cut is made only with `MAX_BYTES` at hand or the end known, so that cuts depend on
/// the content alone and not on how it arrived.
#[derive(Default)]
pub struct Chunker {
    buffer: Vec<u8>,
    start: usize,
}

impl Chunker {
    /// Takes as much of `bytes` as there is room for and returns how much that was.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        self.compact();
        let taken = bytes.len().min(BUFFER_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Fills up from `reader`, at least by one byte unless it ends; `hint` is the size expected.
    pub fn fill(&mut self, reader: &mut dyn std::io::Read, hint: usize) -> std::io::Result<usize> {
        self.compact();
        let filled = self.buffer.len();
        self.buffer.resize((filled + hint.max(MIN_BYTES)).min(BUFFER_BYTES), 0);
        let outcome = loop {
            match reader.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => break other,
            }
        };
        let room = self.buffer.len() - filled;
        let read = outcome.as_ref().map_or(0, |read| (*read).min(room));
        self.buffer.truncate(filled + read);
        outcome.map(|_| read)
    }

    /// The next chunk. Before the end is known, `None` asks for more bytes; after it, there are no more.
    pub fn next(&mut self, ended: bool) -> Option<&[u8]> {
        let waiting = self.buffer.len() - self.start;
        if waiting == 0 || (!ended && waiting < MAX_BYTES) {
            return None;
        }
        let start = self.start;
        self.start += cut(&self.buffer[start..]);
        Some(&self.buffer[start..self.start])
    }

    /// Forgets all bytes but keeps the memory.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.start = 0;
    }

    fn compact(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
    }
}

/// Length of the first chunk of `source`, which holds `MAX_BYTES` or all that there is.
pub fn cut(source: &[u8]) -> usize {
    if source.len() <= MIN_BYTES {
        return source.len();
    }
    let cdc = FastCDC::with_level(source, MIN_BYTES, AVG_BYTES, MAX_BYTES, Normalization::Level1);
    cdc.cut(0, source.len()).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(bytes: &[u8], step: usize) -> Vec<usize> {
        let (mut chunker, mut sizes) = (Chunker::default(), Vec::new());
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() {
                piece = &piece[chunker.take(piece)..];
                while let Some(chunk) = chunker.next(false) {
                    sizes.push(chunk.len());
                }
            }
        }
        while let Some(chunk) = chunker.next(true) {
            sizes.push(chunk.len());
        }
        sizes
    }

    #[test]
    fn golden_cuts() {
        let expected = [
            32_798, 100_912, 40_249, 68_411, 152_004, 75_528, 61_313, 86_054, 69_684, 80_169, 58_517, 51_479, 153_692,
            17_766,
        ];
        assert_eq!(cuts(&noise(1 << 20), 1 << 20), expected);
    }

    #[test]
    fn cuts_do_not_depend_on_how_bytes_arrive() {
        let bytes = noise(3 << 20);
        let whole = cuts(&bytes, bytes.len());
        assert_eq!(whole.iter().sum::<usize>(), bytes.len());
        assert!(whole.iter().rev().skip(1).all(|size| (MIN_BYTES..=MAX_BYTES).contains(size)));
        for step in [1000, 65_536, 999_983] {
            assert_eq!(cuts(&bytes, step), whole, "step {step}");
        }
        let reference = FastCDC::with_level(&bytes, MIN_BYTES, AVG_BYTES, MAX_BYTES, Normalization::Level1);
        assert_eq!(whole, reference.map(|chunk| chunk.length).collect::<Vec<_>>());
    }

    #[test]
    fn runs_of_zeros_are_cut_at_the_maximum() {
        assert_eq!(cuts(&vec![0; 600_000], 600_000), [262_144, 262_144, 75_712]);
        assert_eq!(cuts(&[], 1), [0usize; 0]);
        assert_eq!(cuts(&[7], 1), [1]);
    }
}
