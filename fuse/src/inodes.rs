//! Nodes by inode number, for as long as the kernel remembers them.
//!
//! The kernel counts every reply that names a node (a lookup, a line of `readdirplus`) and gives the counts back with
//! `forget`. A number belongs to its node while the count is above zero and is free again after that; the root is
//! number 1 for ever. A node's number is its hint, or the next number that is free when another node holds it.
//!
//! Each time a node enters the table it gets the next generation, so (number, generation) never means two things, as
//! long as the 32 bits last that the kernel keeps of it (`i_generation`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Inode number of the root, fixed by the protocol (`FUSE_ROOT_ID`).
pub(crate) const ROOT: u64 = 1;

/// The lowest number for nodes other than the root; 0 means "no inode" to the kernel.
const LOWEST: u64 = ROOT + 1;

/// A number and the generation it was given out in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Numbered {
    pub(crate) ino: u64,
    pub(crate) generation: u32,
}

/// The table. Its lock is private and held for a few map operations only.
pub(crate) struct Inodes<N> {
    state: Mutex<State<N>>,
}

struct State<N> {
    by_number: HashMap<u64, Record<N>>,
    numbers: HashMap<N, u64>,
    generation: u32,
}

struct Record<N> {
    node: N,
    generation: u32,
    /// Replies that named the node and that the kernel has not given back; not counted for the root.
    lookups: u64,
}

impl<N: Clone + Eq + Hash> Inodes<N> {
    pub(crate) fn new(root: N) -> Self {
        let record = Record { node: root.clone(), generation: 0, lookups: 0 };
        Self {
            state: Mutex::new(State {
                by_number: HashMap::from([(ROOT, record)]),
                numbers: HashMap::from([(root, ROOT)]),
                generation: 0,
            }),
        }
    }

    /// The node that the kernel calls `ino`; `None` for a number it was never told or has forgotten.
    pub(crate) fn node(&self, ino: u64) -> Option<N> {
        self.lock().by_number.get(&ino).map(|record| record.node.clone())
    }

    /// Counts one more reply that names `node`, entering it near `hint` if it is new.
    pub(crate) fn remember(&self, node: N, hint: u64) -> Numbered {
        let mut state = self.lock();
        let state = &mut *state;
        let ino = match state.numbers.entry(node.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let ino = next_free(&state.by_number, hint);
                state.generation = state.generation.wrapping_add(1);
                let record = Record { node, generation: state.generation, lookups: 0 };
                state.by_number.insert(ino, record);
                *new.insert(ino)
            }
        };
        let record = state.by_number.get_mut(&ino).expect("every number in `numbers` has its record");
        record.lookups += u64::from(ino != ROOT);
        Numbered { ino, generation: record.generation }
    }

    /// Gives back `lookups` replies; the last one drops the node. The root and unknown numbers are left alone.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        if ino == ROOT {
            return;
        }
        let mut state = self.lock();
        let Some(record) = state.by_number.get_mut(&ino) else {
            return;
        };
        if lookups > record.lookups {
            tracing::error!(ino, lookups, held = record.lookups, "the kernel forgets more than it was told");
        }
        record.lookups = record.lookups.saturating_sub(lookups);
        if record.lookups > 0 {
            return;
        }
        let dropped = state.by_number.remove(&ino);
        let number = dropped.as_ref().and_then(|record| state.numbers.remove_entry(&record.node));
        // Destructors of nodes run without the lock.
        drop(state);
        drop((dropped, number));
    }

    /// The number a listing shows for `node`: its own if it has one, else the one it would like. Nothing is counted.
    pub(crate) fn shown(&self, node: &N, hint: u64) -> u64 {
        let number = self.lock().numbers.get(node).copied();
        number.unwrap_or(hint.max(LOWEST))
    }

    /// A panic in a node's `Hash` or `Eq` must not take the mount with it.
    fn lock(&self) -> MutexGuard<'_, State<N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first free number from `hint` on, round past the end. Ends: the map can't hold all 2^64 - 2 of them.
