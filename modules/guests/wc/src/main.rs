//! Counts the lines, words and bytes of a file: `wc FILE [-l] [-w] [-c]`.
//!
//! The output is that of GNU wc 9.5 and later for `wc < FILE` in the C locale: one count alone is just the number,
//! several are right-aligned to the width of the file's size. Older versions of GNU wc count no word that has only
//! bytes they can't print.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

const BUFFER_BYTES: usize = 1 << 16;

const USAGE: &str = "wc: usage: wc FILE [-l] [-w] [-c]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((file, options)) = args.split_first() else {
        eprintln!("{USAGE}: no file was given");
        return ExitCode::from(2);
    };
    let columns = match Columns::parse(options) {
        Ok(columns) => columns,
        Err(option) => {
            eprintln!("{USAGE}: {option:?} is not an option of it");
            return ExitCode::from(2);
        }
    };
    let counts = match count(file, columns) {
        Ok(counts) => counts,
        Err(error) => {
            eprintln!("wc: can't read {file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().write_all(counts.show(columns).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wc: can't write the result: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Which counts are asked for.
#[derive(Clone, Copy)]
struct Columns {
    lines: bool,
    words: bool,
    bytes: bool,
}

impl Columns {
    /// Reads options like `-l` and `-lw`; none mean all three. The error is the option that isn't one.
    fn parse(options: &[String]) -> Result<Columns, &str> {
        let mut columns = Columns { lines: false, words: false, bytes: false };
        for option in options {
            let letters = option.strip_prefix('-').filter(|letters| !letters.is_empty());
            for letter in letters.ok_or(option.as_str())?.chars() {
                match letter {
                    'l' => columns.lines = true,
                    'w' => columns.words = true,
                    'c' => columns.bytes = true,
                    _ => return Err(option),
                }
            }
        }
        if options.is_empty() {
            columns = Columns { lines: true, words: true, bytes: true };
        }
        Ok(columns)
    }
}

#[derive(Default)]
struct Counts {
    lines: u64,
    words: u64,
    bytes: u64,
}

impl Counts {
    /// The line that wc prints.
    fn show(&self, columns: Columns) -> String {
        let asked = [(columns.lines, self.lines), (columns.words, self.words), (columns.bytes, self.bytes)];
        let counts: Vec<u64> = asked.into_iter().filter(|(wanted, _)| *wanted).map(|(_, count)| count).collect();
        let width = if counts.len() == 1 { 1 } else { self.bytes.to_string().len() };
        let shown: Vec<String> = counts.iter().map(|count| format!("{count:width$}")).collect();
        shown.join(" ") + "\n"
    }
}

/// Counts what `columns` asks for; the bytes always, since they give the width.
fn count(path: &str, columns: Columns) -> io::Result<Counts> {
    let mut file = File::open(path)?;
    if !columns.lines && !columns.words {
        return Ok(Counts { bytes: file.metadata()?.len(), ..Counts::default() });
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut counts = Counts::default();
    let mut before = b' ';
    loop {
        let length = file.read(&mut buffer)?;
        let Some(&last) = buffer[..length].last() else { return Ok(counts) };
        let chunk = &buffer[..length];
        counts.bytes += length as u64;
        if columns.lines {
            counts.lines += memchr::memchr_iter(b'\n', chunk).count() as u64;
        }
        if columns.words {
            counts.words += word_starts(chunk, before);
        }
        before = last;
    }
}

/// How many bytes of `chunk` begin a word: they aren't white space, and what comes before is. `before` comes before
/// the first.
fn word_starts(chunk: &[u8], before: u8) -> u64 {
    let mut starts = 0;
    let mut in_space = SPACE[usize::from(before)];
    for &byte in chunk {
        let space = SPACE[usize::from(byte)];
        starts += u64::from(in_space & !space);
        in_space = space;
    }
    starts
}

/// The white space of the C locale.
const SPACE: [bool; 256] = {
    let mut table = [false; 256];
    let white = b" \t\n\x0b\x0c\r";
    let mut i = 0;
    while i < white.len() {
        table[white[i] as usize] = true;
        i += 1;
    }
    table
};
