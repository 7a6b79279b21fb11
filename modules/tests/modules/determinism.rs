//! The library gives the same bytes for the same fuel in every run: among other calls, in any place of pools of any size, and with
//! code compiled anew or read from disk.
//!
//! `GRIDFS_RUNS=1000 cargo test -p gridfs-modules --test modules determinism -- --nocapture` runs each module 1,000 times.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gridfs_modules::{Argument, Engine, Pool, Program, Settings};
use gridfs_store::{Cid, Codec, Target};

use crate::calls::calls;
use crate::rig::{Rig, block_on, guest_path};
use crate::sums::LIBRARY;

const RUNS: usize = 8;
/// More than cores, so that runs are interrupted by each other.
const THREADS: usize = 6;

/// Which of the engines has one place.
const ONE_PLACE: usize = 2;

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
    // The first compiles; the others read what it wrote, as a daemon does that was started again.
    let with = |settings| Engine::with(settings).unwrap();
    let kept = |pool| with(Settings { pool, ..Settings::NODE }).keeping_code(code.path()).unwrap();
    // One place for all modules in turn, and fewer places than modules that keep next to nothing of their memory.
    let [one, few] = [(1, 64 << 10), (8, 4 << 10)].map(|(instances, kept_bytes)| Some(Pool { instances, kept_bytes }));
    let mut engines = vec![kept(Settings::NODE.pool), kept(Settings::NODE.pool), kept(one), kept(few), kept(None)];
    if runs > RUNS {
        // Unoptimised code; it takes minutes to compile the library.
        engines.push(with(Settings { optimised: false, ..Settings::NODE }));
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
    let only_place = Mutex::new(());
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
            let engine = round % engines.len();
            let _turn = (engine == ONE_PLACE).then(|| only_place.lock().unwrap());
            let again = came(&rig, &engines[engine].1[module], arguments);
            assert!(again == first[module], "{name} differs in round {round}: {again:?}, not {:?}", first[module]);
            counts[module].fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == runs), "{counts:?}");
    println!("{} modules, {runs} runs each, {THREADS} at a time: {:.1?}", calls.len(), started.elapsed());
}