fn next_free<R>(taken: &HashMap<u64, R>, hint: u64) -> u64 {
    let mut ino = hint.max(LOWEST);
    while taken.contains_key(&ino) {
        ino = ino.wrapping_add(1).max(LOWEST);
    }
    ino
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn numbered(ino: u64, generation: u32) -> Numbered {
        Numbered { ino, generation }
    }

    #[test]
    fn the_root_is_one_and_is_never_forgotten() {
        let inodes = Inodes::new("root");
        assert_eq!(inodes.node(ROOT), Some("root"));
        assert_eq!(inodes.remember("root", 77), numbered(1, 0));
        inodes.forget(ROOT, 1_000);
        assert_eq!(inodes.node(ROOT), Some("root"));
        assert_eq!(inodes.shown(&"root", 77), 1);
    }

    #[test]
    fn an_entry_lasts_until_its_last_lookup_is_forgotten() {
        let inodes = Inodes::new("root");
        assert_eq!(inodes.remember("a", 40), numbered(40, 1));
        assert_eq!(inodes.remember("a", 40), numbered(40, 1));
        assert_eq!(inodes.remember("a", 40), numbered(40, 1));
        inodes.forget(40, 2);
        assert_eq!(inodes.node(40), Some("a"));
        inodes.forget(40, 1);
        assert_eq!(inodes.node(40), None);
        assert_eq!(inodes.remember("b", 40), numbered(40, 2));
    }

    #[test]
    fn forgetting_drops_every_copy_of_the_node() {
        let inodes = Inodes::new(Arc::new(0));
        let node = Arc::new(1);
        inodes.remember(Arc::clone(&node), 5);
        assert_eq!(Arc::strong_count(&node), 3);
        inodes.forget(5, 1);
        assert_eq!(Arc::strong_count(&node), 1);
    }

    #[test]
    fn colliding_hints_give_distinct_numbers_that_stay() {
        let inodes = Inodes::new("root");
        assert_eq!(inodes.remember("a", 40).ino, 40);
        assert_eq!(inodes.remember("b", 40).ino, 41);
        assert_eq!(inodes.remember("c", 41).ino, 42);
        inodes.forget(40, 1);
        assert_eq!(inodes.remember("b", 40).ino, 41);
        assert_eq!(inodes.remember("d", 40).ino, 40);
        assert_eq!(inodes.shown(&"b", 40), 41);
        assert_eq!(inodes.shown(&"new", 40), 40);
    }

    #[test]
    fn reserved_numbers_are_never_given_out() {
        let inodes = Inodes::new("root");
        assert_eq!(inodes.remember("a", 0).ino, 2);
        assert_eq!(inodes.remember("b", 1).ino, 3);
        assert_eq!(inodes.remember("c", u64::MAX).ino, u64::MAX);
        assert_eq!(inodes.remember("d", u64::MAX).ino, 4);
        assert_eq!(inodes.shown(&"new", 0), 2);
    }

    #[test]
    fn unknown_and_excess_forgets_leave_the_table_whole() {
        let inodes = Inodes::new("root");
        inodes.forget(9, 3);
        inodes.remember("a", 9);
        inodes.forget(9, 3);
        assert_eq!(inodes.node(9), None);
        assert_eq!(inodes.remember("a", 9), numbered(9, 2));
    }

    /// A reference table that is a list, searched from end to end.
    #[derive(Default)]
    struct Model(Vec<(u32, Numbered, u64)>);

    impl Model {
        fn remember(&mut self, node: u32, hint: u64, generation: &mut u32) -> Numbered {
            if let Some((_, number, lookups)) = self.0.iter_mut().find(|(held, ..)| *held == node) {
                *lookups += 1;
                return *number;
            }
            let mut ino = hint.max(2);
            while self.0.iter().any(|(_, number, _)| number.ino == ino) {
                ino = if ino == u64::MAX { 2 } else { ino + 1 };
            }
            *generation += 1;
            let number = numbered(ino, *generation);
            self.0.push((node, number, 1));
            number
        }
    }

    #[test]
    fn agrees_with_a_model_under_random_lookups_and_forgets() {
        let seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut state = seed;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) % below
        };
        let inodes = Inodes::new(u32::MAX);
        let mut model = Model::default();
        let mut generation = 0;
        for step in 0..100_000 {
            if model.0.is_empty() || random(5) < 3 {
                let node = random(300) as u32;
                // Few hints for many nodes, around both ends of the numbers.
                let hint = u64::from(node % 40).wrapping_sub(20);
                let expected = model.remember(node, hint, &mut generation);
                assert_eq!(inodes.remember(node, hint), expected, "seed {seed:#x}, step {step}");
            } else {
                let at = random(model.0.len() as u64) as usize;
                let lookups = 1 + random(model.0[at].2);
                let ino = model.0[at].1.ino;
                inodes.forget(ino, lookups);
                model.0[at].2 -= lookups;
                if model.0[at].2 == 0 {
                    model.0.swap_remove(at);
                    assert_eq!(inodes.node(ino), None, "seed {seed:#x}, step {step}");
                }
            }
        }
        for (node, number, _) in &model.0 {
            assert_eq!(inodes.node(number.ino), Some(*node), "seed {seed:#x}");
        }
        let state = inodes.lock();
        assert_eq!(state.by_number.len(), model.0.len() + 1);
        assert_eq!(state.numbers.len(), model.0.len() + 1);
    }

    #[test]
    fn threads_leave_exact_counts() {
        let inodes = Inodes::new(u32::MAX);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let number = inodes.remember(round % 7, 3);
                        inodes.forget(number.ino, 1);
                    }
                });
            }
        });
        assert_eq!(inodes.lock().by_number.len(), 1);
    }
}
