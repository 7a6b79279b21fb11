//! The arguments of this call, counted from 1.

use std::fs::File;
use std::path::PathBuf;

use crate::Error;

/// How many there are.
pub fn count() -> usize {
    std::env::args_os().count().saturating_sub(1)
}

/// A `text` argument.
pub fn text(number: usize) -> Result<String, Error> {
    let missing = || Error::new(format!("argument {number} is missing: {} were given", count()));
    if number == 0 { Err(missing()) } else { std::env::args().nth(number).ok_or_else(missing) }
}

/// An `int` argument.
pub fn int(number: usize) -> Result<i64, Error> {
    let text = text(number)?;
    text.parse().map_err(|_| Error::new(format!("argument {number} is no whole number: {text:?}")))
}

/// The path of a `blob` or `tree` argument.
pub fn path(number: usize) -> Result<PathBuf, Error> {
    text(number).map(PathBuf::from)
}

/// A `blob` argument, to be read.
pub fn open(number: usize) -> Result<File, Error> {
    let path = path(number)?;
    File::open(&path).map_err(|source| Error::input(path.display(), source))
}
