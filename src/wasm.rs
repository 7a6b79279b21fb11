//! The WASM engine as a module: it accepts calls of modules it can run, runs them, and writes memo and receipt.
//!
//! A result that no longer holds, because a name on the way to it stands for something else or its time is over, is looked at
//! again before the module is run: if all that the module opened below `/grid` is what it was, so is the result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_modules::manifest::Accepts;
use gridfs_modules::{Argument, Class, Engine, Invocation, MAX_WASM_BYTES, Outcome, Program, RunError, run};
use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Batch, Cid, Codec, Durability, Store, Target};
use tokio::sync::Semaphore;

use crate::acceptance::{asks, message};
use crate::authority::Authority;
use crate::cache::{self, Failures};
use crate::describe::{Description, Runner};
use crate::error::{Code, Error, Result};
use crate::module::{Acceptance, Call, Caller, Handling, Module, Reply};
use crate::parms::{ABI_PROFILE, Value};
use crate::peers::Peers;
use crate::promise::PromiseLimits;
use crate::receipt::{self, Memo, Receipt, cid_of};
use crate::resolve::{GuestGrid, Noted};
use crate::time::now_ms;

/// Evaluations that run at a time, nested ones not counted: a waiting caller's nested call never queues.
const MAX_RUNNING: usize = 32;
/// Longest label under which the store lists a memo; a longer path is not listed.
const MAX_LABEL_BYTES: usize = 1024;
/// How long a volatile result holds if its promise does not say.
const DEFAULT_TTL_MS: u64 = 60_000;

/// The module.
pub struct WasmModule {
    engine: Arc<Engine>,
    admission: Semaphore,
    failures: Failures,
}

/// What an evaluation came to, before it is recorded.
struct Evaluated {
    result: Target,
    batch: Batch,
    stderr: Option<Cid>,
    fuel: u64,
    /// That of the module itself.
    class: Class,
    noted: Noted,
    wall: Duration,
}

impl WasmModule {
    /// Runs modules on `engine`.
    pub fn new(engine: Arc<Engine>) -> WasmModule {
        WasmModule { engine, admission: Semaphore::new(MAX_RUNNING), failures: Failures::default() }
    }

    async fn evaluate(&self, call: &Call) -> Result<Reply> {
        if !call.again {
            if let Some(error) = self.failures.recall(&call.flight()) {
                return Err(error);
            }
            if let Some(reply) = self.renewed(call).await? {
                return Ok(reply);
            }
        }
        Peers::supply_inputs(call).await?;
        let _permit = tokio::select! {
            permit = self.admission.acquire() => Some(permit.expect("the semaphore is never closed")),
            () = call.urgent.notified() => None,
        };
        let grid = guest_grid(call)?;
        let computed = self.compute(call, &grid).await;
        if call.again {
            return Ok(Reply::stored(computed?.result));
        }
        match &computed {
            // A name may soon stand for something with which it works.
            Err(error) if !grid.trace().went_by_names() => self.failures.note(&call.flight(), error),
            _ => {}
        }
        self.record(call, computed?)
    }

    async fn compute(&self, call: &Call, grid: &Arc<GuestGrid>) -> Result<Evaluated> {
        let program = load(&self.engine, &call.kernel.store, &call.parms.module)?;
        let arguments = inputs(&call.kernel.store, &call.module, &call.parms.arguments)?;
        let invocation = Invocation {
            program,
            arguments,
            asks: asks(&call.parms.promise),
            seed: call.key,
            limits: call.limits,
            store: call.kernel.store.clone(),
            grid: grid.clone(),
        };
        call.kernel.counters.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let started = Instant::now();
        let ended = tokio::time::timeout(Duration::from_millis(call.limits.wall_ms), run(invocation)).await;
        let run_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        call.kernel.counters.run_ns.fetch_add(run_ns, std::sync::atomic::Ordering::Relaxed);
        let ended = ended.map_err(|_| out_of_time(call))?;
        let Outcome { result, mut batch, stderr, fuel, .. } = match asks(&call.parms.promise) {
            true => answer(call, ended)?,
            false => ended?,
        };
        let stderr = if stderr.is_empty() { None } else { Some(batch.put_bytes(Codec::Raw, &stderr)?) };
        let class = call.module.class;
        Ok(Evaluated { result, batch, stderr, fuel, class, noted: grid.trace().take(), wall: started.elapsed() })
    }

