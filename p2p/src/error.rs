//! Everything that can go wrong between peers.

use gridfs_store::Cid;
use libp2p::{Multiaddr, PeerId};

use crate::wire::FrameError;

/// What went wrong, with whom, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network could not be started.
    #[error("the network can't be started: can't {what}")]
    Start {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An address can't be listened on.
    #[error("can't listen on {address}; is it in use, or another machine's?")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No connection to a peer.
    #[error("peer {peer} can't be reached: {why}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// What dialling it, or opening a stream, said.
        why: String,
    },
    /// A peer was asked and does not give it.
    #[error("peer {peer} refused: {refusal}")]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Why.
        refusal: Refusal,
    },
    /// The connection to a peer broke.
    #[error("the connection to peer {peer} broke")]
    Lost {
        /// The peer.
        peer: PeerId,
        /// How.
        source: std::io::Error,
    },
    /// A peer was too slow.
    #[error("peer {peer} sent nothing, or too little, for too long")]
    Slow {
        /// The peer.
        peer: PeerId,
    },
    /// A peer sent what no honest one sends.
    #[error(transparent)]
    Rubbish(#[from] Blame),
    /// None of the peers asked gave the object.
    #[error("no peer gave {cid}: {}", join(failures))]
    NoProvider {
        /// The object.
        cid: Cid,
        /// Who was asked, and why they did not give it.
        failures: Vec<(PeerId, Error)>,
    },
    /// More than the caller takes.
    #[error("{cid} has {size_bytes} bytes or more with all that belongs to it; {max_bytes} are allowed here")]
    TooLarge {
        /// The object.
        cid: Cid,
        /// Bytes announced so far.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] gridfs_store::Error),
    /// What is remembered of peers could not be read or written.
    #[error("can't {op} {}", path.display())]
    File {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The network was stopped.
    #[error("the network was stopped")]
    Stopped,
}

/// A peer, and what it sent that no honest peer sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer {peer} sent rubbish: {what}; `gridfs peer ban` keeps it away")]
pub struct Blame {
    /// The peer.
    pub peer: PeerId,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Why a peer does not do what it was asked for. The numbers travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The promise is not among those it accepts.
    NotAccepted = 1,
    /// The promise demands a capability, and the request has none that gives it.
    NoAuthority = 2,
    /// It knows no such module, object or name.
    Unknown = 3,
    /// The call exceeded a limit or its deadline.
    Limit = 4,
    /// The module failed.
    Failed = 5,
    /// It has too much to do; ask later.
    Busy = 6,
    /// The request or its answer is too large.
    TooLarge = 7,
    /// The request makes no sense.
    Malformed = 8,
    /// It failed for reasons of its own.
    Internal = 9,
}

impl Code {
    /// The code of this number; those of later versions count as [`Code::Internal`].
    pub fn of(number: u8) -> Code {
        use Code::*;
        let known = [NotAccepted, NoAuthority, Unknown, Limit, Failed, Busy, TooLarge, Malformed, Internal];
        known.into_iter().find(|code| *code as u8 == number).unwrap_or(Internal)
    }
}

/// A request that was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words} ({code:?})")]
pub struct Refusal {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people; at most 1,024 bytes travel.
    pub words: String,
}

impl Refusal {
    /// A refusal in these words.
    pub fn new(code: Code, words: impl Into<String>) -> Refusal {
        Refusal { code, words: words.into() }
    }
}

impl Error {
    /// Of a frame from `peer` that could not be had.
    pub(crate) fn frame(peer: PeerId) -> impl Fn(FrameError) -> Error {
        move |error| match error {
            FrameError::Io(source) => Error::Lost { peer, source },
            FrameError::Flaw(what) => Error::Rubbish(Blame { peer, what }),
        }
    }

    /// Of a stream to `peer`.
    pub(crate) fn io(peer: PeerId) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Lost { peer, source }
    }

    /// What a peer is to be blamed for, if it is.
    pub fn blame(&self) -> Option<&Blame> {
        match self {
            Error::Rubbish(blame) => Some(blame),
            _ => None,
        }
    }
}

fn join(failures: &[(PeerId, Error)]) -> String {
    match failures {
        [] => "nobody was there to be asked; `gridfs peer add` names somebody".into(),
        failures => failures.iter().map(|(_, error)| error.to_string()).collect::<Vec<_>>().join("; "),
    }
}
