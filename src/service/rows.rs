//! What a command hears, row by row: as it is printed, and as it is with `--json`.

use std::path::PathBuf;

use gridfs_modules::manifest::Limits;
use serde::{Deserialize, Serialize};

use crate::promise::PromiseLimits;

/// An object, and how it came to be.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct OriginRow {
    /// Its CID.
    pub cid: String,
    /// Size of a file, if it is stored here.
    pub size_bytes: Option<u64>,
    /// The names that stand for it.
    pub names: Vec<String>,
    /// Whether it is stored here.
    pub stored: bool,
    /// The call that it is the result of; absent: it was put here.
    pub call: Option<Box<CallRow>>,
}

/// A call that gave a result.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CallRow {
    /// Its canonical path.
    pub path: String,
    /// Name or CID of the promise.
    pub promise: String,
    /// The module's own name and version; its CID if it is gone.
    pub module: String,
    /// The CID of its receipt.
    pub receipt: String,
    /// `pure` or `volatile`.
    pub class: String,
    /// The engine that ran it.
    pub engine: String,
    /// The public key of the node that ran it.
    pub issuer: String,
    /// When, RFC 3339.
    pub time: String,
    /// How long it took, in milliseconds.
    pub wall_ms: u64,
    /// Fuel burnt.
    pub fuel: u64,
    /// What it wrote to standard error, by CID.
    pub stderr: Option<String>,
    /// It has been told above; what follows is left out here.
    pub again: bool,
    /// Its arguments that are objects, with their names.
    pub inputs: Vec<(String, OriginRow)>,
    /// The calls that it made.
    pub calls: Vec<OriginRow>,
}

/// What was found of a result.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VerifiedRow {
    /// The call's canonical path, or a CID.
    pub path: String,
    /// The result's CID.
    pub result: String,
    /// What is to be thought of it.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
}

/// What is to be thought of a result, from good to bad.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing speaks against it.
    Fine,
    /// Nobody claims it whom its promise believes.
    Untrusted,
    /// Another run gives another result.
    Diverged,
    /// Its bytes or its receipt are not what they should be.
    Corrupt,
}

/// A capability token as it is shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct TokenRow {
    /// `chain` or `packed`.
    pub form: String,
    /// Its length.
    pub bytes: usize,
    /// BLAKE3 of it.
    pub id: String,
    /// From the last link to the first, which is the grant itself.
    pub links: Vec<LinkRow>,
}

/// One link of a token. A packed token does not name its keys and its prefix.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Who signed it.
    pub issuer: Option<String>,
    /// Whom it was given to.
    pub holder: Option<String>,
    /// The node at which it holds.
    pub audience: Option<String>,
    /// RFC 3339.
    pub begins: String,
    /// RFC 3339.
    pub expires: String,
    /// RFC 3339.
    pub issued: Option<String>,
    /// What the paths of the calls begin with.
    pub prefix: Option<String>,
    /// BLAKE3 of its CBOR.
    pub prefix_hash: String,
    /// What each call may use.
    pub limits: Limits,
    /// How many more times it may be handed on.
    pub delegable: u64,
}

/// The syscall tree as it is shown.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SyscallsRow {
    /// Its nodes, in the order of their paths.
    pub nodes: Vec<NodeRow>,
    /// Nodes beyond these.
    pub more: u64,
    /// Replies remembered by whole parms.
    pub remembered: u64,
}

/// What is known of the calls that begin alike.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// The leading parms as a path of CIDs and texts.
    pub path: String,
    /// The same path with names where there are any.
    pub named: String,
    /// The consulted modules.
    pub modules: Vec<TrackRow>,
}

/// What is known of a consulted module.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct TrackRow {
    /// Its id: `cache`, `wasm`.
    pub id: String,
    /// Whether it accepts these calls; absent: it has not said so of all of them.
    pub accepts: Option<bool>,
    /// When it said so, RFC 3339.
    pub answered: Option<String>,
    /// How many seconds ago.
    pub age_s: Option<u64>,
    /// Accepted calls that it answered.
    pub kept: u64,
    /// Accepted calls that it did not.
    pub broken: u64,
    /// How long an answer took lately, in microseconds.
    pub latency_us: u64,
    /// What speaks against asking it first, 0 to 65,536.
    pub loss: u32,
    /// The last promise that it broke.
    pub last_broken: Option<BrokenRow>,
}

