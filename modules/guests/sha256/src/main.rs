//! Prints the SHA-256 hash of a file in lower-case hexadecimal digits: `sha256 FILE`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use sha2::{Digest, Sha256};

const BUFFER_BYTES: usize = 1 << 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file] = args.as_slice() else {
        eprintln!("sha256: usage: sha256 FILE: {} arguments were given, not one", args.len());
        return ExitCode::from(2);
    };
    let digits = match hash(file) {
        Ok(digits) => digits,
        Err(error) => {
            eprintln!("sha256: can't read {file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().write_all(format!("{digits}\n").as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sha256: can't write the result: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hash(path: &str) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut hasher = Sha256::new();
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
