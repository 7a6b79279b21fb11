//! Crashes at every operation of deterministic workloads, and disks that fail: what holds afterwards.
//!
//! A workload runs on a simulated disk until operation N, where the power goes. From there come several outcomes:
//! the disk as a crash may leave it (or, if only the process died, as it was), with the index as it was, an earlier
//! one or none. Each is opened; every acknowledged commit must be there, every commit whole or not at all, in order,
//! and nothing may read wrong. Then work goes on, and is interrupted once more: by a clean end or by a crash at any
//! operation, those of the recovery included.
//!
//! `cargo test -p gridfs-store` goes through every stop of some workloads. A longer search:
//! `cargo test -p gridfs-store --release -- --ignored every_stop`. A failure names its place; to run only that:
//! `GRIDFS_CRASH=workload,stop,outcome cargo test -p gridfs-store --lib -- --ignored one_stop`.

mod faults;
mod model;
mod regressions;
mod workload;
mod world;

use std::collections::HashSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::dice::Dice;
use crate::error::Error;
use crate::writer::Durability;

use self::workload::{Changes, Step};
use self::world::{Found, World};

const STEPS: usize = 14;
/// More operations than a recovery and two commits have, mostly.
const SECOND_STOP: u64 = 24;

/// One way in which things may go.
#[derive(Clone, Copy, Debug)]
struct Place {
    workload: u64,
    stop: u64,
    outcome: u64,
}

impl Place {
    fn dice(self) -> Dice {
        Dice::new(self.workload << 40 | self.stop << 20 | self.outcome)
    }

    fn name(self) -> String {
        let Place { workload, stop, outcome } = self;
        format!(
            "workload {workload}, stop {stop}, outcome {outcome}; to run only this:\n\
             GRIDFS_CRASH={workload},{stop},{outcome} cargo test -p gridfs-store --lib -- --ignored one_stop"
        )
    }
}

/// Says where it was when `work` fails.
fn named<T>(name: &str, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        eprintln!("failed at {name}");
        resume_unwind(panic)
    })
}

/// The store at a stop, where every outcome begins.
fn stopped(workload: u64, stop: u64) -> World {
    let mut world = World::new();
    world.sim.stop_at(stop);
    world.run(&Step::workload(workload, STEPS));
    world
}

/// Number of operations in a workload that nothing stops.
fn operations(workload: u64) -> u64 {
    let mut world = World::new();
    world.run(&Step::workload(workload, STEPS));
    world.check();
    world.sim.deeds().len() as u64
}

/// Goes on from what is found after a stop, to the end.
fn outcome(stopped: &World, found: Found, mut dice: Dice) {
    let mut world = stopped.after(found);
    let cut_again = dice.one_in(2);
    if cut_again {
        world.sim.stop_at(dice.below(SECOND_STOP));
    }
    let lived = live_on(&mut world, &mut dice);
    assert!(lived.is_ok() || world.sim.has_stopped(), "after the stop: {lived:?}");
    if cut_again {
        let found = world.find(&mut dice);
        world = world.after(found);
    } else {
        world.close();
    }
    live_on(&mut world, &mut dice).unwrap_or_else(|error| panic!("at the end: {error:?}"));
}

/// Opens, compares, and goes on working.
fn live_on(world: &mut World, dice: &mut Dice) -> Result<(), Error> {
    world.open()?;
    world.check();
    for durability in [Durability::Lazy, Durability::Durable] {
        world.apply(&Step::Commit(Changes::random(dice), durability))?;
    }
    world.check();
    Ok(())
}

/// Every stop of some workloads, with up to so many distinct outcomes each. Returns how many there were.
fn explore(workloads: Range<u64>, outcomes: usize) -> usize {
    let stops = |workload| (0..operations(workload)).map(move |stop| (workload, stop));
    let places: Vec<(u64, u64)> = workloads.flat_map(stops).collect();
    let (next, explored) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some((workload, stop)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = catch_unwind(|| explore_stop(*workload, *stop, outcomes));
            let found = result.unwrap_or_else(|panic| {
                eprintln!("failed at workload {workload}, stop {stop}");
                // The other threads need not go on.
                next.store(places.len(), Ordering::Relaxed);
                resume_unwind(panic)
            });
            explored.fetch_add(found, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    explored.into_inner()
}

/// Up to so many outcomes of one stop, no two of which find the same.
fn explore_stop(workload: u64, stop: u64, outcomes: usize) -> usize {
    let mut world = stopped(workload, stop);
    let mut seen = HashSet::new();
    for outcome in 0..2 * outcomes as u64 {
        let mut dice = Place { workload, stop, outcome }.dice();
        let found = world.find(&mut dice);
        if seen.len() < outcomes && seen.insert(found.mark()) {
            named(&Place { workload, stop, outcome }.name(), || self::outcome(&world, found, dice));
        }
    }
    seen.len()
}

#[test]
fn a_crash_at_any_operation_loses_nothing_durable() {
    let explored = explore(0..16, 7);
    eprintln!("{explored} distinct outcomes");
    assert!(explored >= 10_000, "only {explored} distinct outcomes: the workloads have become too small");
}

/// A long search, where the other test ends: `cargo test -p gridfs-store --release -- --ignored every_stop`.
#[test]
#[ignore = "takes many minutes"]
fn every_stop() {
    eprintln!("{} distinct outcomes", explore(16..216, 40));
}

/// Repeats one failure.
#[test]
#[ignore = "for one place, given in GRIDFS_CRASH"]
fn one_stop() {
    let place = std::env::var("GRIDFS_CRASH").expect("GRIDFS_CRASH=workload,stop,outcome");
    let numbers: Vec<u64> = place.split(',').map(|number| number.parse().expect("a number")).collect();
    let [workload, stop, outcome] = numbers[..] else { panic!("three numbers, not {place:?}") };
    let mut dice = Place { workload, stop, outcome }.dice();
    let mut world = stopped(workload, stop);
    let found = world.find(&mut dice);
    self::outcome(&world, found, dice);
}
