//! The peers that this node knows: where they listen, when they were last seen, how they kept their promises.
//!
//! They lie in the file `peers`, deterministic CBOR, replaced as a whole. When there are too many, the one that was seen least
//! recently goes first; those that were named by the user, or banned, stay.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use gridfs_store::cbor::{self, Bytes};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

use crate::error::Error;

const VERSION: u64 = 1;
/// Addresses kept of one peer, and their length.
const MAX_ADDRESSES: usize = 8;
const MAX_ADDRESS_BYTES: usize = 256;
/// Longest file read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What is known of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens, the latest first, without its id.
    pub addresses: Vec<Multiaddr>,
    /// When a connection to it was last open, in milliseconds since 1970; 0 for never.
    pub seen_ms: u64,
    /// Requests that it answered as it should.
    pub kept: u64,
    /// Requests that it took on and did not answer, or answered with rubbish.
    pub broken: u64,
    /// Named by the user: remembered, and dialled when the network starts.
    pub named: bool,
    /// Kept away.
    pub banned: bool,
}

/// The peers, shared.
pub struct Peers {
    path: PathBuf,
    limit: usize,
    state: Mutex<State>,
}

struct State {
    peers: HashMap<PeerId, Peer>,
    changed: bool,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    v: u64,
    peers: Vec<Entry>,
}

/// Peer, addresses, seen, kept, broken, named, banned.
type Entry = (Bytes, Vec<Bytes>, u64, u64, u64, bool, bool);

impl Peers {
    /// Reads the file `peers` in `dir`, if it is there. One that makes no sense is set aside, and an empty one begun.
    pub fn open(dir: &Path, limit: usize) -> Result<Peers, Error> {
        fs::create_dir_all(dir).map_err(file("create", dir))?;
        let path = dir.join("peers");
        let peers = match fs::metadata(&path) {
            Ok(found) if found.len() > MAX_FILE_BYTES => None,
            Ok(_) => decode(&fs::read(&path).map_err(file("read", &path))?),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(HashMap::new()),
            Err(error) => return Err(file("look at", &path)(error)),
        };
        if peers.is_none() {
            let aside = path.with_extension("bad");
            tracing::warn!(path = %path.display(), aside = %aside.display(), "the file of peers is damaged; set aside");
            fs::rename(&path, &aside).map_err(file("rename", &path))?;
        }
        let state = State { peers: peers.unwrap_or_default(), changed: false };
        Ok(Peers { path, limit, state: Mutex::new(state) })
    }

    /// All of them.
    pub fn all(&self) -> Vec<(PeerId, Peer)> {
        let mut all: Vec<_> = self.lock().peers.iter().map(|(id, peer)| (*id, peer.clone())).collect();
        all.sort_by_key(|(id, _)| id.to_bytes());
        all
    }

    /// One of them.
    pub fn get(&self, id: &PeerId) -> Option<Peer> {
        self.lock().peers.get(id).cloned()
    }

    /// Changes what is known of a peer, which is remembered from now on.
    pub fn update(&self, id: &PeerId, change: impl FnOnce(&mut Peer)) {
        let mut state = self.lock();
        change(state.peers.entry(*id).or_default());
        state.changed = true;
        if state.peers.len() > self.limit {
            state.forget_one(id);
        }
    }

    /// Notes where a peer listens.
    pub fn located(&self, id: &PeerId, address: &Multiaddr) {
        let address: Multiaddr =
            address.iter().filter(|part| !matches!(part, Protocol::P2p(peer) if peer == id)).collect();
        if address.is_empty() || address.len() > MAX_ADDRESS_BYTES {
            return;
        }
        self.update(id, |peer| {
            peer.addresses.retain(|known| *known != address);
            peer.addresses.insert(0, address);
            peer.addresses.truncate(MAX_ADDRESSES);
        });
    }

    /// Writes the file, if anything changed.
    pub fn save(&self) -> Result<(), Error> {
        let document = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.changed) {
                return Ok(());
            }
            encode(&state.peers)
        };
        replace(&self.path, &document)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that can panic runs under this lock")
    }
}

impl State {
    fn forget_one(&mut self, but: &PeerId) {
        let can_go = |(id, peer): &(&PeerId, &Peer)| *id != but && !peer.named && !peer.banned;
        let oldest = self.peers.iter().filter(can_go).min_by_key(|(_, peer)| peer.seen_ms).map(|(id, _)| *id);
        self.peers.remove(&oldest.unwrap_or(*but));
    }
}

fn encode(peers: &HashMap<PeerId, Peer>) -> Vec<u8> {
    let entry = |(id, peer): (&PeerId, &Peer)| {
        let addresses = peer.addresses.iter().map(|address| Bytes(address.to_vec())).collect();
        (Bytes(id.to_bytes()), addresses, peer.seen_ms, peer.kept, peer.broken, peer.named, peer.banned)
    };
    let mut peers: Vec<Entry> = peers.iter().map(entry).collect();
    peers.sort();
    cbor::to_vec(&Document { v: VERSION, peers })
}

fn decode(bytes: &[u8]) -> Option<HashMap<PeerId, Peer>> {
    let document: Document = cbor::from_slice(bytes).ok().filter(|document: &Document| document.v == VERSION)?;
    let peer = |(id, addresses, seen_ms, kept, broken, named, banned): Entry| {
        let addresses = addresses.into_iter().take(MAX_ADDRESSES).map(|address| Multiaddr::try_from(address.0));
        let addresses = addresses.collect::<Result<_, _>>().ok()?;
        Some((PeerId::from_bytes(&id.0).ok()?, Peer { addresses, seen_ms, kept, broken, named, banned }))
    };
    document.peers.into_iter().map(peer).collect()
}

/// Replaces a file: after a crash it is the old one or the new.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(file("write", path))
}

pub(crate) fn file(op: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { op, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn peers_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let id = PeerId::random();
        let peers = Peers::open(dir.path(), 10).unwrap();
        (1..=20).for_each(|port| peers.located(&id, &address(port).with(Protocol::P2p(id))));
        peers.update(&id, |peer| peer.kept += 3);
        peers.save().unwrap();
        let known = Peers::open(dir.path(), 10).unwrap().get(&id).unwrap();
        let addresses = (13..=20).rev().map(address).collect();
        assert_eq!(known, Peer { addresses, kept: 3, ..Peer::default() });
    }

    #[test]
    fn the_least_recently_seen_goes_first_but_who_was_named_or_banned_stays() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::open(dir.path(), 4).unwrap();
        let ids: Vec<PeerId> = (0..10).map(|_| PeerId::random()).collect();
        peers.update(&ids[0], |peer| peer.named = true);
        peers.update(&ids[1], |peer| peer.banned = true);
        (2..10).for_each(|n| peers.update(&ids[n], |peer| peer.seen_ms = n as u64));
        let mut left: Vec<PeerId> = peers.all().into_iter().map(|(id, _)| id).collect();
        let mut expected = vec![ids[0], ids[1], ids[8], ids[9]];
        left.sort();
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("peers"), b"rubbish").unwrap();
        let peers = Peers::open(dir.path(), 4).unwrap();
        assert!(peers.all().is_empty());
        assert_eq!(fs::read(dir.path().join("peers.bad")).unwrap(), b"rubbish");
    }
}
