//! Bugs that the search has found, each with the shortest way to it. A lazy commit of memos alone that was never
//! synced is told of in `writer.rs`; a sync that failed, in `faults.rs`.

use crate::dice::Dice;
use crate::writer::Durability::{self, Durable, Lazy};

use super::workload::{Changes, Memo, Put, Step};
use super::world::World;

const SEEDS: u64 = 100;

fn commit(puts: &[Put], memo_seed: u64, durability: Durability) -> Step {
    Step::Commit(Changes { puts: puts.to_vec(), memos: vec![Memo { key: 1, seed: memo_seed }] }, durability)
}

fn opened(steps: &[Step]) -> World {
    let mut world = World::new();
    world.open().unwrap();
    steps.iter().for_each(|step| world.apply(step).unwrap());
    world
}

/// What may be found after `world` has ended, opened.
fn reopened(world: &mut World, dice: &mut Dice) -> World {
    let found = world.find(dice);
    let mut world = world.after(found);
    world.open().unwrap();
    world.check();
    world
}

/// A process was killed when it had written a durable commit and not yet synced it. The next one took what it read
/// for durable, told the index so, and a power cut took the commit from under the index.
#[test]
fn a_commit_that_a_killed_process_did_not_sync_is_synced_by_the_next() {
    let last = opened(&[commit(&[], 1, Durable)]).sim.deeds().len() as u64 - 1;
    for seed in 0..SEEDS {
        let mut world = World::new();
        world.sim.stop_at(last);
        world.open().unwrap();
        world.apply(&commit(&[], 1, Durable)).unwrap_err();
        world.kill();
        world.open().unwrap();
        world.check();
        reopened(&mut world, &mut Dice::new(seed));
    }
}

/// A lazy commit lost its data, so the log was cut before it and the meta pack after it removed, but not durably. It
/// came back after the next power cut, when its commit had the very number that was next again.
#[test]
fn a_removed_meta_pack_does_not_come_back() {
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed);
        let full = |memo_seed| commit(&[], memo_seed, Lazy);
        let mut world =
            opened(&[commit(&[], 1, Durable), commit(&[Put::Noise(9)], 2, Lazy), full(699), full(698), full(3)]);
        let mut world = reopened(&mut world, &mut dice);
        for number in 0..3 {
            world.apply(&commit(&[], 10 + number, Durable)).unwrap();
        }
        reopened(&mut world, &mut dice);
    }
}
