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
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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

    /// On an error, any part may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

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

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        File::set_len(self, size_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
