//! What is done with a path below a directory: open, stat, and building the result below `/out`.

use wasmtime::Caller;

use super::descriptors::write_filestat;
use super::{Errno, split};
use crate::guest::{Directory, Fault, FileType, Found, Guest, Place};
use crate::memory::Memory;
use crate::out::{self, Node, OutPath, OutTree};
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
    write: bool,
}

impl Opening {
    pub(super) fn decode(lookup: u32, oflags: u32, rights: u64, _fdflags: u32) -> Opening {
        Opening {
            follow: lookup & FOLLOW != 0,
            create: oflags & 1 != 0,
            directory: oflags & 2 != 0,
            exclusive: oflags & 4 != 0,
            truncate: oflags & 8 != 0,
            write: rights & (1 << 6) != 0,
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
    let (place, path) = place_and_path(caller, fd, path)?;
    let opened = match &place {
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

pub(super) async fn path_filestat_get(
    caller: &mut Caller<'_, Guest>,
    fd: u32,
    lookup: u32,
    path: (u32, u32),
    out: u32,
) -> Done {
    let (place, path) = place_and_path(caller, fd, path)?;
    let (file_type, size) = match &place {
        Place::Out(base) => {
            let guest = caller.data();
            let node = guest.out.get(&OutTree::join(base, &path)?)?;
            let size = match node {
                Node::File(file) => file.get().map_or(0, |finished| finished.size_bytes),
                Node::Symlink(target) => target.len() as u64,
                Node::Directory(_) => 0,
            };
            (FileType::of_node(node), size)
        }
        _ => match caller.data().find(&place, &path, lookup & FOLLOW != 0).await? {
            Found::In | Found::Grid => (FileType::Directory, 0),
            Found::Stored(target) => (FileType::of_target(&target), size_of(&target)),
        },
    };
    let (mut memory, _) = split(caller).map_err(engine)?;
    Ok(write_filestat(&mut memory, out, file_type, size)?)
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
    (start, len): (u32, u32),
) -> Result<(Place, Vec<u8>), Fault> {
    let (memory, guest) = split(caller).map_err(engine)?;
    let path = memory.path(start, len)?;
    if path.first() == Some(&b'/') {
        return Err(Errno::NotCapable.into());
    }
    Ok((guest.place(fd)?, path))
}

/// The path below `/out` that `fd` and a guest's path name.
fn out_path(memory: &Memory<'_>, guest: &mut Guest, fd: u32, start: u32, len: u32) -> Result<OutPath, Fault> {
    let path = memory.path(start, len)?;
    if path.first() == Some(&b'/') {
        return Err(Errno::NotCapable.into());
    }
    match guest.place(fd)? {
        Place::Out(base) => Ok(OutTree::join(&base, &path)?),
        Place::In | Place::Grid | Place::Stored(_) => Err(Errno::RoFs.into()),
    }
}

pub(super) fn path_create_directory(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, path: u32, len: u32) -> Done {
    let path = out_path(memory, guest, fd, path, len)?;
    guest.add(&path, Node::Directory(out::Directory::default()))
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
    let path = out_path(memory, guest, fd, path, len)?;
    guest.add(&path, Node::Symlink(target))
}

pub(super) fn path_link(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    old_fd: u32,
    _flags: u32,
    old: u32,
    old_len: u32,
    new_fd: u32,
    new: u32,
    new_len: u32,
) -> Done {
    let from = out_path(memory, guest, old_fd, old, old_len)?;
    let to = out_path(memory, guest, new_fd, new, new_len)?;
    guest.link(&from, &to)
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
    let from = out_path(memory, guest, old_fd, old, old_len)?;
    let to = out_path(memory, guest, new_fd, new, new_len)?;
    Ok(guest.building()?.rename(&from, &to)?)
}

pub(super) fn path_unlink_file(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, path: u32, len: u32) -> Done {
    let path = out_path(memory, guest, fd, path, len)?;
    Ok(guest.building()?.remove_file(&path)?)
}

pub(super) fn path_remove_directory(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, path: u32, len: u32) -> Done {
    let path = out_path(memory, guest, fd, path, len)?;
    Ok(guest.building()?.remove_directory(&path)?)
}

/// Results have no times of their own; setting them is accepted and means nothing.
pub(super) fn path_filestat_set_times(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    _flags: u32,
    path: u32,
    len: u32,
    _atim: u64,
    _mtim: u64,
    _which: u32,
) -> Done {
    let path = out_path(memory, guest, fd, path, len)?;
    guest.out.get(&path)?;
    Ok(())
}

/// Symbolic links of a stored tree, and those made below `/out`.
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
    let path = memory.path(path, len)?;
    let target = match guest.place(fd)? {
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
