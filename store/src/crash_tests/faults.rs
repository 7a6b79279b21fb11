//! Disks that fail once, and disks that are full.

use crate::dice::Dice;
use crate::disk::sim::Fault;
use crate::error::Error;
use crate::writer::Durability;

use super::model::Commit;
use super::workload::{Changes, Put, Step};
use super::world::World;
use super::{STEPS, live_on, named};

const WORKLOADS: u64 = 3;

/// Runs from step number `from` to the first that fails: its number, and how it failed.
fn run(world: &mut World, steps: &[Step], from: usize) -> Result<(), (usize, Error)> {
    steps[from..].iter().zip(from..).try_for_each(|(step, number)| world.apply(step).map_err(|error| (number, error)))
}

/// As `run`, after opening a new store.
fn open_and_run(world: &mut World, steps: &[Step]) -> Result<(), (usize, Error)> {
    world.open().map_err(|error| (0, error))?;
    run(world, steps, 0)
}

/// For every operation of some workloads: a disk, the steps, and the operation's number.
fn at_every_operation(mut work: impl FnMut(u64, &[Step], u64)) {
    for workload in 0..WORKLOADS {
        let steps = Step::workload(workload, STEPS);
        for number in 0..super::operations(workload) {
            work(workload, &steps, number);
        }
    }
}

/// Something fails with EIO. A failed sync has lost what it was to save, though readers still see it and later syncs
/// succeed.
#[test]
fn a_disk_error_loses_nothing_acknowledged() {
    at_every_operation(|workload, steps, number| {
        for seed in 0..3 {
            named(&format!("workload {workload}, operation {number}, seed {seed}"), || {
                let mut world = World::new();
                world.sim.set_fault(Some(Fault::Broken(number)));
                let failed = open_and_run(&mut world, steps);
                outlive(&mut world, steps, failed, Dice::new(seed));
            });
        }
    });
}

fn outlive(world: &mut World, steps: &[Step], failed: Result<(), (usize, Error)>, mut dice: Dice) {
    match failed {
        // It was not noticed: the footer of a pack that was closed, or the end.
        Ok(()) => {}
        Err((_, Error::Poisoned { cause })) => {
            assert!(matches!(*cause, Error::Io { .. }), "{cause:?}");
            for step in steps.iter().filter(|step| step.commits()) {
                let refused = world.apply(step);
                assert!(matches!(refused, Err(Error::Poisoned { .. })), "{step:?} after a failure: {refused:?}");
            }
            world.check_as_it_is();
        }
        Err((_, Error::Io { .. })) if !world.is_open() => {}
        Err((step, Error::Io { .. })) => {
            world.check();
            run(world, steps, step).expect("the disk works again");
            world.check();
        }
        Err((step, error)) => panic!("step {step}: {error:?}"),
    }
    for _ in 0..2 {
        let found = world.find(&mut dice);
        *world = world.after(found);
        live_on(world, &mut dice).expect("the disk works again");
    }
}

/// The disk is full from some operation on: that is said, nothing is lost, and the same store goes on when there
/// is space again.
#[test]
fn a_full_disk_loses_nothing_and_is_no_end() {
    at_every_operation(|workload, steps, number| {
        for fault in [Fault::Full(number), Fault::KnownFull(number)] {
            named(&format!("workload {workload}, {fault:?}"), || fill(steps, fault, Dice::new(number)));
        }
    });
}

fn fill(steps: &[Step], fault: Fault, mut dice: Dice) {
    let mut world = World::new();
    world.sim.set_fault(Some(fault));
    // Where only a footer found no space, nothing fails.
    let Err((step, error)) = open_and_run(&mut world, steps) else { return };
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    if world.is_open() {
        world.check();
        let again = world.apply(&steps[step]);
        assert!(matches!(again, Err(Error::Full { .. })), "{again:?}");
        world.check();
        world.sim.set_fault(None);
    } else {
        world.sim.set_fault(None);
        world.open().expect("there is space again");
    }
    run(&mut world, steps, step).expect("there is space again");
    world.check();
    let found = world.find(&mut dice);
    let mut world = world.after(found);
    live_on(&mut world, &mut dice).expect("there is space");
    world.close();
    live_on(&mut world, &mut dice).expect("there is space");
}

/// A commit covers what other batches have appended so far. If it finds the disk full, that must not be forgotten.
#[test]
fn a_full_disk_does_not_take_another_batchs_data_with_it() {
    let mut world = World::new();
    world.open().unwrap();
    let mut batch = world.store().batch();
    let mut commit = Commit::default();
    let bulk = Changes { puts: vec![Put::Bulk(0)], memos: Vec::new() };
    bulk.apply(&mut batch, &mut world.model, &mut commit).unwrap();
    let deeds = world.sim.deeds().len() as u64;
    assert!(deeds > 6, "some of it is in a data pack: {:?}", world.sim.deeds());
    world.sim.set_fault(Some(Fault::Full(deeds)));
    let other = world.apply(&Step::Commit(Changes::default(), Durability::Durable));
    assert!(matches!(other, Err(Error::Full { .. })), "{other:?}");
    world.sim.set_fault(None);
    world.commit(batch, commit, Durability::Durable).unwrap();
    world.check();
    world.close();
    world.open().unwrap();
    world.check();
}
