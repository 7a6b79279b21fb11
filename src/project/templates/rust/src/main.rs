//! Gives standard input back with its letters a to z in upper case.
//!
//! Standard input is the first blob argument. What goes wrong is said on standard error, and ends with another exit
//! status than 0: then the call fails, and nothing is remembered of it.

use std::io::{self, Read, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("NAME: can't read the text to its end: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut block = [0; 65536];
    loop {
        let read = input.read(&mut block)?;
        if read == 0 {
            return output.flush();
        }
        block[..read].make_ascii_uppercase();
        output.write_all(&block[..read])?;
    }
}
