//! The hashes of files whose chunks come in their order, taken while they come. A file whose chunks don't is read back later.

use gridfs_store::{Hash, WholeHasher};

use crate::listing::File;

/// Files being hashed, one after the other.
pub struct Rolling {
    /// The files to hash that are left: their numbers in the listing, the next one last.
    left: Vec<usize>,
    /// The next chunk of the file under way.
    chunk: usize,
    hasher: WholeHasher,
    /// Of each file, once it is known.
    hashes: Vec<Option<Hash>>,
}

impl Rolling {
    /// Will hash the files of these numbers, ascending.
    pub fn new(files: usize, mut left: Vec<usize>) -> Rolling {
        left.reverse();
        Rolling { left, chunk: 0, hasher: WholeHasher::default(), hashes: vec![None; files] }
    }

    /// Takes a chunk that came, for the first time. `is_here` says which others are here already and will not come.
    pub fn take(&mut self, files: &[File], hash: &Hash, bytes: &[u8], is_here: impl Fn(&Hash) -> bool) {
        while let Some(file) = self.left.last() {
            let chunks = &files[*file].chunks;
            let (next, _) = chunks[self.chunk];
            if next == *hash {
                self.hasher.update(bytes);
                self.chunk += 1;
                if self.chunk == chunks.len() {
                    self.hashes[*file] = Some(self.hasher.finish());
                    self.skip();
                }
                return;
            }
            if !is_here(&next) {
                return;
            }
            self.skip();
        }
    }

    fn skip(&mut self) {
        self.left.pop();
        self.chunk = 0;
        self.hasher.reset();
    }

    /// The hash of a file whose chunks all came in their order.
    pub fn hash(&self, file: usize) -> Option<Hash> {
        self.hashes[file]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use gridfs_store::{Cid, Codec};

    use super::*;

    fn file(parts: &[&[u8]]) -> File {
        let chunks = parts.iter().map(|part| (Hash::of(part), part.len() as u32)).collect();
        let cid = Cid::of(Codec::Raw, &parts.concat());
        File { cid, chunks }
    }

    fn roll(files: &[File], come: &[&[u8]]) -> Vec<bool> {
        let mut rolling = Rolling::new(files.len(), (0..files.len()).collect());
        let mut here = HashSet::new();
        for bytes in come {
            let hash = Hash::of(bytes);
            rolling.take(files, &hash, bytes, |hash| here.contains(hash));
            here.insert(hash);
        }
        let right =
            |(at, file): (usize, &File)| rolling.hash(at).inspect(|hash| assert_eq!(*hash, file.cid.hash)).is_some();
        files.iter().enumerate().map(right).collect()
    }

    #[test]
    fn files_whose_chunks_come_in_their_order_are_hashed() {
        let files = [file(&[b"a", b"b"]), file(&[b"c", b"d", b"e"])];
        assert_eq!(roll(&files, &[b"a", b"b", b"c", b"d", b"e"]), [true, true]);
        assert_eq!(
            roll(&files, &[b"b", b"a", b"c", b"d", b"e"]),
            [false, true],
            "of the first the second chunk came first"
        );
        assert_eq!(roll(&files, &[b"a", b"c", b"b", b"d", b"e"]), [true, false]);
        assert_eq!(roll(&files, &[b"a"]), [false, false]);
        let twice = [file(&[b"a", b"a", b"b"]), file(&[b"c", b"d"])];
        assert_eq!(roll(&twice, &[b"a", b"b", b"c", b"d"]), [false, true], "a chunk that is there twice comes once");
    }
}
