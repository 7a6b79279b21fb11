//! Golden cases: `tests/CASE/args`, one argument on each line, and what is expected, in `expected` or `failure`.

use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::path::MAX_ARGUMENTS;

/// Largest `args` and `failure`.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Most cases of one project.
const MAX_CASES: usize = 10_000;

/// One case.
pub struct Case {
    /// The name of its directory.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// The arguments as they stand in `args`.
    pub arguments: Vec<String>,
    /// What the call should come to.
    pub expected: Expected,
}

/// What a call should come to.
#[derive(Debug, Eq, PartialEq)]
pub enum Expected {
    /// The file or directory at this path.
    Result(PathBuf),
    /// An error whose message contains this.
    Failure(String),
    /// Nobody has said.
    Unknown,
}

/// The cases of a project, by name.
pub fn read(project: &Path) -> Result<Vec<Case>> {
    let tests = project.join("tests");
    let failed = |e| Error::caused(Code::Usage, format!("can't read the cases in {}", tests.display()), e);
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&tests).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_dir() {
            cases.push(read_case(entry.file_name().to_string_lossy().into_owned(), entry.path())?);
        }
        if cases.len() > MAX_CASES {
            return Err(Error::new(Code::Usage, format!("{} has more than {MAX_CASES} cases", tests.display())));
        }
    }
    if cases.is_empty() {
        let why = format!("{} has no case: make a directory in it, with args and expected", tests.display());
        return Err(Error::new(Code::Usage, why));
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn read_case(name: String, directory: PathBuf) -> Result<Case> {
    let arguments = text(&directory.join("args"))?.unwrap_or_default();
    let arguments: Vec<String> = arguments.lines().map(str::to_owned).collect();
    if arguments.len() > MAX_ARGUMENTS {
        let why = format!("{} has more than {MAX_ARGUMENTS} lines", directory.join("args").display());
        return Err(Error::new(Code::Usage, why));
    }
    let (result, failure) = (directory.join("expected"), text(&directory.join("failure"))?);
    let expected = match failure {
        Some(_) if result.exists() => {
            let why = format!("{} has both expected and failure; remove one", directory.display());
            return Err(Error::new(Code::Usage, why));
        }
        Some(failure) => Expected::Failure(failure.trim().to_owned()),
        None if result.exists() => Expected::Result(result),
        None => Expected::Unknown,
    };
    Ok(Case { name, directory, arguments, expected })
}

/// The text of a file, if it is there.
fn text(path: &Path) -> Result<Option<String>> {
    let wrong = |e| Error::caused(Code::Usage, format!("can't read {}", path.display()), e);
    match path.metadata() {
        Ok(metadata) if metadata.len() > MAX_TEXT_BYTES => {
            Err(Error::new(Code::Usage, format!("{} is larger than 1 MiB", path.display())))
        }
        Ok(_) => Ok(Some(std::fs::read_to_string(path).map_err(wrong)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(wrong(e)),
    }
}
