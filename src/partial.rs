//! Directories of which only the list is stored here, for what is in them is fetched when it is read: the tables of names that other
//! nodes publish (`followed.rs`). Every other stored directory is complete.
//!
//! That a directory is one of them is a memo labelled `partial/<cid>` with the CID as its value, as an alias has: a collection of
//! garbage keeps the memo as long as the directory.

use std::sync::Arc;

use gridfs_store::{Batch, Cid, Codec, Hash, Store};

use crate::error::Result;
use crate::receipt::cid_of;

fn label(cid: &Cid) -> Vec<u8> {
    format!("partial/{cid}").into_bytes()
}

/// Notes that of a directory only the list is being put.
pub fn put(batch: &mut Batch, cid: &Cid) -> Result<()> {
    let label = label(cid);
    Ok(batch.put_memo(Hash::of(&label), &label, &cid.to_bytes())?)
}

/// Whether what is in a directory may be missing.
pub fn is(store: &Arc<Store>, cid: &Cid) -> Result<bool> {
    Ok(cid.codec == Codec::DagCbor && store.memo(&Hash::of(&label(cid)))?.is_some())
}

/// What is in such a directory: each object with its name, and whether it is stored here. Nothing if it is no such directory.
pub fn entries(store: &Arc<Store>, cid: &Cid) -> Result<Vec<(String, Cid, bool)>> {
    if !is(store, cid)? || !store.contains(cid)? {
        return Ok(Vec::new());
    }
    let tree = store.tree(cid)?;
    let entries = tree.entries().iter();
    let named =
        entries.filter_map(|entry| Some((String::from_utf8_lossy(&entry.name).into_owned(), cid_of(&entry.target)?)));
    named.map(|(name, cid)| Ok((name, cid, store.contains(&cid)?))).collect()
}

/// What is missing of it.
pub fn missing(store: &Arc<Store>, cid: &Cid) -> Result<Vec<Cid>> {
    Ok(entries(store, cid)?.into_iter().filter(|(_, _, is_here)| !is_here).map(|(_, cid, _)| cid).collect())
}
