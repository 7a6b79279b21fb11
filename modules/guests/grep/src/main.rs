//! Prints the lines of a file that match: `grep PATTERN FILE [-i] [-v] [-n] [-c] [-F]`.
//!
//! Lines are bytes, whatever their encoding; a match never spans two of them. Unlike GNU grep, it succeeds when no
//! line matches, and it treats a binary file like any other.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::process::ExitCode;

use memchr::{memchr, memrchr};
use regex::bytes::{Regex, RegexBuilder};

const BUFFER_BYTES: usize = 1 << 16;

const USAGE: &str = "grep: usage: grep PATTERN FILE [-i] [-v] [-n] [-c] [-F]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [pattern, file, options @ ..] = args.as_slice() else {
        eprintln!("{USAGE}: a pattern and a file are needed, {} arguments were given", args.len());
        return ExitCode::from(2);
    };
    let options = match Options::parse(options) {
        Ok(options) => options,
        Err(option) => {
            eprintln!("{USAGE}: {option:?} is not an option of it");
            return ExitCode::from(2);
        }
    };
    let regex = match options.regex(pattern) {
        Ok(regex) => regex,
        Err(error) => {
            eprintln!("grep: the pattern {pattern:?} is not a regular expression: {error}");
            return ExitCode::from(2);
        }
    };
    match search(file, &regex, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("grep: {message}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Options {
    ignore_case: bool,
    invert: bool,
    numbers: bool,
    count: bool,
    fixed: bool,
}

impl Options {
    /// Reads options like `-i` and `-in`. The error is the option that isn't one.
    fn parse(options: &[String]) -> Result<Options, &str> {
        let mut parsed = Options::default();
        for option in options {
            let letters = option.strip_prefix('-').filter(|letters| !letters.is_empty());
            for letter in letters.ok_or(option.as_str())?.chars() {
                match letter {
                    'i' => parsed.ignore_case = true,
                    'v' => parsed.invert = true,
                    'n' => parsed.numbers = true,
                    'c' => parsed.count = true,
                    'F' => parsed.fixed = true,
                    _ => return Err(option),
                }
            }
        }
        Ok(parsed)
    }

    fn regex(self, pattern: &str) -> Result<Regex, regex::Error> {
        let escaped = self.fixed.then(|| regex::escape(pattern));
        RegexBuilder::new(escaped.as_deref().unwrap_or(pattern)).case_insensitive(self.ignore_case).build()
    }
}

/// Writes what `options` ask for to standard output. The error says which file failed, and why.
fn search(path: &str, regex: &Regex, options: Options) -> Result<(), String> {
    let unreadable = |error| format!("can't read {path}: {error}");
    let unwritable = |error| format!("can't write the result: {error}");
    let mut lines = Lines::new(File::open(path).map_err(unreadable)?);
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let mut number: u64 = 0;
    let mut selected: u64 = 0;
    while let Some(line) = lines.next().map_err(unreadable)? {
        number += 1;
        if regex.is_match(line) == options.invert {
            continue;
        }
        selected += 1;
        if !options.count {
            write_line(&mut out, line, options.numbers.then_some(number)).map_err(unwritable)?;
        }
    }
    if options.count {
        writeln!(out, "{selected}").map_err(unwritable)?;
    }
    out.flush().map_err(unwritable)
}

fn write_line(out: &mut impl Write, line: &[u8], number: Option<u64>) -> io::Result<()> {
    if let Some(number) = number {
        write!(out, "{number}:")?;
    }
    out.write_all(line)?;
    out.write_all(b"\n")
}

/// The lines of a file, without their line feeds. The buffer grows only for a line longer than it.
struct Lines {
    file: File,
    buffer: Vec<u8>,
    /// The line to give next starts here.
    start: usize,
    /// Behind the last line feed of the buffer, or behind all bytes when the file has ended.
    complete: usize,
    /// Behind the last byte that was read.
    filled: usize,
    ended: bool,
}

impl Lines {
    fn new(file: File) -> Lines {
        Lines { file, buffer: vec![0; BUFFER_BYTES], start: 0, complete: 0, filled: 0, ended: false }
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        while self.start == self.complete {
            if self.ended {
                return Ok(None);
            }
            self.fill()?;
        }
        let start = self.start;
        let rest = &self.buffer[start..self.complete];
        let length = memchr(b'\n', rest).unwrap_or(rest.len());
        self.start = self.complete.min(start + length + 1);
        Ok(Some(&self.buffer[start..start + length]))
    }

    /// Moves the incomplete last line to the front and reads behind it.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.filled, 0);
        self.filled -= self.start;
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let length = self.file.read(&mut self.buffer[self.filled..])?;
        let line_feed = memrchr(b'\n', &self.buffer[self.filled..self.filled + length]);
        self.ended = length == 0;
        self.start = 0;
        self.complete = match line_feed {
            Some(at) => self.filled + at + 1,
            None if self.ended => self.filled,
            None => 0,
        };
        self.filled += length;
        Ok(())
    }
}
