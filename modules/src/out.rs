//! What a guest builds below `/out`: a tree in the making.
//!
//! Symbolic links below `/out` are never followed while it is built, so `..` is lexical and nothing can point a
//! write elsewhere. File bytes stream into the store; only names are held in memory, at most [`MAX_NODES`] of them.
//! A directory never outgrows what the store reads back, and none lies deeper than [`MAX_DEPTH`], however it got
//! there: recursion over the tree is bounded.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use gridfs_store::{Batch, Cid, Error, MAX_NAME_BYTES, MAX_TREE_BYTES};
use gridfs_store::{Target, Tree, TreeEntry};

use crate::wasi::Errno;

/// Most files, directories and links of one result.
const MAX_NODES: usize = 1 << 20;
/// Deepest directory of one result.
const MAX_DEPTH: usize = 256;
/// What an entry counts beside its name and link target, in bytes: no less than the rest of its encoding.
const ENTRY_BYTES: u64 = 64;

/// A node of the result.
#[derive(Debug)]
pub(crate) enum Node {
    Directory(Directory),
    File(File),
    Symlink(Vec<u8>),
}

/// A file: empty until its descriptor is closed. The descriptor holds it too, so it may be moved meanwhile.
pub(crate) type File = Arc<OnceLock<Finished>>;

/// What a closed file is.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) cid: Cid,
    pub(crate) size_bytes: u64,
    pub(crate) executable: bool,
}

/// A directory of the result.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: BTreeMap<Vec<u8>, Node>,
    /// The sum of [`Node::cost_bytes`]: the encoded directory is no longer.
    cost_bytes: u64,
}

/// The tree in the making.
pub(crate) struct OutTree {
    root: Node,
    nodes: usize,
}

/// A path below `/out`, split; empty for `/out` itself.
pub(crate) type OutPath = Vec<Vec<u8>>;

impl OutTree {
    pub(crate) fn new() -> OutTree {
        OutTree { root: Node::Directory(Directory::default()), nodes: 0 }
    }

    /// Joins `path` to `base`, lexically; climbing above `/out` is refused.
    pub(crate) fn join(base: &OutPath, path: &[u8]) -> Result<OutPath, Errno> {
        let mut joined = base.clone();
        for name in path.split(|&b| b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    joined.pop().ok_or(Errno::NotCapable)?;
                }
                name if name.len() > MAX_NAME_BYTES => return Err(Errno::NameTooLong),
                name => joined.push(name.to_vec()),
            }
        }
        if joined.len() > MAX_DEPTH {
            return Err(Errno::NameTooLong);
        }
        Ok(joined)
    }

    /// The node at `path`.
    pub(crate) fn get(&self, path: &OutPath) -> Result<&Node, Errno> {
        path.iter().try_fold(&self.root, |node, name| match node {
            Node::Directory(directory) => directory.entries.get(name).ok_or(Errno::NoEnt),
            Node::Symlink(_) => Err(Errno::Loop),
            Node::File(_) => Err(Errno::NotDir),
        })
    }

    /// The directory at `path`.
    pub(crate) fn directory(&self, path: &OutPath) -> Result<&Directory, Errno> {
        match self.get(path)? {
            Node::Directory(directory) => Ok(directory),
            Node::Symlink(_) => Err(Errno::Loop),
            Node::File(_) => Err(Errno::NotDir),
        }
    }

    /// Adds `node` at `path`, where nothing may be yet; what it costs, in bytes of output.
    pub(crate) fn add(&mut self, path: &OutPath, node: Node) -> Result<u64, Errno> {
        let full = self.nodes >= MAX_NODES;
        let (parent, name) = self.parent(path)?.ok_or(Errno::Exist)?;
        if parent.entries.contains_key(name) {
            return Err(Errno::Exist);
        }
        let cost_bytes = node.cost_bytes(name);
        if full || !parent.has_room(cost_bytes) {
            return Err(Errno::NoSpc);
        }
        parent.insert(name.clone(), node);
        self.nodes += 1;
        Ok(cost_bytes)
    }

    /// Begins the file at `path` anew; who still writes the old one writes to nothing.
    pub(crate) fn truncate(&mut self, path: &OutPath) -> Result<File, Errno> {
        let (parent, name) = self.parent(path)?.ok_or(Errno::IsDir)?;
        match parent.entries.get_mut(name).ok_or(Errno::NoEnt)? {
            Node::Directory(_) => Err(Errno::IsDir),
            Node::Symlink(_) => Err(Errno::Loop),
            Node::File(file) => {
                *file = File::default();
                Ok(file.clone())
            }
        }
    }

    /// Gives the finished file at `from` the second name `to`; what that costs, in bytes of output.
    pub(crate) fn link(&mut self, from: &OutPath, to: &OutPath) -> Result<u64, Errno> {
        let copy = match self.get(from)? {
            Node::File(file) if file.get().is_none() => return Err(Errno::NotSup),
            Node::File(file) => Node::File(file.clone()),
            Node::Symlink(target) => Node::Symlink(target.clone()),
            Node::Directory(_) => return Err(Errno::Perm),
        };
        self.add(to, copy)
    }

    pub(crate) fn remove_file(&mut self, path: &OutPath) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?.ok_or(Errno::IsDir)?;
        match parent.entries.get(name).ok_or(Errno::NoEnt)? {
            Node::Directory(_) => return Err(Errno::IsDir),
            Node::File(_) | Node::Symlink(_) => parent.remove(name)?,
        };
        self.nodes -= 1;
        Ok(())
    }

    pub(crate) fn remove_directory(&mut self, path: &OutPath) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?.ok_or(Errno::Inval)?;
        match parent.entries.get(name).ok_or(Errno::NoEnt)? {
            Node::Directory(directory) if directory.entries.is_empty() => parent.remove(name)?,
            Node::Directory(_) => return Err(Errno::NotEmpty),
            Node::File(_) | Node::Symlink(_) => return Err(Errno::NotDir),
        };
        self.nodes -= 1;
        Ok(())
    }

    /// Moves a file, link or directory. A file or link at `to` is replaced by a file or link, an empty directory by a
    /// directory.
    pub(crate) fn rename(&mut self, from: &OutPath, to: &OutPath) -> Result<(), Errno> {
        let moved = self.get(from)?;
        if to.starts_with(from) {
            return if to == from { Ok(()) } else { Err(Errno::Inval) };
        }
        if to.len() > from.len() && to.len() + moved.height() > MAX_DEPTH {
            return Err(Errno::NameTooLong);
        }
        let is_directory = matches!(moved, Node::Directory(_));
        let cost_bytes = to.last().map_or(0, |name| moved.cost_bytes(name));
        self.make_way(to, is_directory, cost_bytes)?;
        let (parent, name) = self.parent(from)?.ok_or(Errno::Inval)?;
        let node = parent.remove(name)?;
        let (parent, name) = self.parent(to)?.ok_or(Errno::Inval)?;
        parent.insert(name.clone(), node);
        Ok(())
    }

    /// Removes what a rename to `to` replaces, once nothing else is in its way.
    fn make_way(&mut self, to: &OutPath, is_directory: bool, cost_bytes: u64) -> Result<(), Errno> {
        if !self.parent(to)?.ok_or(Errno::NotEmpty)?.0.has_room(cost_bytes) {
            return Err(Errno::NoSpc);
        }
        match self.get(to) {
            Err(Errno::NoEnt) => Ok(()),
            Err(errno) => Err(errno),
            Ok(Node::Directory(_)) if is_directory => self.remove_directory(to),
            Ok(Node::Directory(_)) => Err(Errno::IsDir),
            Ok(Node::File(_) | Node::Symlink(_)) if is_directory => Err(Errno::NotDir),
            Ok(Node::File(_) | Node::Symlink(_)) => self.remove_file(to),
        }
    }

    /// Stores the finished tree; its root directory.
    pub(crate) fn store(self, batch: &mut Batch) -> Result<Target, Error> {
        store_node(self.root, batch)
    }

    /// The directory that holds the last component of `path`, and that component; `None` for `/out` itself.
    fn parent<'a>(&mut self, path: &'a OutPath) -> Result<Option<(&mut Directory, &'a Vec<u8>)>, Errno> {
        let Some((name, above)) = path.split_last() else { return Ok(None) };
        let parent = above.iter().try_fold(&mut self.root, |node, name| match node {
            Node::Directory(directory) => directory.entries.get_mut(name).ok_or(Errno::NoEnt),
            Node::Symlink(_) => Err(Errno::Loop),
            Node::File(_) => Err(Errno::NotDir),
        })?;
        match parent {
            Node::Directory(directory) => Ok(Some((directory, name))),
            Node::Symlink(_) => Err(Errno::Loop),
            Node::File(_) => Err(Errno::NotDir),
        }
    }
}

