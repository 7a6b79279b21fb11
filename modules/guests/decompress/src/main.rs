//! Decompresses a file as its first bytes say, with gzip, bzip2, xz or zstd: `decompress FILE`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use archive::input::{Input, reason};

const BUFFER_BYTES: usize = 1 << 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file] = args.as_slice() else {
        eprintln!("decompress: usage: decompress FILE: {} arguments were given, not one", args.len());
        return ExitCode::from(2);
    };
    match run(file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("decompress: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("can't read {path}: {}", reason(&error));
    let input = File::open(path).and_then(Input::new).map_err(unreadable)?;
    if input.format.is_none() {
        return Err(format!("{path} is not compressed with gzip, bzip2, xz or zstd"));
    }
    let mut decoded = input.decoded();
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = decoded.read(&mut buffer).map_err(unreadable)?;
        if length == 0 {
            return out.flush().map_err(|error| format!("can't write the result: {error}"));
        }
        out.write_all(&buffer[..length]).map_err(|error| format!("can't write the result: {error}"))?;
    }
}
