//! What is done with an open descriptor: read, write, seek, stat, list, close.

use gridfs_store::Object;

use super::Errno;
use crate::file_type::FileType;
use crate::guest::{Descriptor, Fault, Guest, Place, ScratchFile};
use crate::inode;
use crate::listing::list;
use crate::memory::{Iovec, Memory};
use crate::scratch::{Node, Number};

type Done = Result<(), Fault>;

/// Rights of preview1 that matter to wasi-libc: with seek and tell a stream counts as a file, without as a terminal.
mod rights {
    pub(super) const FD_READ: u64 = 1 << 1;
    pub(super) const FD_SEEK: u64 = 1 << 2;
    pub(super) const FD_TELL: u64 = 1 << 5;
    pub(super) const FD_WRITE: u64 = 1 << 6;
    const FD_ALLOCATE: u64 = 1 << 8;
    const PATH_FILESTAT_SET_SIZE: u64 = 1 << 19;
    const FD_FILESTAT_SET_SIZE: u64 = 1 << 22;
    pub(super) const ALL: u64 = (1 << 29) - 1;
    /// What can be done with a directory itself.
    pub(super) const DIRECTORY: u64 =
        ALL & !(FD_READ | FD_SEEK | FD_TELL | FD_WRITE | FD_ALLOCATE | PATH_FILESTAT_SET_SIZE | FD_FILESTAT_SET_SIZE);
}

/// All flags of a descriptor.
pub(super) const FDFLAGS: u32 = 0x1f;

/// Flags of `fd_filestat_set_times` and `path_filestat_set_times`.
mod times {
    pub(super) const ACCESSED: u32 = 1;
    pub(super) const ACCESSED_NOW: u32 = 2;
    pub(super) const MODIFIED: u32 = 4;
    pub(super) const MODIFIED_NOW: u32 = 8;
}

pub(super) fn fd_read(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, iovs: u32, count: u32, out: u32) -> Done {
    let iovecs = memory.iovecs(iovs, count)?;
    let at = position(guest, fd)?.map_or(0, |position| *position);
    let read = read_at(memory, guest, fd, at, &iovecs)?;
    if let Some(position) = position(guest, fd)? {
        *position += u64::from(read);
    }
    Ok(memory.write_u32(out, read)?)
}

pub(super) fn fd_pread(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    iovs: u32,
    count: u32,
    offset: u64,
    out: u32,
) -> Done {
    let iovecs = memory.iovecs(iovs, count)?;
    let read = read_at(memory, guest, fd, offset, &iovecs)?;
    Ok(memory.write_u32(out, read)?)
}

/// Where a descriptor that can be moved stands.
fn position(guest: &mut Guest, fd: u32) -> Result<Option<&mut u64>, Errno> {
    Ok(match guest.descriptor(fd)? {
        Descriptor::Reading { position, .. } | Descriptor::Scratch(ScratchFile { position, .. }) => Some(position),
        _ => None,
    })
}

fn read_at(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, position: u64, iovecs: &[Iovec]) -> Result<u32, Fault> {
    let mut total = 0u32;
    guest.read_at(fd, position, &mut [])?; // without a buffer, the descriptor is checked all the same
    for iovec in iovecs {
        let buffer = memory.bytes_mut(iovec.start, iovec.len)?;
        let Some(at) = position.checked_add(u64::from(total)) else { break };
        let read = guest.read_at(fd, at, buffer)?;
        total += read as u32; // no more than MAX_TRANSFER_BYTES
        if read < iovec.len as usize {
            break;
        }
    }
    Ok(total)
}

pub(super) fn fd_write(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, iovs: u32, count: u32, out: u32) -> Done {
    let iovecs = memory.iovecs(iovs, count)?;
    let mut total = 0;
    guest.write(fd, &[])?; // without a buffer, the descriptor is checked all the same
    for iovec in iovecs {
        match guest.write(fd, memory.bytes(iovec.start, iovec.len)?) {
            Ok(()) => total += iovec.len, // no more than MAX_TRANSFER_BYTES
            // What was written before memory ran out is told first.
            Err(Fault::Errno(_)) if total > 0 => break,
            Err(fault) => return Err(fault),
        }
    }
    Ok(memory.write_u32(out, total)?)
}

