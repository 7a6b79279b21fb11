//! The manifest of an object of more than one chunk: a tree of nodes that list chunks by hash and end offset.
//!
//! ```text
//! 0           1         2            4           8
//! | version 1 | level   | reserved 0 | count u32 | count x { hash 32 | end offset u64 } |
//! ```
//!
//! Level 0 lists chunks, level n lists nodes of level n-1. End offsets are relative to the node's own start
//! and strictly increase, so the last one is the node's span. The root is stored under the object's hash,
//! inner nodes as chunks; with 4,096 entries a node, three levels span more than an exabyte.

use crate::hash::Hash;

/// Entries in one node.
pub const FAN_OUT: usize = 4096;
const VERSION: u8 = 1;
const MAX_LEVEL: u8 = 8;
const HEAD_BYTES: usize = 8;
const ENTRY_BYTES: usize = 40;

/// One entry of a node, resolved for an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub hash: Hash,
    /// First byte, relative to the node's start.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// A parsed view of a node's bytes.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    entries: &'a [u8],
    pub level: u8,
}

impl<'a> Node<'a> {
    /// Checks the head and the length; entries are checked as they are used.
    pub fn parse(bytes: &'a [u8]) -> Result<Node<'a>, &'static str> {
        let (head, entries) = bytes.split_at_checked(HEAD_BYTES).ok_or("is cut short")?;
        let count = u32::from_le_bytes(head[4..].try_into().expect("four of eight bytes")) as usize;
        if head[0] != VERSION || head[2..4] != [0, 0] || head[1] > MAX_LEVEL {
            return Err("has an unknown version");
        }
        if count == 0 || count > FAN_OUT || entries.len() != count * ENTRY_BYTES {
            return Err("has an impossible length");
        }
        Ok(Node { entries, level: head[1] })
    }

    fn count(&self) -> usize {
        self.entries.len() / ENTRY_BYTES
    }

    fn end(&self, at: usize) -> u64 {
        let entry = &self.entries[at * ENTRY_BYTES..][..ENTRY_BYTES];
        u64::from_le_bytes(entry[32..].try_into().expect("the last eight of forty bytes"))
    }

    /// Bytes this node stands for.
    pub fn span_bytes(&self) -> u64 {
        self.end(self.count() - 1)
    }

    /// The hashes of its entries, in order.
    pub fn hashes(&self) -> impl Iterator<Item = Hash> + use<'a> {
        self.entries
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| Hash(entry[..32].try_into().expect("the first 32 of 40 bytes")))
    }

    /// Its entries in order; `None` for one that ends before it starts.
    pub fn spans(&self) -> impl Iterator<Item = Option<Span>> + use<'_, 'a> {
        let start = |at: usize| if at == 0 { 0 } else { self.end(at - 1) };
        self.hashes().enumerate().map(move |(at, hash)| {
            let span = Span { hash, start: start(at), end: self.end(at) };
            (span.start < span.end).then_some(span)
        })
    }

    /// The entry that holds `offset`, which must lie inside the span.
    pub fn find(&self, offset: u64) -> Result<Span, &'static str> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.end(middle) <= offset { low = middle + 1 } else { high = middle }
        }
        if low == self.count() {
            return Err("is asked beyond its end");
        }
        let start = if low == 0 { 0 } else { self.end(low - 1) };
        let hash = self.entries[low * ENTRY_BYTES..][..32].try_into().expect("the first 32 of 40 bytes");
        let span = Span { hash: Hash(hash), start, end: self.end(low) };
        let inside = span.start <= offset && offset < span.end;
        inside.then_some(span).ok_or("has offsets out of order")
    }
}

/// Builds a manifest from chunks in order, holding one open node per level.
pub struct Builder {
    fan_out: usize,
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    entries: Vec<u8>,
    count: usize,
    span_bytes: u64,
}

impl Level {
    fn push(&mut self, hash: &Hash, span_bytes: u64) {
        self.span_bytes += span_bytes;
        self.count += 1;
        self.entries.extend_from_slice(&hash.0);
        self.entries.extend_from_slice(&self.span_bytes.to_le_bytes());
    }

    /// Encodes the node and empties it; also returns its span.
    fn close(&mut self, level: usize) -> (Vec<u8>, u64) {
        let mut node = vec![VERSION, level as u8, 0, 0];
        node.extend_from_slice(&(self.count as u32).to_le_bytes());
        node.extend_from_slice(&self.entries);
        (node, std::mem::take(self).span_bytes)
    }
}

impl Builder {
    pub fn new(fan_out: usize) -> Builder {
        assert!((2..=FAN_OUT).contains(&fan_out), "a node holds two entries or more");
        Builder { fan_out, levels: Vec::new() }
    }

