//! What is done with a path below a directory: open, stat, and changing what is below `/out` or in memory.

use wasmtime::Caller;

use super::descriptors::{FDFLAGS, Stat, set_times};
use super::{Errno, split};
use crate::file_type::FileType;
use crate::guest::{Directory, Fault, Found, Guest, Place, ScratchFile};
use crate::inode;
use crate::memory::Memory;
use crate::out::{self, Node, OutPath, OutTree};
use crate::scratch::{Body, Number, Reached};
use gridfs_store::Target;

type Done = Result<(), Fault>;

const FOLLOW: u32 = 1;

/// How a path is to be opened.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    follow: bool,
    create: bool,
    directory: bool,
    exclusive: bool,
    truncate: bool,
    read: bool,
    write: bool,
    flags: u16,
}

impl Opening {
    pub(super) fn decode(lookup: u32, oflags: u32, rights: u64, fdflags: u32) -> Opening {
        Opening {
            follow: lookup & FOLLOW != 0,
            create: oflags & 1 != 0,
            directory: oflags & 2 != 0,
            exclusive: oflags & 4 != 0,
            truncate: oflags & 8 != 0,
            read: rights & (1 << 1) != 0,
            write: rights & (1 << 6) != 0,
            flags: (fdflags & FDFLAGS) as u16,
        }
    }

    /// Whether a place that is only read refuses it.
    fn changes(self) -> bool {
        self.create || self.truncate || self.write && !self.directory
    }
}

fn engine(error: wasmtime::Error) -> Fault {
    tracing::error!(%error, "a guest's memory is gone");
    Errno::Fault.into()
}

pub(super) async fn path_open(
    caller: &mut Caller<'_, Guest>,
    fd: u32,
    path: (u32, u32),
    how: Opening,
    out: u32,
) -> Done {
    let (place, path) = place_and_path(caller, fd, path, how.follow)?;
    let opened = match &place {
        Place::Scratch(base) => open_scratch(caller.data_mut(), *base, &path, how)?,
        Place::Out(base) => open_out(caller.data_mut(), &OutTree::join(base, &path)?, how)?,
        _ if how.changes() => return Err(Errno::RoFs.into()),
        _ => {
            let found = caller.data().find(&place, &path, how.follow).await?;
            let is_directory = !matches!(found, Found::Stored(Target::File { .. } | Target::Symlink { .. }));
            if how.directory && !is_directory {
                return Err(Errno::NotDir.into());
            }
            caller.data_mut().open(found)?
        }
    };
    let (mut memory, guest) = split(caller).map_err(engine)?;
    if let Err(errno) = memory.write_u32(out, opened) {
        guest.close(opened)?;
        return Err(errno.into());
    }
    Ok(())
}

fn open_out(guest: &mut Guest, path: &OutPath, how: Opening) -> Result<u32, Fault> {
    match guest.out.get(path) {
        Ok(_) if how.create && how.exclusive => Err(Errno::Exist.into()),
        Ok(Node::Directory(_)) if how.truncate || how.write && !how.directory => Err(Errno::IsDir.into()),
        Ok(Node::Directory(_)) => Ok(guest.insert(Directory::open(Place::Out(path.clone()), None))?),
        Ok(Node::Symlink(_)) => Err(Errno::Loop.into()),
        Ok(Node::File(_)) if how.directory => Err(Errno::NotDir.into()),
        Ok(Node::File(_)) if how.write && how.truncate => guest.truncate(path),
        // What is written below /out can't be read back or changed in place, only written anew.
        Ok(Node::File(_)) => Err(Errno::NotSup.into()),
        Err(Errno::NoEnt) if how.create && how.directory => Err(Errno::Inval.into()),
        Err(Errno::NoEnt) if how.create => guest.create(path),
        Err(errno) => Err(errno.into()),
    }
}

fn open_scratch(guest: &mut Guest, base: Number, path: &[u8], how: Opening) -> Result<u32, Fault> {
    guest.free_descriptor()?;
    let anew = how.create && how.exclusive;
    let now_ns = guest.stamp_ns();
    let number = match guest.scratch.walk(base, path, how.follow && !anew)? {
        Reached::Node(_) if anew => return Err(Errno::Exist.into()),
        Reached::Node(number) => {
            check_open(&guest.scratch.node(number).body, how)?;
            if how.truncate {
                guest.scratch.set_size(&mut guest.budget, number, 0, now_ns)?;
            }
            number
        }
        Reached::Nothing { .. } if !how.create => return Err(Errno::NoEnt.into()),
        Reached::Nothing { .. } if how.directory => return Err(Errno::Inval.into()),
        Reached::Nothing { slash: true, .. } => return Err(Errno::IsDir.into()),
        Reached::Nothing { above, name, .. } => guest.scratch.create_file(&mut guest.budget, above, name, now_ns)?,
        Reached::Mount(..) => return Err(Errno::Exist.into()), // without `anew` it was found before
    };
    let (reads, writes) = (how.read, how.write);
    Ok(guest.open_scratch(number, ScratchFile { number, position: 0, reads, writes, flags: how.flags })?)
}