/// Below `/out` files are written from start to end: only the current position will do.
pub(super) fn fd_pwrite(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    iovs: u32,
    count: u32,
    offset: u64,
    out: u32,
) -> Done {
    match guest.descriptor(fd)? {
        Descriptor::Writing { writer, .. } if writer.size_bytes() == offset => {
            fd_write(memory, guest, fd, iovs, count, out)
        }
        Descriptor::Scratch(file) => {
            let (before, flags) = (file.position, file.flags);
            (file.position, file.flags) = (offset, flags & !ScratchFile::APPEND);
            let written = fd_write(memory, guest, fd, iovs, count, out);
            if let Descriptor::Scratch(file) = guest.descriptor(fd)? {
                (file.position, file.flags) = (before, flags);
            }
            written
        }
        Descriptor::Directory(_) | Descriptor::Reading { .. } => Err(Errno::BadF.into()),
        _ => Err(Errno::SPipe.into()),
    }
}

pub(super) fn fd_seek(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, offset: i64, whence: u32, out: u32) -> Done {
    let (position, end) = match guest.descriptor(fd)? {
        Descriptor::Reading { object, position, .. } => (*position, object.as_ref().map_or(0, Object::size_bytes)),
        Descriptor::Writing { writer, .. } => (writer.size_bytes(), writer.size_bytes()),
        &mut Descriptor::Scratch(ScratchFile { number, position, .. }) => {
            (position, guest.scratch.content(number).size_bytes())
        }
        Descriptor::Directory(_) => return Err(Errno::BadF.into()),
        Descriptor::Stdout | Descriptor::Stderr => return Err(Errno::SPipe.into()),
    };
    let base = match whence {
        0 => 0,
        1 => position,
        2 => end,
        _ => return Err(Errno::Inval.into()),
    };
    let target = base.checked_add_signed(offset).ok_or(Errno::Inval)?;
    match self::position(guest, fd)? {
        Some(position) => *position = target,
        None if target == position => {}
        None => return Err(Errno::SPipe.into()),
    }
    Ok(memory.write_u64(out, target)?)
}

pub(super) fn fd_tell(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, out: u32) -> Done {
    fd_seek(memory, guest, fd, 0, 1, out)
}

pub(super) fn fd_close(_: &mut Memory<'_>, guest: &mut Guest, fd: u32) -> Done {
    guest.close(fd)
}

pub(super) fn fd_renumber(_: &mut Memory<'_>, guest: &mut Guest, from: u32, to: u32) -> Done {
    guest.renumber(from, to)
}

pub(super) fn fd_sync(_: &mut Memory<'_>, guest: &mut Guest, fd: u32) -> Done {
    guest.descriptor(fd)?;
    Ok(())
}

pub(super) fn fd_advise(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, _offset: u64, _len: u64, _advice: u32) -> Done {
    guest.descriptor(fd)?;
    Ok(())
}

pub(super) fn fd_allocate(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, _offset: u64, _len: u64) -> Done {
    match guest.descriptor(fd)? {
        Descriptor::Directory(_) => Err(Errno::BadF.into()),
        _ => Err(Errno::NotSup.into()),
    }
}

/// Marks a file that is open for writing as executable.
pub(super) fn set_executable(_: &mut Memory<'_>, guest: &mut Guest, fd: u32) -> Done {
    match guest.descriptor(fd)? {
        Descriptor::Writing { executable, .. } => *executable = true,
        _ => return Err(Errno::Inval.into()),
    }
    Ok(())
}

