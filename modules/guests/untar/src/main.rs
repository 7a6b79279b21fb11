//! Unpacks a tar archive into `/out`: `untar ARCHIVE`.
//!
//! The archive streams: in memory are the decoder's window and the names unpacked so far. Times, owners and
//! permissions other than the executable bit are left behind, since a tree has none.

mod unpack;

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use archive::input::Input;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [archive] = args.as_slice() else {
        eprintln!("untar: usage: untar ARCHIVE: {} arguments were given, not one", args.len());
        return ExitCode::from(2);
    };
    match run(archive) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("untar: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("can't read {path}: {error}"))?;
    let input = Input::new(file).map_err(|error| format!("can't read {path}: {error}"))?;
    unpack::unpack(input.decoded(), Path::new("/out"))
}