/// Whether what is in memory can be opened in this way.
fn check_open(body: &Body, how: Opening) -> Result<(), Errno> {
    match body {
        Body::Directory(_) | Body::Mount(_) if how.truncate || how.write => Err(Errno::IsDir),
        Body::Symlink(_) => Err(Errno::Loop),
        Body::File(_) if how.directory => Err(Errno::NotDir),
        Body::Directory(_) | Body::Mount(_) | Body::File(_) => Ok(()),
    }
}

pub(super) async fn path_filestat_get(
    caller: &mut Caller<'_, Guest>,
    fd: u32,
    lookup: u32,
    path: (u32, u32),
    out: u32,
) -> Done {
    let follow = lookup & FOLLOW != 0;
    let (place, path) = place_and_path(caller, fd, path, follow)?;
    let stat = match &place {
        Place::Scratch(base) => {
            let guest = caller.data();
            let number = existing(guest, *base, &path, follow)?;
            Stat::of_scratch(number, guest.scratch.node(number))
        }
        Place::Out(base) => {
            let path = OutTree::join(base, &path)?;
            let node = caller.data().out.get(&path)?;
            let size = match node {
                Node::File(file) => file.get().map_or(0, |finished| finished.size_bytes),
                Node::Symlink(target) => target.len() as u64,
                Node::Directory(_) => 0,
            };
            Stat::new(FileType::of_node(node), inode::of_out(&path), size)
        }
        Place::In | Place::Grid | Place::Stored(_) => {
            let found = caller.data().find(&place, &path, follow).await?;
            let (file_type, size) = match &found {
                Found::In | Found::Grid => (FileType::Directory, 0),
                Found::Stored(target) => (FileType::of_target(target), size_of(target)),
            };
            Stat::new(file_type, inode::of_found(&found), size)
        }
    };
    let (mut memory, _) = split(caller).map_err(engine)?;
    Ok(stat.write(&mut memory, out)?)
}

/// What is in memory at a path.
fn existing(guest: &Guest, base: Number, path: &[u8], follow: bool) -> Result<Number, Errno> {
    match guest.scratch.walk(base, path, follow)? {
        Reached::Node(number) => Ok(number),
        Reached::Nothing { .. } | Reached::Mount(..) => Err(Errno::NoEnt),
    }
}

fn size_of(target: &Target) -> u64 {
    match target {
        Target::File { size_bytes, .. } => *size_bytes,
        Target::Symlink { target } => target.len() as u64,
        Target::Directory { .. } => 0,
    }
}

fn place_and_path(
    caller: &mut Caller<'_, Guest>,
    fd: u32,
    path: (u32, u32),
    follow: bool,
) -> Result<(Place, Vec<u8>), Fault> {
    let (memory, guest) = split(caller).map_err(engine)?;
    Ok(locate(&memory, guest, fd, path, follow)?)
}

/// The directory of `fd` and the path below it; through the root, those of what is mounted there.
fn locate(
    memory: &Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    (start, len): (u32, u32),
    follow: bool,
) -> Result<(Place, Vec<u8>), Errno> {
    let path = memory.path(start, len)?;
    if path.first() == Some(&b'/') {
        return Err(Errno::NotCapable);
    }
    let place = guest.place(fd)?;
    if let Place::Scratch(base) = place
        && let Some((mount, rest)) = guest.scratch.mounted(base, &path, follow)
    {
        return Ok((mount.into(), rest));
    }
    Ok((place, path))
}

/// Where something can be changed.
enum Spot {
    Out(OutPath),
    Scratch(Number, Vec<u8>),
}

fn spot(memory: &Memory<'_>, guest: &mut Guest, fd: u32, path: (u32, u32), follow: bool) -> Result<Spot, Errno> {
    match locate(memory, guest, fd, path, follow)? {
        (Place::Out(base), path) => Ok(Spot::Out(OutTree::join(&base, &path)?)),
        (Place::Scratch(base), path) => Ok(Spot::Scratch(base, path)),
        (Place::In | Place::Grid | Place::Stored(_), _) => Err(Errno::RoFs),
    }
}

pub(super) fn path_create_directory(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, path: u32, len: u32) -> Done {
    match spot(memory, guest, fd, (path, len), false)? {
        Spot::Out(path) => guest.add(&path, Node::Directory(out::Directory::default())),
        Spot::Scratch(base, path) => {
            let now_ns = guest.stamp_ns();
            Ok(guest.scratch.create_directory(&mut guest.budget, base, &path, now_ns)?)
        }
    }
}

