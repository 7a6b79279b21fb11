//! What an object consists of, as a peer lists it.
//!
//! Directories and records come whole and are verified as they come, and nothing is taken but what they refer to. The chunks
//! of files are what the peer says: each is verified by its own hash when it comes, all of them together by the file's.

use std::collections::HashSet;

use gridfs_store::{Chunk, Cid, Codec, Hash, Target, Tree};
use libp2p::PeerId;

use crate::ask::Request;
use crate::error::Error;
use crate::network::Network;
use crate::wire::{
    self, CHUNK_BYTES, End, GetObject, Kind, Listed, MAX_CHUNKS, MAX_INLINE_BYTES, MAX_LISTING_BYTES, MAX_OBJECTS,
    MAX_WHOLE_BYTES,
};

/// A file of a listing.
pub struct File {
    pub cid: Cid,
    pub chunks: Vec<Chunk>,
}

/// An object and all that belongs to it.
#[derive(Default)]
pub struct Listing {
    pub files: Vec<File>,
    /// Directories, records and a small file, each before what it refers to.
    pub inline: Vec<(Cid, Vec<u8>)>,
    /// All of it together.
    pub size_bytes: u64,
}

struct Asking {
    request: Request,
    listing: Listing,
    /// What was referred to, and what of it is still to come.
    known: HashSet<Cid>,
    coming: HashSet<Cid>,
    chunks: usize,
    inline_bytes: u64,
}

/// Asks a peer what `cid` consists of. More than `max_bytes` are refused.
pub async fn ask(network: &Network, peer: PeerId, cid: Cid, max_bytes: u64) -> Result<Listing, Error> {
    let request = Request::send(network, peer, &GetObject { cid }).await?;
    let (known, coming) = (HashSet::from([cid]), HashSet::from([cid]));
    let mut asking = Asking { request, listing: Listing::default(), known, coming, chunks: 0, inline_bytes: 0 };
    loop {
        let frame = asking.request.frame().await?;
        if frame.get::<End>().map_err(Error::frame(peer))?.is_some() {
            return asking.end();
        }
        let listed: Listed = frame.expect().map_err(Error::frame(peer))?;
        let listing = &mut asking.listing;
        listing.size_bytes = listing.size_bytes.saturating_add(listed.size);
        if listing.size_bytes > max_bytes {
            return Err(Error::TooLarge { cid, size_bytes: listing.size_bytes, max_bytes });
        }
        asking.take(listed).await?;
    }
}

impl Asking {
    async fn take(&mut self, listed: Listed) -> Result<(), Error> {
        if !self.coming.remove(&listed.cid) {
            return Err(self.request.rubbish("an object that nothing refers to, or twice"));
        }
        match (listed.kind, listed.cid.codec) {
            (Kind::File, Codec::Raw) => self.file(listed).await,
            (Kind::Directory | Kind::Record, Codec::DagCbor) => self.inline(listed, MAX_INLINE_BYTES).await,
            // A small file that was asked for by itself.
            (Kind::Record, Codec::Raw) if self.known.len() == 1 => self.inline(listed, MAX_WHOLE_BYTES).await,
            _ => Err(self.request.rubbish("an object of another kind than its name says")),
        }
    }

    async fn file(&mut self, listed: Listed) -> Result<(), Error> {
        self.chunks += usize::try_from(listed.count).unwrap_or(usize::MAX).min(MAX_CHUNKS + 1);
        if listed.count == 0 || self.chunks > MAX_CHUNKS {
            return Err(self.request.rubbish("a file of no chunks, or too many"));
        }
        let body = self.request.body(listed.count * CHUNK_BYTES as u64, (MAX_CHUNKS * CHUNK_BYTES) as u64).await?;
        let chunks: Vec<Chunk> = wire::split_chunks(&body).collect();
        let sum: u64 = chunks.iter().map(|(_, size_bytes)| u64::from(*size_bytes)).sum();
        let is_one = chunks.len() == 1;
        let hollow = !is_one && chunks.iter().any(|(_, size_bytes)| *size_bytes == 0);
        if sum != listed.size || hollow || is_one && chunks[0].0 != listed.cid.hash {
            return Err(self.request.rubbish("chunks that do not make up their file"));
        }
        self.listing.files.push(File { cid: listed.cid, chunks });
        Ok(())
    }

    async fn inline(&mut self, listed: Listed, most_bytes: u64) -> Result<(), Error> {
        self.inline_bytes = self.inline_bytes.saturating_add(listed.size);
        if self.inline_bytes > MAX_LISTING_BYTES {
            return Err(self.request.rubbish("directories that are too long together"));
        }
        let body = self.request.body(listed.size, most_bytes).await?;
        if Hash::of(&body) != listed.cid.hash {
            return Err(self.request.rubbish("an object that does not hash to its name"));
        }
        match (listed.kind, Tree::decode(&body)) {
            (Kind::Directory, Ok(tree)) => self.refer(&tree)?,
            (Kind::Record, Err(_)) => {}
            (Kind::Record, Ok(_)) if listed.cid.codec == Codec::Raw => {}
            _ => return Err(self.request.rubbish("a directory said to be none, or the other way round")),
        }
        self.listing.inline.push((listed.cid, body));
        Ok(())
    }

    fn refer(&mut self, tree: &Tree) -> Result<(), Error> {
        for entry in tree.entries() {
            if let Target::File { cid, .. } | Target::Directory { cid } = &entry.target
                && self.known.insert(*cid)
            {
                self.coming.insert(*cid);
            }
        }
        match self.known.len() > MAX_OBJECTS {
            true => Err(self.request.rubbish("more objects than a listing may have")),
            false => Ok(()),
        }
    }

    fn end(self) -> Result<Listing, Error> {
        match self.coming.is_empty() {
            true => Ok(self.listing),
            false => Err(self.request.rubbish("a listing that ends before its end")),
        }
    }
}
