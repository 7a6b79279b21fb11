//! Aliases: from another digest of a file's content to its CID.
//!
//! An alias is a memo without a label: its key is derived from the multihash ([`Digest::alias_key`]), its value is the
//! CID in binary, codec raw. The one way to make one is [`crate::Batch::also_hash`], which computes the digest from the
//! very bytes it stores; so no alias can be wrong, whatever is claimed elsewhere. Directories have none: their bytes hold
//! BLAKE3 CIDs, which no other digest would name.

use crate::cid::{Cid, Codec};
use crate::digest::Digest;
use crate::error::Error;
use crate::hash::Hash;
use crate::store::Store;

/// Keeps the keys of aliases apart from all other keys (BLAKE3, section 2.3: key derivation).
const KEY_CONTEXT: &str = "gridfs store 1: multihash to alias key";

impl Digest {
    /// The memo key of this digest's alias.
    pub(crate) fn alias_key(&self) -> Hash {
        Hash(blake3::derive_key(KEY_CONTEXT, &self.to_multihash().to_bytes()))
    }
}

impl Store {
    /// The file whose content has this digest, if the digest was computed here and the file is still stored.
    pub fn alias(&self, digest: &Digest) -> Result<Option<Cid>, Error> {
        match self.memo_as(&digest.alias_key(), read_value)? {
            Some(cid) if self.contains(&cid)? => Ok(Some(cid)),
            _ => Ok(None),
        }
    }
}

fn read_value(value: &[u8]) -> Result<Cid, &'static str> {
    match Cid::from_bytes(value) {
        Ok(cid) if cid.codec == Codec::Raw => Ok(cid),
        _ => Err("an alias does not name a file"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::digest::Algorithm;
    use crate::store::Options;
    use crate::writer::Durability;

    #[test]
    fn golden_key() {
        let digest = Digest::of(Algorithm::Sha2_256, b"abc");
        assert_eq!(digest.to_multihash().to_bytes()[..3], [0x12, 0x20, 0xba]);
        assert_eq!(digest.alias_key().to_string(), "0a1e1ea8a44279108d50d81c70343f0d67e3d9a7e0d1249e9853920d4525db20");
    }

    fn store(dir: &std::path::Path) -> Arc<Store> {
        Arc::new(Store::open(dir, Options::default()).unwrap())
    }

    fn remember(store: &Arc<Store>, digest: &Digest, value: &[u8]) {
        let mut batch = store.batch();
        batch.put_memo(digest.alias_key(), b"", value).unwrap();
        batch.commit(Durability::Durable).unwrap();
    }

    #[test]
    fn an_alias_of_what_is_not_stored_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let digest = Digest::of(Algorithm::Sha3_256, b"abc");
        remember(&store, &digest, &Cid::of(Codec::Raw, b"abc").to_bytes());
        assert_eq!(store.alias(&digest).unwrap(), None);
    }

    #[test]
    fn a_value_that_names_no_file_is_damage_and_the_next_put_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let digest = Digest::of(Algorithm::Sha2_256, b"abc");
        for value in [&Cid::of(Codec::DagCbor, b"abc").to_bytes()[..], b"?", &[0; 36]] {
            remember(&store, &digest, value);
            assert!(matches!(store.alias(&digest), Err(Error::Corrupt { .. })), "{value:?}");
        }
        let mut batch = store.batch();
        batch.also_hash(Algorithm::Sha2_256);
        let cid = batch.put_bytes(Codec::Raw, b"abc").unwrap();
        batch.commit(Durability::Durable).unwrap();
        assert_eq!(store.alias(&digest).unwrap(), Some(cid));
    }
}
