//! What one node allows others, and itself.

use std::time::Duration;

/// Limits of a [`crate::Network`]. Those of the protocol itself, which both sides must agree on, are constants of `wire.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time, of all peers together; three quarters of them may be made by others.
    pub connections: u32,
    /// Connections of one peer: both may dial at once, and a direct one may follow a relayed one.
    pub connections_per_peer: u32,
    /// With so much of the machine's memory in use by this process no more connections are taken.
    pub memory_share: f64,
    /// Requests answered at a time, for all peers together.
    pub requests: usize,
    /// Requests answered at a time for one peer.
    pub requests_per_peer: usize,
    /// Bytes sent to one peer in a second, if that is limited.
    pub sent_bytes_per_s: Option<u64>,
    /// Who sends or takes fewer bytes in a second is dropped, once `patience` is over.
    pub min_bytes_per_s: u64,
    /// How long a peer may let us wait for its next frame, or for room for ours.
    pub patience: Duration,
    /// How long connecting to a peer may take.
    pub connect: Duration,
    /// Longest deadline of a call from a peer.
    pub call: Duration,
    /// Peers remembered.
    pub peers: usize,
    /// Records that tell who provides what, kept for others.
    pub provider_records: usize,
    /// The same of one provider.
    pub provider_records_per_peer: usize,
    /// Keys that this node announces.
    pub announced_keys: usize,
    /// Announcements in a second.
    pub announced_per_s: u32,
    /// How long an announcement holds; half of it passes between two of a key.
    pub announced_for: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            connections_per_peer: 4,
            memory_share: 0.8,
            requests: 256,
            requests_per_peer: 32,
            sent_bytes_per_s: None,
            min_bytes_per_s: 16 << 10,
            patience: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            call: Duration::from_secs(600),
            peers: 4096,
            provider_records: 1 << 20,
            provider_records_per_peer: 1 << 18,
            announced_keys: 1 << 22,
            announced_per_s: 50,
            announced_for: Duration::from_secs(24 * 3600),
        }
    }
}
