//! Joins files into one: `concat FILE...`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

const BUFFER_BYTES: usize = 1 << 16;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("concat: usage: concat FILE...: no file was given");
        return ExitCode::from(2);
    }
    match run(&files) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("concat: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(paths: &[String]) -> Result<(), String> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut out = io::stdout().lock();
    for path in paths {
        let unreadable = |error| format!("can't read {path}: {error}");
        let mut file = File::open(path).map_err(unreadable)?;
        loop {
            let length = file.read(&mut buffer).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            out.write_all(&buffer[..length]).map_err(|error| format!("can't write the result: {error}"))?;
        }
    }
    out.flush().map_err(|error| format!("can't write the result: {error}"))
}
