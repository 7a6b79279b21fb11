//! One evaluation: a loaded program, its arguments and limits in; a result, or the reason there is none, out.

use std::sync::Arc;

use gridfs_store::Target;
use gridfs_store::{Batch, Error, Hash, Store};

use crate::budget::Budget;
use crate::engine::{POOL_MEMORY_BYTES, Program};
use crate::guest::{Argument, Fault, Grid, Guest, NestedError};
use crate::limits::Limits;
use crate::manifest::Returns;

/// How much of standard error is kept, in bytes; the rest is dropped.
pub const MAX_STDERR_BYTES: usize = 64 * 1024;

/// `argv[0]` of a program that is asked whether it accepts a call.
pub const ACCEPT: &str = "accept";

/// Everything that one evaluation needs.
pub struct Invocation {
    /// The program to run.
    pub program: Arc<Program>,
    /// Its arguments, `argv[1]` first.
    pub arguments: Vec<Argument>,
    /// Whether it is only asked if it accepts the call: then `argv[0]` is [`ACCEPT`], and standard output the result.
    pub asks: bool,
    /// What `random_get` is expanded from: the memo key.
    pub seed: Hash,
    /// What it may use.
    pub limits: Limits,
    /// Where inputs are read and the result is written.
    pub store: Arc<Store>,
    /// Where its nested calls go.
    pub grid: Arc<dyn Grid>,
}

/// A good result, written but not committed.
pub struct Outcome {
    /// The file or tree that is the result.
    pub result: Target,
    /// Holds the result's bytes: commit it to keep them.
    pub batch: Batch,
    /// What it wrote to standard error, at most [`MAX_STDERR_BYTES`].
    pub stderr: Vec<u8>,
    /// Fuel burnt.
    pub fuel: u64,
    /// Memory that it had at the end, which is the most it had: as [`Limits::memory_bytes`] counts it.
    pub memory_bytes: u64,
}

/// Why an evaluation gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It ended with another exit status than 0.
    #[error("the module ended with exit status {status}{}", said(.stderr))]
    Exit {
        /// The status.
        status: u32,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It trapped.
    #[error("the module trapped: {what}{}", said(.stderr))]
    Trap {
        /// The trap, in the engine's words.
        what: String,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It burnt all its fuel.
    #[error("the module burnt all of its {fuel} units of fuel")]
    Fuel {
        /// The limit.
        fuel: u64,
    },
    /// It failed after more memory was refused.
    #[error("the module wanted more than its {limit_bytes} bytes of memory{}", said(.stderr))]
    Memory {
        /// The limit.
        limit_bytes: u64,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It wrote too much.
    #[error("the module wrote more than its {limit_bytes} bytes of output")]
    Output {
        /// The limit.
        limit_bytes: u64,
    },
    /// A nested call failed.
    #[error("a nested call failed: {0}")]
    Nested(#[source] NestedError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The engine failed.
    #[error("the WebAssembly engine failed: {0}")]
    Engine(String),
}

/// ": " and the last line that the module wrote to standard error, or nothing.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("; it said: {}", line.trim()),
        None => String::new(),
    }
}

/// The end of a guest, as an error that unwinds it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("exit status {0}")]
    Exit(u32),
    #[error("output limit")]
    Output,
    #[error("nested call: {0}")]
    Nested(NestedError),
    #[error(transparent)]
    Store(Error),
}

/// Runs a program to its end. Dropping the future cancels it within some milliseconds.
///
/// The wall-clock limit is the caller's to keep; all others are kept here.
pub async fn run(invocation: Invocation) -> Result<Outcome, RunError> {
    let Invocation { program, arguments, asks, seed, mut limits, store, grid } = invocation;
    limits.memory_bytes = limits.memory_bytes.min(POOL_MEMORY_BYTES as u64);
    let returns_tree = program.manifest().returns == Returns::Tree && !asks;
    let name = if asks { ACCEPT } else { &program.manifest().name };
    let mut guest = Guest::new(name, arguments, returns_tree, seed, store, grid);
    guest.output_left_bytes = limits.output_bytes;
    guest.budget = Budget::new(limits.memory_bytes);

    let mut store = wasmtime::Store::new(program.engine(), guest);
    store.limiter(|guest| guest);
    store.set_fuel(limits.fuel).map_err(engine_error)?;
    // At every beat it yields and runs on till the next.
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    let beating = program.pulse().keep().map_err(|e| RunError::Engine(format!("can't start its thread: {e}")))?;
    let ended = start(&mut store, &program).await;
    drop(beating);
    let fuel = limits.fuel - store.get_fuel().map_err(engine_error)?;
    let mut guest = store.into_data();
    if let Err(error) = ended {
        return Err(reason(error, guest, limits));
    }
    let memory_bytes = limits.memory_bytes - guest.budget.least_bytes();
    match finish(&mut guest) {
        Ok(result) => Ok(Outcome { result, batch: guest.batch, stderr: guest.stderr, fuel, memory_bytes }),
        Err(Fault::Stop(stop)) => Err(stop_reason(stop, guest.stderr, limits)),
        Err(Fault::Errno(errno)) => Err(RunError::Engine(format!("the result could not be closed: {errno:?}"))),
    }
}

async fn start(store: &mut wasmtime::Store<Guest>, program: &Program) -> wasmtime::Result<()> {
    match start_to_end(store, program).await {
        Err(e) if matches!(e.downcast_ref::<Stop>(), Some(Stop::Exit(0))) => Ok(()),
        ended => ended,
    }
}

async fn start_to_end(store: &mut wasmtime::Store<Guest>, program: &Program) -> wasmtime::Result<()> {
    let instance = program.instantiate(&mut *store).await?;
    store.data_mut().memory = instance.get_memory(&mut *store, "memory");
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    start.call_async(&mut *store, ()).await
}

fn finish(guest: &mut Guest) -> Result<Target, Fault> {
    guest.close_all()?;
    if let Some(stdout) = guest.stdout.take() {
        let (cid, size_bytes) = stdout.finish(&mut guest.batch)?;
        return Ok(Target::File { cid, size_bytes, executable: false });
    }
    let out = std::mem::replace(&mut guest.out, crate::out::OutTree::new());
    Ok(out.store(&mut guest.batch)?)
}

/// Names the first thing that went wrong: a limit before the failure that it led to.
fn reason(error: wasmtime::Error, guest: Guest, limits: Limits) -> RunError {
    let stderr = guest.stderr;
    let memory_denied = guest.budget.denied();
    match error.downcast::<Stop>() {
        Ok(Stop::Exit(_)) if memory_denied => RunError::Memory { limit_bytes: limits.memory_bytes, stderr },
        Ok(stop) => stop_reason(stop, stderr, limits),
        Err(error) => match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::OutOfFuel) => RunError::Fuel { fuel: limits.fuel },
            _ if memory_denied => RunError::Memory { limit_bytes: limits.memory_bytes, stderr },
            Some(trap) => RunError::Trap { what: trap.to_string(), stderr },
            None => RunError::Engine(format!("{error:#}")),
        },
    }
}

fn stop_reason(stop: Stop, stderr: Vec<u8>, limits: Limits) -> RunError {
    match stop {
        Stop::Exit(status) => RunError::Exit { status, stderr },
        Stop::Output => RunError::Output { limit_bytes: limits.output_bytes },
        Stop::Nested(error) => RunError::Nested(error),
        Stop::Store(error) => RunError::Store(error),
    }
}

fn engine_error(error: wasmtime::Error) -> RunError {
    RunError::Engine(format!("{error:#}"))
}
