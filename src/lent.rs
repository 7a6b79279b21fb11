//! What single peers may read here, besides what all may: what a node is given for a call while it is asked to run it, and what
//! a peer has or was told by a call of its own.
//!
//! Nobody reads by a call what it could not read otherwise: a peer's call runs on inputs that are shared here, or that this peer
//! has shown to have. Of a file that lies here already it shows a part that is chosen at random, up to 256 KiB, so all of a small one.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use gridfs_p2p::{Fetch, Network, PeerId};
use gridfs_store::{Cid, Durability};

use crate::describe::is_tree;
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;

/// Largest input that is fetched to run a call for a peer, with all that belongs to it.
const MAX_INPUT_BYTES: u64 = 1 << 30;
/// Objects of peers that are remembered; beyond it all are forgotten, and have to be shown or told again.
const MAX_HAD: usize = 65_536;

/// What is lent, and what peers have.
#[derive(Default)]
pub struct Lent {
    /// To whom, and for how many calls.
    to: Mutex<HashMap<(PeerId, Cid), usize>>,
    had: Mutex<HashSet<(PeerId, Cid)>>,
}

/// Lets a peer read some objects until it is dropped.
pub struct Loan<'a> {
    lent: &'a Lent,
    peer: PeerId,
    objects: Vec<Cid>,
}

impl Lent {
    /// Lets a peer read these objects.
    pub fn lend(&self, peer: PeerId, objects: Vec<Cid>) -> Loan<'_> {
        let mut to = self.to();
        objects.iter().for_each(|cid| *to.entry((peer, *cid)).or_default() += 1);
        Loan { lent: self, peer, objects }
    }

    /// Whether a peer may read an object for a call now.
    pub fn is_lent(&self, peer: PeerId, cid: &Cid) -> bool {
        self.to().contains_key(&(peer, *cid))
    }

    /// Whether a peer gave an object, showed that it has it, or was told it as a result.
    pub fn has(&self, peer: PeerId, cid: &Cid) -> bool {
        self.had().contains(&(peer, *cid))
    }

    /// Notes that a peer has an object, or may have it.
    pub fn note(&self, peer: PeerId, cid: Cid) {
        let mut had = self.had();
        if had.len() >= MAX_HAD {
            had.clear();
        }
        had.insert((peer, cid));
    }

    fn to(&self) -> MutexGuard<'_, HashMap<(PeerId, Cid), usize>> {
        self.to.lock().expect("no panic while it is held")
    }

    fn had(&self) -> MutexGuard<'_, HashSet<(PeerId, Cid)>> {
        self.had.lock().expect("no panic while it is held")
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut to = self.lent.to();
        for cid in &self.objects {
            let calls = to.get_mut(&(self.peer, *cid)).expect("it was counted when it was lent");
            *calls -= 1;
            if *calls == 0 {
                to.remove(&(self.peer, *cid));
            }
        }
    }
}

impl Kernel {
    /// Has a peer give this node an input of its call, or show that it has it, unless peers may read it anyway.
    pub(crate) async fn take_input(&self, network: &Network, peer: PeerId, cid: Cid) -> Result<()> {
        let is_here = self.store.contains(&cid)?;
        if is_here && (self.peers.lent.has(peer, &cid) || self.is_shared(&cid)?) {
            return Ok(());
        }
        match is_here {
            true => self.have_shown(network, peer, cid).await?,
            false => {
                // From nobody else: what others lend this node is not for this peer.
                let wanted = Fetch {
                    cid,
                    providers: vec![peer],
                    max_bytes: MAX_INPUT_BYTES,
                    durability: Durability::Lazy,
                    progress: None,
                };
                network.fetch(wanted).await?;
            }
        }
        self.peers.lent.note(peer, cid);
        Ok(())
    }

    async fn have_shown(&self, network: &Network, peer: PeerId, cid: Cid) -> Result<()> {
        if is_tree(&self.store, &cid) {
            let why =
                format!("the directory {cid} lies here already, but not for peers to read; `gridfs share` lets them");
            return Err(Error::new(Code::NotAccepted, why));
        }
        let size_bytes = self.store.object(&cid)?.map_or(0, |object| object.size_bytes());
        // What is empty, or has just gone, can't be shown, and is no secret.
        if size_bytes > 0 {
            let mut dice = [0; 8];
            getrandom::fill(&mut dice)
                .map_err(|e| Error::caused(Code::General, "the system gives no random bytes", e))?;
            let at = u64::from_le_bytes(dice) % size_bytes;
            network.fetch_range(cid, at..at + 1, Some(size_bytes), &[peer]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::Codec;

    use super::*;

    #[test]
    fn what_is_lent_can_be_read_by_that_peer_until_the_last_call_ends() {
        let (lent, cid) = (Lent::default(), Cid::of(Codec::Raw, b"x"));
        let (one, two) = (PeerId::random(), PeerId::random());
        let first = lent.lend(one, vec![cid, cid]);
        let second = lent.lend(one, vec![cid]);
        assert!(lent.is_lent(one, &cid) && !lent.is_lent(two, &cid));
        drop(first);
        assert!(lent.is_lent(one, &cid));
        drop(second);
        assert!(!lent.is_lent(one, &cid) && lent.to().is_empty());
    }

    #[test]
    fn what_one_peer_has_is_not_anothers() {
        let (lent, cid) = (Lent::default(), Cid::of(Codec::Raw, b"x"));
        let (one, two) = (PeerId::random(), PeerId::random());
        lent.note(one, cid);
        assert!(lent.has(one, &cid) && !lent.has(two, &cid));
        (0..2 * MAX_HAD as u64).for_each(|n| lent.note(two, Cid::of(Codec::Raw, &n.to_le_bytes())));
        assert!(lent.had().len() <= MAX_HAD);
    }
}