/// Promises kept and broken.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// By called module, who broke most first.
    pub called: Vec<KeptRow>,
    /// By consulted module.
    pub consulted: Vec<KeptRow>,
    /// Rows beyond these.
    pub more: u64,
}

/// How one module kept its promises.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct KeptRow {
    /// CID of a called module, id of a consulted one.
    pub who: String,
    /// The names that stand for it.
    pub names: Vec<String>,
    /// Accepted calls that were answered.
    pub kept: u64,
    /// Accepted calls that were not.
    pub broken: u64,
    /// The last of these.
    pub last_broken: Option<BrokenRow>,
}

/// A broken promise.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct BrokenRow {
    /// When, RFC 3339.
    pub time: String,
    /// Why, in words.
    pub reason: String,
}

/// A promise as it is shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PromiseRow {
    /// Its CID.
    pub cid: String,
    /// The names that stand for it.
    pub names: Vec<String>,
    /// Whether this node accepts it.
    pub accepted: bool,
    /// What is promised.
    pub text: String,
    /// What is asked in return.
    pub asks: String,
    /// The public key of the node that made it; absent: built in.
    pub issuer: Option<String>,
    /// Modules covered, by CID; absent: every module.
    pub modules: Option<Vec<String>>,
    /// When it begins, RFC 3339.
    pub not_before: Option<String>,
    /// When it ends, RFC 3339.
    pub not_after: Option<String>,
    /// `local`, `fetch` or `race`.
    pub source: String,
    /// Whose claims are believed.
    pub trust: String,
    /// How long a volatile result holds, in milliseconds; absent: a minute.
    pub ttl_ms: Option<u64>,
    /// Whether results are offered to others.
    pub share: bool,
    /// Whether calls need authority.
    pub capability: bool,
    /// What one call may use at most.
    pub limits: PromiseLimits,
}

/// What a collection of garbage did, or would do.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct CollectedRow {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Chunks and objects kept.
    pub live: u64,
    /// Chunks and objects that nothing needs.
    pub dead: u64,
    /// Remembered results and aliases let go.
    pub forgotten: u64,
    /// Packs rewritten or removed.
    pub packs: u64,
    /// Bytes given back.
    pub freed_bytes: u64,
    /// Bytes of all packs afterwards.
    pub stored_bytes: u64,
    /// Packs left alone because they are damaged.
    pub damaged_packs: u64,
}

/// A pinned object.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PinRow {
    /// Its CID.
    pub cid: String,
    /// When it was pinned, RFC 3339.
    pub time: String,
    /// Where it came from.
    pub note: String,
}

/// This node as its peers see it, and the peers that it knows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeersRow {
    /// Its public key, which is its peer id.
    pub node: String,
    /// Where it can be reached; none: nothing listens.
    pub addresses: Vec<String>,
    /// Peers connected now.
    pub connected: u64,
    /// Keys that it announces.
    pub announced_keys: u64,
    /// Announcements of others that it keeps.
    pub provider_records: u64,
    /// Requests of peers that it answered or is answering.
    pub requests: u64,
    /// Bytes of objects sent to peers.
    pub sent_bytes: u64,
    /// Bytes of objects received from peers.
    pub received_bytes: u64,
    /// The peers.
    pub peers: Vec<PeerRow>,
}

/// One peer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its id.
    pub peer: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Whether it was added by hand.
    pub named: bool,
    /// Whether it is kept away.
    pub banned: bool,
    /// Requests that it answered as it should.
    pub kept: u64,
    /// Requests that it took on and did not answer, or answered with rubbish.
    pub broken: u64,
    /// When a connection to it was last open.
    pub seen: Option<String>,
    /// Calls run for it that had a result, since the daemon started.
    pub served: u64,
    /// Calls run for it that failed.
    pub failed: u64,
    /// Why its claims are not believed.
    pub evidence: Vec<String>,
}

