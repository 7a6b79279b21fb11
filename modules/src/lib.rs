//! Run WASI preview1 programs as sandboxed, deterministic calls (ABI grid-1, see `modules/ABI.md`).
//!
//! A program sees its arguments, `/in`, `/out`, `/grid` and standard streams, nothing of the machine: same program,
//! same arguments, same bytes. What it asks of the grid goes up through the [`Grid`] trait. Whether a result is worth
//! remembering, under which key and for whom, is decided above this crate.

mod budget;
mod class;
mod compile;
mod engine;
mod examine;
mod file_type;
mod guest;
mod inode;
mod limits;
mod listing;
pub mod manifest;
mod memory;
mod out;
mod pulse;
mod run;
mod scratch;
mod walk;
mod wasi;

pub use class::{Class, class};
pub use compile::compile_if_called;
pub use engine::{
    Engine, EngineError, LoadError, LoadFailure, MAX_FUNCTION_BYTES, MAX_WASM_BYTES, Pool, Program, Settings, inspect,
};
pub use examine::{Examined, Import, examine};
pub use guest::{Argument, Denial, Grid, NestedError, Reached};
pub use limits::Limits;
pub use manifest::Manifest;
pub use run::{ACCEPT, Invocation, MAX_STDERR_BYTES, Outcome, RunError, run};
pub use walk::{WalkError, walk};