impl Directory {
    /// The entries behind `name`, or all of them, in the order of names.
    pub(crate) fn entries_after<'a>(
        &'a self,
        name: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a Node)> + use<'a> {
        let start = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<[u8], _>((start, Bound::Unbounded)).map(|(name, node)| (name.as_slice(), node))
    }

    fn has_room(&self, cost_bytes: u64) -> bool {
        // The array around the entries takes less than one entry may.
        self.cost_bytes + cost_bytes + ENTRY_BYTES <= MAX_TREE_BYTES
    }

    fn insert(&mut self, name: Vec<u8>, node: Node) {
        self.cost_bytes += node.cost_bytes(&name);
        self.entries.insert(name, node);
    }

    fn remove(&mut self, name: &[u8]) -> Result<Node, Errno> {
        let node = self.entries.remove(name).ok_or(Errno::NoEnt)?;
        self.cost_bytes -= node.cost_bytes(name);
        Ok(node)
    }
}

impl Node {
    fn cost_bytes(&self, name: &[u8]) -> u64 {
        let target = if let Node::Symlink(target) = self { target.len() } else { 0 };
        ENTRY_BYTES + (name.len() + target) as u64
    }

    /// Directories on the longest way down from here.
    fn height(&self) -> usize {
        match self {
            Node::Directory(directory) => directory.entries.values().map(|node| 1 + node.height()).max().unwrap_or(0),
            Node::File(_) | Node::Symlink(_) => 0,
        }
    }
}

fn store_node(node: Node, batch: &mut Batch) -> Result<Target, Error> {
    Ok(match node {
        Node::Directory(directory) => {
            let entries = directory
                .entries
                .into_iter()
                .map(|(name, node)| Ok(TreeEntry { name, target: store_node(node, batch)? }))
                .collect::<Result<Vec<_>, Error>>()?;
            let tree = Tree::new(entries).expect("names and link targets were checked when they were added");
            Target::Directory { cid: batch.put_tree(&tree)? }
        }
        Node::File(file) => {
            let Finished { cid, size_bytes, executable } =
                *file.get().expect("every descriptor is closed before the tree is stored");
            Target::File { cid, size_bytes, executable }
        }
        Node::Symlink(target) => Target::Symlink { target },
    })
}
