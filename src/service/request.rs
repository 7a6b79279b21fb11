//! What the command line asks of a node, and what it hears back.
//!
//! The same requests are carried out in the command's own process when no daemon runs, and sent to the daemon's
//! socket when one does.

use std::path::PathBuf;

use gridfs_modules::manifest::Limits;
use gridfs_store::Algorithm;
use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::promise::Promise;
use crate::service::rows::{
    ChangeRow, CheckRow, CollectedRow, FollowedRow, LedgerRow, ModuleRow, OriginRow, PeersRow, PinRow, PromiseRow, Row,
    StatsRow, SyscallsRow, TokenRow, VerifiedRow,
};

/// Something to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Is a daemon there?
    Ping,
    /// Unmount and end the daemon.
    Stop,
    /// Store a file or directory, and name it.
    Put {
        /// What to store.
        source: Source,
        /// The name to give it.
        name: Option<String>,
        /// The digest to compute of each file, so that it is known by that too.
        hash: Option<Algorithm>,
        /// Read all files, also those that look unchanged since an earlier put.
        force: bool,
    },
    /// Read an object: as data, or to a new path.
    Get {
        /// A CID, a name, a grid path or a ticket.
        what: String,
        /// Where to; without it a file comes as data.
        to: Option<PathBuf>,
    },
    /// Make a call; the result comes as data.
    Call(Spelled),
    /// The canonical path of a call, which is not made.
    Path(Spelled),
    /// What a module says of itself.
    Show {
        /// A name or CID.
        module: String,
    },
    /// The names, now or as of an older root.
    Names {
        /// That root.
        at: Option<String>,
    },
    /// Bind a name, or unbind it.
    SetName {
        /// The name.
        name: String,
        /// A CID, name or grid path; `None` removes the name.
        to: Option<String>,
    },
    /// The newest changes of the symbol table.
    NameLog {
        /// How many.
        limit: usize,
    },
    /// Make an older state of the symbol table the newest again.
    Rollback {
        /// Its root.
        to: String,
    },
    /// Let peers see names, and read what they stand for.
    Publish {
        /// The names.
        names: Vec<String>,
        /// Or no longer.
        publish: bool,
    },
    /// Let a name stand for what another node publishes.
    Follow {
        /// Its id, or an address that ends with it.
        peer: String,
        /// The name; without it one made from the id.
        name: Option<String>,
    },
    /// The nodes that are followed.
    Follows,
    /// Follow a node no longer.
    Unfollow {
        /// The name that stands for what it publishes.
        name: String,
    },
    /// Ask again what is published.
    UpdateNames {
        /// By the node under this name; without it by all that are followed.
        name: Option<String>,
    },
    /// Store the module that follows as a stream, and name it.
    AddModule {
        /// The name; without it the manifest's.
        name: Option<String>,
    },
    /// The modules that have names.
    Modules,
    /// Counts and sizes.
    Stats,
    /// Remove what nothing needs.
    Collect {
        /// Only look.
        dry_run: bool,
    },
    /// Keep an object although nothing names it.
    Pin {
        /// A CID, a name, a grid path or a ticket.
        what: String,
    },
    /// Keep it no longer.
    Unpin {
        /// A CID or a name.
        what: String,
    },
    /// The pinned objects.
    Pins,
    /// Store a promise, made and signed by this node.
    NewPromise {
        /// The document, not signed.
        promise: Box<Promise>,
        /// The modules it covers, by name or CID; none: every module.
        modules: Vec<String>,
        /// The name to give it.
        name: Option<String>,
    },
    /// What a promise says.
    ShowPromise {
        /// A name or CID.
        promise: String,
    },
    /// Accept a promise, or accept it no longer.
    Accept {
        /// A name or CID.
        promise: String,
        /// Or no longer.
        accept: bool,
    },
    /// Store the promise document that follows as a stream, and accept it.
    AcceptDocument,
    /// The accepted promises.
    Promises,
    /// How a result came to be.
    Why {
        /// A CID, a name or a grid path.
        what: String,
    },
    /// Check a result.
    Verify {
        /// A CID, a name or a grid path.
        what: String,
        /// Run the modules again.
        rerun: bool,
        /// How many nodes must claim the same.
        agree: u64,
    },
    /// The results that an object went into.
    Affected {
        /// A CID or a name.
        what: String,
        /// Forget them, and those that gave it.
        revoke: bool,
    },
    /// The node's own key.
    Key,
    /// Sign a capability token.
    Grant(Box<Terms>),
    /// Hand on a capability token.
    Attenuate {
        /// The token.
        token: String,
        /// What the new one shall say.
        terms: Box<Terms>,
    },
    /// What a capability token says.
    ShowCapability {
        /// The token.
        token: String,
    },
    /// Whether a capability token holds.
    VerifyCapability(VerifyCapability),
    /// What the syscall tree has learnt.
    Syscalls,
    /// Promises kept and broken.
    Ledger,
    /// This node as its peers see it, and the peers.
    Peers {
        /// Only this one.
        peer: Option<String>,
    },
    /// Remember a peer, and connect to it.
    AddPeer {
        /// Its address, which ends with its id.
        address: String,
    },
    /// Keep a peer away.
    Ban {
        /// Its id.
        peer: String,
        /// Or no longer.
        banned: bool,
    },
    /// Let peers read something; the answer is a ticket.
    Share {
        /// A CID, a name or a grid path.
        what: String,
    },
    /// Let them read it no longer.
    Unshare {
        /// A CID or a name.
        what: String,
    },
    /// The objects that were shared.
    Shares,
    /// Check the store for damage.
    Check {
        /// Read every byte.
        read_data: bool,
        /// Repair what can be repaired. Reads every byte.
        repair: bool,
    },
}

