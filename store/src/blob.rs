//! An object on its way in: cut into chunks, hashed as a whole, closed with a manifest if it has several.

use std::io::Read;
use std::ops::ControlFlow;

use crate::batch::Batch;
use crate::chunker::Chunker;
use crate::cid::{Cid, Codec};
use crate::digest::Hasher;
use crate::error::Error;
use crate::hash::{Hash, WholeHasher};
use crate::manifest::{self, Builder};
use crate::pack::Class;

/// A raw blob written piecemeal. Several may be open over one batch; each holds at most 1 MiB.
///
/// Dropped without [`BlobWriter::finish`] it leaves no object.
pub struct BlobWriter {
    codec: Codec,
    chunker: Chunker,
    /// There from the second chunk on: an object of one chunk needs neither.
    long: Option<Long>,
    size_bytes: u64,
    fan_out: usize,
    /// Another digest of the content, on its way.
    also: Option<Hasher>,
}

struct Long {
    hasher: WholeHasher,
    parts: Parts,
}

/// The chunks of an object that is hashed as a whole by somebody else.
pub(crate) struct Parts(Builder);

impl Default for BlobWriter {
    fn default() -> BlobWriter {
        BlobWriter::new()
    }
}

impl BlobWriter {
    /// An empty blob.
    pub fn new() -> BlobWriter {
        BlobWriter::over(Codec::Raw, Chunker::default(), manifest::FAN_OUT)
    }

    pub(crate) fn over(codec: Codec, mut chunker: Chunker, fan_out: usize) -> BlobWriter {
        chunker.reset();
        BlobWriter { codec, chunker, long: None, size_bytes: 0, fan_out, also: None }
    }

    /// Feeds `also` with all that is written, and makes its digest an alias.
    pub(crate) fn also(self, also: Option<Hasher>) -> BlobWriter {
        BlobWriter { also, ..self }
    }

    /// Bytes written so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Appends bytes.
    pub fn write(&mut self, batch: &mut Batch, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let taken = self.chunker.take(bytes);
            bytes = &bytes[taken..];
            self.size_bytes += taken as u64;
            self.store_chunks(batch)?;
        }
        Ok(())
    }

    /// Appends all that `reader` gives; `hint` is the size expected.
    pub(crate) fn write_all_of(
        &mut self,
        batch: &mut Batch,
        reader: &mut dyn Read,
        mut hint: usize,
        observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        loop {
            let read = self.chunker.fill(reader, hint + 1).map_err(Error::Source)?;
            if read == 0 {
                return Ok(());
            }
            hint = hint.saturating_sub(read);
            self.size_bytes += read as u64;
            if observe(read as u64).is_break() {
                return Err(Error::Cancelled);
            }
            self.store_chunks(batch)?;
        }
    }

    fn store_chunks(&mut self, batch: &mut Batch) -> Result<(), Error> {
        while let Some(chunk) = self.chunker.next(false) {
            update(&mut self.also, chunk);
            let long = self.long.get_or_insert_with(|| Long::new(self.fan_out));
            long.add(batch, self.codec, chunk)?;
        }
        Ok(())
    }

    /// Stores the last bytes and names the blob. It is visible once the batch is committed.
    pub fn finish(self, batch: &mut Batch) -> Result<(Cid, u64), Error> {
        self.finish_keeping(batch).map(|(cid, size_bytes, _)| (cid, size_bytes))
    }

    /// As `finish`, and gives the buffer back.
    pub(crate) fn finish_keeping(mut self, batch: &mut Batch) -> Result<(Cid, u64, Chunker), Error> {
        let first = self.chunker.next(true).unwrap_or_default();
        update(&mut self.also, first);
        let one_chunk = self.long.is_none() && first.len() as u64 == self.size_bytes;
        let hash = if one_chunk {
            batch.put_chunk(class_of(self.codec), first, true)?
        } else {
            let mut long = self.long.unwrap_or_else(|| Long::new(self.fan_out));
            if !first.is_empty() {
                long.add(batch, self.codec, first)?;
            }
            while let Some(chunk) = self.chunker.next(true) {
                update(&mut self.also, chunk);
                long.add(batch, self.codec, chunk)?;
            }
            long.finish(batch)?
        };
        let cid = Cid { codec: self.codec, hash };
        if let Some(also) = self.also {
            batch.put_alias(also.finish(), &cid)?;
        }
        Ok((cid, self.size_bytes, self.chunker))
    }
}

