//! The guest's own files: a file system in memory from `/` down, which ends with the call.
//!
//! `/in`, `/out` and `/grid` are mounted in its root, beside the empty directory `tmp`: whatever a program opens by a
//! path has its place in one tree. A node lives while a name or a descriptor holds it. Everything counts against the
//! budget of the call's memory, so that the number of nodes has a limit too.

mod content;

use std::collections::BTreeMap;

use crate::budget::Budget;
use crate::wasi::Errno;
pub(crate) use content::Content;

/// A node; the root has 0.
pub(crate) type Number = usize;

pub(crate) const ROOT: Number = 0;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Most symbolic links followed for one path, as in Linux.
const MAX_LINKS: u32 = 40;
/// What a node counts, in bytes, beside the blocks of a file and the target of a link.
const NODE_BYTES: u64 = 256;
/// What an entry counts beside its name.
const ENTRY_BYTES: u64 = 64;

/// A directory of the world that is mounted in the root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mount {
    In,
    Out,
    Grid,
}

pub(crate) enum Body {
    File(Content),
    Directory(Directory),
    Symlink(Vec<u8>),
    Mount(Mount),
}

#[derive(Default)]
pub(crate) struct Directory {
    entries: BTreeMap<Vec<u8>, Number>,
    above: Number,
}

pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) names: u64,
    holders: u64,
    pub(crate) accessed_ns: u64,
    pub(crate) modified_ns: u64,
}

/// What a path leads to.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Reached {
    Node(Number),
    /// A mounted directory, and the rest of the path.
    Mount(Mount, Vec<u8>),
    /// Nothing yet, but a directory in which it may be made; by a path with a slash at its end only as a directory.
    Nothing {
        above: Number,
        name: Vec<u8>,
        slash: bool,
    },
}

/// An entry of a directory, there or not: its place, with whether a slash stood behind its name.
struct Entry {
    above: Number,
    name: Vec<u8>,
    slash: bool,
}