impl Request {
    /// Whether input may follow the request.
    pub fn streams(&self) -> bool {
        match self {
            Request::Put { source, .. } => matches!(source, Source::Stream),
            Request::Call(spelled) | Request::Path(spelled) => spelled.arguments.iter().any(|word| word.text == "-"),
            Request::AddModule { .. } | Request::AcceptDocument => true,
            _ => false,
        }
    }
}

/// Bytes to be stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Source {
    /// An absolute path.
    Path(PathBuf),
    /// What follows the request.
    Stream,
}

/// What a capability token shall say. What is absent is as wide as it may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// The key that is to hold it.
    pub to: String,
    /// The path that all calls begin with.
    pub prefix: Option<String>,
    /// The key of the node at which it holds.
    pub audience: Option<String>,
    /// When it begins, in milliseconds since 1970.
    pub begins_ms: Option<u64>,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// What each call may use.
    pub limits: Limits,
    /// How many more times it may be handed on.
    pub delegable: u64,
    /// In the short form.
    pub packed: bool,
}

/// What is to be verified.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyCapability {
    /// The token.
    pub token: String,
    /// The call that it shall cover.
    pub path: Option<String>,
    /// The node at which it shall hold; absent: this one.
    pub node: Option<String>,
    /// Who presents it; absent: its holder, or this node.
    pub holder: Option<String>,
}

/// A call as it was typed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spelled {
    /// The token by whose right it is made; absent: the owner's.
    pub capability: Option<String>,
    /// Name or CID of the promise.
    pub promise: String,
    /// Name or CID of the module.
    pub module: String,
    /// The arguments.
    pub arguments: Vec<Word>,
}

/// An argument as it was typed. What it means depends on the type that the module declares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Word {
    /// The text; `-` is standard input where an object is wanted.
    pub text: String,
    /// The absolute path of the local file or directory of that name, if there is one.
    pub local: Option<PathBuf>,
}

/// What is heard while a request is carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Bytes of the result, in order.
    Data(#[serde(with = "bytes")] Vec<u8>),
    /// How far it is.
    Progress(Progress),
    /// How far a collection of garbage is, in words.
    Collecting(String),
    /// How much of the store has been checked.
    Checking {
        /// Bytes of packs gone through.
        done_bytes: u64,
        /// Bytes of all packs.
        total_bytes: u64,
    },
    /// How much of an object has been fetched from peers.
    Fetching {
        /// Bytes that came.
        done_bytes: u64,
        /// Bytes that were missing.
        total_bytes: u64,
    },
    /// Something the user should know.
    Note(String),
    /// The end: it worked.
    Done(Answer),
    /// The end: it did not.
    Failed {
        /// What kind of failure.
        code: Code,
        /// In words.
        message: String,
    },
}

/// How far something is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Files done.
    pub files: u64,
    /// Bytes done.
    pub bytes: u64,
}

/// The end of a request that worked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// A daemon is there.
    Pong {
        /// Where it is mounted.
        mount: Option<PathBuf>,
    },
    /// What was stored.
    Stored(Row),
    /// The root that the symbol table has now.
    Root(String),
    /// Names, or the entries of a directory.
    Rows(Vec<Row>),
    /// Nodes that are followed.
    Followed(Vec<FollowedRow>),
    /// Changes of the symbol table, newest first.
    Changes(Vec<ChangeRow>),
    /// Modules.
    Modules(Vec<ModuleRow>),
    /// The path of a call: below the mount if there is one.
    Path(String),
    /// Counts.
    Stats(StatsRow),
    /// What a collection did, or would do.
    Collected(CollectedRow),
    /// Pinned objects.
    Pins(Vec<PinRow>),
    /// What a check found.
    Checked(CheckRow),
    /// Promises.
    Promises(Vec<PromiseRow>),
    /// How something came to be.
    Origin(Box<OriginRow>),
    /// What was checked, what is below before what is above.
    Verified(Vec<VerifiedRow>),
    /// Paths of calls.
    Paths(Vec<String>),
    /// The syscall tree.
    Syscalls(SyscallsRow),
    /// The ledger.
    Ledger(LedgerRow),
    /// This node and its peers.
    Peers(PeersRow),
    /// A line to be printed.
    Text(String),
    /// A capability token.
    Token(TokenRow),
}

/// CBOR byte strings for `Vec<u8>`.
pub(super) mod bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        match ciborium::Value::deserialize(deserializer)? {
            ciborium::Value::Bytes(bytes) => Ok(bytes),
            _ => Err(serde::de::Error::custom("expected a byte string")),
        }
    }
}
