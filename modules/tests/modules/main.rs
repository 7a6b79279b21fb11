//! Programs run from outside the crate: the committed guests, and hand-written ones that call each host function.
//!
//! One binary, because linking the engine takes longer than most tests run.

mod calls;
mod cancellation;
mod conformance;
mod determinism;
mod functions;
mod fuzz;
mod guests;
mod hostile;
mod library;
mod library_trees;
mod limits;
mod loading;
mod malformed;
mod out;
mod pg;
mod rig;
mod scratch;
mod script;
mod sums;
