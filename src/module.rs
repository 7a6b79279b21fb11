//! What the kernel consults: modules. A cache, a native module and the WASM engine are all the same to it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gridfs_modules::Limits;
use gridfs_store::{Cid, Hash, Target};
use tokio::sync::Notify;

use crate::authority::Authority;
use crate::describe::Description;
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::parms::Parms;
use crate::promise::Promise;

/// Most evaluations that one outermost call may lead to.
pub const MAX_EVALUATIONS: u32 = 10_000;

/// Whether a module promises to handle a call, and which others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Acceptance {
    /// It will handle them, or will not.
    pub accepts: bool,
    /// How many leading parms the answer is about: it holds for every call that begins with the same ones. None: it is
    /// about this call at this moment, and nothing is learnt from it.
    pub about: Option<usize>,
}

impl Acceptance {
    /// The answer to all calls of this module under this promise.
    pub fn of_module(accepts: bool) -> Acceptance {
        Acceptance { accepts, about: Some(2) }
    }

    /// The answer to this call at this moment.
    pub fn of_call(accepts: bool) -> Acceptance {
        Acceptance { accepts, about: None }
    }
}

/// Who asks, by what right, and from how deep.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// By what right.
    pub authority: Authority,
    /// The evaluation that asks, for a nested call.
    pub asking: Option<Hash>,
    /// How many calls this one is nested in.
    pub depth: u32,
    /// How many evaluations it may still lead to.
    pub budget: Budget,
}

/// Evaluations that an outermost call and all below it may still start. It is handed down: they share it.
#[derive(Clone, Debug, Default)]
pub struct Budget(Option<Arc<AtomicU32>>);

impl Budget {
    /// Takes one evaluation from it, and gives what the calls below may spend.
    pub fn spend(&self) -> Result<Budget> {
        let left = self.0.clone().unwrap_or_else(|| Arc::new(AtomicU32::new(MAX_EVALUATIONS)));
        let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match spent {
            Ok(_) => Ok(Budget(Some(left))),
            Err(_) => {
                let why = format!("the call led to more than {MAX_EVALUATIONS} evaluations");
                Err(Error::new(Code::TimeLimit, why))
            }
        }
    }
}

/// One call, checked: the promise is accepted and covers the module, and the arguments fit its manifest.
#[derive(Clone)]
pub struct Call {
    /// What is called.
    pub parms: Parms,
    /// Its memo key.
    pub key: Hash,
    /// What it may use.
    pub limits: Limits,
    /// The module.
    pub module: Arc<Description>,
    /// The promise under which it is made.
    pub promise: Arc<Promise>,
    /// Who asks.
    pub caller: Caller,
    /// Whether it is to be computed whatever is remembered, and nothing remembered of it.
    pub again: bool,
    /// Notified when a running evaluation waits for this one, so that it must not queue.
    pub urgent: Arc<Notify>,
    /// The kernel, for nested calls.
    pub kernel: Arc<Kernel>,
}

impl Call {
    /// The reply, if it is remembered, holds, and may be told to this caller.
    pub fn remembered(&self) -> Result<Option<Reply>> {
        self.kernel.known_to(&self.caller.authority, &self.key)
    }

    /// Names the evaluation, among those under way.
    pub fn flight(&self) -> Hash {
        self.caller.authority.flight(self.key)
    }
}

/// The result of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// The file or directory.
    pub result: Target,
    /// How it came to be; a native module has no receipt.
    pub receipt: Option<Cid>,
    /// The result can never differ: nothing on the way to it was volatile or went by a name.
    pub immutable: bool,
    /// Until when a volatile result holds, in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// When it was computed, in milliseconds since 1970, if that is at hand; else the receipt tells.
    pub time_ms: Option<u64>,
}

impl Reply {
    /// What is stored, which needed no evaluation.
    pub fn stored(result: Target) -> Reply {
        Reply { result, receipt: None, immutable: true, until_ms: None, time_ms: None }
    }
}

/// A future of a module.
pub type Handling<'a> = Pin<Box<dyn Future<Output = Result<Reply>> + Send + 'a>>;

/// Something that answers calls. Handling a call that was not accepted is a bug.
pub trait Module: Send + Sync {
    /// What the syscall tree knows it by, also after a restart: `cache`, `wasm`.
    fn id(&self) -> &str;

    /// Whether it will handle the call; answered from local knowledge.
    fn accept(&self, call: &Call) -> Result<Acceptance>;

    /// Handles an accepted call.
    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_by_all_below() {
        let outermost = Budget::default();
        let below = outermost.spend().unwrap();
        let deeper = below.spend().unwrap();
        for _ in 2..MAX_EVALUATIONS / 2 {
            below.spend().unwrap();
            deeper.spend().unwrap();
        }
        deeper.spend().unwrap();
        deeper.spend().unwrap();
        assert_eq!(below.spend().unwrap_err().code, Code::TimeLimit);
        // Another call has its own.
        outermost.spend().unwrap();
    }
}