    /// The result that was remembered, if looking again at what the module opened shows that it is the same.
    async fn renewed(&self, call: &Call) -> Result<Option<Reply>> {
        let store = &call.kernel.store;
        let Some(memo) = cache::memo(store, &call.key)? else { return Ok(None) };
        if !store.contains(&memo.result)? || !store.contains(&memo.receipt)? {
            return Ok(None);
        }
        let Some(before) = Receipt::read(store, &memo.receipt)? else { return Ok(None) };
        let class = call.module.class;
        if class == Class::Volatile || before.reads.is_empty() {
            return Ok(None);
        }
        let grid = guest_grid(call)?;
        for (path, found) in &before.reads {
            // What can't be read now, the module will be told when it runs.
            let now = grid.read(path).await.ok().as_ref().and_then(cid_of);
            if now != Some(*found) {
                return Ok(None);
            }
        }
        call.kernel.counters.renewed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let evaluated = Evaluated {
            result: memo.target(),
            batch: store.batch(),
            stderr: before.stderr,
            fuel: before.fuel,
            class,
            noted: grid.trace().take(),
            wall: Duration::from_millis(before.wall_ms),
        };
        self.record(call, evaluated).map(Some)
    }

    /// Writes result, receipt and memo in one batch. It is visible at once and durable soon: it can be computed again.
    fn record(&self, call: &Call, evaluated: Evaluated) -> Result<Reply> {
        let Evaluated { result, mut batch, stderr, fuel, class, noted, wall } = evaluated;
        let now_ms = now_ms();
        let own = match class {
            Class::Pure => None,
            Class::Volatile => Some(now_ms.saturating_add(ttl_ms(call))),
        };
        let until_ms = own.into_iter().chain(noted.until_ms).min();
        let class = if until_ms.is_some() { Class::Volatile } else { Class::Pure };
        let named = !noted.names.is_empty();
        let receipt = Receipt {
            v: receipt::VERSION,
            abi: ABI_PROFILE.into(),
            deps: noted.calls,
            fuel,
            class,
            names: noted.names.into_iter().collect(),
            parms: call.parms.clone(),
            reads: noted.reads,
            engine: self.engine.name(),
            issuer: call.kernel.identity.id(),
            limits: PromiseLimits::from(call.limits),
            result: cid_of(&result).expect("a result is a file or a directory"),
            stderr,
            time_ms: now_ms,
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            until_ms,
            signature: Bytes(Vec::new()),
        };
        let receipt = receipt.signed_by(&call.kernel.identity);
        let receipt = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&receipt))?;
        let memo = Memo::of(&Reply { until_ms, time_ms: Some(now_ms), ..Reply::stored(result) }, receipt, named);
        let (key, label) = match until_ms {
            None => (call.key, label(call)),
            // It may depend on who asked. The owner's is listed, as all that is known to the owner.
            Some(_) if call.caller.authority != Authority::Owner => (call.flight(), Vec::new()),
            Some(_) => (call.key, label(call)),
        };
        batch.put_memo(key, &label, &memo.to_bytes())?;
        batch.commit(Durability::Lazy)?;
        Ok(memo.reply())
    }
}

impl Module for WasmModule {
    fn id(&self) -> &str {
        "wasm"
    }

    fn accept(&self, call: &Call) -> Result<Acceptance> {
        // Whoever accepts all that fits is not run to say so.
        let is_silent = asks(&call.parms.promise) && call.module.manifest.accept == Accepts::Always;
        Ok(Acceptance::of_module(call.module.runner == Runner::Wasm && !is_silent))
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(self.evaluate(call))
    }
}

