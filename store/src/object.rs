//! One stored object, read piecewise.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::cid::Cid;
use crate::error::Error;
use crate::hash::{Hash, WholeHasher};
use crate::lease::Reading;
use crate::location::Location;
use crate::manifest::{Node, Span};
use crate::parcel::Chunk;
use crate::record::Record;
use crate::store::Store;

/// From here on it pays to read ahead on a thread of its own.
const LONG_BYTES: u64 = 4 << 20;
/// Chunks read ahead.
const AHEAD: usize = 8;

/// An object in the store. Cheap to clone; every chunk read through it is verified.
#[derive(Clone)]
pub struct Object {
    store: Arc<Store>,
    cid: Cid,
    shape: Shape,
    size_bytes: u64,
    /// Keeps it from being collected.
    _reading: Option<Arc<Reading>>,
}

#[derive(Clone)]
enum Shape {
    Chunk(Location),
    Manifest(Slice),
}

/// A member's bytes inside a decoded record.
#[derive(Clone)]
pub(crate) struct Slice {
    pub record: Arc<Record>,
    pub member: usize,
    pub location: Location,
}

/// Finds a member by key and place; `None` if it is not to be waited for.
type Find<'a> = dyn Fn(&Hash, &Location) -> Result<Option<Slice>, Error> + 'a;

impl Slice {
    pub fn bytes(&self) -> &[u8] {
        &self.record.plain()[self.record.members[self.member].range.clone()]
    }
}

impl Object {
    pub(crate) fn open(
        store: Arc<Store>,
        cid: Cid,
        location: Location,
        reading: Option<Arc<Reading>>,
    ) -> Result<Object, Error> {
        if !location.manifest {
            let size_bytes = location.plain_bytes.into();
            return Ok(Object { store, cid, shape: Shape::Chunk(location), size_bytes, _reading: reading });
        }
        let slice = store.slice(&cid.hash, &location)?;
        let object = cid.hash;
        let node = Node::parse(slice.bytes()).map_err(|what| Error::Manifest { object, what })?;
        let size_bytes = node.span_bytes();
        Ok(Object { store, cid, shape: Shape::Manifest(slice), size_bytes, _reading: reading })
    }

