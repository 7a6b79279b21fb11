//! The symbol table: names to objects, itself an object with its history in the store.
//!
//! The table is a [`Tree`]: a name stands for a file or a directory. Each change makes a new [`Root`] that links to the
//! one before; the newest root's CID is in `config.toml`. Nothing is ever changed in place, so any older root still
//! reads, and a rollback is a new root with an old table.

use std::sync::{Arc, Mutex, RwLock};

use gridfs_store::{AnyCid, Cid, CidError, Codec, Durability, Lease, Store, cbor};
use gridfs_store::{Target, Tree, TreeEntry};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::builtins::BUILTINS_KEY;
use crate::error::{Code, Error, Result};
use crate::home::Home;
use crate::path;
use crate::receipt::cid_of;

/// Key of the newest root in `config.toml`.
const ROOT_KEY: &str = "root";
const MAX_ROOT_BYTES: u64 = 4096;

/// One state of the symbol table. Stored as a dag-cbor map; keys in deterministic order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    v: u64,
    /// The state before, if there was one.
    pub prev: Option<Cid>,
    /// The table: a tree.
    pub table: Cid,
    /// When it was made, in milliseconds since 1970.
    pub time_ms: u64,
}

/// What one change did to a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// The name.
    pub name: String,
    /// What it stood for before.
    pub before: Option<Target>,
    /// What it stands for after.
    pub after: Option<Target>,
}

struct State {
    root: Option<Cid>,
    table: Arc<Tree>,
}

/// The node's symbol table.
pub struct Names {
    store: Arc<Store>,
    home: Arc<Home>,
    state: RwLock<State>,
    /// Held while a change is made, so that changes follow one another.
    changing: Mutex<()>,
    changed: watch::Sender<()>,
}

impl Names {
    /// Opens the table that the home's configuration points to.
    pub fn open(store: Arc<Store>, home: Arc<Home>) -> Result<Names> {
        let root = home.cid(ROOT_KEY)?;
        let table = match root {
            Some(root) => read_table(&store, &root).map_err(|e| {
                e.during(format!(
                    "the symbol table's root {root} in config.toml can't be read; put an older root there"
                ))
            })?,
            None => Arc::new(Tree::default()),
        };
        let (state, changing) = (RwLock::new(State { root, table }), Mutex::new(()));
        Ok(Names { store, home, state, changing, changed: watch::Sender::default() })
    }

    /// Tells when they change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The names that stand for an object, in order.
    pub fn naming(&self, cid: &Cid) -> Vec<String> {
        let table = self.table();
        let named = table.entries().iter().filter(|entry| cid_of(&entry.target) == Some(*cid));
        named.map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }

    /// What a name stands for.
    pub fn get(&self, name: &str) -> Option<Target> {
        self.table().get(name.as_bytes()).map(|entry| entry.target.clone())
    }

    /// The whole table as it is now.
    pub fn table(&self) -> Arc<Tree> {
        self.state.read().expect("no panic while it is held").table.clone()
    }

    /// The newest root.
    pub fn root(&self) -> Option<Cid> {
        self.state.read().expect("no panic while it is held").root
    }

    /// The table of an older root.
    pub fn table_at(&self, root: &Cid) -> Result<Arc<Tree>> {
        read_table(&self.store, root)
    }

    /// Sets and removes names (`None` removes) in one change; durable when it returns. The new root.
    pub fn change(&self, changes: &[(String, Option<Target>)]) -> Result<Cid> {
        let _order = self.changing.lock().expect("no panic while it is held");
        let mut entries: Vec<TreeEntry> = self.table().entries().to_vec();
        for (name, target) in changes {
            check_name(name)?;
            entries.retain(|entry| entry.name != name.as_bytes());
            if let Some(target) = target {
                entries.push(TreeEntry { name: name.clone().into_bytes(), target: target.clone() });
            }
        }
        let table = Tree::new(entries).map_err(|e| Error::caused(Code::Usage, "can't change the names", e))?;
        self.replace(Arc::new(table))
    }

    /// Makes the table of an older root the newest again.
    pub fn rollback(&self, to: &Cid) -> Result<Cid> {
        let _order = self.changing.lock().expect("no panic while it is held");
        let table = self.table_at(to).map_err(|e| e.during(format!("can't roll back to {to}")))?;
        let _kept = self.hold(&table);
        self.check_stored(&table).map_err(|e| e.during(format!("can't roll back to {to}")))?;
        self.replace(table)
    }

