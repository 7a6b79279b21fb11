//! What every node has from the start: the promises `local`, `pub`, `accept` and `reject`, the native module `cas`, and guest modules.
//!
//! They are embedded in the binary and put into the store and the symbol table when the home is first opened. After an
//! upgrade of gridfs, names that still stand for the old built-in are moved to the new one; names that the user
//! has bound to something else stay.

use std::sync::Arc;

use gridfs_modules::Manifest;
use gridfs_modules::manifest::{Accepts, ArgKind, Argument, Returns};
use gridfs_store::{Cid, Codec, Durability, Lease, Store, cbor};
use gridfs_store::{Target, Tree, TreeEntry};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::home::Home;
use crate::marks::ACCEPTED;
use crate::names::Names;
use crate::promise::Promise;
use crate::receipt::cid_of;

/// Key of the tree of built-ins in `config.toml`.
pub const BUILTINS_KEY: &str = "builtins";

/// The small modules of the library. Those with a whole engine inside, such as SQLite's, would double the binary; who wants one adds it.
const GUESTS: [(&str, &[u8]); 13] = [
    ("concat", include_bytes!("../modules/guests/concat.wasm")),
    ("decompress", include_bytes!("../modules/guests/decompress.wasm")),
    ("diff", include_bytes!("../modules/guests/diff.wasm")),
    ("find", include_bytes!("../modules/guests/find.wasm")),
    ("grep", include_bytes!("../modules/guests/grep.wasm")),
    ("hash", include_bytes!("../modules/guests/hash.wasm")),
    ("head", include_bytes!("../modules/guests/head.wasm")),
    ("md", include_bytes!("../modules/guests/md.wasm")),
    ("sha256", include_bytes!("../modules/guests/sha256.wasm")),
    ("sort", include_bytes!("../modules/guests/sort.wasm")),
    ("untar", include_bytes!("../modules/guests/untar.wasm")),
    ("unzip", include_bytes!("../modules/guests/unzip.wasm")),
    ("wc", include_bytes!("../modules/guests/wc.wasm")),
];

/// The document whose CID is the native module's name. Stored as a dag-cbor map; keys in deterministic order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NativeModule {
    v: u64,
    name: String,
    native: bool,
    promise: String,
}

/// The native module `cas`: the object with this CID.
pub struct Cas {
    /// Its name on the grid.
    pub cid: Cid,
    /// Its manifest. Its argument takes a file as well as a directory.
    pub manifest: Manifest,
}

impl Cas {
    /// The one there is.
    pub fn new() -> Cas {
        let object = Argument { name: "object".into(), kind: ArgKind::Blob, required: true, variadic: false };
        let manifest = Manifest {
            v: 1,
            args: vec![object],
            name: "cas".into(),
            accept: Accepts::Always,
            limits: None,
            ttl_ms: None,
            promise: "I give you the stored object with this CID: a file byte for byte, or a directory to browse."
                .into(),
            returns: Returns::Blob,
            version: "1".into(),
        };
        Cas { cid: Cid::of(Codec::DagCbor, &cas_document(&manifest)), manifest }
    }
}

impl Default for Cas {
    fn default() -> Cas {
        Cas::new()
    }
}

fn cas_document(manifest: &Manifest) -> Vec<u8> {
    cbor::to_vec(&NativeModule { v: 1, name: manifest.name.clone(), native: true, promise: manifest.promise.clone() })
}

/// Puts the built-ins into the store and the symbol table, where they are not there yet.
pub fn install(store: &Arc<Store>, home: &Home, names: &Names) -> Result<()> {
    let (tree, documents) = embedded();
    let tree_cid = Cid::of(Codec::DagCbor, &tree.encode());
    let installed = home.cid(BUILTINS_KEY)?;
    if installed == Some(tree_cid) {
        return Ok(());
    }
    let _kept = put(store, &tree, &documents)?;

    let before = installed.and_then(|cid| store.tree(&cid).ok()); // a lost list of old built-ins moves no name
    let current = names.table();
    let moved = |entry: &&TreeEntry| match current.get(&entry.name) {
        None => true,
        Some(now) => before.as_ref().and_then(|tree| tree.get(&entry.name)).is_some_and(|old| old.target == now.target),
    };
    let changes: Vec<(String, Option<Target>)> = tree
        .entries()
        .iter()
        .filter(moved)
        .map(|entry| (String::from_utf8_lossy(&entry.name).into_owned(), Some(entry.target.clone())))
        .collect();
    names.change(&changes)?;
    // One that the user has revoked stays so.
    for promise in [Promise::local(), Promise::public(), Promise::accept()].map(|promise| promise.cid()) {
        let is_old =
            before.as_ref().is_some_and(|tree| tree.entries().iter().any(|old| cid_of(&old.target) == Some(promise)));
        if !is_old {
            ACCEPTED.set(store, &promise, "built in")?;
        }
    }
    home.set_cids(&[(BUILTINS_KEY, tree_cid)])
}

