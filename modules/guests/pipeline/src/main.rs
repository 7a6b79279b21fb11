//! Lists files of a tar archive: `pipeline ARCHIVE GLOB`, by calls of untar, find, sort and head.
//!
//! It shows that a program needs nothing to call others but to open a file: the path below `/grid` is the call, a call
//! as an argument is its own path, percent-encoded, and `/in/1` in it is the program's own first argument.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [archive, glob] = args.as_slice() else {
        eprintln!("pipeline: usage: pipeline ARCHIVE GLOB: {} arguments were given, not two", args.len());
        return ExitCode::from(2);
    };
    match run(archive, glob) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("pipeline: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(archive: &str, glob: &str) -> Result<(), String> {
    let tree = call("untar", &[archive]);
    let names = call("find", &[&tree, "-type", "f", "-name", glob]);
    let sorted = call("sort", &[&names, "-r"]);
    let path = format!("/grid{}", call("head", &[&sorted, "-n", "5"]));
    let mut result = File::open(&path).map_err(|error| format!("can't open {path}: {error}"))?;
    let mut out = io::stdout().lock();
    io::copy(&mut result, &mut out).and_then(|_| out.flush()).map_err(|error| format!("can't copy {path}: {error}"))
}

/// The path of a call: the first argument stands after a slash, the others after commas.
fn call(module: &str, arguments: &[&str]) -> String {
    let encoded: Vec<String> = arguments.iter().map(|argument| encode(argument)).collect();
    format!("/local/{module}/{}", encoded.join(","))
}

/// Percent-encodes all that could mean something in a path.
fn encode(argument: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    argument.bytes().map(byte).collect()
}
