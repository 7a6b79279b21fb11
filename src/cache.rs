//! The local cache as a module: it accepts the calls whose result it remembers.
//!
//! A remembered result holds while its bytes are here, while the names it went by stand for the same, and until its time is
//! over if it is volatile. A failure of the module itself is remembered too, in memory and for a short while, so that asking
//! again and again does not run it again and again. What failed for want of time, or by the machine's fault, may work the next
//! time and is never remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gridfs_store::{Hash, Store, cbor};

use crate::error::{Code, Error, Result};
use crate::module::{Acceptance, Call, Handling, Module, Reply};
use crate::names::Names;
use crate::receipt::{Memo, Receipt, cid_of};
use crate::time::now_ms;

/// How long a failure is remembered.
const FAILURE_TTL: Duration = Duration::from_secs(10);
/// Failures remembered; beyond it all are forgotten.
const MAX_FAILURES: usize = 4096;

/// The cache. Its state is the store.
pub struct Cache;

/// What the syscall tree knows the cache by.
pub const ID: &str = "cache";

impl Module for Cache {
    fn id(&self) -> &str {
        ID
    }

    fn accept(&self, call: &Call) -> Result<Acceptance> {
        Ok(Acceptance::of_call(!call.again && call.remembered()?.is_some()))
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(async {
            call.remembered()?.ok_or_else(|| Error::new(Code::Busy, "the remembered result went away; try again"))
        })
    }
}

/// The remembered reply to an evaluation, if it holds.
pub fn recall(store: &Arc<Store>, names: &Names, key: &Hash) -> Result<Option<Reply>> {
    let Some(memo) = memo(store, key)? else { return Ok(None) };
    let is_over = memo.until_ms.is_some_and(|until_ms| until_ms <= now_ms());
    // A memo whose result is gone is a miss.
    if is_over || !store.contains(&memo.result)? {
        return Ok(None);
    }
    if memo.named && !names_hold(store, names, &memo)? {
        return Ok(None);
    }
    Ok(Some(memo.reply()))
}

/// What the store keeps under a memo key, whether it holds or not.
pub fn memo(store: &Arc<Store>, key: &Hash) -> Result<Option<Memo>> {
    let Some(bytes) = store.memo(key)? else { return Ok(None) };
    cbor::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::caused(Code::Corrupt, format!("the memo of {key:?} can't be read"), e))
}

fn names_hold(store: &Arc<Store>, names: &Names, memo: &Memo) -> Result<bool> {
    let Some(receipt) = Receipt::read(store, &memo.receipt)? else { return Ok(false) };
    let holds = |(name, cid): &(String, _)| names.get(name).as_ref().and_then(cid_of) == Some(*cid);
    Ok(receipt.names.iter().all(holds))
}

/// Failures of modules themselves, by memo key. They are forgotten when the process ends, so none outlives its engine.
#[derive(Default)]
pub struct Failures {
    recent: Mutex<HashMap<Hash, (Instant, Error)>>,
}

impl Failures {
    /// The failure that an evaluation ended with not long ago.
    pub fn recall(&self, key: &Hash) -> Option<Error> {
        let recent = self.recent.lock().expect("no panic while it is held");
        recent.get(key).filter(|(when, _)| when.elapsed() < FAILURE_TTL).map(|(_, error)| error.clone())
    }

    /// Remembers a failure, if it would be the same the next time.
    pub fn note(&self, key: &Hash, error: &Error) {
        if matches!(error.code, Code::ModuleFailed | Code::NotModule | Code::MemoryLimit | Code::OutputLimit) {
            self.remember(key, error);
        }
    }

    /// Remembers a failure, whatever it is.
    pub fn remember(&self, key: &Hash, error: &Error) {
        let mut recent = self.recent.lock().expect("no panic while it is held");
        if recent.len() >= MAX_FAILURES {
            recent.clear();
        }
        recent.insert(*key, (Instant::now(), error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fails_for_good_is_remembered() {
        let failures = Failures::default();
        let key = Hash([1; 32]);
        for code in [Code::TimeLimit, Code::Interrupted, Code::Full, Code::Busy, Code::Unavailable, Code::General] {
            failures.note(&key, &Error::new(code, "as tested"));
            assert!(failures.recall(&key).is_none(), "{code:?}");
        }
        failures.note(&key, &Error::new(Code::ModuleFailed, "exit status 1"));
        assert_eq!(failures.recall(&key).unwrap().to_string(), "exit status 1");
        assert!(failures.recall(&Hash([2; 32])).is_none());
        let later = |age| failures.recent.lock().unwrap().get_mut(&key).unwrap().0 -= age;
        later(FAILURE_TTL - Duration::from_secs(5));
        assert!(failures.recall(&key).is_some());
        later(Duration::from_secs(5));
        assert!(failures.recall(&key).is_none(), "it may work by now");
        for n in 0..2 * MAX_FAILURES as u64 {
            let mut other = Hash([3; 32]);
            other.0[..8].copy_from_slice(&n.to_le_bytes());
            failures.note(&other, &Error::new(Code::ModuleFailed, "exit status 1"));
        }
        assert!(failures.recent.lock().unwrap().len() <= MAX_FAILURES);
    }
}
