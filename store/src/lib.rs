//! The storage engine of gridfs: verified bytes in, verified bytes out.
//!
//! An object is cut into chunks (FastCDC), each chunk is named by its BLAKE3 hash, chunks are compressed in
//! groups (zstd) and appended to packs; an object of several chunks has a manifest. Directories are objects
//! too ([`Tree`]). Memos are small values under keys that are not their hash: remembered results.
//! `FORMAT.md` beside this crate describes every byte on disk.
//!
//! What holds at all times:
//!
//! - An object is visible only once committed, and after a durable commit it survives a power cut.
//! - Bytes handed out were verified against the hash they were asked by; damage is an error that names the
//!   place, never "not found" and never wrong bytes.
//! - The packs are the truth; the index can be deleted at any time and is rebuilt from them.
//! - Readers never wait for a writer. One process has the store open; any number of its threads may write.
//!
//! Deliberately absent: async (callers have their own threads), the network, and what the roots of a collection are.
//!
//! ```no_run
//! # fn main() -> Result<(), gridfs_store::Error> {
//! use std::sync::Arc;
//! use gridfs_store::{Codec, Durability, Options, Store};
//!
//! let store = Arc::new(Store::open("cache".as_ref(), Options::default())?);
//! let mut batch = store.batch();
//! let cid = batch.put_bytes(Codec::Raw, b"hello")?;
//! batch.commit(Durability::Durable)?;
//! assert_eq!(store.read(&cid, 1024)?, b"hello");
//! # Ok(())
//! # }
//! ```

mod alias;
mod any_cid;
mod batch;
mod blob;
mod cache;
pub mod cbor;
mod check;
mod checkpoint;
mod chunker;
mod cid;
mod collect;
mod commit;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod dice;
mod digest;
mod disk;
mod error;
pub mod extract;
mod finding;
mod flusher;
mod footer;
mod groups;
mod hash;
mod index;
pub mod ingest;
mod lease;
mod location;
mod log;
mod manifest;
mod mark;
mod memory;
mod object;
mod owners;
mod pack;
mod parcel;
mod press;
mod recent;
mod record;
mod records;
mod recovery;
mod repair;
mod retire;
mod rewrite;
mod scan;
mod stat_cache;
mod store;
mod survey;
mod tree;
mod walk;
mod writer;

pub use any_cid::AnyCid;
pub use batch::{Batch, MAX_LABEL_BYTES, MAX_MEMO_BYTES};
pub use blob::BlobWriter;
pub use cid::{Cid, CidError, Codec};
pub use collect::{Collected, Phase};
pub use digest::{Algorithm, Digest};
pub use error::Error;
pub use finding::{Checked, Finding, Owner, Severity};
pub use groups::{GROUP_BYTES, Groups, verify_groups};
pub use hash::{Hash, WholeHasher};
pub use index::Counters;
pub use lease::Lease;
pub use mark::Marker;
pub use memory::keep_freed_memory;
pub use object::Object;
pub use parcel::{Chunk, Export, MAX_PARCEL_BYTES, Parcel};
pub use repair::Repaired;
pub use store::{MAX_TREE_BYTES, Options, Progress, Stats, Store};
pub use tree::{MAX_NAME_BYTES, MAX_SYMLINK_BYTES, Target, Tree, TreeEntry, TreeError};
pub use writer::Durability;
