//! Prints the beginning of a file: `head FILE [-n LINES | -c BYTES]`, ten lines by default. It reads no further.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

const BUFFER_BYTES: usize = 1 << 16;

const USAGE: &str = "head: usage: head FILE [-n LINES | -c BYTES]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((file, options)) = args.split_first() else {
        eprintln!("{USAGE}: no file was given");
        return ExitCode::from(2);
    };
    let Some(length) = Length::parse(options) else {
        eprintln!("{USAGE}: {:?} is neither", options.join(" "));
        return ExitCode::from(2);
    };
    match run(file, length) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("head: {message}");
            ExitCode::FAILURE
        }
    }
}

/// How much is printed.
#[derive(Clone, Copy)]
enum Length {
    Lines(u64),
    Bytes(u64),
}

impl Length {
    /// Reads options like `-n 3`, `-n3`, `-3` and `-c 100`.
    fn parse(options: &[String]) -> Option<Length> {
        let options = options.concat();
        match options.strip_prefix('-') {
            None if options.is_empty() => Some(Length::Lines(10)),
            None => None,
            Some(option) => match option.strip_prefix('c') {
                Some(bytes) => number(bytes).map(Length::Bytes),
                None => number(option.strip_prefix('n').unwrap_or(option)).map(Length::Lines),
            },
        }
    }

    /// How many bytes at the start of `chunk` belong to it. What is left of it comes behind them.
    fn take(&mut self, chunk: &[u8]) -> usize {
        match self {
            Length::Bytes(left) => {
                let taken = chunk.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                taken
            }
            Length::Lines(left) => {
                let mut taken = 0;
                while *left > 0 && taken < chunk.len() {
                    let Some(line) = memchr::memchr(b'\n', &chunk[taken..]) else { return chunk.len() };
                    taken += line + 1;
                    *left -= 1;
                }
                taken
            }
        }
    }

    fn is_over(self) -> bool {
        matches!(self, Length::Bytes(0) | Length::Lines(0))
    }
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn run(path: &str, mut length: Length) -> Result<(), String> {
    let unreadable = |error| format!("can't read {path}: {error}");
    let unwritable = |error| format!("can't write the result: {error}");
    let mut file = File::open(path).map_err(unreadable)?;
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; BUFFER_BYTES];
    while !length.is_over() {
        let read = file.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        let taken = length.take(&buffer[..read]);
        out.write_all(&buffer[..taken]).map_err(unwritable)?;
    }
    out.flush().map_err(unwritable)
}
