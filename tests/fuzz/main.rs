//! Random and mutated input for everything that reads what others wrote: the path grammar, CIDs, records, and looking
//! at names in the mount's tree.
//!
//! `cargo test` runs 10,000 executions of each target. A longer run, as before a release, optimised but with all checks:
//! `CARGO_PROFILE_DEV_OPT_LEVEL=2 GRIDFS_FUZZ=10000000 cargo test --test fuzz -- --nocapture`. Each execution draws
//! everything from its own number; a failure names it, and `GRIDFS_FUZZ=number,1` runs only that.

mod codecs;
#[allow(dead_code, reason = "the store's own tests use all of it")]
#[path = "../../store/src/dice.rs"]
mod dice;
mod material;
mod surface;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dice::Dice;

const EXECUTIONS: u64 = 10_000;
/// Executions that a thread takes at a time.
const STRIDE: u64 = 256;

/// The first execution and how many there are.
fn wanted() -> (u64, u64) {
    let Ok(text) = std::env::var("GRIDFS_FUZZ") else { return (0, EXECUTIONS) };
    let numbers: Vec<u64> = text.split(',').map(|number| number.parse().expect("GRIDFS_FUZZ has a number")).collect();
    match numbers[..] {
        [count] => (0, count),
        [first, count] => (first, count),
        _ => panic!("GRIDFS_FUZZ is COUNT or FIRST,COUNT, not {text:?}"),
    }
}

/// Runs `execute` as often as wanted, on all processors; says where a panic was.
fn campaign(target: &str, execute: impl Fn(&mut Dice) + Sync) {
    let (first, count) = wanted();
    let (next, end, started) = (AtomicU64::new(first), first + count, Instant::now());
    let work = || {
        loop {
            let from = next.fetch_add(STRIDE, Ordering::Relaxed);
            if from >= end {
                return;
            }
            for number in from..end.min(from + STRIDE) {
                let ended = catch_unwind(AssertUnwindSafe(|| execute(&mut Dice::new(number))));
                if let Err(panic) = ended {
                    eprintln!("{target}: execution {number} failed; to run only this: GRIDFS_FUZZ={number},1");
                    // The other threads need not go on.
                    next.store(end, Ordering::Relaxed);
                    resume_unwind(panic);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    eprintln!("{target}: {count} executions in {:.1?}", started.elapsed());
}
