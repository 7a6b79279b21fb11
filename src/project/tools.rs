//! Programs of the machine: finding them, asking them, running them.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Code, Error, Result};

/// Where programs are looked for.
pub struct Tools {
    directories: Vec<PathBuf>,
}

impl Tools {
    /// Programs in the absolute directories of a search path, as `PATH` holds it.
    pub fn new(search_path: &OsStr) -> Tools {
        Tools { directories: std::env::split_paths(search_path).filter(|directory| directory.is_absolute()).collect() }
    }

    /// All programs of a name, the first found first.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        self.directories.iter().map(move |directory| directory.join(name)).filter(|path| is_program(path))
    }

    /// The program of a name.
    pub(super) fn first(&self, name: &str) -> Option<PathBuf> {
        self.all(name).next()
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The line that a program answers with, if it succeeds.
pub(super) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// Runs a compiler, which speaks on standard error itself, and returns its standard output.
pub(super) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| Error::caused(Code::General, format!("can't run {program}"), e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Some compilers, asc among them, complain on standard output.
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    Err(Error::new(Code::General, format!("{program} ended with {}; what it said stands above", output.status)))
}

/// Runs a compiler that writes the file given to it, and reads that.
pub(super) fn compile_to_file(command: impl FnOnce(&Path) -> Command) -> Result<Vec<u8>> {
    let failed =
        |e| Error::caused(Code::General, "can't keep what is compiled in the directory for temporary files", e);
    let directory = tempfile::tempdir().map_err(failed)?;
    let file = directory.path().join("module.wasm");
    run(&mut command(&file))?;
    std::fs::read(&file).map_err(failed)
}
