//! Where the packs lie: one flat directory of files, behind a seam.
//!
//! All access to pack files goes through [`Disk`], so that the tests can put a disk underneath that loses what was
//! never synced. What the operating system says is passed on as it is; what it means for the store is decided in
//! `pack.rs`. Deliberately not behind the seam: the lock, the format file, and the index, which is disposable.

#[cfg(test)]
pub mod sim;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// A directory of files.
pub trait Disk: Send + Sync {
    /// Where it is, for messages.
    fn dir(&self) -> &Path;

    /// Makes the directory if it isn't there, and makes that durable.
    fn make(&self) -> io::Result<()>;

    /// The names in it, in no order.
    fn names(&self) -> io::Result<Vec<OsString>>;

    /// Makes an empty file, open for reading and writing; refuses a name that is taken.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn DiskFile>>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in place of whatever has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes durable which names there are; says nothing about what the files hold.
    fn sync(&self) -> io::Result<()>;

    /// What may still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    fn len(&self) -> io::Result<u64>;

    /// Fills `buf`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// As many bytes from `offset` on; `UnexpectedEof` if the file ends before.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// On an error, any part may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Has the system begin to write what lies there to the disk, so that a later sync has less to wait for. Waits for
    /// nothing, and promises nothing.
    fn begin_writing(&self, _: Range<u64>) {}

    fn set_len(&self, size_bytes: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable; says nothing about the file's name.
    fn sync_data(&self) -> io::Result<()>;
}

/// A real directory.
pub struct Files {
    dir: PathBuf,
}

impl Files {
    pub fn new(dir: PathBuf) -> Files {
        Files { dir }
    }
}

impl Disk for Files {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn make(&self) -> io::Result<()> {
        if self.dir.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        // Packs that are synced in a directory that isn't can be lost with it.
        self.dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.dir.join(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let writable = access == Access::ReadWrite;
        let file = OpenOptions::new().read(true).write(writable).open(self.dir.join(name))?;
        Ok(Box::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }

    /// Into memory that nobody has cleared before.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(self, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn begin_writing(&self, Range { start, end }: Range<u64>) {
        let (Ok(start), Ok(len)) = (start.try_into(), (end - start).try_into()) else { return };
        // SAFETY: it has no pointers, and the descriptor is open. What fails here the next sync reports.
        unsafe { libc::sync_file_range(self.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        File::set_len(self, size_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
