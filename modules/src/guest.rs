//! The world as one running guest sees it: arguments, descriptors, `/in`, `/out`, `/grid`, clock and randomness.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use gridfs_store::Target;
use gridfs_store::{Batch, BlobWriter, Cid, Hash, Object, Store};

use crate::listing::Listing;
use crate::out::{self, Finished, Node, OutPath, OutTree};
use crate::run::{MAX_STDERR_BYTES, Stop};
use crate::walk::{WalkError, walk};
use crate::wasi::Errno;

/// Most descriptors one guest holds at a time.
const MAX_DESCRIPTORS: usize = 1024;
/// What an element of a table counts as memory.
const TABLE_ELEMENT_BYTES: u64 = 8;

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

    /// Whether a capability token, as text or in bytes, allows who presents it here and now the call at `path`. Nothing is run.
    fn verify_capability(&self, token: &[u8], path: &str) -> Result<(), Denial>;

    /// Whether the call at `path` is answered from memory, without running anything. Nothing is run.
    fn is_known(&self, path: &str) -> Result<bool, Denial>;
}

/// Why the grid answers a question with no.
#[derive(Debug, thiserror::Error)]
pub enum Denial {
    /// No authority for the call, or its promise is not accepted.
    #[error("no authority")]
    NoAuthority,
    /// The path or the token is malformed.
    #[error("malformed")]
    Malformed,
    /// The path names what is not known here.
    #[error("unknown")]
    Unknown,
    /// The path can't be told without running a call in it.
    #[error("pending")]
    Pending,
    /// The token is not yet valid, or no longer.
    #[error("out of time")]
    OutOfTime,
    /// The token is not signed by whom it says.
    #[error("forged")]
    Forged,
    /// The grid could not answer; the call fails with it.
    #[error(transparent)]
    Failed(NestedError),
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
        file: out::File,
        executable: bool,
    },
    Directory(Directory),
}