    /// The object's name.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Length of the object in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads from `offset` until `buf` is full or the object ends; returns how much that was. Whoever reads on finds the
    /// next records decoded.
    ///
    /// Every chunk is verified against its hash; the hash of the whole object is checked by
    /// [`Store::read`] and [`crate::extract`], which see all of it.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buf.len() && offset + (filled as u64) < self.size_bytes {
            let at = offset + filled as u64;
            let (slice, start) = self.chunk_at(at)?;
            self.store.passed(&slice);
            let chunk = &slice.bytes()[(at - start) as usize..];
            let len = chunk.len().min(buf.len() - filled);
            buf[filled..filled + len].copy_from_slice(&chunk[..len]);
            filled += len;
        }
        Ok(filled)
    }

    /// As `read_at`, of at most `len` bytes.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let end = offset.saturating_add(len as u64).min(self.size_bytes);
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        while offset + (bytes.len() as u64) < end {
            let at = offset + bytes.len() as u64;
            let (slice, start) = self.chunk_at(at)?;
            self.store.passed(&slice);
            let upto = end.min(start + slice.bytes().len() as u64);
            bytes.extend_from_slice(&slice.bytes()[(at - start) as usize..(upto - start) as usize]);
        }
        Ok(bytes)
    }

    /// As `read`, if everything that it needs is decoded: it waits for nothing.
    pub fn read_at_hand(&self, offset: u64, len: usize) -> Result<Option<Vec<u8>>, Error> {
        let end = offset.saturating_add(len as u64).min(self.size_bytes);
        let (mut at, mut slices) = (offset, Vec::new());
        while at < end {
            let found = self.find_chunk(at, &|hash, location| self.store.slice_at_hand(hash, location))?;
            let Some((slice, start)) = found else { return Ok(None) };
            let upto = end.min(start + slice.bytes().len() as u64);
            slices.push((slice, (at - start) as usize..(upto - start) as usize));
            at = upto;
        }
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        for (slice, range) in slices {
            self.store.passed(&slice);
            bytes.extend_from_slice(&slice.bytes()[range]);
        }
        Ok(Some(bytes))
    }

    /// Reads the object from front to back. Errors are [`Error`] inside [`io::Error`].
    pub fn reader(&self) -> impl io::Read + Send + use<> {
        Reader { object: self.clone(), offset: 0 }
    }

    /// The chunk that holds `offset`, which lies inside the object, and where the chunk starts.
    fn chunk_at(&self, offset: u64) -> Result<(Slice, u64), Error> {
        let found = self.find_chunk(offset, &|hash, location| self.store.slice(hash, location).map(Some))?;
        Ok(found.expect("whoever decodes what is missing finds everything"))
    }

    fn find_chunk(&self, offset: u64, find: &Find<'_>) -> Result<Option<(Slice, u64)>, Error> {
        match &self.shape {
            Shape::Chunk(location) => Ok(find(&self.cid.hash, location)?.map(|slice| (slice, 0))),
            Shape::Manifest(root) => self.descend(root, offset, find),
        }
    }

    fn descend(&self, root: &Slice, offset: u64, find: &Find<'_>) -> Result<Option<(Slice, u64)>, Error> {
        let mut slice = root.clone();
        let (mut start, mut span_bytes, mut level) = (0, self.size_bytes, None);
        loop {
            let node = Node::parse(slice.bytes()).map_err(|what| self.bad(what))?;
            if level.is_some_and(|level| node.level != level) || node.span_bytes() != span_bytes {
                return Err(self.bad("does not fit together"));
            }
            let span = node.find(offset - start).map_err(|what| self.bad(what))?;
            let below = node.level.checked_sub(1);
            start += span.start;
            span_bytes = span.end - span.start;
            level = below;
            let Some(child) = self.child(&span, find)? else { return Ok(None) };
            slice = child;
            if below.is_none() {
                let fits = slice.bytes().len() as u64 == span_bytes;
                return fits.then_some(Some((slice, start))).ok_or_else(|| self.bad("does not fit its chunks"));
            }
        }
    }

    fn child(&self, span: &Span, find: &Find<'_>) -> Result<Option<Slice>, Error> {
        match self.store.index().get(&span.hash)? {
            Some(location) => find(&span.hash, &location),
            None => Err(Error::Missing { object: self.cid.hash, chunk: span.hash }),
        }
    }

    /// Calls `sink` with each chunk's hash and length, in order. Reads manifests only.
    pub fn chunks(&self, sink: &mut dyn FnMut(Chunk) -> Result<(), Error>) -> Result<(), Error> {
        match &self.shape {
            Shape::Chunk(location) => sink((self.cid.hash, location.plain_bytes)),
            Shape::Manifest(root) => self.chunks_below(root, sink),
        }
    }

    fn chunks_below(&self, slice: &Slice, sink: &mut dyn FnMut(Chunk) -> Result<(), Error>) -> Result<(), Error> {
        let node = Node::parse(slice.bytes()).map_err(|what| self.bad(what))?;
        for span in node.spans() {
            let span = span.ok_or_else(|| self.bad("has offsets out of order"))?;
            if node.level == 0 {
                let size_bytes = u32::try_from(span.end - span.start).map_err(|_| self.bad("has a chunk too long"))?;
                sink((span.hash, size_bytes))?;
                continue;
            }
            let found = self.child(&span, &|hash, location| self.store.slice(hash, location).map(Some))?;
            let child = found.expect("whoever decodes what is missing finds everything");
            let below = Node::parse(child.bytes()).map_err(|what| self.bad(what))?;
            if below.level + 1 != node.level || below.span_bytes() != span.end - span.start {
                return Err(self.bad("does not fit together"));
            }
            self.chunks_below(&child, sink)?;
        }
        Ok(())
    }

    fn bad(&self, what: &'static str) -> Error {
        Error::Manifest { object: self.cid.hash, what }
    }

    /// The record that holds the object, if one does.
    pub(crate) fn record(&self) -> Option<(u32, u64)> {
        match &self.shape {
            Shape::Chunk(location) => Some((location.pack, location.offset)),
            Shape::Manifest(_) => None,
        }
    }

    /// Calls `sink` with each chunk in order and checks the whole object's hash at the end. Of a long object the next
    /// chunks are read and checked meanwhile.
    pub(crate) fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        if let Shape::Chunk(location) = &self.shape {
            // Its chunk's hash is its own, and checked.
            return sink(self.store.slice(&self.cid.hash, location)?.bytes());
        }
        let mut hasher = WholeHasher::default();
        let mut take = |slice: &Slice| {
            hasher.update(slice.bytes());
            sink(slice.bytes())
        };
        match self.size_bytes >= LONG_BYTES {
            true => self.stream_ahead(&mut take)?,
            false => self.slices(&mut |slice| take(&slice))?,
        }
        let found = hasher.finish();
        match found == self.cid.hash {
            true => Ok(()),
            false => Err(Error::Mismatch { cid: self.cid, found }),
        }
    }

    fn stream_ahead(&self, take: &mut dyn FnMut(&Slice) -> Result<(), Error>) -> Result<(), Error> {
        let (ahead, slices) = sync_channel(AHEAD);
        let read = move || {
            let read = self.slices(&mut |slice| ahead.send(Ok(slice)).map_err(|_| Error::Cancelled));
            if let Err(error) = read {
                // Nobody listens if that was why.
                let _ = ahead.send(Err(error));
            }
        };
        thread::scope(|scope| {
            let started = thread::Builder::new().name("gridfs-read".into()).spawn_scoped(scope, read);
            started.map_err(Error::Thread)?;
            slices.into_iter().try_for_each(|slice| take(&slice?))
        })
    }

    fn slices(&self, sink: &mut dyn FnMut(Slice) -> Result<(), Error>) -> Result<(), Error> {
        let mut offset = 0;
        while offset < self.size_bytes {
            let (slice, start) = self.chunk_at(offset)?;
            offset = start + slice.bytes().len() as u64;
            sink(slice)?;
        }
        Ok(())
    }
}

struct Reader {
    object: Object,
    offset: u64,
}

impl io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.object.read_at(self.offset, buf).map_err(io::Error::other)?;
        self.offset += read as u64;
        Ok(read)
    }
}
