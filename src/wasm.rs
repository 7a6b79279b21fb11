//! The WASM engine as a module: it accepts calls of modules it can run, runs them, and writes memo and receipt.

use std::sync::Arc;
use std::time::Instant;

use gridfs_modules::{Argument, Engine, Invocation, MAX_WASM_BYTES, Outcome, Program, run};
use gridfs_store::{Cid, Codec, Durability, Store, cbor};
use tokio::sync::Semaphore;

use crate::cache::memo_of;
use crate::describe::Runner;
use crate::error::{Code, Error, Result};
use crate::kernel::wall_time;
use crate::module::{Acceptance, Call, Caller, Handling, Module, Reply};
use crate::parms::Value;
use crate::receipt::{Receipt, cid_of};
use crate::resolve::GuestGrid;

/// Evaluations that run at a time, nested ones not counted: a waiting caller's nested call never queues.
const MAX_RUNNING: usize = 32;
/// Longest label under which the store lists a memo; a longer path is not listed.
const MAX_LABEL_BYTES: usize = 1024;

/// The module.
pub struct WasmModule {
    engine: Arc<Engine>,
    admission: Semaphore,
}

impl WasmModule {
    /// Runs modules on `engine`.
    pub fn new(engine: Arc<Engine>) -> WasmModule {
        WasmModule { engine, admission: Semaphore::new(MAX_RUNNING) }
    }

    async fn evaluate(&self, call: &Call) -> Result<Reply> {
        let _permit = tokio::select! {
            permit = self.admission.acquire() => Some(permit.expect("the semaphore is never closed")),
            () = call.urgent.notified() => None,
        };
        let program = load(&self.engine, &call.kernel.store, &call.parms.module)?;
        let arguments = call.parms.arguments.iter().zip(0..).map(|(value, index)| argument(call, index, value));
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let caller = Caller { asking: Some(call.key), depth: call.caller.depth + 1 };
        let grid = Arc::new(GuestGrid::new(call.kernel.clone(), caller, call.parms.arguments.clone()));
        let invocation = Invocation {
            program,
            arguments,
            seed: call.key,
            limits: call.limits,
            store: call.kernel.store.clone(),
            grid: grid.clone(),
        };
        call.kernel.counters.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let started = Instant::now();
        let ended = tokio::time::timeout(wall_time(&call.limits), run(invocation)).await;
        let run_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        call.kernel.counters.run_ns.fetch_add(run_ns, std::sync::atomic::Ordering::Relaxed);
        let outcome = ended.map_err(|_| out_of_time(call))??;
        record(call, &grid, outcome, started)
    }
}

impl Module for WasmModule {
    fn accept(&self, call: &Call) -> Result<Acceptance> {
        Ok(if call.module.runner == Runner::Wasm { Acceptance::Accept } else { Acceptance::Reject })
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

fn argument(call: &Call, index: usize, value: &Value) -> Result<Argument> {
    let Value::Object(cid) = value else { return Ok(Argument::Text(value.text())) };
    let store = &call.kernel.store;
    let missing = || {
        let name = call.module.argument(index).map_or("", |argument| argument.name.as_str());
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

fn out_of_time(call: &Call) -> Error {
    Error::new(Code::TimeLimit, format!("the module was still running after its {} ms", call.limits.wall_ms))
}

/// Writes result, receipt and memo in one batch. It is visible at once and durable soon: it can be computed again.
fn record(call: &Call, grid: &GuestGrid, outcome: Outcome, started: Instant) -> Result<Reply> {
    let Outcome { result, mut batch, stderr, fuel } = outcome;
    let (names, deps) = grid.trace().take();
    let named = !names.is_empty();
    let stderr = if stderr.is_empty() { None } else { Some(batch.put_bytes(Codec::Raw, &stderr)?) };
    let receipt = Receipt {
        v: 1,
        deps,
        fuel,
        names,
        parms: call.parms.clone(),
        result: cid_of(&result).expect("a result is a file or a directory"),
        stderr,
        time_ms: crate::time::now_ms(),
        wall_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let receipt = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&receipt))?;
    batch.put_memo(call.key, &label(call), &memo_of(&result, receipt, named).to_bytes())?;
    batch.commit(Durability::Lazy)?;
    Ok(Reply { result, receipt: Some(receipt), immutable: !named })
}

/// The canonical path without its leading slash: what directories of the mount list remembered calls by.
fn label(call: &Call) -> Vec<u8> {
    let required = call.module.required();
    let path = call.parms.path(required);
    if call.parms.fits(required) && path.len() <= MAX_LABEL_BYTES { path.as_bytes()[1..].to_vec() } else { Vec::new() }
}
