//! The library gives the same bytes for the same fuel in every run: among other calls, in any place of the pool, and with code
//! compiled anew or read from disk.
//!
//! `GRIDFS_RUNS=1000 cargo test -p gridfs-modules --test modules determinism -- --nocapture` runs each module 1,000 times.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use gridfs_modules::{Argument, Engine, Program, Settings};
use gridfs_store::{Cid, Codec, Target};

use crate::calls::calls;
use crate::rig::{Rig, block_on, guest_path};
use crate::sums::LIBRARY;

const RUNS: usize = 8;
/// More than cores, so that runs are interrupted by each other.
const THREADS: usize = 6;

/// What must not differ: the result's hash, standard error, fuel.
type Came = (Target, Vec<u8>, u64);

fn came(rig: &Rig, program: &Arc<Program>, arguments: &[Argument]) -> Came {
    let outcome = block_on(rig.start(program, arguments.to_vec())).unwrap();
    (outcome.result, outcome.stderr, outcome.fuel)
}

#[test]
fn the_library_gives_the_same_in_every_run() {
    let runs = std::env::var("GRIDFS_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let rig = Rig::new();
    let calls = calls(&rig);
    assert_eq!(calls.iter().map(|(name, _)| *name).collect::<Vec<_>>(), LIBRARY);
    let code = tempfile::tempdir().unwrap();
    // The first compiles, the second reads what the first wrote, as a daemon does that was started again.
    let mut engines = vec![Engine::new(code.path()).unwrap(), Engine::new(code.path()).unwrap()];
    if runs > RUNS {
        // Unoptimised code, and memory of their own in place of the pool's. They take minutes to compile the library.
        let settings = [Settings { optimised: false, ..Settings::NODE }, Settings { pooled: false, ..Settings::NODE }];
        engines.extend(settings.map(|settings| Engine::with(settings).unwrap()));
    }
    let load_all = |engine: Engine| {
        let load = |(name, _): &(&str, _)| {
            let wasm = std::fs::read(guest_path(name)).unwrap();
            engine.load(&Cid::of(Codec::Raw, &wasm), || Ok(wasm.clone())).unwrap()
        };
        let programs: Vec<Arc<Program>> = calls.iter().map(load).collect();
        (engine, programs)
    };
    let engines: Vec<(Engine, Vec<Arc<Program>>)> = engines.into_iter().map(load_all).collect();
    let first: Vec<Came> =
        calls.iter().zip(&engines[0].1).map(|((_, args), program)| came(&rig, program, args)).collect();
    let counts: Vec<AtomicUsize> = calls.iter().map(|_| AtomicUsize::new(0)).collect();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= runs * calls.len() {
                return;
            }
            // Each round begins with another module, so that each runs beside every other one, and in another place of the pool.
            let (round, module) = (number / calls.len(), (number + number / calls.len()) % calls.len());
            let (name, arguments) = &calls[module];
            let again = came(&rig, &engines[round % engines.len()].1[module], arguments);
            assert!(again == first[module], "{name} differs in round {round}: {again:?}, not {:?}", first[module]);
            counts[module].fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == runs), "{counts:?}");
    println!("{} modules, {runs} runs each, {THREADS} at a time: {:.1?}", calls.len(), started.elapsed());
}