pub(super) fn path_symlink(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    target: u32,
    target_len: u32,
    fd: u32,
    path: u32,
    len: u32,
) -> Done {
    let target = memory.path(target, target_len)?;
    if target.is_empty() {
        return Err(Errno::NoEnt.into());
    }
    match spot(memory, guest, fd, (path, len), false)? {
        Spot::Out(path) => guest.add(&path, Node::Symlink(target)),
        Spot::Scratch(base, path) => {
            let now_ns = guest.stamp_ns();
            Ok(guest.scratch.create_symlink(&mut guest.budget, target, base, &path, now_ns)?)
        }
    }
}

pub(super) fn path_link(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    old_fd: u32,
    lookup: u32,
    old: u32,
    old_len: u32,
    new_fd: u32,
    new: u32,
    new_len: u32,
) -> Done {
    let from = spot(memory, guest, old_fd, (old, old_len), false)?;
    let to = spot(memory, guest, new_fd, (new, new_len), false)?;
    match (from, to) {
        (Spot::Out(from), Spot::Out(to)) => guest.link(&from, &to),
        (Spot::Scratch(..), Spot::Scratch(..)) if lookup & FOLLOW != 0 => Err(Errno::Inval.into()),
        (Spot::Scratch(from, old), Spot::Scratch(to, new)) => {
            let now_ns = guest.stamp_ns();
            Ok(guest.scratch.link(&mut guest.budget, (from, &old), (to, &new), now_ns)?)
        }
        _ => Err(Errno::XDev.into()),
    }
}

pub(super) fn path_rename(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    old_fd: u32,
    old: u32,
    old_len: u32,
    new_fd: u32,
    new: u32,
    new_len: u32,
) -> Done {
    let from = spot(memory, guest, old_fd, (old, old_len), false)?;
    let to = spot(memory, guest, new_fd, (new, new_len), false)?;
    match (from, to) {
        (Spot::Out(from), Spot::Out(to)) => Ok(guest.building()?.rename(&from, &to)?),
        (Spot::Scratch(from, old), Spot::Scratch(to, new)) => {
            let now_ns = guest.stamp_ns();
            Ok(guest.scratch.rename(&mut guest.budget, (from, &old), (to, &new), now_ns)?)
        }
        _ => Err(Errno::XDev.into()),
    }
}

pub(super) fn path_unlink_file(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, path: u32, len: u32) -> Done {
    match spot(memory, guest, fd, (path, len), false)? {
        Spot::Out(path) => Ok(guest.building()?.remove_file(&path)?),
        Spot::Scratch(base, path) => {
            let now_ns = guest.stamp_ns();
            Ok(guest.scratch.remove_file(&mut guest.budget, base, &path, now_ns)?)
        }
    }
}

pub(super) fn path_remove_directory(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, path: u32, len: u32) -> Done {
    match spot(memory, guest, fd, (path, len), false)? {
        Spot::Out(path) => Ok(guest.building()?.remove_directory(&path)?),
        Spot::Scratch(base, path) => {
            let now_ns = guest.stamp_ns();
            Ok(guest.scratch.remove_directory(&mut guest.budget, base, &path, now_ns)?)
        }
    }
}

/// Results have no times of their own; setting them is accepted and means nothing.
pub(super) fn path_filestat_set_times(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    lookup: u32,
    path: u32,
    len: u32,
    accessed_ns: u64,
    modified_ns: u64,
    which: u32,
) -> Done {
    let follow = lookup & FOLLOW != 0;
    let number = match spot(memory, guest, fd, (path, len), follow)? {
        Spot::Out(path) => {
            guest.out.get(&path)?;
            None
        }
        Spot::Scratch(base, path) => Some(existing(guest, base, &path, follow)?),
    };
    set_times(guest, number, accessed_ns, modified_ns, which)
}

/// Symbolic links of a stored tree, and those made below `/out` or in memory.
pub(super) fn path_readlink(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    path: u32,
    len: u32,
    start: u32,
    size: u32,
    out: u32,
) -> Done {
    let (place, path) = locate(memory, guest, fd, (path, len), false)?;
    let target = match place {
        Place::Scratch(base) => {
            let number = existing(guest, base, &path, false)?;
            match &guest.scratch.node(number).body {
                Body::Symlink(target) => target.clone(),
                _ => return Err(Errno::Inval.into()),
            }
        }
        Place::Out(base) => match guest.out.get(&OutTree::join(&base, &path)?)? {
            Node::Symlink(target) => target.clone(),
            _ => return Err(Errno::Inval.into()),
        },
        Place::Grid => return Err(Errno::Inval.into()),
        place @ (Place::In | Place::Stored(_)) => match guest.find_stored(&place, &path, false)? {
            Found::Stored(Target::Symlink { target }) => target,
            _ => return Err(Errno::Inval.into()),
        },
    };
    let shown = &target[..target.len().min(size as usize)];
    memory.write(start, shown)?;
    Ok(memory.write_u32(out, shown.len() as u32)?)
}
