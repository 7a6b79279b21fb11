//! The world as one running guest sees it: arguments, descriptors, `/in`, `/out`, `/grid`, clock and randomness.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use gridfs_store::Target;
use gridfs_store::{Batch, BlobWriter, Cid, Hash, Object, Store};

use crate::out::{Node, OutPath, OutTree};
use crate::run::{MAX_STDERR_BYTES, Stop};
use crate::walk::{WalkError, walk};
use crate::wasi::Errno;

/// Most descriptors one guest holds at a time.
const MAX_DESCRIPTORS: usize = 1024;
/// What a directory entry or symbolic link counts towards the output limit, in bytes.
const NODE_COST_BYTES: u64 = 64;

/// One argument of a call, resolved.
#[derive(Clone)]
pub enum Argument {
    /// A `text` or `int` argument: its text, without NUL.
    Text(String),
    /// A `blob` argument.
    Blob(Object),
    /// A `tree` argument: the root directory.
    Tree(Cid),
}

/// What a nested call reached.
pub type Reached = Target;

/// Why a nested call failed; the whole call fails with it.
pub type NestedError = Box<dyn std::error::Error + Send + Sync>;

/// The grid above the guest: answers what it opens below `/grid`.
pub trait Grid: Send + Sync {
    /// Calls `path` (without the leading `/grid/`) and answers with the file or directory there.
    fn call<'a>(&'a self, path: &'a str) -> Pin<Box<dyn Future<Output = Result<Reached, NestedError>> + Send + 'a>>;
}

/// What a descriptor stands for.
pub(crate) enum Descriptor {
    Stdout,
    Stderr,
    /// An open file for reading; `None` is an empty one (standard input without a blob argument).
    Reading {
        object: Option<Object>,
        position: u64,
    },
    Writing {
        writer: Box<BlobWriter>,
        number: u64,
        path: OutPath,
        executable: bool,
    },
    Directory(Place),
}

/// A directory that can be open.
#[derive(Clone)]
pub(crate) enum Place {
    In,
    Grid,
    Out(OutPath),
    /// A stored directory.
    Stored(Cid),
}

/// Preopened directories, in the order of their descriptors from 3.
pub(crate) const PREOPENS: [&str; 3] = ["/in", "/out", "/grid"];
const FIRST_PREOPEN: u32 = 3;

/// What stands at a path that can be read.
pub(crate) enum Found {
    In,
    Grid,
    Stored(Target),
}

/// State of one running guest; the data of its wasmtime store.
pub(crate) struct Guest {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) inputs: Vec<Argument>,
    pub(crate) store: Arc<Store>,
    pub(crate) grid: Arc<dyn Grid>,
    pub(crate) batch: Batch,
    pub(crate) out: OutTree,
    pub(crate) stdout: Option<Box<BlobWriter>>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) output_left_bytes: u64,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) memory_denied: bool,
    pub(crate) memory: Option<wasmtime::Memory>,
    clock_ns: u64,
    random: blake3::OutputReader,
    descriptors: Vec<Option<Descriptor>>,
    writers: u64,
}

impl Guest {
    pub(crate) fn new(
        name: &str,
        inputs: Vec<Argument>,
        returns_tree: bool,
        seed: Hash,
        store: Arc<Store>,
        grid: Arc<dyn Grid>,
    ) -> Guest {
        let mut arguments = vec![name.as_bytes().to_vec()];
        arguments.extend(inputs.iter().enumerate().map(|(i, input)| match input {
            Argument::Text(text) => text.as_bytes().to_vec(),
            Argument::Blob(_) | Argument::Tree(_) => format!("/in/{}", i + 1).into_bytes(),
        }));
        let stdin = inputs.iter().find_map(|input| match input {
            Argument::Blob(object) => Some(object.clone()),
            _ => None,
        });
        let descriptors = vec![
            Some(Descriptor::Reading { object: stdin, position: 0 }),
            Some(Descriptor::Stdout),
            Some(Descriptor::Stderr),
            Some(Descriptor::Directory(Place::In)),
            Some(Descriptor::Directory(Place::Out(OutPath::new()))),
            Some(Descriptor::Directory(Place::Grid)),
        ];
        let mut hasher = blake3::Hasher::new_derive_key("gridfs grid-1 random_get");
        hasher.update(&seed.0);
        Guest {
            arguments,
            inputs,
            batch: store.batch(),
            store,
            grid,
            out: OutTree::new(),
            stdout: (!returns_tree).then(|| Box::new(BlobWriter::new())),
            stderr: Vec::new(),
            output_left_bytes: 0,
            memory_limit_bytes: 0,
            memory_used_bytes: 0,
            memory_denied: false,
            memory: None,
            clock_ns: 0,
            random: hasher.finalize_xof(),
            descriptors,
            writers: 0,
        }
    }