/// The program of a stored module. Compiling it, which does not yield, may take seconds.
pub fn load(engine: &Engine, store: &Arc<Store>, module: &Cid) -> Result<Arc<Program>> {
    // What is in memory is had without waiting: no other thread has to take over this one's tasks.
    if let Some(program) = engine.loaded(module) {
        return Ok(program);
    }
    tokio::task::block_in_place(|| engine.load(module, || store.read(module, MAX_WASM_BYTES)))
        .map_err(|e| Error::from(e).during(format!("module {module}")))
}

/// What the module sees as `/grid`; one evaluation is spent for it.
fn guest_grid(call: &Call) -> Result<Arc<GuestGrid>> {
    let Caller { authority, depth, budget, .. } = call.caller.clone();
    let caller = Caller { authority, asking: Some(call.flight()), depth: depth + 1, budget: budget.spend()? };
    Ok(Arc::new(GuestGrid::new(call.kernel.clone(), caller, call.parms.arguments.clone())))
}

/// The arguments of a call as its program is given them.
pub fn inputs(store: &Arc<Store>, module: &Description, values: &[Value]) -> Result<Vec<Argument>> {
    values.iter().enumerate().map(|(index, value)| input(store, module, index, value)).collect()
}

fn input(store: &Arc<Store>, module: &Description, index: usize, value: &Value) -> Result<Argument> {
    let Value::Object(cid) = value else { return Ok(Argument::Text(value.text())) };
    let missing = || {
        let name = module.argument(index).map_or("", |argument| argument.name.as_str());
        Error::new(Code::Unavailable, format!("argument {name:?}, {cid}, is not stored on this node"))
    };
    match cid.codec {
        Codec::Raw => store.object(cid)?.map(Argument::Blob).ok_or_else(missing),
        Codec::DagCbor if !store.contains(cid)? => Err(missing()),
        Codec::DagCbor => {
            store.tree(cid).map_err(|e| Error::caused(Code::Usage, format!("{cid} is not a directory"), e))?;
            Ok(Argument::Tree(*cid))
        }
    }
}

/// What a module that was asked whether it accepts has answered, as a message.
fn answer(call: &Call, ended: std::result::Result<Outcome, RunError>) -> Result<Outcome> {
    let store = &call.kernel.store;
    let (accepts, terms, stderr, fuel, memory_bytes) = match ended {
        Ok(Outcome { result, batch, stderr, fuel, memory_bytes }) => {
            batch.commit(Durability::Lazy)?;
            let terms = cid_of(&result).expect("an answer is a file");
            (true, store.read(&terms, call.limits.output_bytes)?, stderr, fuel, memory_bytes)
        }
        Err(RunError::Exit { stderr, .. }) => (false, stderr.clone(), stderr, 0, 0),
        Err(error) => return Err(error.into()),
    };
    let text = message(&call.parms, call.module.required(), accepts, &terms);
    let mut batch = store.batch();
    let cid = batch.put_bytes(Codec::Raw, text.as_bytes())?;
    let result = Target::File { cid, size_bytes: text.len() as u64, executable: false };
    Ok(Outcome { result, batch, stderr, fuel, memory_bytes })
}

fn out_of_time(call: &Call) -> Error {
    Error::new(Code::TimeLimit, format!("the module was still running after its {} ms", call.limits.wall_ms))
}

/// How long a volatile result of this call holds.
fn ttl_ms(call: &Call) -> u64 {
    let promised = call.promise.ttl_ms.unwrap_or(DEFAULT_TTL_MS);
    call.module.manifest.ttl_ms.unwrap_or(promised).min(promised)
}

/// The canonical path without its leading slash: what directories of the mount list remembered calls by.
pub(crate) fn label(call: &Call) -> Vec<u8> {
    let required = call.module.required();
    let path = call.parms.path(required);
    if call.parms.fits(required) && path.len() <= MAX_LABEL_BYTES { path.as_bytes()[1..].to_vec() } else { Vec::new() }
}
