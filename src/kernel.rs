//! The kernel: one call path for the mount, the command line and modules.
//!
//! A call is checked (promise accepted, module known, arguments of the right type), joined with others of the same memo
//! key, and put to the modules in turn: the local cache, the native modules, the WASM engine. The first that accepts
//! handles it. A failure is reported and forgotten; it is never stored as a result.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridfs_modules::Limits;
use gridfs_store::{Cid, Store};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::accepted::Accepted;
use crate::describe::{Description, Descriptions};
use crate::error::{Code, Error, Result};
use crate::flights::Flights;
use crate::module::{Acceptance, Call, Caller, Module, Reply};
use crate::names::Names;
use crate::parms::Parms;
use crate::promise::Promise;

/// Deepest nesting of calls.
pub const MAX_DEPTH: u32 = 12;
/// Lines kept for `.grid/log`.
const MAX_LOG_LINES: usize = 1000;

/// Counts since the kernel started.
#[derive(Default)]
pub struct Counters {
    /// Calls put to the kernel.
    pub calls: AtomicU64,
    /// Calls answered from memory of earlier ones.
    pub hits: AtomicU64,
    /// Calls answered by computing, or by joining who already did.
    pub computed: AtomicU64,
    /// Calls that failed.
    pub failures: AtomicU64,
    /// Calls given up by their caller.
    pub interrupted: AtomicU64,
    /// Evaluations of WASM modules that were started.
    pub runs: AtomicU64,
    /// How long those that ended took, in nanoseconds, each from instantiation to its result.
    pub run_ns: AtomicU64,
}

/// Counts a call when it ends: as interrupted, unless it came to another end before.
struct End<'a>(&'a AtomicU64);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The kernel. One per node.
pub struct Kernel {
    /// The store below.
    pub store: Arc<Store>,
    /// The symbol table.
    pub names: Arc<Names>,
    /// What modules are.
    pub modules: Descriptions,
    /// What happened so far.
    pub counters: Counters,
    /// The promises under which it may be called.
    pub accepted: Accepted,
    consulted: Vec<Box<dyn Module>>,
    flights: Arc<Flights<Reply>>,
    log: Mutex<VecDeque<String>>,
    /// How large the store was after the last collection of garbage.
    pub(crate) collected_at: AtomicU64,
    /// Held by who makes room.
    pub(crate) making_room: Mutex<()>,
}

impl Kernel {
    /// A kernel over a store that consults `modules` in this order, and whose evaluations run on `runtime`.
    pub fn new(
        store: Arc<Store>,
        names: Arc<Names>,
        accepted: Accepted,
        modules: Vec<Box<dyn Module>>,
        runtime: Handle,
    ) -> Arc<Kernel> {
        Arc::new(Kernel {
            modules: Descriptions::new(store.clone()),
            consulted: modules,
            accepted,
            flights: Flights::new(runtime),
            log: Mutex::default(),
            counters: Counters::default(),
            collected_at: AtomicU64::new(0),
            making_room: Mutex::default(),
            store,
            names,
        })
    }

    /// Calls `parms`. Dropping the future gives the call up; it goes on while others wait for it.
    pub async fn call(self: &Arc<Self>, caller: Caller, parms: Parms) -> Result<Reply> {
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        let mut end = End(&self.counters.interrupted);
        let reply = self.reply(caller, parms, &mut end).await;
        if reply.is_err() {
            end.0 = &self.counters.failures;
        }
        reply
    }

    async fn reply<'a>(self: &'a Arc<Self>, caller: Caller, parms: Parms, end: &mut End<'a>) -> Result<Reply> {
        let call = self.check(caller, parms).inspect_err(|error| self.report("call refused", error))?;
        let (key, asking) = (call.key, caller.asking);
        // What is known needs no flight.
        if let Some(reply) = self.known(&call.parms, &call.limits)? {
            end.0 = &self.counters.hits;
            return Ok(reply);
        }
        let kernel = self.clone();
        let reply = self
            .flights
            .join(key, asking, |urgent| async move {
                // Nothing of the call is collected while it runs.
                let lease = kernel.store.lease();
                call.parms.inputs().for_each(|cid| lease.keep(&cid));
                if kernel.needs_room() {
                    let kernel = kernel.clone();
                    tokio::task::spawn_blocking(move || kernel.make_room_if_possible());
                }
                let call = Call { urgent, ..call };
                let result = kernel.consult(&call).await;
                result.inspect_err(|error| kernel.report(&call.parms.path(call.module.required()), error))
            })
            .await?;
        end.0 = &self.counters.computed;
        Ok(reply)
    }

    /// The reply to a call if it is remembered and still holds; nothing is run.
    pub fn known(&self, parms: &Parms, limits: &Limits) -> Result<Option<Reply>> {
        crate::cache::recall(&self.store, &self.names, &parms.memo_key(limits))
    }

    /// The limits of a call: the promise's, lowered by the manifest's.
    pub fn limits(&self, promise: &Cid, module: &Description) -> Result<Limits> {
        let promise = self.promise(promise)?;
        Ok(Limits::from(promise.limits).lowered_by(module.manifest.limits.as_ref()))
    }

    /// The promise of this CID, if it is accepted and holds now.
    pub fn promise(&self, cid: &Cid) -> Result<Arc<Promise>> {
        let promise = self.accepted.get(cid)?;
        promise.check_time(crate::time::now_ms())?;
        Ok(promise)
    }

    /// The last lines of the log, oldest first.
    pub fn log(&self) -> String {
        let log = self.log.lock().expect("no panic while it is held");
        log.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// Notes that a path failed, for `.grid/log`.
    pub fn report(&self, what: &str, error: &Error) {
        tracing::debug!(what, %error, "call failed");
        let line = format!("{} {what}: {error}", crate::time::text(crate::time::now_ms()));
        let mut log = self.log.lock().expect("no panic while it is held");
        if log.len() == MAX_LOG_LINES {
            log.pop_front();
        }
        log.push_back(line.replace('\n', " "));
    }

    /// Number of evaluations under way.
    pub fn running(&self) -> usize {
        self.flights.count()
    }

    /// Number of calls that wait for them.
    pub fn waiting(&self) -> usize {
        self.flights.waiting()
    }

    /// Checks a call before anything runs: rights before effect.
    fn check(self: &Arc<Self>, caller: Caller, parms: Parms) -> Result<Call> {
        if caller.depth > MAX_DEPTH {
            return Err(Error::new(Code::Cycle, format!("calls are nested more than {MAX_DEPTH} deep")));
        }
        let promise = self.promise(&parms.promise)?;
        if !promise.covers(&parms.module) {
            let why = format!("the promise {} does not cover the module {}", parms.promise, parms.module);
            return Err(Error::new(Code::NotAccepted, why));
        }
        let module = self.modules.get(&parms.module)?;
        module.check(&parms.arguments)?;
        let limits = self.limits(&parms.promise, &module)?;
        let key = parms.memo_key(&limits);
        Ok(Call { parms, key, limits, module, caller, urgent: Arc::new(Notify::new()), kernel: self.clone() })
    }

    async fn consult(&self, call: &Call) -> Result<Reply> {
        for module in &self.consulted {
            if module.accept(call)? == Acceptance::Accept {
                return module.handle(call).await;
            }
        }
        Err(Error::new(Code::Unavailable, format!("no module accepts {}", call.parms.path(call.module.required()))))
    }
}

/// A wall-clock limit as a duration.
pub fn wall_time(limits: &Limits) -> Duration {
    Duration::from_millis(limits.wall_ms)
}
