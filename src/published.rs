//! The names that this node publishes: peers may see them, and read what they stand for.
//!
//! Names are private until they are published, one by one. What is remembered is which names; the table that peers see is what the
//! symbol table says of them now, signed when the first peer asks for it. A name that stands for nothing, or for what is not
//! all stored here, is left out.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use gridfs_p2p::Network;
use gridfs_store::{Cid, Codec, Store, Tree, TreeEntry};
use tokio::sync::watch;

use crate::error::{Code, Error, Result};
use crate::head::{Head, MAX_NAMES};
use crate::identity::Identity;
use crate::kernel::Kernel;
use crate::names::Names;
use crate::partial;
use crate::receipt::cid_of;
use crate::records::Records;

/// The published names; of each the version of the record is stored, and nothing else.
pub const PUBLISHED: Records = Records("published/");
/// The newest head that was signed with each key that this node had.
pub const HEAD: Records = Records("head/");

/// What this node publishes.
pub struct Published {
    store: Arc<Store>,
    names: Arc<Names>,
    /// Grows when names are published or no longer.
    changes: AtomicU64,
    last: Mutex<Option<(State, Arc<Table>)>>,
    /// Held while a head is signed, so that no two have one number.
    signing: Mutex<()>,
    /// What peers were told that it is here.
    told: Mutex<HashSet<Cid>>,
}

/// What a table was made from: changes so far, and the root of the symbol table.
type State = (u64, Option<Cid>);

/// The published names with what they stand for.
struct Table {
    cid: Cid,
    bytes: Vec<u8>,
    targets: HashSet<Cid>,
}

