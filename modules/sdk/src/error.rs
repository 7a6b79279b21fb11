//! What a module says when it can't go on.

use std::fmt;
use std::io;

/// Why a module can't go on. Returned from `main`, it ends the call: what is displayed is the reason that the caller is told.
pub struct Error {
    what: String,
    source: Option<io::Error>,
}

impl Error {
    /// A reason in words.
    pub fn new(what: impl Into<String>) -> Error {
        Error { what: what.into(), source: None }
    }

    /// Something can't be read.
    pub fn input(what: impl fmt::Display, source: io::Error) -> Error {
        Error { what: format!("can't read {what}"), source: Some(source) }
    }

    /// The result can't be written.
    pub fn output(source: io::Error) -> Error {
        Error { what: "can't write the result".into(), source: Some(source) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// The same as it is displayed: std prints this of an error that `main` returns.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