/// An open directory.
pub(crate) struct Directory {
    pub(crate) place: Place,
    /// The guest path, if it was open from the start.
    preopen: Option<&'static str>,
    pub(crate) listing: Listing,
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
    returns_tree: bool,
    pub(crate) stdout: Option<Box<BlobWriter>>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) output_left_bytes: u64,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) memory_denied: bool,
    last_growth_bytes: u64,
    pub(crate) memory: Option<wasmtime::Memory>,
    clock_ns: u64,
    random: blake3::OutputReader,
    descriptors: Vec<Option<Descriptor>>,
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
            Some(Directory::open(Place::In, Some("/in"))),
            Some(Directory::open(Place::Out(OutPath::new()), Some("/out"))),
            Some(Directory::open(Place::Grid, Some("/grid"))),
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
            returns_tree,
            stdout: (!returns_tree).then(|| Box::new(BlobWriter::new())),
            stderr: Vec::new(),
            output_left_bytes: 0,
            memory_limit_bytes: 0,
            memory_used_bytes: 0,
            memory_denied: false,
            last_growth_bytes: 0,
            memory: None,
            clock_ns: 0,
            random: hasher.finalize_xof(),
            descriptors,
        }
    }

    /// The next reading of the clock: one microsecond after the last, until it stands at its end.
    pub(crate) fn tick_ns(&mut self) -> u64 {
        let now = self.clock_ns;
        self.clock_ns = now.saturating_add(1_000);
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
            Descriptor::Directory(directory) => Ok(directory.place.clone()),
            _ => Err(Errno::NotDir),
        }
    }

    /// The guest path of a directory that was open from the start, wherever its descriptor is now.
    pub(crate) fn preopen(&mut self, fd: u32) -> Result<&'static str, Errno> {
        match self.descriptor(fd)? {
            Descriptor::Directory(directory) => directory.preopen.ok_or(Errno::BadF),
            _ => Err(Errno::BadF),
        }
    }

    pub(crate) fn insert(&mut self, descriptor: Descriptor) -> Result<u32, Errno> {
        let free = self.free_descriptor()?;
        if free == self.descriptors.len() {
            self.descriptors.push(None);
        }
        self.descriptors[free] = Some(descriptor);
        Ok(free as u32)
    }

    fn free_descriptor(&self) -> Result<usize, Errno> {
        let free = self.descriptors.iter().position(Option::is_none).unwrap_or(self.descriptors.len());
        if free < MAX_DESCRIPTORS { Ok(free) } else { Err(Errno::MFile) }
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
        let Descriptor::Writing { writer, file, executable } = descriptor else { return Ok(()) };
        let (cid, size_bytes) = writer.finish(&mut self.batch)?;
        file.set(Finished { cid, size_bytes, executable }).expect("a file has one descriptor, which is closed once");
        Ok(())
    }

    /// The tree in the making; a module that returns a blob makes none.
    pub(crate) fn building(&mut self) -> Result<&mut OutTree, Errno> {
        if self.returns_tree { Ok(&mut self.out) } else { Err(Errno::RoFs) }
    }

    /// Creates the file at `path` below `/out`, where nothing may be yet.
    pub(crate) fn create(&mut self, path: &OutPath) -> Result<u32, Fault> {
        self.free_descriptor()?;
        let file = out::File::default();
        self.add(path, Node::File(file.clone()))?;
        self.open_for_writing(file)
    }

    /// Begins the file at `path` below `/out` anew.
    pub(crate) fn truncate(&mut self, path: &OutPath) -> Result<u32, Fault> {
        self.free_descriptor()?;
        let file = self.building()?.truncate(path)?;
        self.open_for_writing(file)
    }

    fn open_for_writing(&mut self, file: out::File) -> Result<u32, Fault> {
        Ok(self.insert(Descriptor::Writing { writer: Box::new(BlobWriter::new()), file, executable: false })?)
    }

    /// Adds a file, directory or symbolic link below `/out`.
    pub(crate) fn add(&mut self, path: &OutPath, node: Node) -> Result<(), Fault> {
        let cost_bytes = self.building()?.add(path, node)?;
        self.charge(cost_bytes)
    }

    pub(crate) fn link(&mut self, from: &OutPath, to: &OutPath) -> Result<(), Fault> {
        let cost_bytes = self.building()?.link(from, to)?;
        self.charge(cost_bytes)
    }

    /// Writes to the standard streams or a file below `/out`.
    pub(crate) fn write(&mut self, fd: u32, bytes: &[u8]) -> Result<(), Fault> {
        let to_log = match self.descriptor(fd)? {
            Descriptor::Reading { .. } | Descriptor::Directory(_) => return Err(Errno::BadF.into()),
            Descriptor::Stderr => true,
            Descriptor::Stdout => self.returns_tree,
            Descriptor::Writing { .. } => false,
        };
        if to_log {
            self.log(bytes);
            return Ok(());
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

    /// Keeps what still fits of standard error.
    fn log(&mut self, bytes: &[u8]) {
        let room = MAX_STDERR_BYTES - self.stderr.len();
        self.stderr.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Fault> {
        self.output_left_bytes = self.output_left_bytes.checked_sub(bytes).ok_or(Stop::Output)?;
        Ok(())
    }

    /// What is at `path` below a directory that can be read; below `/grid` that is a nested call.
    pub(crate) async fn find(&self, place: &Place, path: &[u8], follow: bool) -> Result<Found, Fault> {
        match place {
            Place::Grid if is_here(path) => Ok(Found::Grid),
            Place::Grid if climbs(path) => Err(Errno::NotCapable.into()),
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
        let (first, rest) = split_first(path);
        match input_number(first).and_then(|number| self.inputs.get(number - 1)) {
            Some(Argument::Tree(cid)) => Ok(Found::Stored(self.walk(*cid, rest, follow)?)),
            Some(Argument::Blob(object)) if rest.is_empty() => Ok(Found::Stored(input_file(object))),
            Some(Argument::Blob(_)) => Err(Errno::NotDir.into()),
            None if first == b".." => Err(Errno::NotCapable.into()),
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
            Found::In => Directory::open(Place::In, None),
            Found::Grid => Directory::open(Place::Grid, None),
            Found::Stored(Target::Directory { cid }) => Directory::open(Place::Stored(cid), None),
            Found::Stored(Target::Symlink { .. }) => return Err(Errno::Loop.into()),
            Found::Stored(Target::File { cid, .. }) => {
                let object = self.store.object(&cid)?.ok_or(gridfs_store::Error::NotFound { cid })?;
                Descriptor::Reading { object: Some(object), position: 0 }
            }
        };
        Ok(self.insert(descriptor)?)
    }
}

impl Directory {
    pub(crate) fn open(place: Place, preopen: Option<&'static str>) -> Descriptor {
        Descriptor::Directory(Directory { place, preopen, listing: Listing::default() })
    }
}

fn is_here(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').all(|c| c.is_empty() || c == b".")
}

/// Whether a path below `/grid`, taken lexically, leads out of it.
fn climbs(path: &[u8]) -> bool {
    let mut depth = 0u32;
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// The first component of a path that has one, and what follows it with its slash.
fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    let start = path.split(|&b| b == b'/').take_while(|c| c.is_empty() || *c == b".").map(|c| c.len() + 1).sum();
    let path = path.get(start..).unwrap_or_default();
    let end = path.iter().position(|&b| b == b'/').unwrap_or(path.len());
    path.split_at(end)
}

/// The number of an input: decimal digits without a sign or leading zeros.
fn input_number(name: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(name).ok()?;
    text.parse().ok().filter(|&number: &usize| number > 0 && number.to_string() == text)
}

fn input_file(object: &Object) -> Target {
    Target::File { cid: object.cid(), size_bytes: object.size_bytes(), executable: false }
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
            Node::File(_) => FileType::Regular,
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
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow((desired - current) as u64, maximum.is_none_or(|maximum| desired <= maximum)))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back_growth();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = TABLE_ELEMENT_BYTES * (desired - current) as u64;
        Ok(self.grow(bytes, maximum.is_none_or(|maximum| desired <= maximum)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back_growth();
        Ok(())
    }
}

impl Guest {
    /// Counts a growth if it is allowed. One beyond the module's own maximum fails without being a denial of ours.
    fn grow(&mut self, bytes: u64, within_maximum: bool) -> bool {
        self.last_growth_bytes = 0;
        let wanted = self.memory_used_bytes.saturating_add(bytes);
        let granted = within_maximum && wanted <= self.memory_limit_bytes;
        if granted {
            self.memory_used_bytes = wanted;
            self.last_growth_bytes = bytes;
        }
        self.memory_denied |= within_maximum && !granted;
        granted
    }

    /// Uncounts a growth that was allowed and yet failed; the engine tells of it before the next is asked for.
    fn take_back_growth(&mut self) {
        self.memory_used_bytes -= std::mem::take(&mut self.last_growth_bytes);
    }
}
