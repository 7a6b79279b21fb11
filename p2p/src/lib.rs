//! Peers: finding them, and verified bytes and claims from them, over libp2p.
//!
//! A [`Network`] is a node's place among its peers. It finds who provides a key ([`Network::find`]), has peers answer calls
//! ([`Network::call`]), asks for their claims and for the names that they publish, fetches objects into the store ([`Network::fetch`]) or reads parts of them
//! ([`Network::fetch_range`]), and answers the same to others through the trait [`Answers`], which the node above implements.
//! `PROTOCOL.md` beside this crate describes every frame.
//!
//! What holds at all times:
//!
//! - Nothing listens unless it is told where.
//! - No byte from a peer is stored or handed out before it was verified against the hash it was asked by. A result is a claim,
//!   which this crate carries and does not judge.
//! - Everything that a peer can make this node hold, wait for or do has a limit ([`Limits`], and the constants of `wire.rs`).
//! - Only objects that [`Answers::may_read`] allows are sent, and of a pack's record nothing that belongs to others.
//! - The node's secret goes into libp2p's handshake and nowhere else.
//!
//! Deliberately absent: what to believe, what to share, and whom to ask first. That is the kernel's.

mod announce;
mod ask;
mod behaviour;
mod cork;
#[cfg(test)]
#[allow(dead_code, reason = "the store's own tests use all of it")]
#[path = "../../store/src/dice.rs"]
mod dice;
mod error;
mod fetch;
mod limits;
mod listing;
mod mux;
mod network;
mod node;
mod peers;
mod plan;
mod providers;
mod range;
mod rolling;
mod serve;
pub mod streams;
mod tls;
pub mod wire;

pub use error::{Blame, Code, Error, Refusal};
pub use fetch::{Fetch, Fetched, Progress};
pub use libp2p::multiaddr::Protocol;
pub use libp2p::{Multiaddr, PeerId};
pub use limits::Limits;
pub use network::{Answers, CallAnswer, CallRequest, Config, Head, Network, Stats, peer_id, peer_key};
pub use peers::Peer;
pub use range::Part;
pub use wire::Kind;