pub(crate) struct Scratch {
    nodes: Vec<Option<Node>>,
    free: Vec<Number>,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let mut scratch = Scratch { nodes: Vec::new(), free: Vec::new() };
        let root = scratch.insert(Body::Directory(Directory::default()), 0);
        let here = [
            (&b"grid"[..], Body::Mount(Mount::Grid)),
            (b"in", Body::Mount(Mount::In)),
            (b"out", Body::Mount(Mount::Out)),
            (b"tmp", Body::Directory(Directory::default())),
        ];
        for (name, body) in here {
            let number = scratch.insert(body, 0);
            scratch.attach(root, name.to_vec(), number, 0);
        }
        scratch.hold(root);
        scratch
    }

    pub(crate) fn node(&self, number: Number) -> &Node {
        self.nodes[number].as_ref().expect("a node lives while a name or a descriptor holds it")
    }

    pub(crate) fn node_mut(&mut self, number: Number) -> &mut Node {
        self.nodes[number].as_mut().expect("a node lives while a name or a descriptor holds it")
    }

    /// The bytes of a file.
    pub(crate) fn content(&self, number: Number) -> &Content {
        match &self.node(number).body {
            Body::File(content) => content,
            _ => unreachable!("only files are opened as files"),
        }
    }

    /// The entries behind `name`, or all of them, in the order of names.
    pub(crate) fn entries_after<'a>(
        &'a self,
        number: Number,
        name: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], Number)> + use<'a> {
        let start = name.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let Body::Directory(directory) = &self.node(number).body else { unreachable!("only directories are listed") };
        let entries = directory.entries.range::<[u8], _>((start, std::ops::Bound::Unbounded));
        entries.map(|(name, number)| (name.as_slice(), *number))
    }

    /// The mounted directory that `path` below `base` leads into, and the rest of the path.
    pub(crate) fn mounted(&self, base: Number, path: &[u8], follow: bool) -> Option<(Mount, Vec<u8>)> {
        match self.walk(base, path, follow) {
            Ok(Reached::Mount(mount, rest)) => Some((mount, rest)),
            _ => None, // what is wrong with the path, its use will tell
        }
    }

    /// Goes down `path` from the directory `base`, which it never leads out of. With `follow`, or a slash behind it, a
    /// symbolic link at the end is followed too.
    pub(crate) fn walk(&self, base: Number, path: &[u8], follow: bool) -> Result<Reached, Errno> {
        let mut through = vec![base];
        let mut pending = components(path);
        let mut slash = path.ends_with(b"/");
        let mut links = 0;
        while let Some(name) = pending.pop() {
            let here = *through.last().expect("it ends before it is empty");
            if name == b".." {
                through.pop();
                if through.is_empty() {
                    return Err(Errno::NotCapable);
                }
                continue;
            }
            let is_last = pending.is_empty();
            let Some(&found) = self.directory(here)?.entries.get(&name) else {
                return if is_last { Ok(Reached::Nothing { above: here, name, slash }) } else { Err(Errno::NoEnt) };
            };
            match &self.node(found).body {
                Body::Directory(_) => through.push(found),
                Body::Mount(mount) => return Ok(Reached::Mount(*mount, joined(pending))),
                Body::Symlink(target) if follow || slash || !is_last => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::Loop);
                    }
                    slash |= is_last && target.ends_with(b"/");
                    pending.extend(components(target));
                }
                Body::File(_) | Body::Symlink(_) if is_last && !slash => return Ok(Reached::Node(found)),
                Body::File(_) | Body::Symlink(_) => return Err(Errno::NotDir),
            }
        }
        Ok(Reached::Node(*through.last().expect("it ends before it is empty")))
    }

    /// The entry that `path` names, without following a link there; none if it ends in ".", ".." or nothing.
    fn entry(&self, base: Number, path: &[u8]) -> Result<Option<Entry>, Errno> {
        let end = path.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
        let start = path[..end].iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        let name = path[start..end].to_vec();
        if [&b""[..], b".", b".."].contains(&&name[..]) {
            return Ok(None);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::NameTooLong);
        }
        match self.walk(base, &path[..start], true)? {
            Reached::Node(above) => Ok(Some(Entry { above, name, slash: end < path.len() })),
            Reached::Mount(..) => Err(Errno::NotCapable),
            Reached::Nothing { .. } => Err(Errno::NoEnt),
        }
    }

    /// The entry at `path`, and the node there.
    fn existing(&self, base: Number, path: &[u8]) -> Result<(Entry, Number), Errno> {
        let entry = self.entry(base, path)?.ok_or(Errno::Inval)?;
        let number = *self.directory(entry.above)?.entries.get(&entry.name).ok_or(Errno::NoEnt)?;
        if entry.slash && !self.is_directory(number) {
            return Err(Errno::NotDir);
        }
        Ok((entry, number))
    }

    pub(crate) fn create_file(
        &mut self,
        budget: &mut Budget,
        above: Number,
        name: Vec<u8>,
        now_ns: u64,
    ) -> Result<Number, Errno> {
        self.make(budget, Entry { above, name, slash: false }, Body::File(Content::default()), now_ns)
    }

    pub(crate) fn create_directory(
        &mut self,
        budget: &mut Budget,
        base: Number,
        path: &[u8],
        now_ns: u64,
    ) -> Result<(), Errno> {
        let entry = self.entry(base, path)?.ok_or(Errno::Exist)?;
        let body = Body::Directory(Directory { above: entry.above, ..Directory::default() });
        self.make(budget, Entry { slash: false, ..entry }, body, now_ns).map(drop)
    }

    /// Makes a symbolic link. An absolute target is refused: it would lead out of every directory.
    pub(crate) fn create_symlink(
        &mut self,
        budget: &mut Budget,
        target: Vec<u8>,
        base: Number,
        path: &[u8],
        now_ns: u64,
    ) -> Result<(), Errno> {
        if target.starts_with(b"/") {
            return Err(Errno::NotCapable);
        }
        let entry = self.entry(base, path)?.ok_or(Errno::Exist)?;
        self.make(budget, entry, Body::Symlink(target), now_ns).map(drop)
    }

    fn make(&mut self, budget: &mut Budget, entry: Entry, body: Body, now_ns: u64) -> Result<Number, Errno> {
        self.check_vacant(&entry)?;
        if !budget.take(body.cost_bytes() + entry_cost_bytes(&entry.name)) {
            return Err(Errno::NoSpc);
        }
        let number = self.insert(body, now_ns);
        self.attach(entry.above, entry.name, number, now_ns);
        Ok(number)
    }

    /// Nothing is there yet, and its directory has a name itself.
    fn check_vacant(&self, entry: &Entry) -> Result<(), Errno> {
        let directory = self.directory(entry.above)?;
        match () {
            () if directory.entries.contains_key(&entry.name) => Err(Errno::Exist),
            () if entry.slash || self.node(entry.above).names == 0 && entry.above != ROOT => Err(Errno::NoEnt),
            () if entry.name.len() > MAX_NAME_BYTES => Err(Errno::NameTooLong),
            () => Ok(()),
        }
    }

    /// Gives the file or link at `from` a second name.
    pub(crate) fn link(
        &mut self,
        budget: &mut Budget,
        from: (Number, &[u8]),
        to: (Number, &[u8]),
        now_ns: u64,
    ) -> Result<(), Errno> {
        let (_, number) = self.existing(from.0, from.1)?;
        let entry = self.entry(to.0, to.1)?.ok_or(Errno::Exist)?;
        self.check_vacant(&entry)?;
        if self.is_directory(number) {
            return Err(Errno::Perm);
        }
        if !budget.take(entry_cost_bytes(&entry.name)) {
            return Err(Errno::NoSpc);
        }
        self.attach(entry.above, entry.name, number, now_ns);
        Ok(())
    }

    /// Moves a node. A file or link is replaced by a file or link, an empty directory by a directory.
    pub(crate) fn rename(
        &mut self,
        budget: &mut Budget,
        from: (Number, &[u8]),
        to: (Number, &[u8]),
        now_ns: u64,
    ) -> Result<(), Errno> {
        let (from, moved) = self.existing(from.0, from.1)?;
        let to = self.entry(to.0, to.1)?.ok_or(Errno::Inval)?;
        let is_directory = self.is_directory(moved);
        let replaced = self.directory(to.above)?.entries.get(&to.name).copied();
        if replaced == Some(moved) {
            return Ok(());
        }
        if is_directory && self.lies_in(to.above, moved) {
            return Err(Errno::Inval);
        }
        match replaced {
            Some(replaced) if is_directory => self.check_empty(replaced)?,
            Some(replaced) if self.is_directory(replaced) => return Err(Errno::IsDir),
            Some(_) if to.slash => return Err(Errno::NotDir),
            Some(_) => {}
            None => self.check_vacant(&Entry { slash: to.slash && !is_directory, name: to.name.clone(), ..to })?,
        }
        // It is paid for before anything is given up.
        if !budget.take(entry_cost_bytes(&to.name)) {
            return Err(Errno::NoSpc);
        }
        if replaced.is_some() {
            self.detach(budget, to.above, &to.name, now_ns);
        }
        self.attach(to.above, to.name, moved, now_ns);
        self.detach(budget, from.above, &from.name, now_ns);
        if let Body::Directory(directory) = &mut self.node_mut(moved).body {
            directory.above = to.above;
        }
        Ok(())
    }

    pub(crate) fn remove_file(
        &mut self,
        budget: &mut Budget,
        base: Number,
        path: &[u8],
        now_ns: u64,
    ) -> Result<(), Errno> {
        let (entry, number) = self.existing(base, path)?;
        if self.is_directory(number) {
            return Err(Errno::IsDir);
        }
        self.detach(budget, entry.above, &entry.name, now_ns);
        Ok(())
    }

    pub(crate) fn remove_directory(
        &mut self,
        budget: &mut Budget,
        base: Number,
        path: &[u8],
        now_ns: u64,
    ) -> Result<(), Errno> {
        let (entry, number) = self.existing(base, path)?;
        self.check_empty(number)?;
        self.detach(budget, entry.above, &entry.name, now_ns);
        Ok(())
    }

    pub(crate) fn write_at(
        &mut self,
        budget: &mut Budget,
        number: Number,
        position: u64,
        bytes: &[u8],
        now_ns: u64,
    ) -> Result<(), Errno> {
        self.change(number, now_ns).write_at(budget, position, bytes)
    }

    pub(crate) fn set_size(
        &mut self,
        budget: &mut Budget,
        number: Number,
        size_bytes: u64,
        now_ns: u64,
    ) -> Result<(), Errno> {
        self.change(number, now_ns).set_size(budget, size_bytes)
    }

    /// The bytes of a file that is about to be changed.
    fn change(&mut self, number: Number, now_ns: u64) -> &mut Content {
        let node = self.node_mut(number);
        node.modified_ns = now_ns;
        match &mut node.body {
            Body::File(content) => content,
            _ => unreachable!("only files are opened as files"),
        }
    }

    /// Keeps a node while a descriptor is open.
    pub(crate) fn hold(&mut self, number: Number) {
        self.node_mut(number).holders += 1;
    }

    pub(crate) fn release(&mut self, budget: &mut Budget, number: Number) {
        self.node_mut(number).holders -= 1;
        self.drop_unused(budget, number);
    }

    fn directory(&self, number: Number) -> Result<&Directory, Errno> {
        match &self.node(number).body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::NotDir),
        }
    }

    /// Mounted directories are directories too.
    pub(crate) fn is_directory(&self, number: Number) -> bool {
        matches!(self.node(number).body, Body::Directory(_) | Body::Mount(_))
    }

    fn check_empty(&self, number: Number) -> Result<(), Errno> {
        if self.directory(number)?.entries.is_empty() { Ok(()) } else { Err(Errno::NotEmpty) }
    }

    /// Whether the directory `number` is `other`, or lies below it.
    fn lies_in(&self, mut number: Number, other: Number) -> bool {
        while number != ROOT && number != other {
            number = self.directory(number).map_or(ROOT, |directory| directory.above);
        }
        number == other
    }

    fn insert(&mut self, body: Body, now_ns: u64) -> Number {
        let node = Node { body, names: 0, holders: 0, accessed_ns: now_ns, modified_ns: now_ns };
        let number = self.free.pop().unwrap_or(self.nodes.len());
        if number == self.nodes.len() {
            self.nodes.push(None);
        }
        self.nodes[number] = Some(node);
        number
    }

    fn attach(&mut self, above: Number, name: Vec<u8>, number: Number, now_ns: u64) {
        self.node_mut(number).names += 1;
        let node = self.node_mut(above);
        node.modified_ns = now_ns;
        if let Body::Directory(directory) = &mut node.body {
            directory.entries.insert(name, number);
        }
    }

    /// Takes a name that is there away.
    fn detach(&mut self, budget: &mut Budget, above: Number, name: &[u8], now_ns: u64) {
        let node = self.node_mut(above);
        node.modified_ns = now_ns;
        let Body::Directory(directory) = &mut node.body else { unreachable!("names are in directories") };
        let number = directory.entries.remove(name).expect("it was looked up");
        budget.give_back(entry_cost_bytes(name));
        let node = self.node_mut(number);
        node.names -= 1;
        // The directory above may go too, while a descriptor holds this one.
        if let (0, Body::Directory(directory)) = (node.names, &mut node.body) {
            directory.above = ROOT;
        }
        self.drop_unused(budget, number);
    }

    fn drop_unused(&mut self, budget: &mut Budget, number: Number) {
        let node = self.node_mut(number);
        if node.names > 0 || node.holders > 0 {
            return;
        }
        if let Body::File(content) = &mut node.body {
            content.set_size(budget, 0).expect("a file can be empty");
        }
        budget.give_back(node.body.cost_bytes());
        self.nodes[number] = None;
        self.free.push(number);
    }
}

impl Body {
    pub(crate) fn size_bytes(&self) -> u64 {
        match self {
            Body::File(content) => content.size_bytes(),
            Body::Symlink(target) => target.len() as u64,
            Body::Directory(_) | Body::Mount(_) => 0,
        }
    }

    /// What a node counts with no byte in it.
    fn cost_bytes(&self) -> u64 {
        NODE_BYTES + if let Body::Symlink(target) = self { target.len() as u64 } else { 0 }
    }
}

fn entry_cost_bytes(name: &[u8]) -> u64 {
    ENTRY_BYTES + name.len() as u64
}

/// The components of a path, last one first, without the empty ones and ".".
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').rev().filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}

/// The path of components, last one first.
fn joined(mut components: Vec<Vec<u8>>) -> Vec<u8> {
    components.reverse();
    components.join(&b'/')
}