    /// The next reading of the clock: one microsecond after the last.
    pub(crate) fn tick_ns(&mut self) -> u64 {
        let now = self.clock_ns;
        self.clock_ns += 1_000;
        now
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.clock_ns
    }

    /// Lets the clock jump ahead, as a sleep does.
    pub(crate) fn sleep_until_ns(&mut self, ns: u64) {
        self.clock_ns = self.clock_ns.max(ns);
    }

    pub(crate) fn fill_random(&mut self, bytes: &mut [u8]) {
        self.random.fill(bytes);
    }

    pub(crate) fn descriptor(&mut self, fd: u32) -> Result<&mut Descriptor, Errno> {
        self.descriptors.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::BadF)
    }

    pub(crate) fn place(&mut self, fd: u32) -> Result<Place, Errno> {
        match self.descriptor(fd)? {
            Descriptor::Directory(place) => Ok(place.clone()),
            _ => Err(Errno::NotDir),
        }
    }

    /// The preopened directory's guest path, if `fd` still is one.
    pub(crate) fn preopen(&self, fd: u32) -> Option<&'static str> {
        let index = fd.checked_sub(FIRST_PREOPEN)? as usize;
        let open = matches!(self.descriptors.get(fd as usize), Some(Some(Descriptor::Directory(_))));
        PREOPENS.get(index).copied().filter(|_| open)
    }

    pub(crate) fn insert(&mut self, descriptor: Descriptor) -> Result<u32, Errno> {
        let free = self.descriptors.iter().position(Option::is_none).unwrap_or(self.descriptors.len());
        if free >= MAX_DESCRIPTORS {
            return Err(Errno::MFile);
        }
        if free == self.descriptors.len() {
            self.descriptors.push(None);
        }
        self.descriptors[free] = Some(descriptor);
        Ok(free as u32)
    }

    /// Closes `fd`; a file open for writing becomes part of the result.
    pub(crate) fn close(&mut self, fd: u32) -> Result<(), Fault> {
        let slot = self.descriptors.get_mut(fd as usize).ok_or(Errno::BadF)?;
        let descriptor = slot.take().ok_or(Errno::BadF)?;
        self.finish(descriptor)
    }

    /// Moves `from` onto `to`, closing what `to` was.
    pub(crate) fn renumber(&mut self, from: u32, to: u32) -> Result<(), Fault> {
        self.descriptor(from)?;
        self.descriptor(to)?;
        if from == to {
            return Ok(());
        }
        self.close(to)?;
        self.descriptors.swap(from as usize, to as usize);
        Ok(())
    }

    /// Closes everything, as exit does.
    pub(crate) fn close_all(&mut self) -> Result<(), Fault> {
        let open: Vec<Descriptor> = self.descriptors.iter_mut().filter_map(Option::take).collect();
        open.into_iter().try_for_each(|descriptor| self.finish(descriptor))
    }

    fn finish(&mut self, descriptor: Descriptor) -> Result<(), Fault> {
        let Descriptor::Writing { writer, number, path, executable } = descriptor else { return Ok(()) };
        let (cid, size_bytes) = writer.finish(&mut self.batch)?;
        self.out.finish(&path, number, Node::File { cid, size_bytes, executable });
        Ok(())
    }

    /// Creates or truncates the file at `path` below `/out`.
    pub(crate) fn create(&mut self, path: OutPath, exclusive: bool) -> Result<u32, Fault> {
        let number = self.writers;
        self.writers += 1;
        match self.out.get(&path) {
            Ok(_) if exclusive => return Err(Errno::Exist.into()),
            Ok(Node::Symlink(_)) => return Err(Errno::Loop.into()),
            Ok(_) => self.out.replace(&path, Node::Writing(number))?,
            Err(Errno::NoEnt) => {
                self.charge(NODE_COST_BYTES)?;
                self.out.add(&path, Node::Writing(number))?;
            }
            Err(e) => return Err(e.into()),
        }
        let writer = Box::new(BlobWriter::new());
        Ok(self.insert(Descriptor::Writing { writer, number, path, executable: false })?)
    }

    /// Adds a directory, link or symbolic link below `/out`.
    pub(crate) fn add(&mut self, path: &OutPath, node: Node) -> Result<(), Fault> {
        self.charge(NODE_COST_BYTES)?;
        Ok(self.out.add(path, node)?)
    }

    pub(crate) fn link(&mut self, from: &OutPath, to: &OutPath) -> Result<(), Fault> {
        self.charge(NODE_COST_BYTES)?;
        Ok(self.out.link(from, to)?)
    }

    /// Writes to the standard streams or a file below `/out`.
    pub(crate) fn write(&mut self, fd: u32, bytes: &[u8]) -> Result<(), Fault> {
        let to_log = matches!(self.descriptor(fd)?, Descriptor::Stderr)
            || matches!(self.descriptor(fd)?, Descriptor::Stdout) && self.stdout.is_none();
        if to_log {
            let room = MAX_STDERR_BYTES - self.stderr.len();
            self.stderr.extend_from_slice(&bytes[..bytes.len().min(room)]);
            return Ok(());
        }
        if matches!(self.descriptor(fd)?, Descriptor::Reading { .. } | Descriptor::Directory(_)) {
            return Err(Errno::BadF.into());
        }
        self.charge(bytes.len() as u64)?;
        match self.descriptors[fd as usize].as_mut() {
            Some(Descriptor::Writing { writer, .. }) => writer.write(&mut self.batch, bytes)?,
            _ => {
                let stdout = self.stdout.as_mut().expect("standard output of a blob module has a writer");
                stdout.write(&mut self.batch, bytes)?;
            }
        }
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Fault> {
        self.output_left_bytes = self.output_left_bytes.checked_sub(bytes).ok_or(Stop::Output)?;
        Ok(())
    }

    /// What is at `path` below a directory that can be read; below `/grid` that is a nested call.
    pub(crate) async fn find(&self, place: &Place, path: &[u8], follow: bool) -> Result<Found, Fault> {
        match place {
            Place::Grid if is_here(path) => Ok(Found::Grid),
            Place::Grid => {
                let path = std::str::from_utf8(path).map_err(|_| Errno::Inval)?;
                let reached = self.grid.call(path).await.map_err(Stop::Nested)?;
                Ok(Found::Stored(reached))
            }
            _ => self.find_stored(place, path, follow),
        }
    }

    /// What is at `path` below `/in` or a stored directory.
    pub(crate) fn find_stored(&self, place: &Place, path: &[u8], follow: bool) -> Result<Found, Fault> {
        match place {
            Place::Stored(cid) => Ok(Found::Stored(self.walk(*cid, path, follow)?)),
            Place::In => self.find_input(path, follow),
            Place::Out(_) | Place::Grid => Err(Errno::NotSup.into()),
        }
    }

    fn find_input(&self, path: &[u8], follow: bool) -> Result<Found, Fault> {
        if is_here(path) {
            return Ok(Found::In);
        }
        let path = path.strip_prefix(b"./").unwrap_or(path);
        let (first, rest) = match path.iter().position(|&b| b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (path, &b""[..]),
        };
        let number = std::str::from_utf8(first).ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        match number.checked_sub(1).and_then(|index| self.inputs.get(index)) {
            Some(Argument::Tree(cid)) => Ok(Found::Stored(self.walk(*cid, rest, follow)?)),
            Some(Argument::Blob(object)) if is_here(rest) => Ok(Found::Stored(input_file(object))),
            Some(Argument::Blob(_)) => Err(Errno::NotDir.into()),
            Some(Argument::Text(_)) | None => Err(Errno::NoEnt.into()),
        }
    }

    fn walk(&self, root: Cid, path: &[u8], follow: bool) -> Result<Target, Fault> {
        walk(&self.store, root, path, follow).map_err(|e| match e {
            WalkError::NotFound(_) => Errno::NoEnt.into(),
            WalkError::NotADirectory(_) => Errno::NotDir.into(),
            WalkError::Escape => Errno::NotCapable.into(),
            WalkError::Loop => Errno::Loop.into(),
            WalkError::Store(e) => Fault::from(e),
        })
    }

    /// Opens what [`Guest::find`] found.
    pub(crate) fn open(&mut self, found: Found) -> Result<u32, Fault> {
        let descriptor = match found {
            Found::In => Descriptor::Directory(Place::In),
            Found::Grid => Descriptor::Directory(Place::Grid),
            Found::Stored(Target::Directory { cid }) => Descriptor::Directory(Place::Stored(cid)),
            Found::Stored(Target::Symlink { .. }) => return Err(Errno::Loop.into()),
            Found::Stored(Target::File { cid, .. }) => {
                let object = self.store.object(&cid)?.ok_or(gridfs_store::Error::NotFound { cid })?;
                Descriptor::Reading { object: Some(object), position: 0 }
            }
        };
        Ok(self.insert(descriptor)?)
    }

    /// Names, kinds and sizes in a directory.
    pub(crate) fn list(&self, place: &Place) -> Result<Vec<(Vec<u8>, FileType)>, Fault> {
        Ok(match place {
            Place::Grid => Vec::new(),
            Place::In => self.inputs.iter().enumerate().filter_map(input_entry).collect(),
            Place::Out(path) => match self.out.get(path)? {
                Node::Directory(entries) => {
                    entries.iter().map(|(n, node)| (n.clone(), FileType::of_node(node))).collect()
                }
                _ => return Err(Errno::NotDir.into()),
            },
            Place::Stored(cid) => {
                let tree = self.store.tree(cid)?;
                tree.entries().iter().map(|e| (e.name.clone(), FileType::of_target(&e.target))).collect()
            }
        })
    }
}

