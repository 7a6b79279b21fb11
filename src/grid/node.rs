//! What an inode of the mount stands for.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use gridfs_store::Cid;
use gridfs_store::Target;

use super::status::Report;
use crate::describe::Description;
use crate::error::Error;
use crate::module::Reply;
use crate::parms::Parms;

/// A node: cheap to clone, equal when it stands at the same place.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    /// Hash of the path of CIDs that leads here; a directory has one inode per path, as the kernel demands.
    place: Place,
    time: SystemTime,
    what: What,
}

/// Identity of a node: 128 bits of BLAKE3 over its parent's place and its own name.
pub type Place = [u8; 16];

/// What stands at a node.
pub enum What {
    /// `/`
    Root,
    /// `/.grid`
    Status,
    /// `/.grid/log` and its like
    Report(Report),
    /// `/promise`
    Promise {
        /// The promise.
        cid: Cid,
        /// The kernel's epoch when it was looked up: after results were revoked it is another node, and so is all below it.
        epoch: u64,
    },
    /// `/promise/module`, or some of the arguments below it.
    Arguments {
        /// The promise.
        promise: Cid,
        /// The module.
        module: Arc<Description>,
        /// The arguments so far, decoded; canonical where that is known.
        texts: Vec<String>,
    },
    /// `/promise/module`, where the module is not stored here and may be fetched: by looking below it.
    Absent {
        /// The promise.
        promise: Cid,
        /// The module.
        module: Cid,
    },
    /// A call with all its arguments resolved.
    Call(CallNode),
    /// A call one of whose arguments is a nested call that has no result yet.
    Unresolved {
        /// The promise.
        promise: Cid,
        /// The module.
        module: Arc<Description>,
        /// The arguments, decoded.
        texts: Vec<String>,
    },
    /// A call that can't be: its arguments are malformed, of the wrong type, or named by a digest not known here. Opening it fails.
    Refused(Error),
    /// A name: a symbolic link to what it stands for.
    Link(String),
    /// Something in a directory result.
    Stored(Target),
}

/// A call, with its reply once that is known for good.
pub struct CallNode {
    /// The call.
    pub parms: Parms,
    /// Its module.
    pub module: Arc<Description>,
    /// Whether the result is a directory.
    pub is_tree: bool,
    /// The reply, if it can never differ, and when it was computed.
    pub reply: OnceLock<(Reply, SystemTime)>,
}

/// Date of what has no receipt: one second after the epoch, as file systems of immutable things have it.
pub const TIMELESS: Duration = Duration::from_secs(1);

impl Node {
    /// The root.
    pub fn root() -> Node {
        Node::make([0; 16], What::Root, timeless())
    }

    /// A node below this one, dated like it.
    pub fn child(&self, name: &[u8], what: What) -> Node {
        self.child_at(name, what, self.0.time)
    }

    /// A node below this one, with its own date.
    pub fn child_at(&self, name: &[u8], what: What, time: SystemTime) -> Node {
        let version = match &what {
            // A link's target is part of its identity: a name that is bound anew is another link.
            What::Link(target) => target.clone().into_bytes(),
            What::Promise { epoch, .. } => epoch.to_le_bytes().into(),
            _ => Vec::new(),
        };
        self.identified(name, &version, what, time)
    }

    /// The same where the name may stand for something else the next time: that will be another node.
    pub fn version_at(&self, name: &[u8], what: What, time: SystemTime) -> Node {
        let version = match &what {
            What::Stored(Target::Symlink { target }) => target.clone(),
            What::Stored(Target::File { cid, executable, .. }) => format!("{cid} {executable}").into_bytes(),
            What::Stored(Target::Directory { cid }) => cid.to_string().into_bytes(),
            _ => Vec::new(),
        };
        self.identified(name, &version, what, time)
    }

    fn identified(&self, name: &[u8], version: &[u8], what: What, time: SystemTime) -> Node {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0.place).update(name).update(&[0]).update(version);
        let mut place = [0; 16];
        place.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Node::make(place, what, time)
    }

    fn make(place: Place, what: What, time: SystemTime) -> Node {
        Node(Arc::new(Inner { place, time, what }))
    }

    /// What stands here.
    pub fn what(&self) -> &What {
        &self.0.what
    }

    /// Its date.
    pub fn time(&self) -> SystemTime {
        self.0.time
    }

    /// Its identity.
    pub fn place(&self) -> Place {
        self.0.place
    }

    /// Whether it is, or is in, a directory result that can never differ, and that is known.
    pub fn is_fixed(&self) -> bool {
        match self.what() {
            What::Stored(_) => true,
            What::Call(call) => call.reply.get().is_some(),
            _ => false,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        match self.what() {
            What::Root | What::Status | What::Promise { .. } | What::Arguments { .. } | What::Absent { .. } => true,
            What::Call(call) => call.is_tree,
            What::Unresolved { promise, module, .. } => module.returns_tree(promise),
            What::Stored(Target::Directory { .. }) => true,
            What::Stored(_) | What::Report(_) | What::Refused(_) | What::Link(_) => false,
        }
    }
}

/// The date of what has no receipt.
pub fn timeless() -> SystemTime {
    SystemTime::UNIX_EPOCH + TIMELESS
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.0.place == other.0.place
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.place.hash(state);
    }
}
