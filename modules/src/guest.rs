//! The world as one running guest sees it: arguments, descriptors, `/in`, `/out`, `/grid`, files in memory, clock and
//! randomness.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use gridfs_store::Target;
use gridfs_store::{Batch, BlobWriter, Cid, Hash, Object, Store};

use crate::budget::Budget;
use crate::inode;
use crate::listing::Listing;
use crate::out::{self, Finished, Node, OutPath, OutTree};
use crate::run::{MAX_STDERR_BYTES, Stop};
use crate::scratch::{self, Mount, Scratch};
use crate::walk::{WalkError, walk};
use crate::wasi::Errno;

/// Most descriptors one guest holds at a time.
const MAX_DESCRIPTORS: usize = 1024;

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
    /// A file below `/out`; its inode number is that of the path by which it was opened.
    Writing {
        writer: Box<BlobWriter>,
        file: out::File,
        executable: bool,
        inode: u64,
    },
    Scratch(ScratchFile),
    Directory(Directory),
}

/// An open file in memory.
pub(crate) struct ScratchFile {
    pub(crate) number: scratch::Number,
    pub(crate) position: u64,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    /// `fdflags` of preview1; of them only append has a meaning.
    pub(crate) flags: u16,
}

impl ScratchFile {
    pub(crate) const APPEND: u16 = 1;
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
    /// A directory in memory.
    Scratch(scratch::Number),
}

impl From<Mount> for Place {
    fn from(mount: Mount) -> Place {
        match mount {
            Mount::In => Place::In,
            Mount::Out => Place::Out(OutPath::new()),
            Mount::Grid => Place::Grid,
        }
    }
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
    pub(crate) budget: Budget,
    pub(crate) scratch: Scratch,
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
            Some(Directory::open(Place::Scratch(scratch::ROOT), Some("/"))),
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
            budget: Budget::default(),
            scratch: Scratch::new(),
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

    /// The time of a change in memory: later than all before.
    pub(crate) fn stamp_ns(&mut self) -> u64 {
        self.tick_ns();
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

    /// What is left to read behind the position of a descriptor.
    pub(crate) fn readable_bytes(&mut self, fd: u32) -> Result<u64, Errno> {
        let (size_bytes, position) = match self.descriptor(fd)? {
            Descriptor::Reading { object, position } => (object.as_ref().map_or(0, Object::size_bytes), *position),
            &mut Descriptor::Scratch(ScratchFile { number, position, .. }) => {
                (self.scratch.content(number).size_bytes(), position)
            }
            _ => (0, 0),
        };
        Ok(size_bytes.saturating_sub(position))
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

    pub(crate) fn free_descriptor(&self) -> Result<usize, Errno> {
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
        match descriptor {
            Descriptor::Writing { writer, file, executable, .. } => {
                let (cid, size_bytes) = writer.finish(&mut self.batch)?;
                let finished = Finished { cid, size_bytes, executable };
                file.set(finished).expect("a file has one descriptor, which is closed once");
            }
            Descriptor::Scratch(ScratchFile { number, .. })
            | Descriptor::Directory(Directory { place: Place::Scratch(number), .. }) => {
                self.scratch.release(&mut self.budget, number);
            }
            Descriptor::Stdout | Descriptor::Stderr | Descriptor::Reading { .. } | Descriptor::Directory(_) => {}
        }
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
        self.open_for_writing(path, file)
    }

    /// Begins the file at `path` below `/out` anew.
    pub(crate) fn truncate(&mut self, path: &OutPath) -> Result<u32, Fault> {
        self.free_descriptor()?;
        let file = self.building()?.truncate(path)?;
        self.open_for_writing(path, file)
    }

    fn open_for_writing(&mut self, path: &OutPath, file: out::File) -> Result<u32, Fault> {
        let (writer, inode) = (Box::new(BlobWriter::new()), inode::of_out(path));
        Ok(self.insert(Descriptor::Writing { writer, file, executable: false, inode })?)
    }

    /// Opens a directory or file in memory, which is held until it is closed.
    pub(crate) fn open_scratch(&mut self, number: scratch::Number, file: ScratchFile) -> Result<u32, Errno> {
        let is_directory = self.scratch.is_directory(number);
        let descriptor = match is_directory {
            true => Directory::open(Place::Scratch(number), None),
            false => Descriptor::Scratch(file),
        };
        let opened = self.insert(descriptor)?;
        self.scratch.hold(number);
        Ok(opened)
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

    /// Reads from standard input, an input, or a file in memory.
    pub(crate) fn read_at(&mut self, fd: u32, position: u64, buffer: &mut [u8]) -> Result<usize, Fault> {
        match self.descriptor(fd)? {
            Descriptor::Reading { object: Some(object), .. } => Ok(object.read_at(position, buffer)?),
            Descriptor::Reading { object: None, .. } => Ok(0),
            &mut Descriptor::Scratch(ScratchFile { number, reads: true, .. }) => {
                Ok(self.scratch.content(number).read_at(position, buffer))
            }
            Descriptor::Directory(_) => Err(Errno::IsDir.into()),
            _ => Err(Errno::BadF.into()),
        }
    }

    /// Writes to the standard streams, a file below `/out`, or one in memory.
    pub(crate) fn write(&mut self, fd: u32, bytes: &[u8]) -> Result<(), Fault> {
        let to_log = match self.descriptor(fd)? {
            Descriptor::Reading { .. } | Descriptor::Directory(_) => return Err(Errno::BadF.into()),
            Descriptor::Scratch(_) => return Ok(self.write_scratch(fd, bytes)?),
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

    fn write_scratch(&mut self, fd: u32, bytes: &[u8]) -> Result<(), Errno> {
        let now_ns = self.stamp_ns();
        let Some(Some(Descriptor::Scratch(file))) = self.descriptors.get_mut(fd as usize) else {
            return Err(Errno::BadF);
        };
        if !file.writes {
            return Err(Errno::BadF);
        }
        let appends = file.flags & ScratchFile::APPEND != 0;
        let position = if appends { self.scratch.content(file.number).size_bytes() } else { file.position };
        self.scratch.write_at(&mut self.budget, file.number, position, bytes, now_ns)?;
        file.position = position + bytes.len() as u64;
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
            Place::Out(_) | Place::Grid | Place::Scratch(_) => Err(Errno::NotSup.into()),
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