fn is_here(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').all(|c| c.is_empty() || c == b".")
}

fn input_file(object: &Object) -> Target {
    Target::File { cid: object.cid(), size_bytes: object.size_bytes(), executable: false }
}

fn input_entry((index, input): (usize, &Argument)) -> Option<(Vec<u8>, FileType)> {
    let name = (index + 1).to_string().into_bytes();
    match input {
        Argument::Text(_) => None,
        Argument::Blob(_) => Some((name, FileType::Regular)),
        Argument::Tree(_) => Some((name, FileType::Directory)),
    }
}

/// File types as WASI numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum FileType {
    Directory = 3,
    Regular = 4,
    Symlink = 7,
}

impl FileType {
    pub(crate) fn of_target(target: &Target) -> FileType {
        match target {
            Target::File { .. } => FileType::Regular,
            Target::Directory { .. } => FileType::Directory,
            Target::Symlink { .. } => FileType::Symlink,
        }
    }

    pub(crate) fn of_node(node: &Node) -> FileType {
        match node {
            Node::File { .. } | Node::Writing(_) => FileType::Regular,
            Node::Directory(_) => FileType::Directory,
            Node::Symlink(_) => FileType::Symlink,
        }
    }
}

/// Why a host function does not answer: an errno for the guest, or the end of the call.
#[derive(Debug)]
pub(crate) enum Fault {
    Errno(Errno),
    Stop(Stop),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::Errno(errno)
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Fault {
        Fault::Stop(stop)
    }
}

impl From<gridfs_store::Error> for Fault {
    fn from(error: gridfs_store::Error) -> Fault {
        Fault::Stop(Stop::Store(error))
    }
}

impl wasmtime::ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow((desired - current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(8 * (desired - current) as u64))
    }
}

impl Guest {
    fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.memory_used_bytes.saturating_add(bytes);
        let granted = wanted <= self.memory_limit_bytes;
        if granted {
            self.memory_used_bytes = wanted;
        }
        self.memory_denied |= !granted;
        granted
    }
}
