//! The kernel: one call path for the mount, the command line and modules.
//!
//! A call whose reply stands in the syscall tree (`syscalls/`) is answered from there. Any other is checked (promise
//! accepted, module known, arguments of the right type), joined with others of the same memo key, and put to the modules that
//! accept it (`consult.rs`): the local cache, the native modules, the WASM engine. A failure is reported and forgotten; it is
//! never stored as a result.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gridfs_modules::Limits;
use gridfs_modules::manifest::Accepts;
use gridfs_p2p::PeerId;
use gridfs_store::{Cid, Hash, Store};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::acceptance::{self, asks};
use crate::accepted::Accepted;
use crate::authority::Authority;
use crate::describe::{Description, Descriptions, Runner};
use crate::error::{Code, Error, Result};
use crate::flights::Flights;
use crate::identity::Identity;
use crate::module::{Call, Caller, Module, Reply};
use crate::names::Names;
use crate::parms::Parms;
use crate::peers::Peers;
use crate::promise::{Promise, Source};
use crate::published::Published;
use crate::receipt::Receipt;
use crate::syscalls::{Key, Steps, Syscalls};

/// Deepest nesting of calls.
pub const MAX_DEPTH: u32 = 12;
/// Most nested calls looked into before a remembered result is told to another than the owner.
const MAX_MET: usize = 65_536;
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
    /// Objects fetched from peers.
    pub fetched: AtomicU64,
    /// Results believed as peers claim them.
    pub claimed: AtomicU64,
    /// Calls run for peers.
    pub served: AtomicU64,
    /// Results found to hold without running their module, for all below them was what it had been.
    pub renewed: AtomicU64,
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
    /// Who this node is; signs what it claims.
    pub identity: Identity,
    /// What modules are.
    pub modules: Descriptions,
    /// What happened so far.
    pub counters: Counters,
    /// The promises under which it may be called.
    pub accepted: Accepted,
    /// Who answers which calls.
    pub syscalls: Syscalls,
    pub(crate) consulted: Vec<Box<dyn Module>>,
    /// Where it gets what it does not have.
    pub peers: Peers,
    flights: Arc<Flights<Reply>>,
    log: Mutex<VecDeque<String>>,
    /// How large the store was after the last collection of garbage.
    pub(crate) collected_at: AtomicU64,
    /// Notified when results were forgotten that nobody asked to forget: a mount must forget them too.
    pub(crate) unasked: Notify,
    /// Held by who makes room.
    pub(crate) making_room: Mutex<()>,
    /// The names that peers may see.
    pub published: Published,
    /// Held while it changes whom this node follows, or what is known of them.
    pub(crate) following: Mutex<()>,
}

impl Kernel {
    /// A kernel over a store that consults `modules` in this order, and whose evaluations run on `runtime`.
    pub fn new(
        store: Arc<Store>,
        names: Arc<Names>,
        identity: Identity,
        accepted: Accepted,
        syscalls: Syscalls,
        modules: Vec<Box<dyn Module>>,
        runtime: Handle,
    ) -> Arc<Kernel> {
        Arc::new(Kernel {
            modules: Descriptions::new(store.clone()),
            consulted: modules,
            accepted,
            syscalls,
            peers: Peers::new(runtime.clone()),
            flights: Flights::new(runtime),
            log: Mutex::default(),
            counters: Counters::default(),
            collected_at: AtomicU64::new(0),
            unasked: Notify::new(),
            making_room: Mutex::default(),
            published: Published::new(store.clone(), names.clone()),
            following: Mutex::default(),
            store,
            names,
            identity,
        })
    }

    /// Calls `parms`. Dropping the future gives the call up; it goes on while others wait for it.
    pub async fn call(self: &Arc<Self>, caller: Caller, parms: Parms) -> Result<Reply> {
        let leaf = if goes_by_parms(&caller) { Key::of(&parms) } else { None };
        // Before anything is looked at: what changes from here on makes the reply one of the past.
        let epoch = self.epoch();
        if let Some(reply) = leaf.as_ref().and_then(|leaf| self.syscalls.reply(leaf, epoch, crate::time::now_ms)) {
            self.counters.calls.fetch_add(1, Ordering::Relaxed);
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(reply);
        }
        let call = self.admit(caller, parms).await.inspect_err(|error| self.report("call refused", error));
        let span_ms = call.as_ref().map(|call| call.promise.span_ms()).ok();
        let reply = self.carry_out(call).await?;
        if let (Some(leaf), Some(span_ms), true) = (leaf, span_ms, reply.immutable) {
            self.syscalls.remember(leaf, &reply, epoch, span_ms);
        }
        Ok(reply)
    }