impl Published {
    /// What is published of these names.
    pub fn new(store: Arc<Store>, names: Arc<Names>) -> Published {
        Published {
            store,
            names,
            changes: AtomicU64::new(0),
            last: Mutex::default(),
            signing: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// The published names, whether or not they stand for something now.
    pub fn names(&self) -> Result<BTreeSet<String>> {
        Ok(PUBLISHED.all(&self.store)?.into_iter().map(|(name, _)| name).collect())
    }

    /// Publishes names, durably.
    pub fn add(&self, names: &[String]) -> Result<()> {
        let mut all = self.names()?;
        for name in names {
            self.check(name)?;
            all.insert(name.clone());
        }
        if all.len() > MAX_NAMES {
            let why = format!("a node publishes at most {MAX_NAMES} names; put what belongs together into a directory");
            return Err(Error::new(Code::Usage, why));
        }
        let mut batch = self.store.batch();
        names.iter().try_for_each(|name| PUBLISHED.put(&mut batch, name, &[1]))?;
        batch.commit(gridfs_store::Durability::Durable)?;
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Publishes a name no longer, durably; false if it was not published.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let removed = PUBLISHED.remove(&self.store, name)?;
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(removed)
    }

    /// Whether peers may read an object because a published name stands for it.
    pub fn shares(&self, cid: &Cid) -> Result<bool> {
        Ok(self.table()?.targets.contains(cid))
    }

    /// The signed head and its table, as peers get them. `None` if nothing was ever published.
    pub fn head(&self, identity: &Identity) -> Result<Option<gridfs_p2p::Head>> {
        let _order = self.signing.lock().expect("no panic while it is held");
        let (table, id) = (self.table()?, identity.id());
        let key = id.to_string();
        // One that can't be read is replaced: the time sees to it that the number grows all the same.
        let before = HEAD.get(&self.store, &key)?.and_then(|bytes| Head::read(&bytes, &id).ok());
        let signed = match before {
            Some(before) if before.table == table.cid => before.to_bytes(),
            None if table.targets.is_empty() => return Ok(None),
            before => {
                let head = Head::sign(identity, table.cid, before.as_ref(), crate::time::now_ms());
                let signed = head.to_bytes();
                // Before anybody sees it, so that its number is never used again.
                HEAD.set(&self.store, &key, &signed)?;
                signed
            }
        };
        Ok(Some(gridfs_p2p::Head { signed, table: table.bytes.clone() }))
    }

    fn check(&self, name: &str) -> Result<()> {
        let target = self.names.get(name).ok_or_else(|| {
            Error::new(
                Code::UnknownName,
                format!("there is no name {name:?}; `gridfs name list` shows the names there are"),
            )
        })?;
        match cid_of(&target) {
            Some(cid) if partial::is(&self.store, &cid)? => {
                let why =
                    format!("{name:?} stands for names that another node publishes; who wants them follows that node");
                Err(Error::new(Code::Usage, why))
            }
            _ => Ok(()),
        }
    }

    /// The table as it is now.
    fn table(&self) -> Result<Arc<Table>> {
        let state = (self.changes.load(Ordering::Acquire), self.names.root());
        let last = self.last.lock().expect("no panic while it is held").clone();
        if let Some((_, table)) = last.filter(|(made_from, _)| *made_from == state) {
            return Ok(table);
        }
        let table = Arc::new(self.make()?);
        *self.last.lock().expect("no panic while it is held") = Some((state, table.clone()));
        Ok(table)
    }

    fn make(&self) -> Result<Table> {
        let (mut entries, mut targets) = (Vec::new(), HashSet::new());
        let names = self.names.table();
        for name in self.names()? {
            let Some(entry) = names.get(name.as_bytes()) else { continue };
            let Some(cid) = cid_of(&entry.target) else { continue };
            if self.store.contains(&cid)? && !partial::is(&self.store, &cid)? {
                entries.push(TreeEntry { name: name.into_bytes(), target: entry.target.clone() });
                targets.insert(cid);
            }
        }
        let tree =
            Tree::new(entries).map_err(|e| Error::caused(Code::General, "the published names are no directory", e))?;
        let bytes = tree.encode();
        Ok(Table { cid: Cid::of(Codec::DagCbor, &bytes), bytes, targets })
    }

    /// What is here now that peers were not told of, and what they were told of in vain.
    fn news(&self) -> Result<(Vec<Cid>, Vec<Cid>)> {
        let table = self.table()?;
        let mut told = self.told.lock().expect("no panic while it is held");
        let new = table.targets.difference(&told).copied().collect();
        let gone = told.difference(&table.targets).copied().collect();
        *told = table.targets.clone();
        Ok((new, gone))
    }
}

/// Tells the hash table where to get what published names stand for.
pub async fn announce(kernel: &Arc<Kernel>, network: &Network) -> Result<()> {
    let looking = kernel.clone();
    let look = move || {
        let (new, mut gone) = looking.published.news()?;
        // What is shared for other reasons stays announced. What can't be told does too.
        gone.retain(|cid| !looking.is_shared(cid).unwrap_or(true));
        Ok::<_, Error>((new, gone))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    let (new, gone) = looked.map_err(|e| Error::caused(Code::General, "looking what is published broke off", e))??;
    let hashes = |cids: Vec<Cid>| cids.into_iter().map(|cid| cid.hash).collect();
    network.provide(hashes(new)).await?;
    network.withdraw(hashes(gone)).await?;
    Ok(())
}

/// Does so whenever names change, as long as there is a kernel.
pub async fn keep_announced(kernel: Weak<Kernel>, network: Network, mut changes: watch::Receiver<()>) {
    loop {
        {
            let Some(kernel) = kernel.upgrade() else { return };
            if let Err(error) = announce(&kernel, &network).await {
                tracing::warn!(%error, "what published names stand for is not announced");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::{Durability, Options, Target};

    use super::*;
    use crate::home::Home;

    struct Fixture {
        _directory: tempfile::TempDir,
        identity: Identity,
        store: Arc<Store>,
        names: Arc<Names>,
        published: Published,
    }

    impl Fixture {
        fn new() -> Fixture {
            let directory = tempfile::tempdir().unwrap();
            let home = Arc::new(Home::open(directory.path()).unwrap());
            let store = Arc::new(Store::open(&home.store(), Options::default()).unwrap());
            let names = Arc::new(Names::open(store.clone(), home).unwrap());
            let published = Published::new(store.clone(), names.clone());
            Fixture { _directory: directory, identity: Identity::of_seed([7; 32]), store, names, published }
        }

        fn name(&self, name: &str, content: &[u8]) -> Cid {
            let mut batch = self.store.batch();
            let cid = batch.put_bytes(Codec::Raw, content).unwrap();
            let _kept = batch.commit(Durability::Durable).unwrap();
            let target = Target::File { cid, size_bytes: content.len() as u64, executable: false };
            self.names.change(&[(name.into(), Some(target))]).unwrap();
            cid
        }

        fn head(&self) -> (Head, Vec<String>) {
            let told = self.published.head(&self.identity).unwrap().unwrap();
            let head = Head::read(&told.signed, &self.identity.id()).unwrap();
            let table = head.read_table(&told.table).unwrap();
            let names = table.entries().iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap());
            (head, names.collect())
        }
    }

    #[test]
    fn what_is_published_follows_the_names_and_nothing_else_is() {
        let node = Fixture::new();
        let (a, b) = (node.name("a", b"1"), node.name("b", b"2"));
        assert_eq!(node.published.head(&node.identity).unwrap(), None);
        assert_eq!(node.published.add(&["c".into()]).unwrap_err().code, Code::UnknownName);
        node.published.add(&["a".into()]).unwrap();
        assert!(node.published.shares(&a).unwrap() && !node.published.shares(&b).unwrap());
        let (first, names) = node.head();
        assert_eq!(names, ["a"]);
        assert_eq!(node.head().0, first, "what is the same is not signed again");
        let other = node.name("a", b"3");
        let (second, _) = node.head();
        assert!(second.number > first.number && second.table != first.table);
        assert!(node.published.shares(&other).unwrap() && !node.published.shares(&a).unwrap());
        assert!(node.published.remove("a").unwrap() && !node.published.remove("a").unwrap());
        let (third, names) = node.head();
        assert!(third.number > second.number && names.is_empty(), "who follows sees that nothing is left");
        let again = Published::new(node.store.clone(), node.names.clone());
        assert_eq!(again.head(&node.identity).unwrap().unwrap().signed, third.to_bytes(), "as after a restart");
    }

    #[test]
    fn what_was_announced_is_withdrawn_when_it_is_published_no_more() {
        let node = Fixture::new();
        let a = node.name("a", b"1");
        assert_eq!(node.published.news().unwrap(), (vec![], vec![]));
        node.published.add(&["a".into()]).unwrap();
        assert_eq!(node.published.news().unwrap(), (vec![a], vec![]));
        assert_eq!(node.published.news().unwrap(), (vec![], vec![]));
        let b = node.name("a", b"2");
        assert_eq!(node.published.news().unwrap(), (vec![b], vec![a]));
        node.names.change(&[("a".into(), None)]).unwrap();
        assert_eq!(node.published.news().unwrap(), (vec![], vec![b]));
    }
}