    /// Adds the next chunk. `store` is given each inner node as it fills up, and returns its hash.
    pub fn push<E>(
        &mut self,
        hash: &Hash,
        size_bytes: u64,
        store: &mut dyn FnMut(&[u8]) -> Result<Hash, E>,
    ) -> Result<(), E> {
        self.push_at(0, hash, size_bytes, store)
    }

    fn push_at<E>(
        &mut self,
        level: usize,
        hash: &Hash,
        span_bytes: u64,
        store: &mut dyn FnMut(&[u8]) -> Result<Hash, E>,
    ) -> Result<(), E> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        if self.levels[level].count == self.fan_out {
            self.close_into_parent(level, store)?;
        }
        self.levels[level].push(hash, span_bytes);
        Ok(())
    }

    fn close_into_parent<E>(&mut self, level: usize, store: &mut dyn FnMut(&[u8]) -> Result<Hash, E>) -> Result<(), E> {
        let (node, span_bytes) = self.levels[level].close(level);
        let hash = store(&node)?;
        self.push_at(level + 1, &hash, span_bytes, store)
    }

    /// Stores the open inner nodes and returns the root. At least one chunk must have been pushed.
    pub fn finish<E>(mut self, store: &mut dyn FnMut(&[u8]) -> Result<Hash, E>) -> Result<Vec<u8>, E> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            self.close_into_parent(level, store)?;
            level += 1;
        }
        Ok(self.levels[level].close(level).0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use super::*;

    fn build(fan_out: usize, chunks: u64) -> (Vec<u8>, HashMap<Hash, Vec<u8>>) {
        let mut nodes = HashMap::new();
        let mut store = |node: &[u8]| {
            nodes.insert(Hash::of(node), node.to_vec());
            Ok::<_, Infallible>(Hash::of(node))
        };
        let mut builder = Builder::new(fan_out);
        for chunk in 0..chunks {
            builder.push(&Hash::of(&chunk.to_le_bytes()), chunk + 1, &mut store).unwrap();
        }
        (builder.finish(&mut store).unwrap(), nodes)
    }

    /// Finds the chunk at `offset` as a reader does.
    fn descend(root: &[u8], nodes: &HashMap<Hash, Vec<u8>>, mut offset: u64) -> Hash {
        let mut bytes = root;
        loop {
            let node = Node::parse(bytes).unwrap();
            let span = node.find(offset).unwrap();
            if node.level == 0 {
                return span.hash;
            }
            offset -= span.start;
            bytes = &nodes[&span.hash];
        }
    }

    #[test]
    fn golden_root() {
        let (root, nodes) = build(FAN_OUT, 2);
        let mut expected = vec![1, 0, 0, 0, 2, 0, 0, 0];
        for (chunk, end) in [(0u64, 1u64), (1, 3)] {
            expected.extend_from_slice(&Hash::of(&chunk.to_le_bytes()).0);
            expected.extend_from_slice(&end.to_le_bytes());
        }
        assert_eq!((root, nodes.len()), (expected, 0));
    }

    #[test]
    fn levels_grow_with_the_object() {
        for (chunks, level, inner) in [(4, 0, 0), (5, 1, 2), (16, 1, 4), (17, 2, 7), (65, 3, 24)] {
            let (root, nodes) = build(4, chunks);
            let node = Node::parse(&root).unwrap();
            assert_eq!((node.level, nodes.len()), (level, inner), "{chunks} chunks");
            assert_eq!(node.span_bytes(), chunks * (chunks + 1) / 2);
            let mut start = 0;
            for chunk in 0..chunks {
                for offset in [start, start + chunk] {
                    assert_eq!(descend(&root, &nodes, offset), Hash::of(&chunk.to_le_bytes()));
                }
                start += chunk + 1;
            }
            assert_eq!(node.find(start), Err("is asked beyond its end"));
        }
    }

    #[test]
    fn impossible_nodes_are_refused() {
        let (root, _) = build(FAN_OUT, 2);
        let with = |at: usize, byte: u8| {
            let mut bytes = root.clone();
            bytes[at] = byte;
            Node::parse(&bytes).map(|node| node.level)
        };
        assert_eq!(with(0, 2), Err("has an unknown version"));
        assert_eq!(with(1, 9), Err("has an unknown version"));
        assert_eq!(with(4, 3), Err("has an impossible length"));
        assert_eq!(with(4, 0), Err("has an impossible length"));
        assert_eq!(Node::parse(&root[..7]).map(|node| node.level), Err("is cut short"));
    }
}