    /// Counts a call with its outcome.
    async fn carry_out(self: &Arc<Self>, call: Result<Call>) -> Result<Reply> {
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        let mut end = End(&self.counters.interrupted);
        let reply = match call {
            Ok(call) => self.reply(call, &mut end).await,
            Err(error) => Err(error),
        };
        if reply.is_err() {
            end.0 = &self.counters.failures;
        }
        reply
    }

    async fn reply<'a>(self: &'a Arc<Self>, call: Call, end: &mut End<'a>) -> Result<Reply> {
        let (flight, asking) = (call.flight(), call.caller.asking);
        // What is known needs no flight.
        if let Some(reply) = self.recalled(&call)? {
            end.0 = &self.counters.hits;
            return Ok(reply);
        }
        let is_made_here = !matches!(call.caller.authority, Authority::Elsewhere(_));
        if call.module.manifest.accept == Accepts::Dynamic && !asks(&call.parms.promise) && is_made_here {
            self.ask(&call).await.inspect_err(|error| self.report("call rejected", error))?;
        }
        let kernel = self.clone();
        let reply = self
            .flights
            .join(flight, asking, |urgent| async move {
                // Nothing of the call is collected while it runs.
                let lease = kernel.store.lease();
                call.parms.inputs().for_each(|cid| lease.keep(&cid));
                if kernel.needs_room() {
                    let kernel = kernel.clone();
                    tokio::task::spawn_blocking(move || kernel.make_room_if_possible());
                }
                let call = Call { urgent, ..call };
                let result = kernel.answered(&call).await;
                result.inspect_err(|error| kernel.report(&call.parms.path(call.module.required()), error))
            })
            .await?;
        end.0 = &self.counters.computed;
        Ok(reply)
    }

    /// The answer to a call, of which peers are told if its promise says so.
    async fn answered(self: &Arc<Self>, call: &Call) -> Result<Reply> {
        let reply = self.consult(call, crate::time::since_epoch).await?;
        self.peers.offer(call, &reply).await;
        Ok(reply)
    }

    /// The reply to a checked call from the cache, which is consulted before all others.
    fn recalled(&self, call: &Call) -> Result<Option<Reply>> {
        let started = Instant::now();
        let reply = call.remembered()?;
        if reply.is_some() {
            let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.syscalls.kept(&Steps::of(&call.parms), crate::cache::ID, latency_us, crate::time::now_ms());
        }
        Ok(reply)
    }

    /// Computes a call again, whatever is remembered of it, and remembers nothing. The result is not stored either.
    pub async fn compute_again(self: &Arc<Self>, parms: Parms) -> Result<Reply> {
        let promise = self.permitted(&Caller::default(), &parms)?;
        let call = Call { again: true, ..self.prepare(Caller::default(), promise, parms)? };
        let (kernel, key) = (self.clone(), Hash::of(&[b"again".as_slice(), &call.key.0].concat()));
        let compute = |urgent| async move { kernel.consult(&Call { urgent, ..call }, crate::time::since_epoch).await };
        self.flights.join(key, None, compute).await
    }

    /// Asks a module that says so of itself whether it accepts the call. Its answer is the result of a call of its own.
    async fn ask(self: &Arc<Self>, call: &Call) -> Result<()> {
        // What the caller may call, it may ask about; what the module opens to find an answer, it opens by the caller's right.
        let question = acceptance::question(&call.parms);
        let promise = self.promise(&question.promise)?;
        let asking = self.carry_out(self.prepare(call.caller.clone(), promise, question));
        let answer = Box::pin(asking).await.map_err(|e| e.during("asking the module whether it accepts the call"))?;
        acceptance::check(&self.store, &answer)
    }

    /// No reply that was given before is believed without being checked again.
    pub fn forget_replies(&self) {
        self.syscalls.forget_replies();
    }

    /// Changes whenever a reply given before may not be given again: both parts only grow.
    pub fn epoch(&self) -> u64 {
        self.syscalls.epoch() + self.accepted.changes()
    }

    /// The reply to the call of this memo key if it is remembered and still holds; nothing is run.
    pub fn known(&self, key: &Hash) -> Result<Option<Reply>> {
        crate::cache::recall(&self.store, &self.names, key)
    }

    /// The same for a caller of this right. Others than the owner are told only what they might compute themselves: every call
    /// that went into the result must be one that they may make. A volatile result may depend on who asked, so each right has its own.
    pub fn known_to(&self, authority: &Authority, key: &Hash) -> Result<Option<Reply>> {
        let reply = self.known(key)?;
        if *authority == Authority::Owner {
            return Ok(reply);
        }
        match reply {
            Some(reply) if reply.until_ms.is_none() && self.may_know(authority, &reply)? => Ok(Some(reply)),
            _ => self.known(&authority.flight(*key)),
        }
    }

    fn may_know(&self, authority: &Authority, reply: &Reply) -> Result<bool> {
        let (mut met, mut replies) = (HashSet::new(), vec![reply.clone()]);
        while let Some(reply) = replies.pop() {
            let Some(receipt) = reply.receipt else { continue };
            let Some(receipt) = Receipt::read(&self.store, &receipt)? else { return Ok(false) };
            for (parms, _) in receipt.deps {
                if !met.insert(parms.clone()) {
                    continue;
                }
                if met.len() > MAX_MET || self.check_rights(authority, &parms).is_err() {
                    return Ok(false);
                }
                // What is not here any more can't be looked into, so the whole is computed again.
                let Ok(module) = self.modules.get(&parms.module) else { return Ok(false) };
                if module.runner == Runner::Cas {
                    continue;
                }
                let limits = authority.lower(self.limits(&parms.promise, &module)?);
                match self.known(&parms.memo_key(&limits))? {
                    Some(reply) => replies.push(reply),
                    None => return Ok(false),
                }
            }
        }
        Ok(true)
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

    /// Whether what is needed for calls under this promise may be fetched from peers.
    pub fn may_ask_peers(&self, promise: &Cid) -> bool {
        let asks = |promise: &Promise| promise.source != Source::Local;
        self.peers.network().is_some() && self.promise(promise).is_ok_and(|promise| asks(&promise))
    }

    /// What a module is. It is fetched if it is not stored here and the promise allows that, but not for a peer: that gives it
    /// with its call.
    pub async fn module(
        self: &Arc<Self>,
        authority: &Authority,
        promise: &Promise,
        module: &Cid,
    ) -> Result<Arc<Description>> {
        match self.modules.get(module) {
            Err(error) if error.code == Code::Unavailable && !matches!(authority, Authority::Peer(..)) => {
                Peers::supply(self, promise.source, [*module]).await?;
                self.modules.get(module)
            }
            known => known,
        }
    }

    /// Checks a call before anything runs, and fetches its module if need be: rights before effect.
    async fn admit(self: &Arc<Self>, caller: Caller, parms: Parms) -> Result<Call> {
        let promise = self.permitted(&caller, &parms)?;
        self.module(&caller.authority, &promise, &parms.module).await?;
        self.prepare(caller, promise, parms)
    }

    /// The promise of a call that the caller may make, and is not nested too deep for.
    fn permitted(&self, caller: &Caller, parms: &Parms) -> Result<Arc<Promise>> {
        if caller.depth > MAX_DEPTH {
            return Err(Error::new(Code::Cycle, format!("calls are nested more than {MAX_DEPTH} deep")));
        }
        self.check_rights(&caller.authority, parms)
    }

    /// A call for which the caller has the right.
    fn prepare(self: &Arc<Self>, caller: Caller, promise: Arc<Promise>, parms: Parms) -> Result<Call> {
        let module = self.modules.get(&parms.module)?;
        module.check(&parms.arguments)?;
        let limits = Limits::from(promise.limits).lowered_by(module.manifest.limits.as_ref());
        let limits = caller.authority.lower(limits);
        let key = parms.memo_key(&limits);
        Ok(Call {
            parms,
            key,
            promise,
            limits,
            module,
            caller,
            again: false,
            urgent: Arc::new(Notify::new()),
            kernel: self.clone(),
        })
    }

    /// Whether the promise is accepted, holds and covers the module, and the caller has authority for the call.
    pub fn check_rights(&self, authority: &Authority, parms: &Parms) -> Result<Arc<Promise>> {
        let promise = self.promise(&parms.promise)?;
        if !promise.covers(&parms.module) {
            let why = format!("the promise {} does not cover the module {}", parms.promise, parms.module);
            return Err(Error::new(Code::NotAccepted, why));
        }
        authority.check(&promise, parms)?;
        if let Authority::Peer(peer, None) = authority {
            self.check_inputs(*peer, parms)?;
        }
        Ok(promise)
    }

    /// Refuses a peer's call on what the peer could not read, in the same words whether it is here or not. (With a token it
    /// may call on what lies here: that is what it was granted for.)
    fn check_inputs(&self, peer: PeerId, parms: &Parms) -> Result<()> {
        for cid in parms.inputs().filter(|cid| *cid != parms.module) {
            if !self.peers.lent.has(peer, &cid) && !self.is_shared(&cid)? {
                let why = format!("{cid}, which the call is about, is neither shared here nor did the peer give it");
                return Err(Error::new(Code::NotAccepted, why));
            }
        }
        Ok(())
    }
}

/// Whether what a caller is told depends on nothing but the parms, so that it may be told by what was told before.
fn goes_by_parms(caller: &Caller) -> bool {
    caller.authority == Authority::Owner && caller.depth <= MAX_DEPTH
}
