//! What is done with an open descriptor: read, write, seek, stat, list, close.

use gridfs_store::Object;

use super::Errno;
use crate::guest::{Descriptor, Fault, FileType, Guest};
use crate::listing::list;
use crate::memory::{Iovec, Memory};

type Done = Result<(), Fault>;

/// Rights of preview1 that matter to wasi-libc: with seek and tell a stream counts as a file, without as a terminal.
mod rights {
    pub(super) const FD_READ: u64 = 1 << 1;
    pub(super) const FD_SEEK: u64 = 1 << 2;
    pub(super) const FD_TELL: u64 = 1 << 5;
    pub(super) const FD_WRITE: u64 = 1 << 6;
    pub(super) const ALL: u64 = (1 << 29) - 1;
}

pub(super) fn fd_read(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, iovs: u32, count: u32, out: u32) -> Done {
    let iovecs = memory.iovecs(iovs, count)?;
    let Descriptor::Reading { object, position, .. } = guest.descriptor(fd)? else {
        return Err(not_readable(guest, fd));
    };
    let read = match object {
        Some(object) => read_at(memory, object, *position, &iovecs)?,
        None => 0,
    };
    *position += u64::from(read);
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
    let Descriptor::Reading { object, .. } = guest.descriptor(fd)? else { return Err(not_readable(guest, fd)) };
    let read = match object {
        Some(object) => read_at(memory, object, offset, &iovecs)?,
        None => 0,
    };
    Ok(memory.write_u32(out, read)?)
}

fn not_readable(guest: &mut Guest, fd: u32) -> Fault {
    match guest.descriptor(fd) {
        Ok(Descriptor::Directory(_)) => Errno::IsDir.into(),
        _ => Errno::BadF.into(),
    }
}

fn read_at(memory: &mut Memory<'_>, object: &Object, position: u64, iovecs: &[Iovec]) -> Result<u32, Fault> {
    let mut total = 0u32;
    for iovec in iovecs {
        let buffer = memory.bytes_mut(iovec.start, iovec.len)?;
        let Some(at) = position.checked_add(u64::from(total)) else { break };
        let read = object.read_at(at, buffer)?;
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
        guest.write(fd, memory.bytes(iovec.start, iovec.len)?)?;
        total += iovec.len; // no more than MAX_TRANSFER_BYTES
    }
    Ok(memory.write_u32(out, total)?)
}

/// Results are written from start to end: only the current position will do.
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
        Descriptor::Directory(_) | Descriptor::Reading { .. } => Err(Errno::BadF.into()),
        _ => Err(Errno::SPipe.into()),
    }
}

pub(super) fn fd_seek(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, offset: i64, whence: u32, out: u32) -> Done {
    let (position, end) = match guest.descriptor(fd)? {
        Descriptor::Reading { object, position, .. } => (*position, object.as_ref().map_or(0, Object::size_bytes)),
        Descriptor::Writing { writer, .. } => (writer.size_bytes(), writer.size_bytes()),
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
    match guest.descriptor(fd)? {
        Descriptor::Reading { position, .. } => *position = target,
        _ if target == position => {}
        _ => return Err(Errno::SPipe.into()),
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
    guest.descriptor(fd)?;
    Err(Errno::NotSup.into())
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
    let (file_type, rights) = match guest.descriptor(fd)? {
        Descriptor::Reading { .. } => (FileType::Regular, rights::ALL & !rights::FD_WRITE),
        Descriptor::Writing { .. } => (FileType::Regular, rights::ALL & !rights::FD_READ),
        Descriptor::Stdout | Descriptor::Stderr => {
            (FileType::Regular, rights::ALL & !(rights::FD_READ | rights::FD_SEEK | rights::FD_TELL))
        }
        Descriptor::Directory(_) => (FileType::Directory, rights::ALL),
    };
    memory.write(out, &[0; 24])?;
    memory.write(out, &[file_type as u8])?;
    memory.write_u64(out + 8, rights)?;
    Ok(memory.write_u64(out + 16, rights::ALL)?)
}

pub(super) fn fd_fdstat_set_flags(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, _flags: u32) -> Done {
    guest.descriptor(fd)?;
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
    Ok(())
}

pub(super) fn fd_filestat_get(memory: &mut Memory<'_>, guest: &mut Guest, fd: u32, out: u32) -> Done {
    let (file_type, size) = match guest.descriptor(fd)? {
        Descriptor::Reading { object, .. } => (FileType::Regular, object.as_ref().map_or(0, Object::size_bytes)),
        Descriptor::Writing { writer, .. } => (FileType::Regular, writer.size_bytes()),
        Descriptor::Stdout | Descriptor::Stderr => (FileType::Regular, 0),
        Descriptor::Directory(_) => (FileType::Directory, 0),
    };
    Ok(write_filestat(memory, out, file_type, size)?)
}

/// A `filestat`: device, inode and times are 0, links 1.
pub(super) fn write_filestat(memory: &mut Memory<'_>, out: u32, file_type: FileType, size: u64) -> Result<(), Errno> {
    let mut stat = [0; 64];
    stat[16] = file_type as u8;
    stat[24] = 1;
    stat[32..40].copy_from_slice(&size.to_le_bytes());
    memory.write(out, &stat)
}

pub(super) fn fd_filestat_set_size(_: &mut Memory<'_>, guest: &mut Guest, fd: u32, size: u64) -> Done {
    match guest.descriptor(fd)? {
        Descriptor::Writing { writer, .. } if writer.size_bytes() == size => Ok(()),
        Descriptor::Writing { .. } => Err(Errno::NotSup.into()),
        _ => Err(Errno::BadF.into()),
    }
}

/// Results have no times of their own; setting them is accepted and means nothing.
pub(super) fn fd_filestat_set_times(
    _: &mut Memory<'_>,
    guest: &mut Guest,
    fd: u32,
    _atim: u64,
    _mtim: u64,
    _flags: u32,
) -> Done {
    guest.descriptor(fd)?;
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
