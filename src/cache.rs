//! The local cache as a module: it accepts the calls whose result it remembers.

use std::sync::Arc;

use gridfs_store::Target;
use gridfs_store::{Hash, Store, cbor};

use crate::error::{Code, Error, Result};
use crate::module::{Acceptance, Call, Handling, Module, Reply};
use crate::names::Names;
use crate::receipt::{Memo, Receipt, cid_of};

/// Largest receipt read back.
const MAX_RECEIPT_BYTES: u64 = 64 << 20;

/// The cache. Its state is the store.
pub struct Cache;

impl Module for Cache {
    fn accept(&self, call: &Call) -> Result<Acceptance> {
        Ok(if call.remembered()?.is_some() { Acceptance::Accept } else { Acceptance::Reject })
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(async {
            call.remembered()?.ok_or_else(|| Error::new(Code::Busy, "the remembered result went away; try again"))
        })
    }
}

/// The remembered reply to an evaluation, if its bytes are here and the names it went by still stand for the same.
pub fn recall(store: &Arc<Store>, names: &Names, key: &Hash) -> Result<Option<Reply>> {
    let Some(bytes) = store.memo(key)? else { return Ok(None) };
    let memo: Memo = cbor::from_slice(&bytes)
        .map_err(|e| Error::caused(Code::Corrupt, format!("the memo of {key:?} can't be read"), e))?;
    // A memo whose result is gone is a miss.
    if !store.contains(&memo.result)? {
        return Ok(None);
    }
    if memo.named && !names_hold(store, names, &memo)? {
        return Ok(None);
    }
    Ok(Some(Reply { result: memo.target(), receipt: Some(memo.receipt), immutable: !memo.named }))
}

fn names_hold(store: &Arc<Store>, names: &Names, memo: &Memo) -> Result<bool> {
    let receipt = read_receipt(store, memo)?;
    let holds = |(name, cid): &(String, _)| names.get(name).as_ref().and_then(cid_of) == Some(*cid);
    Ok(receipt.names.iter().all(holds))
}

/// The receipt that a memo points to.
pub fn read_receipt(store: &Arc<Store>, memo: &Memo) -> Result<Receipt> {
    let bytes = store.read(&memo.receipt, MAX_RECEIPT_BYTES)?;
    cbor::from_slice(&bytes)
        .map_err(|e| Error::caused(Code::Corrupt, format!("the receipt {} can't be read", memo.receipt), e))
}

/// What a reply holds, as a memo.
pub fn memo_of(result: &Target, receipt: gridfs_store::Cid, named: bool) -> Memo {
    match result {
        Target::File { cid, size_bytes, .. } => Memo { v: 1, size: Some(*size_bytes), named, result: *cid, receipt },
        Target::Directory { cid } => Memo { v: 1, size: None, named, result: *cid, receipt },
        Target::Symlink { .. } => unreachable!("a call results in a file or a directory"),
    }
}