pub(super) fn fd_fdstat_get(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, out: u32) -> Done {
    let mut flags = 0;
    let (file_type, rights) = match guest.descriptor(fd)? {
        Descriptor::Reading { .. } => (FileType::Regular, rights::ALL & !rights::FD_WRITE),
        Descriptor::Writing { .. } => (FileType::Regular, rights::ALL & !rights::FD_READ),
        Descriptor::Scratch(file) => {
            flags = file.flags;
            let without_read = if file.reads { 0 } else { rights::FD_READ };
            let without_write = if file.writes { 0 } else { rights::FD_WRITE };
            (FileType::Regular, rights::ALL & !without_read & !without_write)
        }
        Descriptor::Stdout | Descriptor::Stderr => {
            (FileType::Regular, rights::ALL & !(rights::FD_READ | rights::FD_SEEK | rights::FD_TELL))
        }
        Descriptor::Directory(_) => (FileType::Directory, rights::DIRECTORY),
    };
    let mut stat = [0; 24];
    stat[0] = file_type as u8;
    stat[2..4].copy_from_slice(&flags.to_le_bytes());
    stat[8..16].copy_from_slice(&rights.to_le_bytes());
    stat[16..].copy_from_slice(&rights::ALL.to_le_bytes());
    Ok(memory.write(out, &stat)?)
}

/// On files in memory; elsewhere there is nothing to append to, and nothing waits.
pub(super) fn fd_fdstat_set_flags(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, flags: u32) -> Done {
    if let Descriptor::Scratch(file) = guest.descriptor(fd)? {
        file.flags = (flags & FDFLAGS) as u16;
    }
    Ok(())
}

pub(super) fn fd_fdstat_set_rights(
    _: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    _base: u64,
    _inheriting: u64,
) -> Done {
    guest.descriptor(fd)?;
    Err(Errno::NotSup.into())
}

/// A `filestat`, without device and change time: the one is 0, the other that of the last modification.
pub(super) struct Stat {
    pub(super) file_type: FileType,
    pub(super) inode: u64,
    pub(super) links: u64,
    pub(super) size_bytes: u64,
    pub(super) accessed_ns: u64,
    pub(super) modified_ns: u64,
}

impl Stat {
    /// What has no times and no second name.
    pub(super) fn new(file_type: FileType, inode: u64, size_bytes: u64) -> Stat {
        Stat { file_type, inode, links: 1, size_bytes, accessed_ns: 0, modified_ns: 0 }
    }

    pub(super) fn of_scratch(number: Number, node: &Node) -> Stat {
        Stat {
            file_type: FileType::of_scratch(&node.body),
            inode: inode::of_scratch(number),
            links: node.names,
            size_bytes: node.body.size_bytes(),
            accessed_ns: node.accessed_ns,
            modified_ns: node.modified_ns,
        }
    }

    pub(super) fn write(&self, memory: &mut Memory<'_>, out: u32) -> Result<(), Errno> {
        let mut stat = [0; 64];
        stat[8..16].copy_from_slice(&self.inode.to_le_bytes());
        stat[16] = self.file_type as u8;
        stat[24..32].copy_from_slice(&self.links.to_le_bytes());
        stat[32..40].copy_from_slice(&self.size_bytes.to_le_bytes());
        stat[40..48].copy_from_slice(&self.accessed_ns.to_le_bytes());
        stat[48..56].copy_from_slice(&self.modified_ns.to_le_bytes());
        stat[56..].copy_from_slice(&self.modified_ns.to_le_bytes());
        memory.write(out, &stat)
    }
}

pub(super) fn fd_filestat_get(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, out: u32) -> Done {
    let stat = match guest.descriptor(fd)? {
        Descriptor::Reading { object: Some(object), .. } => {
            Stat::new(FileType::Regular, inode::of_object(object), object.size_bytes())
        }
        Descriptor::Reading { object: None, .. } | Descriptor::Stdout | Descriptor::Stderr => {
            Stat::new(FileType::Regular, inode::NONE, 0)
        }
        Descriptor::Writing { writer, inode, .. } => Stat::new(FileType::Regular, *inode, writer.size_bytes()),
        &mut Descriptor::Scratch(ScratchFile { number, .. }) => Stat::of_scratch(number, guest.scratch.node(number)),
        Descriptor::Directory(directory) => match directory.place {
            Place::Scratch(number) => Stat::of_scratch(number, guest.scratch.node(number)),
            ref place => Stat::new(FileType::Directory, inode::of_place(place), 0),
        },
    };
    Ok(stat.write(memory, out)?)
}