/// Stores again what may have been lost of the built-ins.
pub fn restore(store: &Arc<Store>) -> Result<()> {
    let (tree, documents) = embedded();
    put(store, &tree, &documents).map(drop)
}

fn put(store: &Arc<Store>, tree: &Tree, documents: &[(Codec, Vec<u8>)]) -> Result<Lease> {
    let mut batch = store.batch();
    for (codec, bytes) in documents {
        batch.put_bytes(*codec, bytes)?;
    }
    batch.put_tree(tree)?;
    Ok(batch.commit(Durability::Durable)?)
}

/// The tree of built-in names, and the objects it names.
fn embedded() -> (Tree, Vec<(Codec, Vec<u8>)>) {
    let cas = cas_document(&Cas::new().manifest);
    let records = [
        ("accept", Promise::accept().to_bytes()),
        ("cas", cas),
        ("local", Promise::local().to_bytes()),
        ("pub", Promise::public().to_bytes()),
        ("reject", Promise::reject().to_bytes()),
    ];
    let records = records.map(|(name, bytes)| (name, Codec::DagCbor, bytes));
    let guests = GUESTS.map(|(name, wasm)| (name, Codec::Raw, wasm.to_vec()));
    let all: Vec<_> = records.into_iter().chain(guests).collect();
    let entries = all
        .iter()
        .map(|(name, codec, bytes)| TreeEntry {
            name: name.as_bytes().to_vec(),
            target: Target::File { cid: Cid::of(*codec, bytes), size_bytes: bytes.len() as u64, executable: false },
        })
        .collect();
    let tree = Tree::new(entries).expect("the built-in names are unique and valid");
    (tree, all.into_iter().map(|(_, codec, bytes)| (codec, bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_moves_what_it_made_and_leaves_what_is_the_users_own() {
        let directory = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::open(directory.path()).unwrap());
        let options = gridfs_store::Options { quota_bytes: None, progress: None };
        let store = Arc::new(Store::open(&home.store(), options).unwrap());
        let names = Names::open(store.clone(), home.clone()).unwrap();
        let mut batch = store.batch();
        let mut file = |bytes: &[u8]| {
            let cid = batch.put_bytes(Codec::Raw, bytes).unwrap();
            Target::File { cid, size_bytes: bytes.len() as u64, executable: false }
        };
        let (old_grep, old_wc, own) = (file(b"old grep"), file(b"old wc"), file(b"mine"));
        let entry = |name: &str, target: &Target| TreeEntry { name: name.into(), target: target.clone() };
        let old = Tree::new(vec![entry("grep", &old_grep), entry("wc", &old_wc)]).unwrap();
        let old_cid = batch.put_tree(&old).unwrap();
        batch.commit(Durability::Durable).unwrap();
        let bound = [("grep", &own), ("sort", &own), ("wc", &old_wc)];
        names.change(&bound.map(|(name, target)| (name.to_owned(), Some(target.clone())))).unwrap();
        home.set_cids(&[(BUILTINS_KEY, old_cid)]).unwrap();

        install(&store, &home, &names).unwrap();
        let new = |name: &str| embedded().0.get(name.as_bytes()).map(|entry| entry.target.clone());
        assert_eq!(names.get("wc"), new("wc"));
        assert_eq!(names.get("head"), new("head"));
        assert_eq!((names.get("grep"), names.get("sort")), (Some(own.clone()), Some(own)));
    }
}
