//! What has been unpacked so far, and the calls that make it.
//!
//! The output remembers each name it made and its kind. So it needs to ask the file system nothing, and it never
//! writes through a symbolic link: a name that leads through one is refused.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, c_char, c_int};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::input::reason;
use crate::name::Name;

/// The tree being made.
pub struct Output {
    root: PathBuf,
    made: HashMap<Name, Kind>,
    buffer: Vec<u8>,
}

/// What a name was made as.
enum Kind {
    Directory,
    File,
    /// With its target.
    Symlink(Vec<u8>),
}

const BUFFER_BYTES: usize = 1 << 18;

#[link(wasm_import_module = "grid_1")]
unsafe extern "C" {
    /// Sets the executable bit of a file open for writing; returns a WASI errno.
    safe fn set_executable(fd: i32) -> i32;
}

unsafe extern "C" {
    /// POSIX `symlink`; std offers it on WASI only behind a feature gate.
    fn symlink(target: *const c_char, path: *const c_char) -> c_int;
}

impl Output {
    /// Makes everything below `root`, which exists and is empty.
    pub fn new(root: &Path) -> Output {
        Output { root: root.into(), made: HashMap::new(), buffer: vec![0; BUFFER_BYTES] }
    }

    /// Makes a directory, unless it is there.
    pub fn directory(&mut self, name: &Name) -> Result<(), String> {
        if name.is_root() || matches!(self.made.get(name), Some(Kind::Directory)) {
            return Ok(());
        }
        self.clear(name)?;
        self.make_directory(name)
    }

    /// Makes a file of the `size` bytes that `data` gives.
    pub fn file(&mut self, name: &Name, data: &mut impl Read, size: u64, executable: bool) -> Result<(), String> {
        self.clear(name)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.path(name))
            .map_err(|error| format!("can't make the file {name}: {error}"))?;
        let copied = self.copy(name, data, &mut file)?;
        if copied < size {
            return Err(format!("the archive is cut short: {name} has {copied} of {size} bytes"));
        }
        if executable {
            make_executable(name, &file)?;
        }
        self.made.insert(name.clone(), Kind::File);
        Ok(())
    }

    /// Makes a symbolic link; its target may be anything.
    pub fn symlink(&mut self, name: &Name, target: &[u8]) -> Result<(), String> {
        self.clear(name)?;
        let failed = |error: io::Error| format!("can't make the symbolic link {name}: {error}");
        let target_c = CString::new(target).map_err(|error| failed(error.into()))?;
        let path = self.path(name).into_os_string().into_encoded_bytes();
        let path_c = CString::new(path).map_err(|error| failed(error.into()))?;
        // SAFETY: both are NUL-terminated and outlive the call.
        if unsafe { symlink(target_c.as_ptr(), path_c.as_ptr()) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        self.made.insert(name.clone(), Kind::Symlink(target.into()));
        Ok(())
    }

    /// Makes another name for a file, or a symbolic link like another.
    pub fn hard_link(&mut self, name: &Name, original: &Name) -> Result<(), String> {
        if name == original {
            return Ok(());
        }
        match self.made.get(original) {
            Some(Kind::File) => {}
            Some(Kind::Symlink(target)) => return self.symlink(name, &target.clone()),
            Some(Kind::Directory) => {
                return Err(format!("{name} is a hard link to {original}, which is a directory"));
            }
            None => {
                return Err(format!("{name} is a hard link to {original}, which does not come before it"));
            }
        }
        self.clear(name)?;
        fs::hard_link(self.path(original), self.path(name))
            .map_err(|error| format!("can't make {name} a hard link to {original}: {error}"))?;
        self.made.insert(name.clone(), Kind::File);
        Ok(())
    }

    /// Makes way for `name`: its parents are there afterwards, and itself is not.
    fn clear(&mut self, name: &Name) -> Result<(), String> {
        if name.is_root() {
            return Err("an entry that is no directory has the name of the whole tree".into());
        }
        for parent in name.parents() {
            match self.made.get(&parent) {
                Some(Kind::Directory) => {}
                Some(Kind::Symlink(_)) => {
                    return Err(format!("{name} leads through {parent}, which is a symbolic link"));
                }
                Some(Kind::File) => {
                    return Err(format!("{name} leads through {parent}, which is a file"));
                }
                None => self.make_directory(&parent)?,
            }
        }
        let path = self.path(name);
        match self.made.remove(name) {
            Some(Kind::Directory) => fs::remove_dir(path),
            Some(Kind::File | Kind::Symlink(_)) => fs::remove_file(path),
            None => Ok(()),
        }
        .map_err(|error| format!("can't replace {name}, which came before: {error}"))
    }

    fn make_directory(&mut self, name: &Name) -> Result<(), String> {
        fs::create_dir(self.path(name)).map_err(|error| format!("can't make the directory {name}: {error}"))?;
        self.made.insert(name.clone(), Kind::Directory);
        Ok(())
    }

    /// Writes all of `data`; returns how many bytes that were.
    fn copy(&mut self, name: &Name, data: &mut impl Read, file: &mut File) -> Result<u64, String> {
        let mut copied = 0;
        loop {
            let length =
                data.read(&mut self.buffer).map_err(|error| format!("can't read {name}: {}", reason(&error)))?;
            if length == 0 {
                return Ok(copied);
            }
            io::Write::write_all(file, &self.buffer[..length])
                .map_err(|error| format!("can't write {name}: {error}"))?;
            copied += length as u64;
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        let bytes = name.bytes();
        // SAFETY: on WASI an OsStr is any bytes.
        self.root.join(unsafe { OsStr::from_encoded_bytes_unchecked(&bytes) })
    }
}

fn make_executable(name: &Name, file: &File) -> Result<(), String> {
    match set_executable(file.as_raw_fd()) {
        0 => Ok(()),
        errno => Err(format!("can't make {name} executable: {}", io::Error::from_raw_os_error(errno))),
    }
}