impl Long {
    fn new(fan_out: usize) -> Long {
        Long { hasher: WholeHasher::default(), parts: Parts(Builder::new(fan_out)) }
    }

    fn add(&mut self, batch: &mut Batch, codec: Codec, chunk: &[u8]) -> Result<(), Error> {
        self.hasher.update(chunk);
        self.parts.add(batch, codec, chunk)
    }

    fn finish(mut self, batch: &mut Batch) -> Result<Hash, Error> {
        let hash = self.hasher.finish();
        self.parts.finish(batch, &hash)?;
        Ok(hash)
    }
}

impl Default for Parts {
    fn default() -> Parts {
        Parts(Builder::new(manifest::FAN_OUT))
    }
}

impl Parts {
    /// Stores the next chunk.
    pub fn add(&mut self, batch: &mut Batch, codec: Codec, chunk: &[u8]) -> Result<(), Error> {
        let hash = batch.put_chunk(class_of(codec), chunk, false)?;
        self.list(batch, &hash, chunk.len() as u64)
    }

    /// Takes a chunk that is stored for the next.
    pub fn list(&mut self, batch: &mut Batch, hash: &Hash, size_bytes: u64) -> Result<(), Error> {
        let mut store = |node: &[u8]| batch.put_chunk(Class::Meta, node, false);
        self.0.push(hash, size_bytes, &mut store)
    }

    /// Stores the manifest of `object`, which has one chunk at least.
    pub fn finish(self, batch: &mut Batch, object: &Hash) -> Result<(), Error> {
        let root = self.0.finish(&mut |node: &[u8]| batch.put_chunk(Class::Meta, node, false))?;
        batch.put_manifest(object, &root)
    }
}

fn update(also: &mut Option<Hasher>, chunk: &[u8]) {
    if let Some(also) = also {
        also.update(chunk);
    }
}

fn class_of(codec: Codec) -> Class {
    match codec {
        Codec::Raw => Class::Data,
        Codec::DagCbor => Class::Meta,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Node;
    use crate::store::{Options, Store};
    use crate::writer::Durability;

    /// With four entries a node, five mebibytes need a manifest of several levels.
    #[test]
    fn an_object_of_several_manifest_levels_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 5 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let mut store = std::sync::Arc::new(Store::open(dir.path(), Options::default()).unwrap());
        let mut batch = store.batch();
        let mut blob = BlobWriter::over(Codec::Raw, Chunker::default(), 4);
        blob.write(&mut batch, &bytes).unwrap();
        let (cid, size_bytes) = blob.finish(&mut batch).unwrap();
        batch.commit(Durability::Durable).unwrap();
        assert_eq!((cid, size_bytes), (Cid::of(Codec::Raw, &bytes), 5 << 20));
        for _ in 0..2 {
            let location = store.index().get(&cid.hash).unwrap().unwrap();
            let root = store.slice(&cid.hash, &location).unwrap();
            let node = Node::parse(root.bytes()).unwrap();
            assert_eq!((node.level, node.span_bytes()), (3, 5 << 20));
            assert!(store.read(&cid, 8 << 20).unwrap() == bytes);
            let object = store.object(&cid).unwrap().unwrap();
            for offset in (0..bytes.len()).step_by(99_991) {
                let mut buf = [0; 1000];
                let read = object.read_at(offset as u64, &mut buf).unwrap();
                assert_eq!(buf[..read], bytes[offset..bytes.len().min(offset + 1000)], "offset {offset}");
            }
            drop((object, root, store));
            store = std::sync::Arc::new(Store::open(dir.path(), Options::default()).unwrap());
        }
    }
}