    fn hold(&self, table: &Tree) -> Lease {
        let lease = self.store.lease();
        table.entries().iter().filter_map(|entry| cid_of(&entry.target)).for_each(|cid| lease.keep(&cid));
        lease
    }

    fn check_stored(&self, table: &Tree) -> Result<()> {
        let mut gone = Vec::new();
        for entry in table.entries() {
            let Some(cid) = cid_of(&entry.target) else { continue };
            if !self.store.contains(&cid)? {
                gone.push(format!("{} ({cid})", String::from_utf8_lossy(&entry.name)));
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let (count, shown) = (gone.len(), gone[..gone.len().min(5)].join(", "));
        let why = format!("{count} of its objects are no longer stored, collected after their names went: {shown}");
        Err(Error::new(Code::Unavailable, why))
    }

    /// The tree of built-ins, which is kept whatever the names say.
    pub fn builtins(&self) -> Result<Option<Cid>> {
        self.home.cid(BUILTINS_KEY)
    }

    /// Stores again what may have been lost of the newest state. If that is the root, its history is lost with it.
    pub fn restore(&self) -> Result<()> {
        let _order = self.changing.lock().expect("no panic while it is held");
        let (root, table) = (self.root(), self.table());
        let mut batch = self.store.batch();
        batch.put_tree(&table)?;
        let _kept = batch.commit(Durability::Durable)?;
        match root.map(|root| read_root(&self.store, &root)) {
            Some(Err(_)) => self.follow(None, table).map(drop),
            _ => Ok(()),
        }
    }

    /// The newest `limit` roots, newest first. What was collected as garbage ends the history.
    pub fn history(&self, limit: usize) -> Result<Vec<(Cid, Root)>> {
        let mut history = Vec::new();
        let mut next = self.root();
        while let Some(cid) = next.filter(|_| history.len() < limit) {
            if !self.store.contains(&cid)? {
                break;
            }
            let root = read_root(&self.store, &cid)?;
            next = root.prev;
            history.push((cid, root));
        }
        Ok(history)
    }

    /// What `root` changed against the one before it.
    pub fn diff(&self, root: &Root) -> Result<Vec<Change>> {
        let after = self.store.tree(&root.table)?;
        let before = match &root.prev {
            Some(prev) => self.table_at(prev)?,
            None => Arc::new(Tree::default()),
        };
        Ok(diff(&before, &after))
    }

    /// Stores `table` under a new root and points the configuration at it, in this order.
    fn replace(&self, table: Arc<Tree>) -> Result<Cid> {
        self.follow(self.root(), table)
    }

    fn follow(&self, prev: Option<Cid>, table: Arc<Tree>) -> Result<Cid> {
        let mut batch = self.store.batch();
        let table_cid = batch.put_tree(&table)?;
        let time_ms = crate::time::now_ms();
        let root = Root { v: 1, prev, table: table_cid, time_ms };
        let cid = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&root))?;
        let _kept = batch.commit(Durability::Durable)?;
        self.home.set_cids(&[(ROOT_KEY, cid)])?;
        *self.state.write().expect("no panic while it is held") = State { root: Some(cid), table };
        self.changed.send_replace(());
        Ok(cid)
    }
}

/// Checks that a text can be a name: one component of a path, and not to be mistaken for anything else there.
pub fn check_name(name: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(Code::Usage, format!("{name:?} can't be a name: {why}")));
    if name.is_empty() || name.contains(['/', '\0']) {
        return refuse("it must not be empty, nor contain / or NUL");
    }
    if name.starts_with(['.', '-']) {
        return refuse("names don't start with . or -");
    }
    // By a digest that nobody here computes, it may be a name: it could name nothing else.
    if !name.parse::<AnyCid>().is_err_and(|error| error.is_no_cid() || matches!(error, CidError::Digest(_))) {
        return refuse("it is a CID, which already names its object");
    }
    if path::encode(name).len() > path::MAX_COMPONENT_BYTES {
        return refuse("encoded it is longer than 255 bytes");
    }
    Ok(())
}

