//! Lists what is in a tree: `find TREE [-name GLOB] [-path GLOB] [-regex RE] [-type f|d|l] [-size [+-]N[kMG]]`.
//!
//! Paths are printed without `./` in front, each before those below it, names in bytewise order. Symbolic links are
//! listed, never followed.

mod test;

use std::ffi::CString;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;
use std::process::ExitCode;

use test::{Found, Test};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((tree, options)) = args.split_first() else {
        eprintln!("{}: no tree was given", test::USAGE);
        return ExitCode::from(2);
    };
    let tests = match Test::parse(options) {
        Ok(tests) => tests,
        Err(message) => {
            eprintln!("{}: {message}", test::USAGE);
            return ExitCode::from(2);
        }
    };
    let mut walk = Walk { tests, out: BufWriter::new(io::stdout().lock()) };
    let ended = walk.directory(Path::new(tree), &mut Vec::new());
    match ended.and_then(|()| walk.out.flush().map_err(unwritable)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("find: {message}");
            ExitCode::FAILURE
        }
    }
}

struct Walk {
    tests: Vec<Test>,
    out: BufWriter<StdoutLock<'static>>,
}

impl Walk {
    /// Lists what passes the tests in `directory`, which is at `path` in the tree.
    fn directory(&mut self, directory: &Path, path: &mut Vec<u8>) -> Result<(), String> {
        let unreadable = |error: io::Error| format!("can't read {}: {error}", directory.display());
        for entry in directory.read_dir().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let kind = entry.file_type().map_err(unreadable)?;
            let name = entry.file_name();
            let above = path.len();
            if above > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_encoded_bytes());
            let size_bytes = match kind.is_file() {
                true => entry.metadata().map_err(unreadable)?.len(),
                false => 0,
            };
            let found = Found { name: &c_string(name.as_encoded_bytes())?, path: &c_string(path)?, kind, size_bytes };
            if self.tests.iter().all(|test| test.holds(&found)) {
                self.out.write_all(path).and_then(|()| self.out.write_all(b"\n")).map_err(unwritable)?;
            }
            if kind.is_dir() {
                self.directory(&entry.path(), path)?;
            }
            path.truncate(above);
        }
        Ok(())
    }
}

fn c_string(name: &[u8]) -> Result<CString, String> {
    CString::new(name).map_err(|error| format!("a name can't be read: {error}"))
}

fn unwritable(error: io::Error) -> String {
    format!("can't write the result: {error}")
}
