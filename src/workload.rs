//! What this node runs for its peers: how many calls at a time, and for whom it did.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use gridfs_p2p::PeerId;

use crate::error::{Code, Error, Result};

/// Most calls that may be run for peers at a time: half of the evaluations that run at a time, so that they never keep this node's
/// own from running.
pub const MAX_RUNS: usize = 16;
/// Peers whose counts are remembered; beyond it those for whom nothing runs are forgotten.
const MAX_PEERS: usize = 4096;

/// Calls of peers that run here.
#[derive(Default)]
pub struct Workload {
    /// How many may run at a time; 0: none is run.
    limit: AtomicUsize,
    peers: Mutex<HashMap<PeerId, Load>>,
}

/// What was run for one peer since the node started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// Under way.
    running: usize,
    /// Calls that had a result.
    pub kept: u64,
    /// Calls that failed.
    pub broken: u64,
}

/// The right to run one call; given up when it is dropped.
pub struct Place<'a> {
    workload: &'a Workload,
    peer: PeerId,
}

impl Workload {
    /// Runs so many at a time from now on.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A place for one more call of a peer. One peer has at most half of them, so that another finds one.
    pub fn enter(&self, peer: PeerId) -> Result<Place<'_>> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            let why = "this node remembers no result of the call, and runs none for peers";
            return Err(Error::new(Code::Unavailable, why));
        }
        let mut peers = self.peers();
        let of_peer = peers.get(&peer).map_or(0, |load| load.running);
        if of_peer >= limit.div_ceil(2) || peers.values().map(|load| load.running).sum::<usize>() >= limit {
            return Err(Error::new(Code::Busy, "this node runs as many calls for peers as it may; try again later"));
        }
        if peers.len() >= MAX_PEERS {
            peers.retain(|_, load| load.running > 0);
        }
        peers.entry(peer).or_default().running += 1;
        Ok(Place { workload: self, peer })
    }

    /// What was run for a peer.
    pub fn of(&self, peer: &PeerId) -> Load {
        self.peers().get(peer).copied().unwrap_or_default()
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, Load>> {
        self.peers.lock().expect("no panic while it is held")
    }
}

impl Place<'_> {
    /// Counts how the call ended. One that is given up counts as neither.
    pub fn end(self, kept: bool) {
        let mut peers = self.workload.peers();
        let load = peers.get_mut(&self.peer).expect("who has a place is remembered");
        *if kept { &mut load.kept } else { &mut load.broken } += 1;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.workload.peers().get_mut(&self.peer).expect("who has a place is remembered").running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_for_one_peer_and_in_all() {
        let workload = Workload::default();
        let (one, two, three) = (PeerId::random(), PeerId::random(), PeerId::random());
        assert_eq!(workload.enter(one).err().unwrap().code, Code::Unavailable);
        workload.set_limit(3);
        let (first, second) = (workload.enter(one).unwrap(), workload.enter(one).unwrap());
        assert_eq!(workload.enter(one).err().unwrap().code, Code::Busy);
        let third = workload.enter(two).unwrap();
        assert_eq!(workload.enter(three).err().unwrap().code, Code::Busy);
        first.end(true);
        drop(second);
        third.end(false);
        assert_eq!(workload.of(&one), Load { running: 0, kept: 1, broken: 0 });
        assert_eq!(workload.of(&two), Load { running: 0, kept: 0, broken: 1 });
        workload.set_limit(1);
        let _only = workload.enter(three).unwrap();
        assert_eq!(workload.enter(one).err().unwrap().code, Code::Busy);
    }

    #[test]
    fn counts_of_many_peers_take_no_more_room() {
        let workload = Workload::default();
        workload.set_limit(2);
        let stays = PeerId::random();
        let _place = workload.enter(stays).unwrap();
        (0..MAX_PEERS + 10).for_each(|_| workload.enter(PeerId::random()).unwrap().end(true));
        assert!(workload.peers().len() <= MAX_PEERS);
        assert_eq!(workload.of(&stays).running, 1);
    }
}
