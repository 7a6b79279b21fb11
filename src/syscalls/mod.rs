//! The syscall tree: what the kernel has learnt about who answers which calls. Empty at start.
//!
//! ```text
//! []                                                   nodes (node.rs): by the leading parms, who accepts calls that
//!   [promise]                                            begin so and who does not
//!     [promise, module]                                  and here too: how well each keeps what it accepts
//!       [promise, module, argument]
//!         [promise, module, argument, argument]        leaves (leaf.rs): by whole parms, the remembered reply
//! ```
//! A call whose reply stands at a leaf needs nothing else. Otherwise the longest node with an answer of a consulted module
//! says whether that accepts; one that rejects is skipped, one that has not answered is asked, and those that accept are
//! ranked by their record. It is a form of ant routing: kept promises and low latency strengthen a way, broken promises
//! weaken it, and with time all ways become equal again.
//!
//! Answers hold for [`ANSWER_MS`], what a record says against a module halves every [`HALF_LIFE_MS`]. Nothing here reads a clock.
//! Nodes survive restarts (file.rs), leaves do not: the store has their replies. Whatever is here can be lost without harm.

mod file;
mod leaf;
mod node;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::module::{Acceptance, Reply};

pub use leaf::{Key, MAX_LEAVES};
pub use node::{
    ANSWER_MS, Answer, Broken, DOUBTFUL, HALF_LIFE_MS, MAX_BYTES, MAX_NODES, Prefix, Record, Steps, Track, path,
};

/// The tree.
pub struct Syscalls {
    nodes: Mutex<node::Nodes>,
    leaves: leaf::Leaves,
    /// Leaves of another epoch are not believed.
    epoch: AtomicU64,
    /// Where the nodes are kept; nowhere for a tree in memory alone.
    path: Option<PathBuf>,
    /// Held by who writes the file.
    saving: Mutex<()>,
}

impl Syscalls {
    /// A tree that forgets when the process ends.
    pub fn in_memory() -> Syscalls {
        Syscalls {
            nodes: Mutex::default(),
            leaves: leaf::Leaves::new(),
            epoch: AtomicU64::new(0),
            path: None,
            saving: Mutex::new(()),
        }
    }

    /// The tree kept in the file at `path`. One that can't be used is told of in the log, and started anew.
    pub fn open(path: &Path) -> Syscalls {
        let nodes = file::read(path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the syscall tree starts empty");
            Vec::new()
        });
        let tree = Syscalls { path: Some(path.to_owned()), ..Syscalls::in_memory() };
        tree.nodes().restore(nodes);
        tree
    }

    /// Writes the nodes to their file if they have changed since. Blocks.
    pub fn save(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let _alone = self.saving.lock().expect("no panic while it is held");
        let Some(nodes) = self.nodes().changed() else { return Ok(()) };
        file::write(path, &nodes).inspect_err(|_| self.nodes().set_changed())
    }

    /// All nodes, in the order of their paths.
    pub fn all(&self) -> Vec<(Prefix, Vec<Track>)> {
        let mut nodes = self.nodes().all();
        nodes.sort_by_cached_key(|(prefix, _)| path(prefix));
        nodes
    }

    /// What each of the consulted modules `ids` is known to answer to a call now.
    pub fn answers(&self, steps: &Steps, ids: &[&str], now_ms: u64) -> Vec<Option<Answer>> {
        self.nodes().answers(steps, ids, now_ms)
    }

    /// Learns a module's answer to a call.
    pub fn learn(&self, steps: &Steps, id: &str, acceptance: Acceptance, now_ms: u64) {
        if let Some(about) = acceptance.about {
            self.nodes().learn(steps, id, about, acceptance.accepts, now_ms);
        }
    }

    /// How much the records of the modules `ids` speak against them for a call, 0 for nothing.
    pub fn losses(&self, steps: &Steps, ids: &[&str], now_ms: u64) -> Vec<u32> {
        self.nodes().losses(steps, ids, now_ms)
    }

    /// A module answered a call that it had accepted.
    pub fn kept(&self, steps: &Steps, id: &str, latency_us: u64, now_ms: u64) {
        self.nodes().kept(steps, id, latency_us, now_ms);
    }

    /// A module failed at a call that it had accepted.
    pub fn broken(&self, steps: &Steps, id: &str, error: &Error, now_ms: u64) {
        self.nodes().broken(steps, id, error, now_ms);
    }

    /// The reply at a leaf of this epoch, if it holds now.
    pub fn reply(&self, key: &Key, epoch: u64, now_ms: impl FnOnce() -> u64) -> Option<Reply> {
        self.leaves.get(key, epoch, now_ms)
    }

    /// Remembers a reply that holds for the time `span_ms`, as had in the epoch that it was asked in.
    pub fn remember(&self, key: Key, reply: &Reply, epoch: u64, span_ms: Range<u64>) {
        self.leaves.put(key, reply, epoch, span_ms);
    }

    /// Number of leaves.
    pub fn leaves(&self) -> usize {
        self.leaves.count()
    }

    /// The epoch of what is remembered now. To be read before a call is checked.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// No reply that was remembered before is believed any more.
    pub fn forget_replies(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    fn nodes(&self) -> MutexGuard<'_, node::Nodes> {
        self.nodes.lock().expect("no panic while it is held")
    }
}
