//! Large objects that are elsewhere: an open file of which only those parts are fetched that are read.
//!
//! A part is believed because the object's hash proves it (p2p/PROTOCOL.md, *range*). It is not stored: the pages that Linux
//! keeps are what is remembered of it. Who reads much of a file has all of it fetched into the store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gridfs_p2p::{Part, PeerId};
use gridfs_store::{Cid, Codec};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::node::{CallNode, What};
use super::{Grid, Node};
use crate::authority::Authority;
use crate::describe::Runner;
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::module::Caller;
use crate::parms::{Parms, Value};
use crate::peers::Peers;

/// Shorter objects are fetched whole.
const MIN_BYTES: u64 = 8 << 20;
/// Fetched at a time.
const PART_BYTES: u64 = 1 << 20;
/// Once so much of an open file was fetched in parts, the whole is.
const MAX_PARTS_BYTES: u64 = 16 << 20;
/// Files open in this way at a time; each holds one part in memory.
const MAX_OPEN: usize = 64;
/// Lengths that are remembered, and directories. When there is no room for more, objects are fetched whole.
const MAX_SIZES: usize = 1 << 16;

/// What a mount knows of objects that are elsewhere.
pub(super) struct Elsewhere {
    opens: Arc<Semaphore>,
    /// Lengths that were proved. They are kept: a file that once had its size must not be shown empty while it is open.
    sizes: std::sync::Mutex<HashMap<Cid, u64>>,
    /// Objects that a table of names says are directories.
    directories: std::sync::Mutex<HashSet<Cid>>,
}

impl Elsewhere {
    /// Nothing yet.
    pub(super) fn new() -> Elsewhere {
        let (sizes, directories) = Default::default();
        Elsewhere { opens: Arc::new(Semaphore::new(MAX_OPEN)), sizes, directories }
    }

    /// Remembers that an object is said to be a directory, if there is room.
    pub(super) fn expect_directory(&self, cid: Cid) {
        let mut directories = self.directories.lock().expect("no panic while it is held");
        if directories.len() < MAX_SIZES {
            directories.insert(cid);
        }
    }

    /// Whether an object is said to be a directory.
    pub(super) fn is_directory(&self, cid: &Cid) -> bool {
        self.directories.lock().expect("no panic while it is held").contains(cid)
    }

    /// The length of a call's result, if it was proved.
    pub(super) fn size_bytes(&self, call: &CallNode) -> Option<u64> {
        self.sizes.lock().expect("no panic while it is held").get(&object_of(call)?).copied()
    }

    /// Remembers a length, if there is room.
    fn remember(&self, cid: Cid, size_bytes: u64) -> bool {
        let mut sizes = self.sizes.lock().expect("no panic while it is held");
        if sizes.len() >= MAX_SIZES && !sizes.contains_key(&cid) {
            return false;
        }
        sizes.insert(cid, size_bytes);
        true
    }
}

/// An open file that is elsewhere.
pub struct Far {
    pub(super) node: Node,
    cid: Cid,
    size_bytes: u64,
    /// The call whose result it is, and by what right it was opened: how it is fetched whole.
    parms: Parms,
    authority: Authority,
    last: Mutex<Last>,
    _permit: OwnedSemaphorePermit,
}

/// What was fetched last.
struct Last {
    part: Part,
    /// Bytes of all parts so far.
    fetched_bytes: u64,
}

impl Last {
    /// The bytes of the part from `offset` on.
    fn from(&self, offset: u64) -> &[u8] {
        let start = offset.checked_sub(self.part.offset).and_then(|start| usize::try_from(start).ok());
        start.and_then(|start| self.part.bytes.get(start..)).unwrap_or_default()
    }
}

impl Grid {
    /// Opens the result of a call of `cas` that peers may be asked for, if it is large and not stored here. Whatever else it is,
    /// or if no peer gives it, is left to the call.
    pub(super) async fn open_far(&self, node: &Node, authority: Authority) -> Option<Far> {
        let What::Call(call) = node.what() else { return None };
        let cid = object_of(call).filter(|_| self.kernel.may_ask_peers(&call.parms.promise))?;
        // Rights before effect, as for the call itself, which says what is wrong.
        self.kernel.check_rights(&authority, &call.parms).ok()?;
        let permit = Arc::clone(&self.elsewhere.opens).try_acquire_owned().ok()?;
        // The last byte, which shows how long the object is.
        let part = Peers::part(&self.kernel, cid, u64::MAX..u64::MAX, None, None).await.ok()?;
        if part.size_bytes < MIN_BYTES || !self.elsewhere.remember(cid, part.size_bytes) {
            return None;
        }
        Some(Far {
            node: node.clone(),
            cid,
            size_bytes: part.size_bytes,
            parms: call.parms.clone(),
            authority,
            last: Mutex::new(Last { part, fetched_bytes: 0 }),
            _permit: permit,
        })
    }
}

/// The object that the call gives if it is one of `cas` for a file.
fn object_of(call: &CallNode) -> Option<Cid> {
    match call.parms.arguments.as_slice() {
        [Value::Object(cid)] if call.module.runner == Runner::Cas && !call.is_tree && cid.codec == Codec::Raw => {
            Some(*cid)
        }
        _ => None,
    }
}

impl Far {
    /// At most `len` bytes from `offset`; fewer only at the end.
    pub(super) async fn read(&self, kernel: &Arc<Kernel>, offset: u64, len: usize) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len as u64).min(self.size_bytes);
        let mut bytes = Vec::new();
        // One after the other: what one fetches, the next may need.
        let mut last = self.last.lock().await;
        loop {
            let at = offset + bytes.len() as u64;
            if at >= end {
                return Ok(bytes);
            }
            let here = last.from(at);
            if here.is_empty() {
                if let Some(rest) = self.stored(kernel, at, end).await? {
                    return Ok([bytes, rest].concat());
                }
                self.advance(kernel, at, &mut last).await?;
                continue;
            }
            bytes.extend_from_slice(&here[..here.len().min((end - at) as usize)]);
        }
    }

    /// The bytes from the store, if the object has come whole.
    async fn stored(&self, kernel: &Arc<Kernel>, at: u64, end: u64) -> Result<Option<Vec<u8>>> {
        let Some(object) = kernel.store.object(&self.cid)? else { return Ok(None) };
        let read = move || object.read(at, (end - at) as usize);
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|e| Error::caused(Code::General, "reading the store ended without a result", e))?;
        Ok(Some(read?))
    }

    /// Fetches the part that holds `at`, or the whole.
    async fn advance(&self, kernel: &Arc<Kernel>, at: u64, last: &mut Last) -> Result<()> {
        if last.fetched_bytes >= MAX_PARTS_BYTES {
            let caller = Caller { authority: self.authority.clone(), ..Caller::default() };
            return kernel.call(caller, self.parms.clone()).await.map(drop);
        }
        let start = at / PART_BYTES * PART_BYTES;
        let first: Option<PeerId> = Some(last.part.peer);
        last.part = Peers::part(kernel, self.cid, start..start + PART_BYTES, Some(self.size_bytes), first).await?;
        last.fetched_bytes += last.part.bytes.len() as u64;
        Ok(())
    }
}
