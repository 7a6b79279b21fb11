//! The promises that a node accepts: its social contract. A call under any other is refused before anything runs.
//!
//! Each is a mark in the store (`marks.rs`), which also keeps the document from being collected.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gridfs_store::{Cid, Store};

use crate::error::{Code, Error, Result};
use crate::marks::ACCEPTED;
use crate::promise::{MAX_BYTES, Promise};

/// Most promises that a node accepts.
const MAX_ACCEPTED: usize = 10_000;

/// The accepted promises.
pub struct Accepted {
    store: Arc<Store>,
    promises: RwLock<BTreeMap<Cid, Arc<Promise>>>,
    /// Held while a change goes to disk, so that nobody who asks waits for that.
    changing: Mutex<()>,
    changes: AtomicU64,
}

impl Accepted {
    /// Those marked in the store. One that can't be read any more is left out, and said to be.
    pub fn open(store: Arc<Store>) -> Result<Accepted> {
        let mut promises = BTreeMap::new();
        for mark in ACCEPTED.all(&store)? {
            match read(&store, &mark.cid) {
                Ok(promise) => drop(promises.insert(mark.cid, Arc::new(promise))),
                Err(error) => tracing::warn!(promise = %mark.cid, %error, "an accepted promise can't be read"),
            }
        }
        Ok(Accepted { store, promises: RwLock::new(promises), changing: Mutex::new(()), changes: AtomicU64::new(0) })
    }

    /// The promise of this CID, if the node accepts it.
    pub fn get(&self, cid: &Cid) -> Result<Arc<Promise>> {
        self.read().get(cid).cloned().ok_or_else(|| {
            let why = format!("this node does not accept the promise {cid}");
            Error::new(Code::NotAccepted, why + "; `gridfs promise list` shows those it accepts")
        })
    }

    /// How often they have changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// All of them, by CID.
    pub fn all(&self) -> Vec<(Cid, Arc<Promise>)> {
        self.read().iter().map(|(cid, promise)| (*cid, promise.clone())).collect()
    }

    /// Accepts a stored promise, durably.
    pub fn accept(&self, cid: &Cid) -> Result<()> {
        let promise = read(&self.store, cid)?;
        let _order = self.changing.lock().expect("no panic while it is held");
        if self.read().len() >= MAX_ACCEPTED {
            let why = format!("this node accepts {MAX_ACCEPTED} promises already; revoke one first");
            return Err(Error::new(Code::Usage, why));
        }
        ACCEPTED.set(&self.store, cid, "")?;
        self.write().insert(*cid, Arc::new(promise));
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Accepts it no longer, durably.
    pub fn revoke(&self, cid: &Cid) -> Result<()> {
        let _order = self.changing.lock().expect("no panic while it is held");
        match ACCEPTED.remove(&self.store, cid)? {
            true => drop(self.write().remove(cid)),
            false => return Err(Error::new(Code::UnknownName, format!("the promise {cid} is not accepted"))),
        }
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Cid, Arc<Promise>>> {
        self.promises.read().expect("no panic while it is held")
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Cid, Arc<Promise>>> {
        self.promises.write().expect("no panic while it is held")
    }
}

/// Reads and checks a stored promise.
pub fn read(store: &Arc<Store>, cid: &Cid) -> Result<Promise> {
    let bytes = store.read(cid, MAX_BYTES)?;
    Promise::from_bytes(&bytes).map_err(|e| e.during(cid))
}