pub(super) fn fd_filestat_set_size(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, size: u64) -> Done {
    match guest.descriptor(fd)? {
        Descriptor::Writing { writer, .. } if writer.size_bytes() == size => Ok(()),
        Descriptor::Writing { .. } => Err(Errno::NotSup.into()),
        &mut Descriptor::Scratch(ScratchFile { number, writes: true, .. }) => {
            let now_ns = guest.stamp_ns();
            Ok(guest.scratch.set_size(&mut guest.budget, number, size, now_ns)?)
        }
        _ => Err(Errno::BadF.into()),
    }
}

/// Only what is in memory has times; elsewhere setting them is accepted and means nothing.
pub(super) fn fd_filestat_set_times(
    _: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    accessed_ns: u64,
    modified_ns: u64,
    which: u32,
) -> Done {
    let number = match guest.descriptor(fd)? {
        Descriptor::Scratch(file) => Some(file.number),
        Descriptor::Directory(directory) => match directory.place {
            Place::Scratch(number) => Some(number),
            _ => None,
        },
        _ => None,
    };
    set_times(guest, number, accessed_ns, modified_ns, which)
}

pub(super) fn set_times(
    guest: &mut Guest,
    number: Option<Number>,
    accessed_ns: u64,
    modified_ns: u64,
    which: u32,
) -> Done {
    let both = |one: u32, other: u32| which & one != 0 && which & other != 0;
    if both(times::ACCESSED, times::ACCESSED_NOW) || both(times::MODIFIED, times::MODIFIED_NOW) {
        return Err(Errno::Inval.into());
    }
    let Some(number) = number else { return Ok(()) };
    let now_ns = guest.stamp_ns();
    let node = guest.scratch.node_mut(number);
    for (time, set, to_now, wanted_ns) in [
        (&mut node.accessed_ns, times::ACCESSED, times::ACCESSED_NOW, accessed_ns),
        (&mut node.modified_ns, times::MODIFIED, times::MODIFIED_NOW, modified_ns),
    ] {
        if which & set != 0 {
            *time = wanted_ns;
        } else if which & to_now != 0 {
            *time = now_ns;
        }
    }
    Ok(())
}

pub(super) fn fd_prestat_get(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, out: u32) -> Done {
    let path = guest.preopen(fd)?;
    memory.write_u32(out, 0)?;
    Ok(memory.write_u32(out.checked_add(4).ok_or(Errno::Fault)?, path.len() as u32)?)
}

pub(super) fn fd_prestat_dir_name(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, start: u32, len: u32) -> Done {
    let path = guest.preopen(fd)?;
    if path.len() > len as usize {
        return Err(Errno::NameTooLong.into());
    }
    Ok(memory.write(start, path.as_bytes())?)
}

/// Directory entries: a 24-byte head each (next cookie, inode, name length, type), then the name. The last one may be
/// cut off by the end of the buffer, which tells the guest that there is more.
pub(super) fn fd_readdir(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    start: u32,
    len: u32,
    cookie: u64,
    out: u32,
) -> Done {
    let buffer = memory.bytes_mut(start, len)?;
    let mut filled = 0;
    list(guest, fd, cookie, &mut |entry| {
        let mut head = [0; 24];
        head[..8].copy_from_slice(&entry.next.to_le_bytes());
        head[8..16].copy_from_slice(&entry.inode.to_le_bytes());
        head[16..20].copy_from_slice(&(entry.name.len() as u32).to_le_bytes());
        head[20] = entry.file_type as u8;
        filled += copy_what_fits(&head, &mut buffer[filled..]);
        let copied = copy_what_fits(entry.name, &mut buffer[filled..]);
        filled += copied;
        copied == entry.name.len()
    })?;
    Ok(memory.write_u32(out, filled as u32)?)
}

fn copy_what_fits(bytes: &[u8], room: &mut [u8]) -> usize {
    let len = bytes.len().min(room.len());
    room[..len].copy_from_slice(&bytes[..len]);
    len
}
