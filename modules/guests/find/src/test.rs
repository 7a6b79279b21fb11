//! The tests that find makes; what it prints has passed all of them.

use std::cmp::Ordering;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::FileType;

use regex_lite::Regex;

unsafe extern "C" {
    /// POSIX `fnmatch`; 0 for a match.
    fn fnmatch(pattern: *const c_char, string: *const c_char, flags: c_int) -> c_int;
}

/// How the program is called.
pub const USAGE: &str = "find: usage: find TREE [-name GLOB] [-path GLOB] [-regex RE] [-type f|d|l] [-size [+-]N[kMG]]";

/// What was found in a tree.
pub struct Found<'a> {
    pub name: &'a CStr,
    /// Below the tree, without a slash in front.
    pub path: &'a CStr,
    pub kind: FileType,
    /// 0 for what is no file.
    pub size_bytes: u64,
}

/// One option with its value.
pub enum Test {
    Name(CString),
    Path(CString),
    Regex(Regex),
    File,
    Directory,
    Symlink,
    /// A file larger, smaller or as large as this many bytes.
    Size(Ordering, u64),
}

impl Test {
    /// Reads options in pairs. The error says which one is wrong.
    pub fn parse(options: &[String]) -> Result<Vec<Test>, String> {
        let pair = |pair: &[String]| match pair {
            [option, value] => Test::one(option, value),
            [option, ..] => Err(format!("{option:?} has no value")),
            [] => unreachable!("chunks are not empty"),
        };
        options.chunks(2).map(pair).collect()
    }

    fn one(option: &str, value: &str) -> Result<Test, String> {
        match (option, value) {
            ("-name", glob) => self::glob(glob).map(Test::Name),
            ("-path", glob) => self::glob(glob).map(Test::Path),
            // As in GNU find, it is the whole path that matches.
            ("-regex", pattern) => self::regex(pattern).map(Test::Regex),
            ("-type", "f") => Ok(Test::File),
            ("-type", "d") => Ok(Test::Directory),
            ("-type", "l") => Ok(Test::Symlink),
            ("-size", size) => self::size(size).ok_or_else(|| format!("{size:?} is not a size")),
            (option, value) => Err(format!("{option:?} with {value:?} is not an option of it")),
        }
    }

    /// Whether what was found passes.
    pub fn holds(&self, found: &Found<'_>) -> bool {
        match self {
            Test::Name(glob) => matches(glob, found.name),
            Test::Path(glob) => matches(glob, found.path),
            Test::Regex(pattern) => pattern.is_match(&found.path.to_string_lossy()),
            Test::File => found.kind.is_file(),
            Test::Directory => found.kind.is_dir(),
            Test::Symlink => found.kind.is_symlink(),
            Test::Size(order, bytes) => found.kind.is_file() && found.size_bytes.cmp(bytes) == *order,
        }
    }
}

fn glob(glob: &str) -> Result<CString, String> {
    CString::new(glob).map_err(|_| format!("the glob {glob:?} has a NUL"))
}

fn matches(glob: &CStr, text: &CStr) -> bool {
    // SAFETY: both are NUL-terminated and outlive the call.
    unsafe { fnmatch(glob.as_ptr(), text.as_ptr(), 0) == 0 }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let built = Regex::new(&format!("^(?s:{pattern})$"));
    built.map_err(|error| format!("the pattern {pattern:?} is not a regular expression: {error}"))
}

fn size(size: &str) -> Option<Test> {
    let (order, size) = match size.as_bytes().first()? {
        b'+' => (Ordering::Greater, &size[1..]),
        b'-' => (Ordering::Less, &size[1..]),
        _ => (Ordering::Equal, size),
    };
    let (digits, unit_bytes) = match size.as_bytes().last()? {
        b'k' => (&size[..size.len() - 1], 1 << 10),
        b'M' => (&size[..size.len() - 1], 1 << 20),
        b'G' => (&size[..size.len() - 1], 1 << 30),
        _ => (size, 1),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = is_number.then(|| digits.parse().ok())??;
    Some(Test::Size(order, number.checked_mul(unit_bytes)?))
}