/// A name and what it stands for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The name; empty where there is none.
    pub name: String,
    /// `file`, `executable`, `directory` or `symlink`.
    pub kind: String,
    /// Its CID; absent for a symbolic link.
    pub cid: Option<String>,
    /// Size of a file.
    pub size_bytes: Option<u64>,
    /// The CID by another digest, of a file put with one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alias: Option<String>,
    /// Whether peers may see the name, and read what it stands for.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub published: bool,
}

/// A node that is followed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FollowedRow {
    /// The name that stands for what it publishes.
    pub name: String,
    /// Its id.
    pub node: String,
    /// How many names it publishes.
    pub names: u64,
    /// When it signed that they are these, RFC 3339.
    pub published: String,
    /// Since when it is followed, RFC 3339.
    pub since: String,
}

/// One state of the symbol table.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// Its root.
    pub root: String,
    /// When, RFC 3339.
    pub time: String,
    /// What it changed, a line each.
    pub changes: Vec<String>,
}

/// A module as it is shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ModuleRow {
    /// The name it was asked by, or stands under.
    pub name: String,
    /// Its CID.
    pub cid: String,
    /// Its own name and version.
    pub module: String,
    /// How it is called.
    pub usage: String,
    /// `blob` or `tree`.
    pub returns: String,
    /// What it promises.
    pub promise: String,
    /// The promises it would run under: name, CID and text.
    pub runs_under: Vec<(String, String, String)>,
}

/// Counts and sizes of a node.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct StatsRow {
    /// Objects stored.
    pub objects: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Remembered results, and aliases.
    pub memos: u64,
    /// Names.
    pub names: u64,
    /// Bytes of all distinct chunks.
    pub plain_bytes: u64,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Bytes of packs and index on disk.
    pub disk_bytes: u64,
    /// Bytes of plain copies of large files.
    pub copies_bytes: u64,
    /// The quota on bytes of packs.
    pub quota_bytes: Option<u64>,
    /// Pinned objects.
    pub pins: u64,
    /// Files that names and pins stand for, each counted as often as it is met.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// Bytes of packs that hold what is needed.
    pub live_bytes: u64,
    /// Bytes that a collection of garbage would give back, about.
    pub collectable_bytes: u64,
    /// Calls since this process started.
    pub calls: u64,
    /// Of these, answered from memory of earlier ones.
    pub hits: u64,
    /// Evaluations started.
    pub runs: u64,
    /// Results found to hold without running their module again.
    pub renewed: u64,
    /// Objects fetched from peers since the daemon started.
    pub fetched: u64,
    /// Results believed as peers claim them since the daemon started.
    pub claimed: u64,
    /// Calls run for peers since the daemon started.
    pub served: u64,
    /// Evaluations that failed.
    pub failures: u64,
    /// Evaluations under way.
    pub running: u64,
}

/// What a check found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CheckRow {
    /// What was wrong.
    pub findings: Vec<FindingRow>,
    /// Packs gone through.
    pub packs: u64,
    /// Bytes of these.
    pub stored_bytes: u64,
    /// Objects reached from the names.
    pub reached: u64,
    /// Whether every byte was read.
    pub read_data: bool,
    /// What was done about it, if that was asked for and there was anything to do.
    pub repaired: Option<RepairRow>,
}

/// What a repair did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct RepairRow {
    /// Damaged packs under their new names.
    pub set_aside: Vec<PathBuf>,
    /// What is wrong still.
    pub left: Vec<FindingRow>,
}

/// One thing that is wrong in the store.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FindingRow {
    /// `error`: something can't be read; `warning`: nothing is lost by it.
    pub level: String,
    /// The file it is in, if it is in one.
    pub file: Option<PathBuf>,
    /// Where in the file.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Chunks and objects lost.
    pub lost: u64,
    /// Remembered results lost.
    pub lost_results: u64,
    /// Names and paths that it belongs to, or CIDs where there are none.
    pub belongs_to: Vec<String>,
    /// Paths beyond these.
    pub more: u64,
    /// All of it in one line.
    pub text: String,
}