fn read_root(store: &Arc<Store>, cid: &Cid) -> Result<Root> {
    let bytes = store.read(cid, MAX_ROOT_BYTES)?;
    let root: Root = cbor::from_slice(&bytes)
        .map_err(|e| Error::caused(Code::Usage, format!("{cid} is not a root of the symbol table"), e))?;
    if root.v != 1 {
        return Err(Error::new(Code::General, format!("root {cid} has version {}; this gridfs reads 1", root.v)));
    }
    Ok(root)
}

fn read_table(store: &Arc<Store>, root: &Cid) -> Result<Arc<Tree>> {
    Ok(store.tree(&read_root(store, root)?.table)?)
}

/// Merges two sorted tables into the list of their differences.
fn diff(before: &Tree, after: &Tree) -> Vec<Change> {
    let mut names: Vec<&[u8]> = before.entries().iter().chain(after.entries()).map(|e| e.name.as_slice()).collect();
    names.sort_unstable();
    names.dedup();
    let target = |tree: &Tree, name| tree.get(name).map(|entry| entry.target.clone());
    names
        .into_iter()
        .map(|name| Change {
            name: String::from_utf8_lossy(name).into_owned(),
            before: target(before, name),
            after: target(after, name),
        })
        .filter(|change| change.before != change.after)
        .collect()
}

#[cfg(test)]
mod tests {
    use gridfs_store::{Algorithm, Digest};

    use super::*;

    fn file(content: &[u8]) -> Target {
        Target::File { cid: Cid::of(Codec::Raw, content), size_bytes: content.len() as u64, executable: false }
    }

    fn open(directory: &std::path::Path) -> Names {
        let home = Arc::new(Home::open(directory).unwrap());
        let store = Arc::new(Store::open(&home.store(), gridfs_store::Options::default()).unwrap());
        Names::open(store, home).unwrap()
    }

    #[test]
    fn names_persist_with_history_and_roll_back() {
        let directory = tempfile::tempdir().unwrap();
        let names = open(directory.path());
        let mut batch = names.store.batch();
        for content in [b"1", b"2"] {
            batch.put_bytes(Codec::Raw, content).unwrap();
        }
        batch.commit(Durability::Durable).unwrap();
        let first = names.change(&[("a".into(), Some(file(b"1"))), ("b".into(), Some(file(b"2")))]).unwrap();
        names.change(&[("a".into(), Some(file(b"3"))), ("b".into(), None)]).unwrap();
        drop(names);

        let names = open(directory.path());
        assert_eq!((names.get("a"), names.get("b")), (Some(file(b"3")), None));
        let history = names.history(10).unwrap();
        assert_eq!(history.len(), 2);
        assert_eq!(
            names.diff(&history[0].1).unwrap(),
            [
                Change { name: "a".into(), before: Some(file(b"1")), after: Some(file(b"3")) },
                Change { name: "b".into(), before: Some(file(b"2")), after: None },
            ]
        );
        names.rollback(&first).unwrap();
        assert_eq!((names.get("a"), names.get("b")), (Some(file(b"1")), Some(file(b"2"))));
        assert_eq!(names.history(10).unwrap().len(), 3);
    }

    #[test]
    fn what_can_be_no_name() {
        let cid = Cid::of(Codec::Raw, b"x").to_string();
        let [sha2, sha3] = Algorithm::ALL.map(|algorithm| Digest::of(algorithm, b"x").to_string());
        // The same in base 16, and the CIDs that IPFS gives to a directory, in versions 1 and 0.
        let base16 = format!("f01551220{}", "5a".repeat(32));
        let directory = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";
        let old = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";
        let cids = [cid.as_str(), &sha2, &sha3, &base16, directory, old];
        for name in cids.into_iter().chain(["", "a/b", ".", "..", ".grid", "-l", &"\u{e9}".repeat(50), "a\0"]) {
            assert_eq!(check_name(name).unwrap_err().code, Code::Usage, "{name:?}");
        }
        for name in ["war.txt", "bananas", "a b", "@", "100%", "\u{e9}"] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn a_root_that_is_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let names = open(directory.path());
        let mut batch = names.store.batch();
        let cid = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&"no root")).unwrap();
        batch.commit(Durability::Durable).unwrap();
        let error = names.rollback(&cid).unwrap_err();
        assert_eq!(error.code, Code::Usage);
        assert!(error.to_string().contains("is not a root of the symbol table"), "{error}");
    }
}
