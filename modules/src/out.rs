//! What a guest builds below `/out`: a tree in the making.
//!
//! Symbolic links below `/out` are never followed while it is built, so `..` is lexical and nothing can point a
//! write elsewhere. File bytes stream into the store; only names are held in memory, at most [`MAX_NODES`] of them.

use std::collections::BTreeMap;

use gridfs_store::{Batch, Cid, Error};
use gridfs_store::{Target, Tree, TreeEntry};

use crate::wasi::Errno;

/// Most files, directories and links of one result.
const MAX_NODES: usize = 1 << 20;
/// Deepest directory of one result.
const MAX_DEPTH: usize = 256;

type Entries = BTreeMap<Vec<u8>, Node>;

/// A node of the result.
#[derive(Debug)]
pub(crate) enum Node {
    Directory(Entries),
    /// A finished file.
    File {
        cid: Cid,
        size_bytes: u64,
        executable: bool,
    },
    /// A file still open for writing, by the number of its descriptor's writer.
    Writing(u64),
    Symlink(Vec<u8>),
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
        OutTree { root: Node::Directory(BTreeMap::new()), nodes: 0 }
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
                name if name.len() > 255 => return Err(Errno::NameTooLong),
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
            Node::Directory(entries) => entries.get(name).ok_or(Errno::NoEnt),
            Node::Symlink(_) => Err(Errno::Loop),
            _ => Err(Errno::NotDir),
        })
    }

    /// Adds `node` at `path`, where nothing may be yet.
    pub(crate) fn add(&mut self, path: &OutPath, node: Node) -> Result<(), Errno> {
        if self.nodes >= MAX_NODES {
            return Err(Errno::NoSpc);
        }
        let (parent, name) = self.parent(path)?;
        if parent.contains_key(name) {
            return Err(Errno::Exist);
        }
        parent.insert(name.clone(), node);
        self.nodes += 1;
        Ok(())
    }

    /// Replaces the file or link at `path`, which must be there, by `node`.
    pub(crate) fn replace(&mut self, path: &OutPath, node: Node) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        match parent.get_mut(name).ok_or(Errno::NoEnt)? {
            Node::Directory(_) => Err(Errno::IsDir),
            slot => {
                *slot = node;
                Ok(())
            }
        }
    }

    /// Ends the writing of a file, unless the name has been given to something else since.
    pub(crate) fn finish(&mut self, path: &OutPath, writer: u64, file: Node) {
        if let Ok((parent, name)) = self.parent(path)
            && let Some(slot) = parent.get_mut(name)
            && matches!(slot, Node::Writing(number) if *number == writer)
        {
            *slot = file;
        }
    }

    /// Gives the finished file at `from` the second name `to`.
    pub(crate) fn link(&mut self, from: &OutPath, to: &OutPath) -> Result<(), Errno> {
        let copy = match self.get(from)? {
            Node::File { cid, size_bytes, executable } => {
                Node::File { cid: *cid, size_bytes: *size_bytes, executable: *executable }
            }
            Node::Symlink(target) => Node::Symlink(target.clone()),
            Node::Directory(_) => return Err(Errno::Perm),
            Node::Writing(_) => return Err(Errno::NotSup),
        };
        self.add(to, copy)
    }

    pub(crate) fn remove_file(&mut self, path: &OutPath) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        match parent.get(name).ok_or(Errno::NoEnt)? {
            Node::Directory(_) => return Err(Errno::IsDir),
            _ => parent.remove(name),
        };
        self.nodes -= 1;
        Ok(())
    }

    pub(crate) fn remove_directory(&mut self, path: &OutPath) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        match parent.get(name).ok_or(Errno::NoEnt)? {
            Node::Directory(entries) if entries.is_empty() => parent.remove(name),
            Node::Directory(_) => return Err(Errno::NotEmpty),
            _ => return Err(Errno::NotDir),
        };
        self.nodes -= 1;
        Ok(())
    }

    /// Moves a finished file, link or directory; a file or link at `to` is replaced.
    pub(crate) fn rename(&mut self, from: &OutPath, to: &OutPath) -> Result<(), Errno> {
        if to.starts_with(from) {
            return if to == from { Ok(()) } else { Err(Errno::Inval) };
        }
        match self.get(from)? {
            Node::Writing(_) => return Err(Errno::NotSup),
            node => match self.get(to) {
                Err(Errno::NoEnt) => {}
                Err(e) => return Err(e),
                Ok(Node::Directory(_)) => return Err(Errno::Exist),
                Ok(_) if matches!(node, Node::Directory(_)) => return Err(Errno::NotDir),
                Ok(_) => self.remove_file(to)?,
            },
        }
        self.parent(to)?;
        let (parent, name) = self.parent(from)?;
        let node = parent.remove(name).ok_or(Errno::NoEnt)?;
        let (parent, name) = self.parent(to)?;
        parent.insert(name.clone(), node);
        Ok(())
    }

    /// Stores the finished tree; its root directory.
    pub(crate) fn store(self, batch: &mut Batch) -> Result<Target, Error> {
        store_node(self.root, batch)
    }

    /// The directory that holds the last component of `path`, and that component.
    fn parent<'a>(&mut self, path: &'a OutPath) -> Result<(&mut Entries, &'a Vec<u8>), Errno> {
        let (name, above) = path.split_last().ok_or(Errno::Exist)?;
        let parent = above.iter().try_fold(&mut self.root, |node, name| match node {
            Node::Directory(entries) => entries.get_mut(name).ok_or(Errno::NoEnt),
            Node::Symlink(_) => Err(Errno::Loop),
            _ => Err(Errno::NotDir),
        })?;
        match parent {
            Node::Directory(entries) => Ok((entries, name)),
            Node::Symlink(_) => Err(Errno::Loop),
            _ => Err(Errno::NotDir),
        }
    }
}

fn store_node(node: Node, batch: &mut Batch) -> Result<Target, Error> {
    Ok(match node {
        Node::Directory(entries) => {
            let entries = entries
                .into_iter()
                .map(|(name, node)| Ok(TreeEntry { name, target: store_node(node, batch)? }))
                .collect::<Result<Vec<_>, Error>>()?;
            let tree = Tree::new(entries).expect("names and link targets were checked when they were added");
            Target::Directory { cid: batch.put_tree(&tree)? }
        }
        Node::File { cid, size_bytes, executable } => Target::File { cid, size_bytes, executable },
        Node::Symlink(target) => Target::Symlink { target },
        Node::Writing(number) => unreachable!("writer {number} is closed before the tree is stored"),
    })
}
